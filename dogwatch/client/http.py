"""The HTTP door as methods; needs the extra `client-http`, and nothing of it when only imported."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from dogwatch.contracts.agent import EventView
from dogwatch.contracts.job import JobStatus, JobSubmission, JobView
from dogwatch.contracts.page import FilePage, JobPage, Problem, SessionPage
from dogwatch.contracts.session import SessionRequest, SessionState, SessionView
from dogwatch.contracts.workspace import FileView
from dogwatch.errors import ERRORS, BlobCorrupt, DogwatchError, DoorUnreachable, InvalidRequest

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8484"
PATIENCE_S = 120.0
"""How long a follower tries to come back to a door that does not answer."""
_LONGEST_PAUSE_S = 5.0

M = TypeVar("M", bound=BaseModel)


class HttpClient:
    """Sessions, jobs, events and files through the HTTP door. Every method raises the door's typed errors, and DoorUnreachable.

    Use it in an `async with` block. A submission without an idempotency key is sent once; with one it may be sent again by the caller.
    """

    def __init__(self, url: str = DEFAULT_URL, *, key: str | None = None, timeout_s: float = 60.0) -> None:
        """`key` is the door's API key; `timeout_s` is the longest silence of the door."""
        import httpx

        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout_s)
        self._lost = httpx.TransportError

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self._http.aclose()

    # --- sessions -----------------------------------------------------------------------------------------------------------------

    async def open_session(self, request: SessionRequest, *, idempotency_key: str | None = None) -> SessionView:
        """Open a session with its first files."""
        return await self._send("POST", "/v1/sessions", SessionView, body=request, idempotency_key=idempotency_key)

    async def session(self, session_id: str) -> SessionView:
        """A session."""
        return await self._send("GET", f"/v1/sessions/{session_id}", SessionView)

    async def sessions(self, *, state: SessionState | None = None, after: str | None = None, limit: int = 50) -> SessionPage:
        """Sessions, newest first."""
        return await self._send("GET", "/v1/sessions", SessionPage, query={"state": state, "after": after, "limit": limit})

    async def extend_session(self, session_id: str, seconds: float) -> SessionView:
        """Let a session live at least so many seconds from now."""
        return await self._send("POST", f"/v1/sessions/{session_id}/extend", SessionView, body={"seconds": seconds})

    async def close_session(self, session_id: str, *, cancel: bool = False) -> SessionView:
        """Take no more jobs; the running one finishes, or is cancelled with `cancel`."""
        return await self._send("POST", f"/v1/sessions/{session_id}/close", SessionView, body={"cancel": cancel})

    # --- jobs ---------------------------------------------------------------------------------------------------------------------

    async def submit(self, job: JobSubmission, *, session_id: str | None = None, idempotency_key: str | None = None) -> JobView:
        """Submit a job, to a session or of its own. From then on it survives everything."""
        path = "/v1/jobs" if session_id is None else f"/v1/sessions/{session_id}/jobs"
        return await self._send("POST", path, JobView, body=job, idempotency_key=idempotency_key)

    async def job(self, job_id: str) -> JobView:
        """A job; once it has ended, with the first of its files."""
        return await self._send("GET", f"/v1/jobs/{job_id}", JobView)

    async def jobs(
        self, *, session_id: str | None = None, status: JobStatus | None = None, after: str | None = None, limit: int = 50
    ) -> JobPage:
        """Jobs, newest first."""
        query = {"session_id": session_id, "status": status, "after": after, "limit": limit}
        return await self._send("GET", "/v1/jobs", JobPage, query=query)

    async def cancel(self, job_id: str) -> JobView:
        """Ask a job to end; what its agent has done by then is kept."""
        return await self._send("POST", f"/v1/jobs/{job_id}/cancel", JobView)

    async def wait(self, job_id: str) -> JobView:
        """The job once it has ended."""
        async for _ in self.events(job_id):
            pass
        return await self.job(job_id)

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[EventView]:
        """Events as they come, each once and in order, until the job has ended. Comes back by itself to a door that went away."""
        pause, lost_at = 0.5, None
        clock = asyncio.get_running_loop()
        while True:
            try:
                async for event in self._follow(job_id, after):
                    if event is None:
                        return
                    after, pause, lost_at = event.seq, 0.5, None
                    yield event
            except DogwatchError as error:
                if not error.retryable or (lost_at is not None and clock.time() - lost_at > PATIENCE_S):
                    raise
            lost_at = lost_at or clock.time()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    # --- files --------------------------------------------------------------------------------------------------------------------

    async def files(self, job_id: str, *, changed: bool = False) -> AsyncIterator[FileView]:
        """The files a job left, ordered by path; with `changed` only those that differ from its input, and those that are gone."""
        after: str | None = None
        while True:
            query = {"after": after, "changed": changed or None}
            page = await self._send("GET", f"/v1/jobs/{job_id}/files", FilePage, query=query)
            for file in page.files:
                yield file
            if page.next is None:
                return
            after = page.next

    async def download(self, file: FileView) -> AsyncIterator[bytes]:
        """The bytes of a file; raises BlobCorrupt after the last of them where they are not the file's."""
        hasher = hashlib.sha256()
        async with self._streaming(file.download_url or "") as response:
            async for chunk in response.aiter_bytes():
                hasher.update(chunk)
                yield chunk
        if hasher.hexdigest() != file.sha256:
            raise BlobCorrupt(f"the bytes of {file.path} are not those that the job left")

    async def fetch(self, job_id: str, path: str | bytes) -> AsyncIterator[bytes]:
        """The bytes of a file by its exact path."""
        async with self._streaming(f"/v1/jobs/{job_id}/files/{quote(path)}") as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    async def archive(self, job_id: str) -> AsyncIterator[bytes]:
        """All files that a job left, as a tar archive."""
        async with self._streaming(f"/v1/jobs/{job_id}/archive") as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    # --- how --------------------------------------------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        path: str,
        answer: type[M],
        *,
        body: BaseModel | Mapping[str, Any] | None = None,
        query: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> M:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        content = body.model_dump_json() if isinstance(body, BaseModel) else None
        try:
            response = await self._http.request(
                method, path, params=params, headers=headers, **({"content": content} if content is not None else {"json": body})
            )
        except self._lost as error:
            raise DoorUnreachable(f"{self.url} does not answer: {type(error).__name__}") from error
        if not response.is_success:
            raise _refusal(response.status_code, response.content)
        return answer.model_validate_json(response.content)

    @asynccontextmanager
    async def _streaming(self, path: str, headers: Mapping[str, str] | None = None) -> "AsyncIterator[httpx.Response]":
        try:
            async with self._http.stream("GET", path, headers=headers) as response:
                if not response.is_success:
                    raise _refusal(response.status_code, await response.aread())
                yield response
        except self._lost as error:
            raise DoorUnreachable(f"{self.url} does not answer any more: {type(error).__name__}") from error

    async def _follow(self, job_id: str, after: int) -> AsyncIterator[EventView | None]:
        """Events of one connection, then None where nothing follows."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        async with self._streaming(f"/v1/jobs/{job_id}/events", headers) as response:
            if response.status_code == 204:
                yield None
            async for message in _messages(response.aiter_bytes()):
                if message.get("event") == b"end":
                    yield None
                elif "data" in message:
                    yield EventView.model_validate_json(message["data"])


async def _messages(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, bytes]]:
    """Server-sent events. Cut at line feeds alone: the text of an event may hold every other kind of line break."""
    held = b""
    async for chunk in chunks:
        *messages, held = (held + chunk).split(b"\n\n")
        for message in messages:
            fields = (line.partition(b": ") for line in message.split(b"\n"))
            yield {name.decode(): value for name, _, value in fields if name}


def _refusal(status: int, body: bytes) -> DogwatchError:
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return DogwatchError(f"the door answered {status} without saying why")
    error = ERRORS.get(problem.code, DogwatchError)(problem.detail)
    if isinstance(error, InvalidRequest):
        error.details = problem.details
    return error
