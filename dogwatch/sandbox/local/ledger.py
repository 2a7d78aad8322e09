"""What is known of the sandboxes of this machine: one directory and one file each, read and changed by any process."""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from dogwatch.contracts.base import Contract, Utc
from dogwatch.contracts.sandbox import SandboxSpec
from dogwatch.errors import SandboxRefused, SandboxUnavailable
from dogwatch.sandbox.local.identity import Process, lives
from dogwatch.sandbox.local.removal import remove_below

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID: Final = re.compile(rf"({NAME.pattern})~[0-9a-f]{{12}}")
_TRASH: Final = ".trash"
_LOCK_S: Final = 40.0
"""Longer than a sandbox takes to start or to end, which is what the lock is held for."""


class State(Contract):
    """One sandbox, as its file says it."""

    sandbox_id: str
    name: str
    isolated: bool
    """In namespaces of its own; otherwise plain processes."""
    account: int | None
    """User and group number of everything inside; None is whoever runs the worker."""
    spec: SandboxSpec
    tags: Mapping[str, str]
    created_at: Utc
    expires_at: Utc
    cgroups: tuple[str, ...] = ()
    first: Process | None = None
    """The process whose end is the sandbox's; None while it is being made."""
    keeper: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the sandbox runs."""
        return self.first is not None and lives(self.first)


class Ledger:
    """The directories of all sandboxes below one root. A name's lock is its directory's, so no lock file is ever left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, name: str) -> Path:
        """Where a sandbox keeps everything; raises SandboxRefused for a name that is none."""
        if not NAME.fullmatch(name):
            raise SandboxRefused(f"{name!r} is no name for a sandbox: up to 64 characters of A-Z a-z 0-9 . _ -")
        return self.root / name

    def state_file(self, name: str) -> Path:
        """The file of a sandbox's state."""
        return self.directory(name) / "state.json"

    def read(self, name: str) -> State | None:
        """What the file says; None where there is none or, after a crash of the machine, half of one."""
        try:
            return State.model_validate_json(self.state_file(name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, state: State) -> None:
        """Write a state down, all or nothing."""
        path = self.state_file(state.name)
        draft = path.with_suffix(".new")
        draft.write_text(state.model_dump_json())
        draft.replace(path)

    def by_id(self, sandbox_id: str) -> State | None:
        """The state of exactly this sandbox, not of a later one of the same name."""
        name = name_of(sandbox_id)
        state = self.read(name) if name else None
        return state if state and state.sandbox_id == sandbox_id else None

    def running(self) -> Iterator[State]:
        """All sandboxes that run."""
        for path in sorted(self.root.iterdir()):
            state = self.read(path.name) if NAME.fullmatch(path.name) else None
            if state and state.running:
                yield state

    @contextmanager
    def lock(self, name: str, *, make: bool = False) -> Iterator[int | None]:
        """Be the only one who makes or ends the sandbox of that name; gives a descriptor of its directory, None where there is none.

        Raises SandboxUnavailable where another process holds the lock for too long.
        """
        directory, deadline = self.directory(name), time.monotonic() + _LOCK_S
        while (handle := self._open(directory, make=make)) is not None:
            try:
                if _locked(handle, directory):
                    yield handle
                    return
            finally:
                os.close(handle)
            if time.monotonic() > deadline:
                raise SandboxUnavailable(f"another process holds the sandbox {name} for more than {_LOCK_S:.0f} seconds")
            time.sleep(0.01)
        yield None

    def _open(self, directory: Path, *, make: bool) -> int | None:
        if make:
            directory.mkdir(mode=0o700, exist_ok=True)
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return self._open(directory, make=make) if make else None

    def discard(self, name: str) -> None:
        """Take the directory of an ended sandbox out of sight, under its lock. `purge` removes it."""
        trash = self.root / _TRASH
        trash.mkdir(mode=0o700, exist_ok=True)
        self.directory(name).rename(trash / secrets.token_hex(16))

    def purge(self) -> None:
        """Remove what was taken out of sight, also by processes that died over it."""
        trash = self.root / _TRASH
        if trash.exists():
            remove_below(trash)


def name_of(sandbox_id: str) -> str | None:
    """The name in a sandbox's id; None where it is none of this make."""
    found = _ID.fullmatch(sandbox_id)
    return found.group(1) if found else None


def _locked(handle: int, directory: Path) -> bool:
    """Take the lock if it is free; false also where the directory was moved away meanwhile, since a lock on that means nothing."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), directory.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
