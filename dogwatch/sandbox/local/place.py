"""Where sandboxes lie on the disk, such that the account inside reaches its own and nobody else any."""

import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from dogwatch.errors import AgentMissing, SandboxRefused
from dogwatch.sandbox.local.removal import remove_below

SYSTEM_ROOT: Final = Path("/var/lib/dogwatch")
_OWN: Final = ("workspace", "runs", "home", "tmp")
"""What belongs to the account inside; everything else in a sandbox's directory is ours."""


def default_root(state_dir: Path) -> Path:
    """The directory for the sandboxes of a stack with that state directory.

    For root it lies outside: an account of its own must be able to go there, and a checkout may be where only root may go.
    """
    if os.geteuid() != 0:
        return state_dir.resolve() / "sandboxes"
    return SYSTEM_ROOT / hashlib.sha256(bytes(state_dir.resolve())).hexdigest()[:12]


def prepare_root(root: Path, account: int | None) -> None:
    """Make the root, or make sure that it is ours: with an account of its own inside, that account may pass through it and not list it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if root.is_symlink() or found.st_uid != os.geteuid():
        raise SandboxRefused(f"{root} belongs to somebody else: choose another directory for the sandboxes")
    let_pass(root, account)


def let_pass(directory: Path, account: int | None) -> None:
    """Give a directory of ours the rights by which the account inside may pass and everybody else may not."""
    if account is None:
        directory.chmod(0o700)
    else:
        os.chown(directory, 0, account)
        directory.chmod(0o710)


def make_own(directory: Path, account: int | None) -> None:
    """Make the directories that the sandbox may write to."""
    for name in _OWN:
        path = directory / name
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account, account)


def place_agent(binary: Path, root: Path, account: int | None) -> Path:
    """Where the account inside can read the agent's CLI: as it is, or for root once beside the sandboxes, as a link or a copy."""
    try:
        real = binary.resolve(strict=True)
        found = real.stat()
    except OSError as error:
        raise AgentMissing(f"{binary} is not there") from error
    if account is None:
        return real
    place = root / ".cli" / hashlib.sha256(f"{real} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16] / "claude"
    if place.exists():
        return place
    for directory in (place.parent.parent, place.parent):
        directory.mkdir(exist_ok=True)
        let_pass(directory, account)
    draft = place.with_name(secrets.token_hex(8))
    try:
        os.link(real, draft)
    except OSError:  # another file system
        shutil.copy2(real, draft)
    # Whoever comes second replaces a whole file by the same whole file.
    draft.replace(place)
    with suppress(FileNotFoundError):
        draft.unlink()  # renaming one link of a file onto another one leaves both
    return place


def remove_root(root: Path) -> bool:
    """Remove a root that holds no sandbox any more, with what is kept there for sandboxes to come; False where one is left."""
    if not root.exists():
        return True
    if any(not entry.name.startswith(".") for entry in root.iterdir()):
        return False
    for kept in root.iterdir():
        remove_below(kept)
        kept.rmdir()
    root.rmdir()
    with suppress(OSError):  # not empty: other stacks have theirs there
        SYSTEM_ROOT.rmdir()
    return True
