"""A manifest's files into a sandbox."""

from dogwatch.contracts.workspace import Manifest
from dogwatch.errors import CommandFailed
from dogwatch.ports import Blobs, Sandbox
from dogwatch.workspace.writer import write_archive

# Directories get their mode at the end, also where the manifest's order leaves one and comes back; files are as new as the push.
_TAR = ["tar", "--extract", "--file=-", "--no-same-owner", "--preserve-permissions", "--delay-directory-restore", "--touch"]


async def push(sandbox: Sandbox, manifest: Manifest, blobs: Blobs, root: str, timeout_s: float = 600.0) -> None:
    """Write all entries that were kept below `root`, an existing empty directory in the sandbox, links as links.

    Raises CommandFailed with what tar said, CommandTimeout, SandboxLost, SandboxUnavailable and the errors of reading blobs.
    """
    done = await sandbox.exec([*_TAR, "--directory", root], stdin=write_archive(manifest, blobs), timeout_s=timeout_s)
    if done.exit_code != 0:
        said = done.stderr[-500:].decode("utf-8", "replace").strip()
        raise CommandFailed(f"tar in the sandbox ended with {done.exit_code}: {said}")
