"""A local directory as the archive of an upload; standard library only, for the command line client."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dogwatch.contracts.paths import MAX_DEPTH
from dogwatch.contracts.workspace import MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES
from dogwatch.errors import InvalidRequest, PathTooLong, TooManyFiles, UploadTooLarge
from dogwatch.workspace.encode import END, member_header, padding


def pack(directory: Path, *, max_files: int = MAX_UPLOAD_FILES, max_bytes: int = MAX_UPLOAD_BYTES) -> bytes:
    """The tree below `directory` as a tar archive, the same bytes for the same tree.

    Links are kept as links and never followed; sockets, FIFOs and devices are left out. Raises TooManyFiles, UploadTooLarge, and
    InvalidRequest naming what cannot be read.
    """
    parts: list[bytes] = []
    files = size = 0
    try:
        for name, path, mode in _walk(os.fsencode(directory), b""):
            if stat.S_ISDIR(mode):
                parts.append(member_header(name, "directory", stat.S_IMODE(mode)))
                continue
            files += 1
            if files > max_files:
                raise TooManyFiles(f"{directory} holds more than {max_files} files")
            if stat.S_ISLNK(mode):
                parts.append(member_header(name, "symlink", 0o777, target=os.readlink(path)))  # noqa: PTH115 - names are bytes here
                continue
            data = _content(path, max_bytes - size)
            size += len(data)
            if size > max_bytes:
                raise UploadTooLarge(f"{directory} holds more than {max_bytes} bytes")
            parts += [member_header(name, "file", stat.S_IMODE(mode), size=len(data)), data, padding(len(data))]
    except OSError as error:
        raise InvalidRequest(f"cannot read {ascii(error.filename)[:200]}: {error.strerror}") from error
    return b"".join([*parts, END])


def _walk(directory: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, path and mode of everything that goes into the archive, ordered by name."""
    if prefix.count(b"/") > MAX_DEPTH:
        raise PathTooLong(f"the directory holds more than {MAX_DEPTH} levels")
    with os.scandir(directory) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        mode = child.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or stat.S_ISREG(mode):
            yield prefix + child.name, child.path, mode
        if stat.S_ISDIR(mode):
            yield from _walk(child.path, prefix + child.name + b"/")


def _content(path: bytes, most: int) -> bytes:
    """The bytes of a file, one more than `most` at the most. It may have become something else meanwhile: no link is followed."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(most + 1)
