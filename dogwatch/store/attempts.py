"""Rows of attempts and of the ledger of sandboxes: open, bind, launch, stop, settle."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

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
from dogwatch.store.engine import Database, encode, one, plain, rows
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
_CHECKPOINT = text("""
select max(next_seq) as next_seq, max(number) as last,
  (array_agg(workspace_manifest order by number desc) filter (where workspace_manifest is not null))[1] as workspace,
  (array_agg(transcript_manifest order by number desc) filter (where workspace_manifest is not null))[1] as transcript
from attempts where job_id = :job and number < :number
""")
_OPEN_ATTEMPT = text("""
insert into attempts (id, job_id, tenant, number, state, cause, provider, next_seq)
values (:id, :job, :tenant, :number, 'intended', :cause, :provider, :next_seq)
on conflict (id) do update set lease = attempts.lease + 1 where attempts.ended_at is null
returning lease, sandbox_id, state, cause
""")
_INTENT = text("""
insert into sandboxes (name, tenant, provider, job_id, session_id, owner_attempt, state, spec)
values (:name, :tenant, :provider, :job, :session, :attempt, 'intended', cast(:spec as jsonb)) on conflict (name) do nothing
""")
_BIND = text("""
update attempts set sandbox_id = :sandbox, state = 'prepared' where id = :id and sandbox_id is null and ended_at is null and lease = :lease
returning sandbox_id
""")
_CREATED = text(
    "update sandboxes set sandbox_id = :sandbox, state = 'created', expires_at = :expires where name = :name and state = 'intended'"
)
_ATTEMPT = text("select sandbox_id, ended_at, lease, stop_requested_at from attempts where id = :id")
_LAUNCHING = text("""
update attempts set state = case when state = 'prepared' then 'launching' else state end
where id = :id and stop_requested_at is null and ended_at is null and lease = :lease returning state
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
            if number == 1:
                inputs = await self._inputs(connection, job_id, request, job)
                cause, next_seq = "first", 1
            else:
                inputs, cause, next_seq = await self._resume(connection, job_id, number, job)
            attempt = attempt_id(job_id, number)
            opened = await one(
                connection,
                _OPEN_ATTEMPT,
                id=attempt,
                job=job_id,
                tenant=request.tenant,
                number=number,
                cause=cause,
                provider=provider,
                next_seq=next_seq,
            )
            if opened is None:
                raise AttemptEnded(f"attempt {number} of job {job_id} has ended")
            name = sandbox_name(self.deployment, job_id, number)
            await connection.execute(
                _INTENT,
                {
                    "name": name,
                    "tenant": request.tenant,
                    "provider": provider,
                    "job": job_id,
                    "session": job.session_id,
                    "attempt": attempt,
                    "spec": encode(request.sandbox),
                },
            )
            workspace, transcript = inputs
            return Opening(
                deployment=self.deployment,
                attempt_id=attempt,
                lease=opened.lease,
                sandbox_name=name,
                sandbox_id=opened.sandbox_id,
                launched=opened.state not in ("intended", "prepared"),
                input=await manifest_ref(connection, workspace),
                transcript=await manifest_ref(connection, transcript),
                conversation="resumed" if transcript else "new",
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

    async def _inputs(self, connection: AsyncConnection, job_id: str, request: JobRequest, job: Row[Any]) -> tuple[str | None, str | None]:
        """What the first attempt starts with: written on the job's row once, so that a repeated step sees the same."""
        session = None
        if request.session_id:
            session = await one(connection, _TOUCH_SESSION, id=request.session_id, tenant=request.tenant)
            if session is None:
                raise NotFound(f"there is no session {request.session_id}")
        if job.input_manifest or job.input_transcript:
            return job.input_manifest, job.input_transcript
        source, found = request.workspace, None
        if isinstance(source, SessionWorkspace) and session is not None:
            found = session.workspace_manifest
        elif isinstance(source, JobWorkspace):
            row = await one(connection, _JOB_FILES, id=source.job_id, tenant=request.tenant)
            if row is None:
                raise NotFound(f"there is no job {source.job_id}")
            found = row.manifest
        elif isinstance(source, ManifestWorkspace):
            row = await one(connection, _MANIFEST_OF, id=source.manifest_id, tenant=request.tenant)
            if row is None:
                raise NotFound(f"there is no manifest {source.manifest_id}")
            found = row.id
        spoken = session.transcript_manifest if session is not None and request.conversation == "continue" else None
        if found or spoken:
            await connection.execute(_SET_INPUT, {"id": job_id, "manifest": found, "transcript": spoken})
        return found, spoken

    async def _resume(
        self, connection: AsyncConnection, job_id: str, number: int, job: Row[Any]
    ) -> tuple[tuple[str | None, str | None], str, int]:
        """What a further attempt starts with: the last checkpoint, or the job's input where there is none."""
        await connection.execute(_END_EARLIER, {"job": job_id, "number": number})
        last = await one(connection, _CHECKPOINT, job=job_id, number=number)
        if last is None or last.last != number - 1:
            raise NotFound(f"job {job_id} has no attempt {number - 1}")
        if last.workspace:
            transcript = last.transcript or job.input_transcript
            return (last.workspace, transcript), "resumed" if last.transcript else "restarted", last.next_seq
        return (job.input_manifest, job.input_transcript), "restarted", last.next_seq

    async def bind_sandbox(self, attempt_id: str, lease: int, sandbox_id: str, expires_at: datetime) -> str:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            bound = await one(connection, _BIND, id=attempt_id, sandbox=sandbox_id, lease=lease)
            if bound is not None:
                name = sandbox_name(self.deployment, *_split(attempt_id))
                await connection.execute(_CREATED, {"name": name, "sandbox": sandbox_id, "expires": expires_at})
                return sandbox_id
            row = await one(connection, _ATTEMPT, id=attempt_id)
            if row is None or row.ended_at is not None:
                raise AttemptEnded(f"attempt {attempt_id} has ended")
            if row.lease != lease:
                raise LeaseLost
            return str(row.sandbox_id)

    async def mark_launching(self, attempt_id: str, lease: int) -> None:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            if await one(connection, _LAUNCHING, id=attempt_id, lease=lease) is not None:
                return
            row = await one(connection, _ATTEMPT, id=attempt_id)
            if row is not None and row.lease != lease:
                raise LeaseLost
            raise AttemptEnded(f"attempt {attempt_id} has ended or was asked to stop")

    async def request_stop(self, job_id: str, reason: StopReason) -> Live | None:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            row = await one(connection, _REQUEST_STOP, job=job_id, reason=reason)
            return self._live(job_id, row) if row is not None else None

    async def unreleased(self, job_id: str) -> Sequence[Live]:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            return [self._live(job_id, row) for row in await rows(connection, _UNRELEASED, job=job_id)]

    async def settle_sandbox(self, name: str, reason: str) -> None:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            await connection.execute(_SETTLE, {"name": name, "reason": reason})

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
