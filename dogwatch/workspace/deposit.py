"""Bytes on their way into the blob store: announced in batches, put only where they are missing."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from dogwatch.ports import Blobs
from dogwatch.workspace.disk import on_disk

Note = Callable[[Mapping[str, int]], Awaitable[Sequence[str]]]
"""Announces blobs, digest to size, and says which of them must be put (`Records.note_blobs`)."""

SMALL = 1 << 20
"""Files up to this size go through memory; bigger ones through a temporary file."""
_BATCH_BLOBS, _BATCH_BYTES = 256, 8 << 20
_AT_ONCE = 16


class Deposit:
    """Takes the bytes of files and keeps at most one batch of them in memory. Call `flush` at the end."""

    def __init__(self, blobs: Blobs, note: Note, scratch: Path) -> None:
        """Temporary files go into the directory `scratch`, which must exist."""
        self._blobs = blobs
        self._note = note
        self._scratch = scratch
        self._batch: dict[str, bytes] = {}
        self._batch_bytes = 0

    async def add(self, data: bytes) -> str:
        """Take a small file; returns its digest. Raises StorageFull, StorageUnavailable and what announcing raises."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._batch:
            self._batch[sha256] = data
            self._batch_bytes += len(data)
        if len(self._batch) >= _BATCH_BLOBS or self._batch_bytes >= _BATCH_BYTES:
            await self.flush()
        return sha256

    def spill(self) -> "Spill":
        """A big file on its way, to be used in an `async with` block."""
        return Spill(self._scratch)

    async def keep(self, spill: "Spill") -> str:
        """Take a big file that was written whole; returns its digest."""
        sha256 = await spill.done()
        if sha256 in await self._note({sha256: spill.size}):
            await self._blobs.put_file(sha256, str(spill.path))
        return sha256

    async def flush(self) -> None:
        """Announce and put what is held."""
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        if not batch:
            return
        missing = iter(await self._note({sha256: len(data) for sha256, data in batch.items()}))

        async def put_next() -> None:
            for sha256 in missing:
                await self._blobs.put(sha256, batch[sha256])

        outcomes = await asyncio.gather(*(put_next() for _ in range(_AT_ONCE)), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


class Spill:
    """A big file as it arrives: hashed and written to a temporary file beside the event loop, removed at the end of the block."""

    def __init__(self, scratch: Path) -> None:
        self.size = 0
        self._scratch = scratch
        self._hasher = hashlib.sha256()
        self._pending = bytearray()

    async def __aenter__(self) -> "Spill":
        self._file = await on_disk(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._remove)

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._pending += data
        self.size += len(data)
        if len(self._pending) >= SMALL:
            await self._drain()

    async def done(self) -> str:
        """Say that all bytes are written; returns their digest."""
        await self._drain()
        await on_disk(self._file.flush)
        return self._hasher.hexdigest()

    async def _drain(self) -> None:
        pending, self._pending = self._pending, bytearray()
        await on_disk(lambda: self._append(pending))

    def _append(self, data: bytearray) -> None:
        self._hasher.update(data)
        self._file.write(data)

    def _open(self) -> BinaryIO:
        descriptor, name = tempfile.mkstemp(dir=self._scratch, prefix="blob-")
        self.path = Path(name)
        return os.fdopen(descriptor, "wb")

    def _remove(self) -> None:
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)
