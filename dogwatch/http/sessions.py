"""Sessions over HTTP: open, look, list, extend, close."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request

from dogwatch.contracts.base import Contract
from dogwatch.contracts.page import FilePage, SessionPage
from dogwatch.contracts.session import SessionRequest, SessionState, SessionView
from dogwatch.errors import NotFound, SessionGone
from dogwatch.http.body import read_model
from dogwatch.http.deps import Deps
from dogwatch.http.describe import takes
from dogwatch.http.jobs import MOST_FILES, Id, Key, Limit
from dogwatch.http.listing import file_page, file_views, position
from dogwatch.http.reply import Reply
from dogwatch.http.submit import Submitter


class ExtendRequest(Contract):
    """How much longer a session shall live."""

    seconds: Annotated[float, Field(gt=0, le=30 * 86_400)]
    """Seconds from now; an end that is later already stays."""


class CloseRequest(Contract):
    """How a session shall end."""

    cancel: bool = False
    """Whether the running job is cancelled; otherwise it finishes."""


class Sessions:
    """The addresses of sessions."""

    def __init__(self, deps: Deps) -> None:
        """Reads and writes through `deps`."""
        self.deps = deps
        self.submitter = Submitter(deps)

    def routes(self) -> APIRouter:
        """`/sessions`."""
        router = APIRouter(tags=["sessions"])
        one, shown = "/sessions/{session_id}", SessionView
        router.add_api_route(
            "/sessions", self.open, methods=["POST"], response_model=shown, status_code=201, openapi_extra=takes(SessionRequest)
        )
        router.add_api_route("/sessions", self.list, methods=["GET"], response_model=SessionPage)
        router.add_api_route(one, self.show, methods=["GET"], response_model=shown)
        router.add_api_route(f"{one}/files", self.files, methods=["GET"], response_model=FilePage)
        router.add_api_route(f"{one}/extend", self.extend, methods=["POST"], response_model=shown, openapi_extra=takes(ExtendRequest))
        router.add_api_route(
            f"{one}/close", self.close, methods=["POST"], response_model=shown, status_code=202, openapi_extra=takes(CloseRequest)
        )
        return router

    async def open(self, request: Request, key: Key = None) -> Reply:
        """Open a session with its first files."""
        wanted = await read_model(request, SessionRequest, self.deps.limits)
        view = await self.submitter.open_session(wanted, key)
        files = await self.deps.doors.session_files(self.deps.tenant, view.session_id, limit=MOST_FILES)
        view = view.model_copy(update={"input_files": file_views(None, files.rows)})
        return Reply(view, 201, {"Location": f"/v1/sessions/{view.session_id}"})

    async def list(
        self, state: SessionState | None = None, after: Annotated[str | None, Query(max_length=200)] = None, limit: Limit = 50
    ) -> Reply:
        """Sessions, newest first."""
        return Reply(await self.deps.doors.sessions(self.deps.tenant, state=state, after=after, limit=limit))

    async def show(self, session_id: Id) -> Reply:
        """A session."""
        return Reply(await self.deps.doors.session(self.deps.tenant, session_id))

    async def files(
        self,
        session_id: Id,
        after: Annotated[str | None, Query(max_length=8000)] = None,
        changed: bool = False,
        limit: Annotated[int, Query(ge=1, le=5000)] = MOST_FILES,
    ) -> Reply:
        """The files of a session now, compared with those it was opened with. The bytes are those of its latest job."""
        view = await self.deps.doors.session(self.deps.tenant, session_id)
        found = await self.deps.doors.session_files(self.deps.tenant, session_id, after=position(after), changed=changed, limit=limit)
        return Reply(file_page(view.latest_job_id, found))

    async def extend(self, request: Request, session_id: Id) -> Reply:
        """Let a session live longer."""
        wanted = await read_model(request, ExtendRequest, self.deps.limits)
        view = await self._open_one(session_id)
        try:
            end = await self.deps.temporal.session(session_id).extend(wanted.seconds)
        except NotFound:
            raise SessionGone from None
        await self.deps.doors.extend_session(self.deps.tenant, session_id, end)
        return Reply(view.model_copy(update={"expires_at": max(end, view.expires_at)}))

    async def close(self, request: Request, session_id: Id) -> Reply:
        """Take no more jobs, withdraw those that wait, let the running one finish or cancel it. A closed session stays as it is."""
        empty = request.headers.get("content-length") == "0" or "content-type" not in request.headers
        wanted = CloseRequest() if empty else await read_model(request, CloseRequest, self.deps.limits)
        view = await self.deps.doors.session(self.deps.tenant, session_id)
        if view.state.terminal:
            return Reply(view)
        await self.deps.temporal.check()
        try:
            await self.deps.temporal.session(session_id).close(cancel=wanted.cancel)
        except NotFound:  # it has just ended
            return Reply(await self.deps.doors.session(self.deps.tenant, session_id))
        await self.deps.doors.mark_closing(self.deps.tenant, session_id)
        return Reply(await self.deps.doors.session(self.deps.tenant, session_id), 202)

    async def _open_one(self, session_id: str) -> SessionView:
        view = await self.deps.doors.session(self.deps.tenant, session_id)
        if view.state.terminal:
            raise SessionGone
        await self.deps.temporal.check()
        return view
