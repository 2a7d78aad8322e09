"""What every blob store does: one suite, run against each make."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from dogwatch.errors import BlobCorrupt, BlobMissing
from dogwatch.ports import Blobs


def sha(data: bytes) -> str:
    """The key of some bytes."""
    return hashlib.sha256(data).hexdigest()


async def everything(blobs: Blobs, key: str, start: int = 0, end: int | None = None) -> bytes:
    """A stream read to its end."""
    return b"".join([chunk async for chunk in blobs.read(key, start=start, end=end)])


class BlobsConformance:
    """Inherit and provide the fixture `blobs`."""

    async def test_bytes_come_back(self, blobs: Blobs) -> None:
        """What was put is there, whole and as a stream; empty bytes are bytes."""
        for data in (b"", b"\0", bytes(range(256)) * 40):
            assert not await blobs.has(sha(data))
            await blobs.put(sha(data), data)
            assert await blobs.has(sha(data))
            assert await blobs.get(sha(data)) == data
            assert await everything(blobs, sha(data)) == data

    async def test_ranges(self, blobs: Blobs) -> None:
        """A range is half open; beyond the end there is nothing."""
        data = bytes(range(256))
        await blobs.put(sha(data), data)
        for start, end in ((0, 1), (10, 20), (255, 256), (250, None), (0, 256), (250, 1000), (256, None), (300, 400), (20, 20)):
            assert await everything(blobs, sha(data), start, end) == data[start:end]

    async def test_a_big_file_is_streamed(self, blobs: Blobs, tmp_path: Path) -> None:
        """A file of many pieces goes in from the disk and comes out in pieces."""
        data = hashlib.sha256(b"seed").digest() * (12 << 15)
        (tmp_path / "big").write_bytes(data)
        await blobs.put_file(sha(data), str(tmp_path / "big"))
        pieces = [chunk async for chunk in blobs.read(sha(data))]
        assert b"".join(pieces) == data
        assert len(pieces) > 1
        assert await everything(blobs, sha(data), 5_000_000, 9_000_001) == data[5_000_000:9_000_001]

    async def test_missing(self, blobs: Blobs) -> None:
        """What is not there is said so, and removing it is fine."""
        key = sha(b"nothing")
        with pytest.raises(BlobMissing):
            await blobs.get(key)
        with pytest.raises(BlobMissing):
            await everything(blobs, key)
        await blobs.delete(key)
        assert not await blobs.has(key)

    async def test_deleted_is_gone_and_can_come_back(self, blobs: Blobs) -> None:
        """Deleting twice is fine; a later put stores the bytes anew."""
        await blobs.put(sha(b"x"), b"x")
        await blobs.delete(sha(b"x"))
        await blobs.delete(sha(b"x"))
        assert not await blobs.has(sha(b"x"))
        await blobs.put(sha(b"x"), b"x")
        assert await blobs.get(sha(b"x")) == b"x"

    async def test_bytes_under_a_wrong_name_are_refused(self, blobs: Blobs, tmp_path: Path) -> None:
        """Neither bytes nor a file get in under another digest than their own."""
        (tmp_path / "file").write_bytes(b"other")
        with pytest.raises(BlobCorrupt):
            await blobs.put(sha(b"x"), b"other")
        with pytest.raises(BlobCorrupt):
            await blobs.put_file(sha(b"x"), str(tmp_path / "file"))
        assert not await blobs.has(sha(b"x"))

    async def test_many_at_once_and_again(self, blobs: Blobs) -> None:
        """Putting the same bytes at the same time, and again, is fine."""
        datas = [b"%d" % (at % 20) for at in range(100)]
        await asyncio.gather(*(blobs.put(sha(data), data) for data in datas))
        assert [await blobs.get(sha(data)) for data in datas[:20]] == datas[:20]
