"""A file's bytes over HTTP: streamed from the blob store, never shown inline, at most one range."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import StreamingResponse

from dogwatch.errors import BlobMissing, RangeNotSatisfiable
from dogwatch.http.reply import HEADERS
from dogwatch.ports import Blobs
from dogwatch.store.files import FileRow

_RANGE = re.compile(r"bytes=(\d{1,19})?-(\d{1,19})?")
_PLAIN = re.compile(r"[^A-Za-z0-9._ -]")


async def download(request: Request, blobs: Blobs, file: FileRow) -> StreamingResponse:
    """The bytes of a file, or the one range that was asked for. Raises RangeNotSatisfiable, and BlobMissing before the first byte."""
    digest = file.sha256 or ""
    etag = f'"{digest}"'
    asked = request.headers.get("range") if request.headers.get("if-range", etag) == etag else None
    span = byte_range(asked, file.size)
    start, end = span or (0, file.size)
    headers = {
        **HEADERS,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(file.path),
        "Content-Length": str(end - start),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": etag,
    }
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    chunks = blobs.read(digest, start=start, end=end if span else None)
    if file.size:
        chunks = await begun(chunks)
    return StreamingResponse(chunks, 206 if span else 200, headers, "application/octet-stream")


def byte_range(asked: str | None, size: int) -> tuple[int, int] | None:
    """The one range of a Range header as start and end; None where there is none that is understood, which means everything.

    Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(asked.strip()) if asked else None
    if found is None or not any(found.groups()):
        return None
    first, last = (int(group) if group else None for group in found.groups())
    if first is None:
        start, end = max(0, size - (last or 0)), size
    else:
        start, end = first, size if last is None else min(last + 1, size)
        if last is not None and last < first:
            return None
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes")
    return start, end


def disposition(path: bytes) -> str:
    """The header that makes any name harmless: an ASCII one for old programs, the real one percent-encoded (RFC 6266)."""
    name = path.rpartition(b"/")[2].decode("utf-8", "replace")
    return f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


async def begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream whose first chunk is there: what goes wrong before it can still be answered with a problem."""
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        raise BlobMissing("the blob is empty where its manifest says otherwise") from None
    return _resumed(first, chunks)


async def _resumed(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk
