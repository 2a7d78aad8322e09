"""Jobs over HTTP: submit, look, list, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request

from dogwatch.contracts.base import ID_PATTERN
from dogwatch.contracts.job import JobStatus, JobSubmission, JobView
from dogwatch.contracts.page import JobPage
from dogwatch.errors import NotFound
from dogwatch.http.body import read_model
from dogwatch.http.deps import Deps
from dogwatch.http.describe import takes
from dogwatch.http.listing import file_views
from dogwatch.http.reply import Reply
from dogwatch.http.submit import Submitter

Id = Annotated[str, Path(pattern=ID_PATTERN)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
"""The same key with the same request is the same thing again; with another one it is refused."""
Limit = Annotated[int, Query(ge=1, le=200)]
MOST_FILES = 1000
"""Files in a job's view; the pages below `/files` have all of them."""


class Jobs:
    """The addresses of jobs."""

    def __init__(self, deps: Deps) -> None:
        """Reads and starts through `deps`."""
        self.deps = deps
        self.submitter = Submitter(deps)

    def routes(self) -> APIRouter:
        """`/jobs` and what a session does with jobs."""
        router = APIRouter(tags=["jobs"])
        accepted: dict[str, Any] = {
            "methods": ["POST"],
            "status_code": 202,
            "response_model": JobView,
            "openapi_extra": takes(JobSubmission),
        }
        router.add_api_route("/jobs", self.submit, **accepted)
        router.add_api_route("/sessions/{session_id}/jobs", self.submit_to_session, **accepted)
        router.add_api_route("/jobs", self.list, methods=["GET"], response_model=JobPage)
        router.add_api_route("/jobs/{job_id}", self.show, methods=["GET"], response_model=JobView)
        router.add_api_route("/jobs/{job_id}/cancel", self.cancel, methods=["POST"], response_model=JobView, status_code=202)
        return router

    async def submit(self, request: Request, key: Key = None) -> Reply:
        """Accept a job of its own. It survives everything from now on."""
        submission = await read_model(request, JobSubmission, self.deps.limits)
        return _accepted(await self.submitter.alone(submission, key))

    async def submit_to_session(self, request: Request, session_id: Id, key: Key = None) -> Reply:
        """Accept a job that works on a session's files, after the jobs before it."""
        submission = await read_model(request, JobSubmission, self.deps.limits)
        return _accepted(await self.submitter.in_session(session_id, submission, key))

    async def list(
        self,
        session_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
        status: JobStatus | None = None,
        after: Annotated[str | None, Query(max_length=200)] = None,
        limit: Limit = 50,
    ) -> Reply:
        """Jobs, newest first."""
        return Reply(await self.deps.doors.jobs(self.deps.tenant, session_id=session_id, status=status, after=after, limit=limit))

    async def show(self, job_id: Id) -> Reply:
        """A job with its attempts and the first of its files."""
        view = await self.deps.doors.job(self.deps.tenant, job_id)
        if view.status.terminal:
            found = await self.deps.doors.job_files(self.deps.tenant, job_id, limit=MOST_FILES)
            if found.manifest_id is not None:
                view = view.model_copy(update={"output_files": file_views(job_id, found.rows)})
        return Reply(view)

    async def cancel(self, job_id: Id) -> Reply:
        """Ask a job to end; what its agent has done by then is kept. A job that has ended stays as it is."""
        view = await self.deps.doors.job(self.deps.tenant, job_id)
        if not view.status.terminal:
            try:
                await self.deps.temporal.job(job_id).cancel()
            except NotFound:
                await self._withdraw(view)
            view = await self.deps.doors.job(self.deps.tenant, job_id)
        return Reply(view, 200 if view.status.terminal else 202)

    async def _withdraw(self, view: JobView) -> None:
        """A job without a workflow waits in its session, or did until a moment ago."""
        if view.session_id is None:
            return
        if await self.deps.temporal.session(view.session_id).withdraw(view.job_id):
            await self.deps.doors.mark_withdrawn(self.deps.tenant, view.job_id)
        else:
            await self.deps.temporal.job(view.job_id).cancel()


def _accepted(view: JobView) -> Reply:
    return Reply(view, 202, {"Location": f"/v1/jobs/{view.job_id}"})
