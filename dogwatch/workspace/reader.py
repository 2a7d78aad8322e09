"""The one decoder of archives: strict, streaming, bounded. What it says decides both the manifest and the bytes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

from dogwatch.contracts.paths import MAX_DEPTH
from dogwatch.errors import ArchiveCorrupt, ArchiveTruncated
from dogwatch.workspace.header import BLOCK, SPARSE, ZEROS, Header, decimal, padding, parse_header, parse_records

_REGULAR, _LINKS, _SPECIAL = (b"0", b"7"), (b"1", b"2"), (b"3", b"4", b"6")
_EXTENSIONS = (b"x", b"g", b"L", b"K")
_NAMING = {b"path", b"linkpath", b"size"}


@dataclass(frozen=True)
class ReadLimits:
    """How much of one archive is read. A value of exactly the limit is accepted."""

    entries: int = 100_000
    """Members, directories included; a manifest of so many takes about 60 MiB of memory."""
    file_bytes: int = 5 << 30
    """Bytes of one file; a bigger one is skipped."""
    total_bytes: int = 20 << 30
    """Bytes of all data, skipped files included."""
    name_bytes: int = 16 << 20
    """Bytes of all names and link targets."""
    header_bytes: int = 1 << 20
    """Bytes of one extended header."""
    depth: int = MAX_DEPTH
    """Levels of directories; a deeper entry is skipped."""
    seconds: float = 600.0
    """Wall clock from the first chunk to the end mark."""


class LimitReached(Exception):
    """A limit ended the reading: what came before it stands."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the limit {limit} was reached")
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Member:
    """One member as the archive has it. The name is untrusted bytes; whoever makes a row of it judges it."""

    name: bytes
    kind: Literal["file", "directory", "symlink", "hardlink", "skipped"]
    mode: int = 0
    size: int = 0
    """Bytes of data that follow as events; 0 for anything but a file."""
    link: bytes = b""
    """Target of a symbolic link, or name of the member that a hard link stands for."""
    reason: str | None = None
    """Why it is skipped."""


Event = Member | bytes
"""A member, or bytes of the file that was announced last: exactly `size` of them before the next member."""


class Decoder:
    """Turns chunks into events. Reads GNU and POSIX tar as GNU tar, bsdtar and Python write it, and nothing beyond the end mark."""

    def __init__(self, limits: ReadLimits) -> None:
        """Hold to `limits`, the clock excepted."""
        self.ended = False
        """Whether the end mark was read."""
        self._limits = limits
        self._buffer = bytearray()
        self._entries = self._bytes = self._name_bytes = 0
        self._events = self._members()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that a chunk completes. Raises ArchiveCorrupt and LimitReached."""
        self._buffer += chunk
        for event in self._events:
            if event is None:
                return
            yield event
        self.ended = True

    def finish(self) -> None:
        """Say that no chunk follows. Raises ArchiveTruncated where the end mark is missing."""
        if not self.ended:
            raise ArchiveTruncated("the archive ends before its end mark")

    @property
    def rest(self) -> bytes:
        """What was fed beyond the end mark."""
        return bytes(self._buffer)

    # The generators below yield None where they need another chunk.

    def _take(self, size: int) -> Generator[Event | None, None, bytes]:
        while len(self._buffer) < size:
            yield None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _data(self, size: int) -> Generator[Event | None, None, None]:
        left = size
        while left:
            if not self._buffer:
                yield None
            part = bytes(self._buffer[:left])
            del self._buffer[:left]
            left -= len(part)
            if part:
                yield part
        yield from self._take(padding(size))

    def _skip(self, size: int) -> Generator[Event | None, None, None]:
        for event in self._data(size):
            if event is None:
                yield None

    def _header(self) -> Generator[Event | None, None, Header | None]:
        block = yield from self._take(BLOCK)
        if block != ZEROS:
            self._entries += block[156:157] not in (b"x", b"L", b"K")  # these are followed by a member, which counts
            if self._entries > self._limits.entries:
                raise LimitReached("entries")
            return parse_header(block)
        if (yield from self._take(BLOCK)) != ZEROS:
            raise ArchiveCorrupt("a single zero block stands between members")
        return None

    def _members(self) -> Generator[Event | None, None, None]:
        while True:
            extensions = _Extensions()
            header = yield from self._header()
            while header is not None and header.type in _EXTENSIONS:
                if header.size > self._limits.header_bytes:
                    raise LimitReached("header_bytes")
                body = yield from self._take(header.size + padding(header.size))
                extensions.add(header.type, body[: header.size])
                header = yield from self._header()
            if header is None:
                if extensions.pending:
                    raise ArchiveCorrupt("an extended header belongs to no member")
                return
            yield from self._member(extensions.applied(header), sparse=extensions.sparse)

    def _member(self, header: Header, *, sparse: bool) -> Generator[Event | None, None, None]:
        self._name_bytes += len(header.name) + len(header.link)
        if self._name_bytes > self._limits.name_bytes:
            raise LimitReached("name_bytes")
        more = header.extended
        while more:
            more = (yield from self._take(BLOCK))[504] != 0
        member = self._judged(header, sparse=sparse or header.type == SPARSE)
        self._bytes += header.size
        if self._bytes > self._limits.total_bytes:
            if member.kind == "skipped":
                yield member
            raise LimitReached("total_bytes")
        yield member
        yield from self._data(header.size) if member.kind == "file" else self._skip(header.size)

    def _judged(self, header: Header, *, sparse: bool) -> Member:
        """The member a header announces. Only what has data by definition may have a size: readers disagree about the rest."""
        if sparse:
            return Member(header.name, "skipped", reason="sparse_unsupported")
        if header.type in _REGULAR and not (header.name.endswith(b"/") and header.size == 0):
            if header.size > self._limits.file_bytes:
                return Member(header.name, "skipped", reason="file_too_big")
            return Member(header.name, "file", header.mode, header.size)
        if header.size and (header.type in _LINKS or header.type in _SPECIAL or header.type == b"5"):
            raise ArchiveCorrupt("a member that has no data has a size")
        if header.type in _LINKS:
            return Member(header.name, "symlink" if header.type == b"2" else "hardlink", 0o777, link=header.link)
        if header.type in _SPECIAL:
            return Member(header.name, "skipped", reason="special_file")
        if header.type == b"5" or header.type in _REGULAR:  # an empty "file" whose name ends in a slash: V7's directory
            return Member(header.name, "directory", header.mode)
        return Member(header.name, "skipped", reason="unknown_type")


class _Extensions:
    """The extended headers in front of one member. Two that say the same thing are refused: readers disagree which one wins."""

    def __init__(self) -> None:
        self._long: dict[bytes, bytes] = {}
        self._records: dict[bytes, bytes] = {}

    def add(self, kind: bytes, body: bytes) -> None:
        if kind in self._long or (kind != b"g" and self._records) or (kind == b"x" and self._long):
            raise ArchiveCorrupt("two extended headers belong to one member")
        if kind in (b"L", b"K"):
            self._long[kind] = body.removesuffix(b"\0")
            return
        records = parse_records(body)
        if kind == b"x":
            self._records = records or {b"comment": b""}
        elif any(key in _NAMING or key.startswith(b"GNU.sparse.") for key in records):
            raise ArchiveCorrupt("a global header names members")

    @property
    def pending(self) -> bool:
        return bool(self._long or self._records)

    @property
    def sparse(self) -> bool:
        return any(key.startswith(b"GNU.sparse.") for key in self._records)

    def applied(self, header: Header) -> Header:
        records = self._records
        name = records.get(b"GNU.sparse.name") or records.get(b"path", self._long.get(b"L", header.name))
        link = records.get(b"linkpath", self._long.get(b"K", header.link))
        size = decimal(records[b"size"]) if b"size" in records else header.size
        return replace(header, name=name, link=link, size=size)


async def read_archive(chunks: AsyncIterator[bytes], limits: ReadLimits) -> AsyncGenerator[Event, None]:
    """The events of a streamed archive. The stream is closed at the end mark, at a fault, and when the reader is closed.

    Raises ArchiveCorrupt, ArchiveTruncated and LimitReached (`pull_timeout` for the clock) after everything that came before the fault.
    """
    decoder = Decoder(limits)
    deadline = asyncio.get_running_loop().time() + limits.seconds
    async with closing(chunks) as source:
        while not decoder.ended:
            chunk = await next_before(source, deadline)
            if chunk is None:
                decoder.finish()
                return
            for event in decoder.feed(chunk):
                yield event


@asynccontextmanager
async def closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """A stream that is closed at the end of the block, also where its type does not promise `aclose`."""
    try:
        yield chunks
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


async def next_before(chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
    """The next chunk, None at the end. Raises LimitReached where it has not come by `deadline` of the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(chunks, None)
    except TimeoutError:
        raise LimitReached("pull_timeout") from None
