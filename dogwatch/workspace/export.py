"""A manifest's files into a new directory here: component by component, beneath one descriptor, through no link."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest
from dogwatch.errors import DogwatchError, PathCollision, PathNotCanonical, PathTooLong
from dogwatch.ports import Blobs
from dogwatch.workspace.disk import on_disk, storage_error
from dogwatch.workspace.manifest import raw
from dogwatch.workspace.reader import closing
from dogwatch.workspace.tree import name_problem

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777  # set-user-id and its kin are a sandbox's wish, and this is not the sandbox


async def export(manifest: Manifest, blobs: Blobs, directory: Path) -> None:
    """Write all entries that were kept below `directory`, which is made, or exists and is empty.

    Links are made as links, wherever they point, and nothing is written through one. Raises PathCollision where two names are one on
    this file system (or the directory is not empty), StorageFull, StorageUnavailable and the errors of reading blobs; what was written
    until then stays.
    """
    root = await on_disk(lambda: _opened(directory))
    try:
        target = _Target(root)
        for entry in manifest.entries:
            with _typed(entry.path):
                await _write(target, entry, blobs)
        for entry in reversed(manifest.entries):  # last, since a directory may forbid writing into it
            if entry.kind is EntryKind.DIRECTORY:
                with _typed(entry.path), target.inside(raw(entry.path).split(b"/")) as descriptor:
                    os.fchmod(descriptor, entry.mode & _PERMISSIONS)
    finally:
        os.close(root)


async def _write(target: "_Target", entry: Entry, blobs: Blobs) -> None:
    if entry.kind is EntryKind.SKIPPED:
        return
    name = raw(entry.path)
    if problem := name_problem(name):
        raise PathNotCanonical(f"{ascii(entry.path)[:200]} cannot be written: {problem}")
    *parents, leaf = name.split(b"/")
    if entry.kind is EntryKind.DIRECTORY:
        with target.inside([*parents, leaf]):
            return
    with target.inside(parents) as parent:
        if entry.kind is EntryKind.SYMLINK:
            os.symlink(raw(entry.target or ""), leaf, dir_fd=parent)
            return
        file = os.fdopen(os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent), "wb")
    with file:
        async with closing(blobs.read(entry.sha256 or "")) as chunks:
            async for chunk in chunks:
                file.write(chunk)
        os.fchmod(file.fileno(), entry.mode & _PERMISSIONS)


class _Target:
    """The directory that is written, and which of its directories stands for which path."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._made: dict[tuple[int, int], list[bytes]] = {}

    @contextmanager
    def inside(self, parts: list[bytes]) -> Iterator[int]:
        """A descriptor of the directory `parts`, reached through no link; missing ones are made."""
        descriptor = os.dup(self._root)
        try:
            for depth, part in enumerate(parts, 1):
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=descriptor)
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
                self._claim(descriptor, parts[:depth])
            yield descriptor
        finally:
            os.close(descriptor)

    def _claim(self, descriptor: int, path: list[bytes]) -> None:
        """Notice a file system that takes two names for one."""
        status = os.fstat(descriptor)
        first = self._made.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            one, other = (ascii(b"/".join(parts))[1:201] for parts in (first, path))
            raise PathCollision(f"{one} and {other} are one directory on this file system")


def _opened(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise PathCollision(f"the directory {directory} is not empty")
    return os.open(directory, _DIRECTORY)


@contextmanager
def _typed(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(error, ascii(path)[:200]) from error


def _error(error: OSError, path: str) -> DogwatchError:
    if error.errno in (errno.EEXIST, errno.ELOOP, errno.ENOTDIR):
        return PathCollision(f"{path} collides with another entry on this file system")
    if error.errno == errno.ENAMETOOLONG:
        return PathTooLong(f"{path} is too long for this file system")
    return storage_error(error)
