"""Rows of attempts and of the ledger of sandboxes: open, bind, launch, stop, settle."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.job import JobRequest
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import StopReason
from dogwatch.contracts.workspace import JobWorkspace, ManifestWorkspace, SessionWorkspace
from dogwatch.errors import AttemptEnded, LeaseLost, NotFound
from dogwatch.names import attempt_id, sandbox_name
from dogwatch.ports import Live, Opening
from dogwatch.store.engine import Database, encode, one, plain
from dogwatch.store.manifests import manifest_ref

_START_JOB = text("""
insert into jobs (id, tenant, session_id, request, prompt, prompt_sha256, labels, status, started_at)
values (:id, :tenant, :session, cast(:request as jsonb), :prompt, :prompt_sha256, cast(:labels as jsonb), 'running', now())
on conflict (id) do update set status = 'running', started_at = coalesce(jobs.started_at, now())
  where jobs.tenant = excluded.tenant and jobs.status in ('accepted', 'queued', 'running')
returning input_manifest, input_transcript, session_id
""")
_SET_INPUT = text("update jobs set input_manifest = :manifest, input_transcript = :transcript where id = :id")
_TOUCH_SESSION = text("""
update sessions set expires_at = greatest(expires_at, now() + make_interval(secs => ttl_s))
where id = :id and tenant = :tenant returning workspace_manifest, transcript_manifest
""")
_JOB_FILES = text("select coalesce(output_manifest, input_manifest) as manifest from jobs where id = :id and tenant = :tenant")
_MANIFEST_OF = text("select id from manifests where id = :id and tenant = :tenant and kind = 'workspace'")
_END_EARLIER = text("""
update attempts set state = 'ended', ended_at = now(), lease = lease + 1,
  verdict = coalesce(verdict, '{"code": "sandbox_lost", "transient": true, "message": "the attempt was given up"}'::jsonb)
where job_id = :job and number < :number and ended_at is null
""")
# A checkpoint that a limit or a fault cut short is not one: the conversation would speak of files that are not there.
_CHECKPOINT = text("""
select max(a.next_seq) as next_seq, max(a.number) as last,
  (array_agg(w.id order by a.number desc) filter (where w.complete and coalesce(t.complete, true)))[1] as workspace,
  (array_agg(t.id order by a.number desc) filter (where w.complete and coalesce(t.complete, true)))[1] as transcript
from attempts a left join manifests w on w.id = a.workspace_manifest left join manifests t on t.id = a.transcript_manifest
where a.job_id = :job and a.number < :number
""")
_OPEN_ATTEMPT = text("""
with opened as (
  insert into attempts (id, job_id, tenant, number, state, cause, provider, next_seq)
  values (:id, :job, :tenant, :number, 'intended', :cause, :provider, :next_seq)
  on conflict (id) do update set lease = attempts.lease + 1 where attempts.ended_at is null
  returning id, job_id, tenant, provider, lease, sandbox_id, state
), intent as (
  insert into sandboxes (name, tenant, provider, job_id, session_id, owner_attempt, state, spec)
  select :name, tenant, provider, job_id, :session, id, 'intended', cast(:spec as jsonb) from opened on conflict (name) do nothing
)
select lease, sandbox_id, state from opened
""")
# Both rows or none: the intent of an attempt that was released or swept meanwhile takes no sandbox any more.
_BIND = text("""
with due as (
  select a.id, s.name from attempts a join sandboxes s on s.owner_attempt = a.id
  where a.id = :id and s.name = :name and a.sandbox_id is null and a.ended_at is null and a.lease = :lease and s.state = 'intended'
  for no key update
), created as (
  update sandboxes s set sandbox_id = :sandbox, state = 'created', expires_at = :expires from due where s.name = due.name
)
update attempts a set sandbox_id = :sandbox, state = 'prepared' from due where a.id = due.id returning a.sandbox_id
""")
_ATTEMPT = text("select sandbox_id, ended_at, lease from attempts where id = :id")
_LAUNCHING = text("""
update attempts set state = case when state = 'prepared' then 'launching' else state end
where id = :id and sandbox_id is not null and stop_requested_at is null and ended_at is null and lease = :lease returning state
""")
_REQUEST_STOP = text("""
update attempts set stop_requested_at = coalesce(stop_requested_at, now()), stop_reason = coalesce(stop_reason, :reason)
where job_id = :job and number = (select max(number) from attempts where job_id = :job)
returning id, number, provider, sandbox_id, state, ended_at
""")
_UNRELEASED = text("""
select a.id, a.number, s.provider, coalesce(s.sandbox_id, a.sandbox_id) as sandbox_id, a.state, a.ended_at, s.name
from sandboxes s join attempts a on a.id = s.owner_attempt where s.job_id = :job and s.state <> 'ended' order by a.number
""")
_SETTLE = text("update sandboxes set state = 'ended', ended_at = now(), reason = :reason where name = :name and state <> 'ended'")


@dataclass(frozen=True)
class _Start:
    """What an attempt starts with."""

    workspace: str | None
    transcript: str | None
    cause: str = "first"
    next_seq: int = 1


class Attempts:
    """Queries of prepare_sandbox, stop_agent and release_sandbox."""

    def __init__(self, db: Database, deployment: str) -> None:
        """`deployment` is the id of this installation, part of every sandbox name."""
        self.db = db
        self.deployment = deployment

    async def open_attempt(self, job_id: str, number: int, request: JobRequest, provider: Provider) -> Opening:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            job = await self._start_job(connection, job_id, request)
            start = _Start(job.input_manifest, job.input_transcript)
            if number > 1:
                start = await self._resume(connection, job_id, number, start)
            name = sandbox_name(self.deployment, job_id, number)
            opened = await one(
                connection,
                _OPEN_ATTEMPT,
                id=attempt_id(job_id, number),
                job=job_id,
                tenant=request.tenant,
                number=number,
                cause=start.cause,
                provider=provider,
                next_seq=start.next_seq,
                name=name,
                session=job.session_id,
                spec=encode(request.sandbox),
            )
            if opened is None:
                raise AttemptEnded(f"attempt {number} of job {job_id} has ended")
            if number == 1 and opened.lease == 1:  # a repeated step starts with what the first one found
                start = await self._first(connection, job_id, request, start)
            return Opening(
                deployment=self.deployment,
                attempt_id=attempt_id(job_id, number),
                lease=opened.lease,
                sandbox_name=name,
                sandbox_id=opened.sandbox_id,
                launched=opened.state not in ("intended", "prepared"),
                input=await manifest_ref(connection, start.workspace),
                transcript=await manifest_ref(connection, start.transcript),
                conversation="resumed" if start.transcript else "new",
            )

    async def _start_job(self, connection: AsyncConnection, job_id: str, request: JobRequest) -> Row[Any]:
        prompt_sha256 = request.task.prompt_sha256
        job = await one(
            connection,
            _START_JOB,
            id=job_id,
            tenant=request.tenant,
            session=request.session_id,
            request=encode(request),
            prompt=plain((request.task.prompt or "")[:500]),
            prompt_sha256=bytes.fromhex(prompt_sha256) if prompt_sha256 else None,
            labels=encode(request.labels),
        )
        if job is None:
            raise AttemptEnded(f"job {job_id} has ended, or belongs to another tenant")
        return job

    async def _first(self, connection: AsyncConnection, job_id: str, request: JobRequest, accepted: _Start) -> _Start:
        """What the first attempt starts with, written on the job's row; the door may have written the files when it accepted the job."""
        session = None
        if request.session_id:
            session = await one(connection, _TOUCH_SESSION, id=request.session_id, tenant=request.tenant)
            if session is None:
                raise NotFound(f"there is no session {request.session_id}")
        files = accepted.workspace or await self._files(connection, request, session)
        spoken = session.transcript_manifest if session is not None and request.conversation == "continue" else None
        if files or spoken:
            await connection.execute(_SET_INPUT, {"id": job_id, "manifest": files, "transcript": spoken})
        return _Start(files, spoken)

    async def _files(self, connection: AsyncConnection, request: JobRequest, session: Row[Any] | None) -> str | None:
        source = request.workspace
        if isinstance(source, SessionWorkspace) and session is not None:
            return cast("str | None", session.workspace_manifest)
        if isinstance(source, JobWorkspace):
            row = await one(connection, _JOB_FILES, id=source.job_id, tenant=request.tenant)
            if row is None:
                raise NotFound(f"there is no job {source.job_id}")
            return cast("str | None", row.manifest)
        if isinstance(source, ManifestWorkspace):
            row = await one(connection, _MANIFEST_OF, id=source.manifest_id, tenant=request.tenant)
            if row is None:
                raise NotFound(f"there is no manifest {source.manifest_id}")
            return source.manifest_id
        return None

    async def _resume(self, connection: AsyncConnection, job_id: str, number: int, first: _Start) -> _Start:
        """What a further attempt starts with: the last checkpoint, or what the first one started with where there is none."""
        await connection.execute(_END_EARLIER, {"job": job_id, "number": number})
        last = await one(connection, _CHECKPOINT, job=job_id, number=number)
        if last is None or last.last != number - 1:
            raise NotFound(f"job {job_id} has no attempt {number - 1}")
        cause = "resumed" if last.workspace and last.transcript else "restarted"
        return _Start(last.workspace or first.workspace, last.transcript or first.transcript, cause, last.next_seq)

    async def bind_sandbox(self, attempt_id: str, lease: int, sandbox_id: str, expires_at: datetime) -> str:
        """See `ports.Records`."""
        name = sandbox_name(self.deployment, *_split(attempt_id))
        values = {"id": attempt_id, "name": name, "lease": lease, "sandbox": sandbox_id, "expires": expires_at}
        if await self.db.one(_BIND, **values) is not None:
            return sandbox_id
        row = await self.db.one(_ATTEMPT, id=attempt_id)
        if row is None or row.ended_at is not None:
            raise AttemptEnded(f"attempt {attempt_id} has ended")
        if row.lease != lease:
            raise LeaseLost
        if row.sandbox_id is None:
            raise AttemptEnded(f"the sandbox {name} was given up before it was there")
        return str(row.sandbox_id)

    async def mark_launching(self, attempt_id: str, lease: int) -> None:
        """See `ports.Records`."""
        if await self.db.one(_LAUNCHING, id=attempt_id, lease=lease) is not None:
            return
        row = await self.db.one(_ATTEMPT, id=attempt_id)
        if row is not None and row.ended_at is None and row.lease != lease:
            raise LeaseLost
        raise AttemptEnded(f"attempt {attempt_id} has no sandbox, has ended or was asked to stop")

    async def request_stop(self, job_id: str, reason: StopReason) -> Live | None:
        """See `ports.Records`."""
        row = await self.db.one(_REQUEST_STOP, job=job_id, reason=reason)
        return self._live(job_id, row) if row is not None else None

    async def unreleased(self, job_id: str) -> Sequence[Live]:
        """See `ports.Records`."""
        return [self._live(job_id, row) for row in await self.db.rows(_UNRELEASED, job=job_id)]

    async def settle_sandbox(self, name: str, reason: str) -> None:
        """See `ports.Records`."""
        await self.db.execute(_SETTLE, name=name, reason=reason)

    def _live(self, job_id: str, row: Row[Any]) -> Live:
        return Live(
            attempt_id=row.id,
            number=row.number,
            provider=Provider(row.provider),
            sandbox_name=sandbox_name(self.deployment, job_id, row.number),
            sandbox_id=row.sandbox_id,
            launched=row.state in ("launching", "running", "ended") and row.sandbox_id is not None,
            ended=row.ended_at is not None,
        )


def _split(attempt: str) -> tuple[str, int]:
    job, _, number = attempt.rpartition(".")
    return job, int(number)
