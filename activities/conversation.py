"""The conversation between attempts and jobs: which files it is made of, where they are restored."""

from pathlib import PurePosixPath

from dogwatch.contracts.workspace import EntryKind, Manifest
from dogwatch.errors import BlobMissing
from dogwatch.workspace.reader import ReadLimits

WRITTEN = "home/.claude/projects"
"""Where, in a run's directory, the CLI writes transcripts: one directory per working directory, named by the CLI's session id."""
RESTORED = "conversation"
"""Where, in a run's directory, an earlier conversation is laid; the CLI resumes from a path, wherever it is."""
LIMITS = ReadLimits(entries=5_000, file_bytes=256 << 20, total_bytes=512 << 20, seconds=120.0)
"""Bounds of one conversation."""


def conversation_of(written: Manifest, session_id: str) -> Manifest:
    """The files of one session, `<directory>/<id>.jsonl` and what lies below `<directory>/<id>/`; empty where there is no transcript."""
    names = (f"{session_id}.jsonl", session_id)
    kept = tuple(
        entry for entry in written.entries if entry.kind is EntryKind.FILE and entry.path.split("/")[1:2] in ([names[0]], [names[1]])
    )
    return Manifest(entries=kept) if any(_is_main(entry.path) for entry in kept) else Manifest()


def main_of(conversation: Manifest) -> str:
    """The path of the transcript itself among a conversation's files."""
    for entry in conversation.entries:
        if _is_main(entry.path):
            return entry.path
    raise BlobMissing("the stored conversation has no transcript")


def _is_main(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return len(parts) == 2 and parts[1].endswith(".jsonl")
