"""The bytes of one archive member's header, the same for the same tree everywhere; standard library only."""

import tarfile
from typing import Literal

BLOCK = 512
END = bytes(2 * BLOCK)
"""What ends an archive."""

_TYPES = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}


def member_header(name: bytes, kind: Literal["file", "directory", "symlink"], mode: int, *, size: int = 0, target: bytes = b"") -> bytes:
    """A header in GNU's format without times and owners; a file's `size` bytes and `padding(size)` follow it."""
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.type, info.mode, info.size = _TYPES[kind], mode, size
    info.linkname = target.decode("utf-8", "surrogateescape")
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """The zeros that fill a file's last block."""
    return bytes(-size % BLOCK)
