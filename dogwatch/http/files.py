"""Files of jobs over HTTP: pages, single files, everything as an archive, the transcript."""

import re
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Query
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import StreamingResponse

from dogwatch.contracts.page import FilePage
from dogwatch.http.deps import Deps
from dogwatch.http.download import begun, disposition, download
from dogwatch.http.jobs import MOST_FILES, Id
from dogwatch.http.listing import file_page, position
from dogwatch.http.reply import HEADERS, Reply
from dogwatch.workspace.writer import write_archive


class _AnyName(PathConvertor):
    """The rest of an address. Starlette's own stops at a line break, and file names may hold one."""

    regex = "(?s:.*)"


register_url_convertor("name", _AnyName())
_NAME = re.compile(rb"/jobs/[^/]+/files/(.*)", re.DOTALL)


class Files:
    """The addresses of a job's files."""

    def __init__(self, deps: Deps) -> None:
        """Reads through `deps`."""
        self.deps = deps

    def routes(self) -> APIRouter:
        """Below `/jobs/{job_id}`."""
        router = APIRouter(tags=["files"])
        job = "/jobs/{job_id}"
        bytes_only: dict[str, Any] = {"methods": ["GET"], "response_class": StreamingResponse, "response_model": None}
        router.add_api_route(f"{job}/files", self.list, methods=["GET"], response_model=FilePage)
        router.add_api_route(f"{job}/files/{{path:name}}", self.fetch, **bytes_only)
        router.add_api_route(f"{job}/archive", self.archive, **bytes_only)
        router.add_api_route(f"{job}/transcript", self.transcript, **bytes_only)
        return router

    async def list(
        self,
        job_id: Id,
        after: Annotated[str | None, Query(max_length=8000)] = None,
        changed: bool = False,
        limit: Annotated[int, Query(ge=1, le=5000)] = MOST_FILES,
    ) -> Reply:
        """The files a job left, ordered by path, each compared with those it started with; `changed` leaves the others out."""
        found = await self.deps.doors.job_files(self.deps.tenant, job_id, after=position(after), changed=changed, limit=limit)
        return Reply(file_page(job_id, found))

    async def fetch(self, request: Request, job_id: Id, path: str) -> StreamingResponse:
        """The bytes of one file."""
        file = await self.deps.doors.job_file(self.deps.tenant, job_id, _exact_path(request, path))
        return await download(request, self.deps.blobs, file)

    async def archive(self, job_id: Id) -> StreamingResponse:
        """All files that a job left, as a tar archive."""
        manifest = await self.deps.doors.job_manifest(self.deps.tenant, job_id)
        headers = {**HEADERS, "Content-Disposition": disposition(f"{job_id}.tar".encode())}
        return StreamingResponse(await begun(write_archive(manifest, self.deps.blobs)), 200, headers, "application/x-tar")

    async def transcript(self, request: Request, job_id: Id) -> StreamingResponse:
        """The agent's conversation, in the CLI's own form."""
        file = await self.deps.doors.job_transcript(self.deps.tenant, job_id)
        return await download(request, self.deps.blobs, file)


def _exact_path(request: Request, decoded: str) -> bytes:
    """The bytes of a file's name: the framework decodes addresses as UTF-8, and names are no text."""
    raw = request.scope.get("raw_path")
    found = _NAME.search(raw.partition(b"?")[0]) if raw else None
    return unquote_to_bytes(found[1]) if found else decoded.encode("utf-8", "surrogateescape")
