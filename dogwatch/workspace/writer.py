"""A manifest as a tar stream: deterministic, in the manifest's order, one window of small files in memory."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest
from dogwatch.errors import BlobCorrupt
from dogwatch.ports import Blobs
from dogwatch.workspace.encode import END, member_header, padding
from dogwatch.workspace.manifest import raw
from dogwatch.workspace.reader import closing

SMALL = 1 << 20
"""Files up to this size are held in memory whole; bigger ones are streamed."""
_AHEAD = 16
_CHUNK = 256 * 1024


async def write_archive(manifest: Manifest, blobs: Blobs) -> AsyncIterator[bytes]:
    """The chunks of an archive with all entries that were kept. Raises what `Blobs.read` raises."""
    pending = bytearray()
    async with aclosing(_parts(manifest, blobs)) as parts:
        async for part in parts:
            pending += part
            if len(pending) >= _CHUNK:
                yield bytes(pending)
                pending.clear()
    yield bytes(pending + END)


async def _parts(manifest: Manifest, blobs: Blobs) -> AsyncGenerator[bytes, None]:
    fetched = _Fetched(blobs, iter(manifest.entries))
    try:
        async for entry, content in fetched.entries():
            yield _header(entry)
            if entry.kind is not EntryKind.FILE:
                continue
            if content is not None:
                yield content
            else:
                async with closing(blobs.read(_digest(entry))) as stream:
                    async for part in stream:
                        yield part
            yield padding(entry.size)
    finally:
        await fetched.close()


class _Fetched:
    """The entries in order, with the bytes of small files fetched a few ahead: an object store answers slowly but many at once."""

    def __init__(self, blobs: Blobs, entries: Iterator[Entry]) -> None:
        self._blobs = blobs
        self._source = entries
        self._window: deque[tuple[Entry, asyncio.Task[bytes] | None]] = deque()

    async def entries(self) -> AsyncIterator[tuple[Entry, bytes | None]]:
        self._fill()
        while self._window:
            entry, task = self._window.popleft()
            content = await task if task is not None else None
            if content is not None and len(content) != entry.size:
                raise BlobCorrupt(f"blob {entry.sha256} has {len(content)} bytes where its manifest says {entry.size}")
            self._fill()
            yield entry, content

    async def close(self) -> None:
        tasks = [task for _, task in self._window if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fill(self) -> None:
        for entry in self._source:
            if entry.kind is EntryKind.SKIPPED:
                continue
            small = entry.kind is EntryKind.FILE and entry.size <= SMALL
            self._window.append((entry, asyncio.ensure_future(self._blobs.get(_digest(entry))) if small else None))
            if len(self._window) >= _AHEAD:
                return


def _header(entry: Entry) -> bytes:
    name = raw(entry.path)
    if entry.kind is EntryKind.FILE:
        return member_header(name, "file", entry.mode, size=entry.size)
    if entry.kind is EntryKind.SYMLINK:
        return member_header(name, "symlink", 0o777, target=raw(entry.target or ""))
    return member_header(name, "directory", entry.mode)


def _digest(entry: Entry) -> str:
    if entry.sha256 is None:
        raise BlobCorrupt(f"the manifest names no blob for {ascii(entry.path)[:200]}")
    return entry.sha256
