"""What a manifest means: its digest, and how two of them differ."""

import hashlib
from collections.abc import Mapping
from typing import Literal

from dogwatch.contracts.workspace import Changes, Entry, EntryKind, Manifest

Change = Literal["added", "modified", "deleted", "unchanged"]


def raw(text: str) -> bytes:
    """The bytes that a path or a link's target stands for; inverse of `shown`."""
    return text.encode("utf-8", "surrogateescape")


def shown(data: bytes) -> str:
    """A sandbox's bytes as text, undecodable ones as surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")


def digest(manifest: Manifest) -> str:
    """SHA-256 of a tree, the same for equal trees.

    Over the line `dogwatch-manifest-1` and a newline, then for each entry in the order of its path's bytes four netstrings
    (decimal length, `:`, bytes, `,`): path, kind, mode in octal, and content, which is the SHA-256 of a file in hex, the target of a
    link, the reason of a skipped entry, or nothing.
    """
    hasher = hashlib.sha256(b"dogwatch-manifest-1\n")
    for entry in sorted(manifest.entries, key=lambda entry: raw(entry.path)):
        for field in (raw(entry.path), entry.kind.value.encode(), b"%o" % entry.mode, raw(_content(entry))):
            hasher.update(b"%d:%b," % (len(field), field))
    return hasher.hexdigest()


def compare(before: Manifest, after: Manifest) -> list[tuple[str, Change]]:
    """How each path changed, ordered by the bytes of the path.

    A path is not `deleted` where it could not be seen: below an entry that was skipped, or beyond the limit that ended the reading.
    """
    old = {entry.path: entry for entry in before.entries}
    new = {entry.path: entry for entry in after.entries}
    changes: list[tuple[str, Change]] = []
    for path in sorted(old.keys() | new.keys(), key=raw):
        if path not in old:
            changes.append((path, "added"))
        elif path in new:
            changes.append((path, "unchanged" if _identity(old[path]) == _identity(new[path]) else "modified"))
        elif after.complete and old[path].kind is not EntryKind.SKIPPED and not _below_skipped(path, new):
            changes.append((path, "deleted"))
    return changes


def changes(before: Manifest, after: Manifest) -> Changes:
    """The differences counted; skipped entries of `after` count as skipped and as nothing else."""
    skipped = {entry.path for entry in after.entries if entry.kind is EntryKind.SKIPPED}
    seen = [change for path, change in compare(before, after) if path not in skipped]
    return Changes(added=seen.count("added"), modified=seen.count("modified"), deleted=seen.count("deleted"), skipped=len(skipped))


def _content(entry: Entry) -> str:
    if entry.kind is EntryKind.SKIPPED:
        return entry.reason or ""
    return entry.sha256 or entry.target or ""


def _identity(entry: Entry) -> tuple[EntryKind, int, str]:
    return entry.kind, entry.mode, _content(entry)


def _below_skipped(path: str, entries: Mapping[str, Entry]) -> bool:
    while path := path.rpartition("/")[0]:
        if path in entries and entries[path].kind is EntryKind.SKIPPED:
            return True
    return False
