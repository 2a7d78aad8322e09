"""Rows of jobs and sessions as the doors show them."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.agent import Usage, Verdict
from dogwatch.contracts.job import AttemptState, AttemptView, JobStatus, JobView
from dogwatch.contracts.page import JobPage, SessionPage
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.session import SessionState, SessionView
from dogwatch.contracts.workspace import Changes, ManifestRef
from dogwatch.errors import InvalidRequest, NotFound
from dogwatch.names import job_workflow_id, session_workflow_id
from dogwatch.store.bounded import bounded
from dogwatch.store.engine import Database, one, rows

_JOB_COLUMNS = """
select j.id, j.tenant, j.session_id, j.status, j.prompt, j.verdict, j.text, j.usage, j.changes, j.labels, j.events,
  j.created_at, j.started_at, j.finished_at, t.id as transcript_id, t.digest as transcript_digest, t.files as transcript_files,
  t.bytes as transcript_bytes, t.complete as transcript_complete
from jobs j left join manifests t on t.id = j.transcript_manifest
"""
_JOB = text(_JOB_COLUMNS + "where j.id = :id and j.tenant = :tenant")
_JOBS = text(
    _JOB_COLUMNS
    + """
where j.tenant = :tenant and (cast(:session as text) is null or j.session_id = :session)
  and (cast(:status as text) is null or j.status = :status)
  and (cast(:before as timestamptz) is null or (j.created_at, j.id) < (:before, :before_id))
order by j.created_at desc, j.id desc limit :limit
"""
)
_ATTEMPTS = text("""
select job_id, number, state, cause, sandbox_id, provider, verdict, usage, progress ->> 'cli_version' as cli_version, next_seq,
  started_at, ended_at
from attempts where job_id = any(cast(:jobs as text[])) order by job_id, number
""")
_SESSION_COLUMNS = """
select s.id, s.tenant, s.state, s.ttl_s, s.latest_job_id, s.labels, s.created_at, s.expires_at, s.input_manifest,
  w.id as workspace_id, w.digest as workspace_digest, w.files as workspace_files, w.bytes as workspace_bytes,
  w.complete as workspace_complete
from sessions s left join manifests w on w.id = s.workspace_manifest
"""
_SESSION = text(_SESSION_COLUMNS + "where s.id = :id and s.tenant = :tenant")
_SESSIONS = text(
    _SESSION_COLUMNS
    + """
where s.tenant = :tenant and (cast(:state as text) is null or s.state = :state)
  and (cast(:before as timestamptz) is null or (s.created_at, s.id) < (:before, :before_id))
order by s.created_at desc, s.id desc limit :limit
"""
)


class Views:
    """Queries of showing and listing. Every one of them is bound to a tenant: what belongs to another is not found."""

    def __init__(self, db: Database, deadline_s: float) -> None:
        """Reads through `db`; each query has `deadline_s` seconds."""
        self.db = db
        self.deadline_s = deadline_s

    @bounded
    async def job(self, tenant: str, job_id: str) -> JobView:
        """A job with its attempts, without its files. Raises NotFound."""
        async with self.db.begin() as connection:
            row = await one(connection, _JOB, id=job_id, tenant=tenant)
            if row is None:
                raise NotFound("there is no such job")
            return (await _with_attempts(connection, [row]))[0]

    @bounded
    async def jobs(
        self, tenant: str, *, session_id: str | None = None, status: JobStatus | None = None, after: str | None = None, limit: int = 50
    ) -> JobPage:
        """Jobs, newest first; `after` is an earlier page's `next`. Raises InvalidRequest for one that is not."""
        before, before_id = _position(after)
        async with self.db.begin() as connection:
            found = await rows(
                connection, _JOBS, tenant=tenant, session=session_id, status=status, before=before, before_id=before_id, limit=limit + 1
            )
            return JobPage(jobs=tuple(await _with_attempts(connection, found[:limit])), next=_next(found, limit))

    @bounded
    async def session(self, tenant: str, session_id: str) -> SessionView:
        """A session. Raises NotFound."""
        async with self.db.begin() as connection:
            row = await one(connection, _SESSION, id=session_id, tenant=tenant)
            if row is None:
                raise NotFound("there is no such session")
            return _session_view(row)

    @bounded
    async def sessions(self, tenant: str, *, state: SessionState | None = None, after: str | None = None, limit: int = 50) -> SessionPage:
        """Sessions, newest first; `after` is an earlier page's `next`. Raises InvalidRequest for one that is not."""
        before, before_id = _position(after)
        async with self.db.begin() as connection:
            found = await rows(connection, _SESSIONS, tenant=tenant, state=state, before=before, before_id=before_id, limit=limit + 1)
            return SessionPage(sessions=tuple(_session_view(row) for row in found[:limit]), next=_next(found, limit))


async def _with_attempts(connection: AsyncConnection, jobs: Sequence[Row[Any]]) -> list[JobView]:
    attempts = await rows(connection, _ATTEMPTS, jobs=[job.id for job in jobs])
    return [_job_view(job, [attempt for attempt in attempts if attempt.job_id == job.id]) for job in jobs]


def _job_view(row: Row[Any], attempts: Sequence[Row[Any]]) -> JobView:
    status, verdict = JobStatus(row.status), Verdict.model_validate(row.verdict) if row.verdict else None
    seen = tuple(_attempt_view(attempt) for attempt in attempts)
    usage = Usage()
    for attempt in seen:
        usage = usage.plus(attempt.usage)
    return JobView(
        job_id=row.id,
        session_id=row.session_id,
        tenant=row.tenant,
        status=status,
        prompt=row.prompt,
        verdict=verdict,
        error=_error(verdict) if verdict and status is not JobStatus.SUCCEEDED else None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempts=seen,
        usage=Usage.model_validate(row.usage) if row.usage else usage,
        text=row.text,
        events=max([row.events, *(attempt.next_seq - 1 for attempt in attempts)]),
        changes=Changes.model_validate(row.changes),
        transcript=_manifest_ref(row, "transcript"),
        workflow_id=job_workflow_id(row.id),
        labels=row.labels,
    )


def _error(verdict: Verdict) -> str:
    message = verdict.message or verdict.code.value
    return f"{message.rstrip('.')}. {verdict.remedy}" if verdict.remedy else message


def _attempt_view(row: Row[Any]) -> AttemptView:
    return AttemptView(
        number=row.number,
        state=AttemptState(row.state),
        cause=row.cause,
        sandbox=row.sandbox_id,
        provider=Provider(row.provider),
        verdict=Verdict.model_validate(row.verdict) if row.verdict else None,
        usage=Usage.model_validate(row.usage),
        cli_version=row.cli_version,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _session_view(row: Row[Any]) -> SessionView:
    return SessionView(
        session_id=row.id,
        tenant=row.tenant,
        state=SessionState(row.state),
        created_at=row.created_at,
        expires_at=row.expires_at,
        ttl_s=row.ttl_s,
        latest_job_id=row.latest_job_id,
        workspace=_manifest_ref(row, "workspace"),
        workflow_id=session_workflow_id(row.id),
        labels=row.labels,
    )


def _manifest_ref(row: Row[Any], prefix: str) -> ManifestRef | None:
    values = {name: getattr(row, f"{prefix}_{name}") for name in ("id", "digest", "files", "bytes", "complete")}
    if values["id"] is None:
        return None
    return ManifestRef(
        manifest_id=values["id"],
        digest=bytes(values["digest"]).hex(),
        files=values["files"],
        bytes=values["bytes"],
        complete=values["complete"],
    )


def _next(found: Sequence[Row[Any]], limit: int) -> str | None:
    if len(found) <= limit:
        return None
    last = found[limit - 1]
    return base64.urlsafe_b64encode(f"{last.created_at.isoformat()} {last.id}".encode()).decode().rstrip("=")


def _position(after: str | None) -> tuple[datetime | None, str | None]:
    if after is None:
        return None, None
    try:
        moment, _, row_id = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)).decode().rpartition(" ")
        return datetime.fromisoformat(moment), row_id.replace("\0", "")
    except ValueError:
        raise InvalidRequest("`after` is not the `next` of an earlier page") from None
