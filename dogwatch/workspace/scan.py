"""What lies in a sandbox's directory, asked of GNU find: the way to see sockets, and files that change while they are read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from dogwatch.errors import CommandFailed
from dogwatch.ports import Sandbox
from dogwatch.workspace.reader import LimitReached, ReadLimits, closing, next_before

# NUL-separated, since a name may hold anything else. Whether a directory can be listed takes the right to read and to enter it.
_FIELDS = r"%y\0%m\0%s\0%T@ %C@ %i\0%P\0"
_READABLE = ["(", "-type", "d", "-readable", "-executable", "-o", "!", "-type", "d", "-readable", ")"]
_COUNT = 6
_MAX_RECORD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing in the tree, as find saw it."""

    type: str
    """Find's letter: f, d, l, p (FIFO), s (socket), b, c."""
    mode: int
    size: int
    stamp: bytes
    """Times of the last change of bytes and of status, and the inode. Empty for a directory: files coming and going alter those."""
    access: str
    """`+` readable, `-` not, `x` excluded and not looked into."""


async def scan(sandbox: Sandbox, root: str, limits: ReadLimits, exclude: Sequence[str] = ()) -> AsyncGenerator[tuple[bytes, Seen], None]:
    """Everything below `root` with its path, in no order. Raises LimitReached, and CommandFailed for a listing that is none.

    `exclude` are patterns as of find's -path (`*` also matches `/`), relative to the root; what matches is reported and not looked into.
    """
    deadline = asyncio.get_running_loop().time() + limits.seconds
    entries = name_bytes = 0
    output = sandbox.stream(_command(limits.depth, exclude), cwd=root, timeout_s=limits.seconds + 5)
    async with closing(output) as chunks:
        async for access, kind, mode, size, stamp, path in _records(chunks, deadline):
            entries, name_bytes = entries + 1, name_bytes + len(path)
            if entries > limits.entries:
                raise LimitReached("entries")
            if name_bytes > limits.name_bytes:
                raise LimitReached("name_bytes")
            yield path, _seen(access, kind, mode, size, stamp)


def _command(depth: int, exclude: Sequence[str]) -> list[str]:
    pruned: list[str] = []
    for pattern in exclude:
        pruned += ["-o"] * bool(pruned) + ["-path", f"./{pattern}"]
    skip = ["(", *pruned, ")", "-prune", "-printf", rf"x\0{_FIELDS}", "-o"] if pruned else []
    levels = ["-mindepth", "1", "-maxdepth", str(depth + 1)]  # one more than is kept, so that a tree that goes on is seen
    return ["find", ".", *levels, *skip, *_READABLE, "-printf", rf"+\0{_FIELDS}", "-o", "-printf", rf"-\0{_FIELDS}"]


async def _records(chunks: AsyncIterator[bytes], deadline: float) -> AsyncIterator[list[bytes]]:
    rest = b""
    while (chunk := await next_before(chunks, deadline)) is not None:
        fields = (rest + chunk).split(b"\0")
        whole = (len(fields) - 1) // _COUNT * _COUNT
        for at in range(0, whole, _COUNT):
            yield fields[at : at + _COUNT]
        rest = b"\0".join(fields[whole:])
        if len(rest) > _MAX_RECORD:
            raise _garbled()
    if rest:
        raise _garbled()


def _seen(access: bytes, kind: bytes, mode: bytes, size: bytes, stamp: bytes) -> Seen:
    try:
        directory = kind == b"d"
        return Seen(kind.decode("ascii"), int(mode, 8) & 0o7777, int(size), b"" if directory else stamp, access.decode("ascii"))
    except ValueError:
        raise _garbled() from None


def _garbled() -> CommandFailed:
    return CommandFailed("find in the sandbox gave a listing that is none")
