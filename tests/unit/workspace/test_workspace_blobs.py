"""The blob store on a directory and on a bucket: the same behaviour, and what only one of them can show."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogwatch.errors import BlobCorrupt, SettingsInvalid, StorageFull, StorageUnavailable
from dogwatch.workspace.blobs import ObstoreBlobs
from tests.conformance.blobs import BlobsConformance, everything, sha


class TestDirectory(BlobsConformance):
    """A directory, by its path."""

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> ObstoreBlobs:
        """An empty store."""
        return ObstoreBlobs(str(tmp_path / "a directory" / "blobs"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server on this machine with an empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while not bucket_made(url):
                assert server.poll() is None, "moto_server ended"
                assert time.monotonic() < deadline, "moto_server does not answer"
                time.sleep(0.1)  # the port has no other sign of life
            yield url
        finally:
            server.terminate()
            server.wait(10)


def bucket_made(url: str) -> bool:
    """Whether the server answers, which it does with a bucket."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def bucket(url: str, prefix: str) -> ObstoreBlobs:
    """A store under a prefix of the bucket."""
    options = {
        "endpoint": url,
        "region": "us-east-1",
        "access_key_id": "k",
        "secret_access_key": "s",
        "client_options": {"allow_http": True},
    }
    return ObstoreBlobs(f"s3://bucket/{prefix}", options)


class TestBucket(BlobsConformance):
    """A bucket of an S3 server."""

    @pytest.fixture
    def blobs(self, s3: str, tmp_path: Path) -> ObstoreBlobs:
        """An empty prefix of the bucket."""
        return bucket(s3, tmp_path.name)


async def test_keys_are_spread_over_directories(tmp_path: Path) -> None:
    """The layout is `sha256/ab/cdef…`; nothing else is left behind; others on the machine cannot read it."""
    await ObstoreBlobs(tmp_path.as_uri()).put(sha(b"x"), b"x")
    [stored] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stored.relative_to(tmp_path) == Path("sha256", sha(b"x")[:2], sha(b"x")[2:])
    assert stored.stat().st_mode & 0o077 == 0


async def test_altered_bytes_are_noticed_and_healed_by_a_put(tmp_path: Path) -> None:
    """A whole read of damaged bytes fails at its end; putting the right ones again repairs the blob."""
    blobs = ObstoreBlobs(str(tmp_path))
    data = b"x" * 10_000_000
    await blobs.put(sha(data), data)
    [stored] = [path for path in tmp_path.rglob("*") if path.is_file()]
    stored.write_bytes(data[:-1] + b"y")
    with pytest.raises(BlobCorrupt):
        await blobs.get(sha(data))
    with pytest.raises(BlobCorrupt):
        await everything(blobs, sha(data))
    await blobs.put(sha(data), data)
    assert await blobs.get(sha(data)) == data


async def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    """A file system of 1 MiB: the put fails with the code for it, no part of the blob is visible, and room heals it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        blobs = ObstoreBlobs(str(disk))
        big, small = b"x" * (2 << 20), b"y" * 1000
        (tmp_path / "big").write_bytes(big)
        with pytest.raises(StorageFull):
            await blobs.put(sha(big), big)
        with pytest.raises(StorageFull):
            await blobs.put_file(sha(big), str(tmp_path / "big"))
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        assert not await blobs.has(sha(big))
        await blobs.put(sha(small), small)
        assert await blobs.get(sha(small)) == small
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_store_that_does_not_answer_is_said_so() -> None:
    """A refused connection and refused credentials are errors with a code, after obstore's own few retries."""
    options = {
        "retry_config": {"max_retries": 1},
        "endpoint": "http://127.0.0.1:9",
        "region": "x",
        "access_key_id": "k",
        "secret_access_key": "s",
    }
    blobs = ObstoreBlobs("s3://bucket", {**options, "client_options": {"allow_http": True}})
    async with asyncio.timeout(60):
        with pytest.raises(StorageUnavailable):
            await blobs.get(sha(b"x"))
        with pytest.raises(StorageUnavailable):
            await blobs.put(sha(b"x"), b"x")


def test_an_address_that_is_none_is_said_so(tmp_path: Path) -> None:
    """An unknown scheme and a directory that cannot be are wrong settings."""
    (tmp_path / "file").touch()
    for url in ("gopher://bucket", str(tmp_path / "file" / "blobs")):
        with pytest.raises(SettingsInvalid):
            ObstoreBlobs(url)
