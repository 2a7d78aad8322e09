"""The blob store: bytes under their SHA-256 in a directory or a bucket, through obstore."""

import hashlib
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, from_url

from dogwatch.errors import BlobCorrupt, BlobMissing, DogwatchError, SettingsInvalid, StorageFull, StorageUnavailable
from dogwatch.workspace.disk import on_disk, write_durably

_PIECE = 4 << 20
_FULL = ("No space left on device", "Disk quota exceeded")


class ObstoreBlobs:
    """`ports.Blobs` on a directory (`/path` or `file:///path`) or a bucket (`s3://`, `gs://`, `az://`), keys `sha256/ab/cdef…`.

    A put is atomic: the object is there whole or not at all. In a directory it is also durable when `put` returns; obstore renames
    without fsync, so the directory is written here. Buckets are durable by their own promise. Digests are checked on the way in and
    on the way out.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """`options` are obstore's own for buckets (`endpoint`, `region`, `client_options`, …); the environment counts as well.

        Raises SettingsInvalid for an address that is none.
        """
        parts = urlsplit(url)
        self._directory = Path(unquote(parts.path)).absolute() if parts.scheme in ("", "file") else None
        try:
            if self._directory is not None:
                self._store: Any = LocalStore(self._directory, mkdir=True)
            else:
                self._store = from_url(url, **(options or {}))
        except (BaseError, OSError, ValueError) as error:
            raise SettingsInvalid(f"the blob store {url} cannot be opened: {_said(error)}") from error

    async def put(self, sha256: str, data: bytes) -> None:
        """Store bytes under their digest. Raises BlobCorrupt where they do not match it, StorageUnavailable, StorageFull."""
        _check(sha256, hashlib.sha256(data).hexdigest())
        if self._directory is not None:
            await self._write(sha256, data)
            return
        with _typed(sha256):
            await obstore.put_async(self._store, _key(sha256), data)

    async def put_file(self, sha256: str, path: str) -> None:
        """Store a file's bytes under their digest, a few MiB at a time in memory."""
        _check(sha256, await on_disk(lambda: _digest(Path(path))))
        if self._directory is not None:
            await self._write(sha256, Path(path))
            return
        with _typed(sha256):
            await obstore.put_async(self._store, _key(sha256), Path(path))

    async def has(self, sha256: str) -> bool:
        """Whether the bytes are there."""
        try:
            with _typed(sha256):
                await obstore.head_async(self._store, _key(sha256))
        except BlobMissing:
            return False
        return True

    async def get(self, sha256: str) -> bytes:
        """All bytes, verified. Raises BlobMissing, BlobCorrupt, StorageUnavailable."""
        with _typed(sha256):
            data = bytes(await (await obstore.get_async(self._store, _key(sha256))).bytes_async())
        _check(sha256, hashlib.sha256(data).hexdigest())
        return data

    async def read(self, sha256: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`. A read of everything is verified: BlobCorrupt is raised after the last chunk."""
        hasher = hashlib.sha256()
        with _typed(sha256):
            size = (await obstore.head_async(self._store, _key(sha256)))["size"]
            stop = size if end is None else min(end, size)
            # One request per piece: a stream held open for a slow reader would run into the client's timeout.
            for at in range(start, stop, _PIECE):
                piece = bytes(await obstore.get_range_async(self._store, _key(sha256), start=at, end=min(at + _PIECE, stop)))
                hasher.update(piece)
                yield piece
        if start == 0 and stop == size:
            _check(sha256, hasher.hexdigest())

    async def delete(self, sha256: str) -> None:
        """Remove the bytes; gone is fine."""
        try:
            with _typed(sha256):
                await obstore.delete_async(self._store, _key(sha256))
        except BlobMissing:
            return

    async def _write(self, sha256: str, source: bytes | Path) -> None:
        target = Path(str(self._directory), _key(sha256))

        def write() -> None:
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                write_durably(target, file)

        await on_disk(write)


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(sha256: str, found: str) -> None:
    if found != sha256:
        raise BlobCorrupt(f"the bytes of blob {sha256} have the digest {found}")


@contextmanager
def _typed(what: str) -> Iterator[None]:
    """Turn what obstore raises into errors with a code; the detail it prints about its own internals is cut off."""
    try:
        yield
    except FileNotFoundError:
        raise BlobMissing(f"blob {what} is not there") from None
    except (BaseError, OSError, ValueError) as error:
        raise _error(error) from error


def _error(error: Exception) -> DogwatchError:
    said = _said(error)
    if any(words in said for words in _FULL):
        return StorageFull(said)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StorageUnavailable(f"the blob store refuses these credentials: {said}")
    return StorageUnavailable(said)


def _said(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0][:500]
