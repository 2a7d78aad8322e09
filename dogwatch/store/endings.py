"""Rows of results: what was collected, how jobs and sessions end, all or nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.agent import Usage, Verdict
from dogwatch.contracts.job import Ending, JobRequest, JobStatus
from dogwatch.contracts.session import SessionState
from dogwatch.contracts.steps import Collected
from dogwatch.contracts.workspace import Changes, ManifestKind
from dogwatch.errors import LeaseLost, NotFound
from dogwatch.ports import Collection, CollectionOpening
from dogwatch.store.engine import Database, encode, one, plain
from dogwatch.store.manifests import manifest_ref, store_manifests

# Of all attempts that have ended: what the others used, and the number of the job's last event.
_OF_THE_JOB = """
  (select jsonb_agg(o.usage) from attempts o where o.job_id = a.job_id and o.ended_at is not null and o.id <> a.id) as others,
  greatest(a.next_seq, (select max(o.next_seq) from attempts o where o.job_id = a.job_id and o.ended_at is not null)) - 1 as events"""
_OPEN = text(f"""
update attempts a set lease = lease + 1 from jobs j where a.id = :id and j.id = a.job_id
returning a.lease, a.ended_at, a.workspace_manifest, a.transcript_manifest, a.progress ->> 'session_id' as cli_session,
  a.usage, j.input_manifest, j.changes, {_OF_THE_JOB}
""")
# The job's row is locked first, as everywhere else: whoever ends the job at the same time waits instead of locking us out.
_END_ATTEMPT = text(f"""
with job as (select id from jobs where id = :job for no key update)
update attempts a set state = 'ended', ended_at = coalesce(a.ended_at, now()), verdict = cast(:verdict as jsonb),
  usage = cast(:usage as jsonb), workspace_manifest = coalesce(:workspace, a.workspace_manifest),
  transcript_manifest = coalesce(:transcript, a.transcript_manifest)
from job where a.id = :id and a.job_id = job.id and a.lease = :lease returning {_OF_THE_JOB}
""")
# What an attempt saved last is the job's result where the ending itself brought none.
_LAST_SAVED = "(select a.{} from attempts a where a.job_id = jobs.id and a.{} is not null order by a.number desc limit 1)"
_SAVED_FILES = _LAST_SAVED.format("workspace_manifest", "workspace_manifest")
_SAVED_WORDS = _LAST_SAVED.format("transcript_manifest", "transcript_manifest")
_END_JOB = text(f"""
update jobs set status = :status, verdict = cast(:verdict as jsonb), text = :text, usage = cast(:usage as jsonb),
  changes = cast(:changes as jsonb), events = :events, output_manifest = coalesce(:workspace, {_SAVED_FILES}),
  transcript_manifest = coalesce(:transcript, {_SAVED_WORDS}), finished_at = now()
where id = :id and status in ('accepted', 'queued', 'running') returning output_manifest as workspace, transcript_manifest as transcript
""")
_MOVE_SESSION = text("""
update sessions set workspace_manifest = coalesce(:workspace, workspace_manifest),
  transcript_manifest = coalesce(:transcript, transcript_manifest), latest_job_id = :job,
  expires_at = greatest(expires_at, now() + make_interval(secs => ttl_s))
where id = :session and tenant = :tenant
""")
_LATE_END = text("""
insert into jobs (id, tenant, session_id, request, prompt, labels, status, verdict, finished_at)
values (:id, :tenant, :session, cast(:request as jsonb), :prompt, cast(:labels as jsonb), :status, cast(:verdict as jsonb), now())
on conflict (id) do update set status = excluded.status, verdict = excluded.verdict, finished_at = now(),
  events = coalesce((select max(a.next_seq) - 1 from attempts a where a.job_id = jobs.id), 0)
  where jobs.status in ('accepted', 'queued', 'running') and jobs.tenant = excluded.tenant
""")
_LATE_RESULT = text(f"""
update jobs set output_manifest = coalesce(output_manifest, {_SAVED_FILES}),
  transcript_manifest = coalesce(transcript_manifest, {_SAVED_WORDS})
where id = :id returning tenant, session_id, output_manifest as workspace, transcript_manifest as transcript
""")
_ENDING = text("""
select status, verdict from jobs where id = :id and tenant = :tenant and status not in ('accepted', 'queued', 'running')
""")
_CLOSE_ATTEMPTS = text("""
update attempts set state = 'ended', ended_at = now(), lease = lease + 1, verdict = coalesce(verdict, cast(:verdict as jsonb))
where job_id = :id and ended_at is null
""")
_END_SESSION = text("update sessions set state = :state, ended_at = now() where id = :id and state in ('open', 'closing')")
_WITHDRAW = text("""
update jobs set status = 'cancelled', finished_at = now(),
  verdict = '{"code": "withdrawn", "message": "the session ended before the job began"}'::jsonb
where id = any(cast(:ids as text[])) and status in ('accepted', 'queued')
""")


class Endings:
    """Queries of collect_results, release_sandbox and end_session."""

    def __init__(self, db: Database) -> None:
        """Reads and writes through `db`."""
        self.db = db

    async def open_collection(self, attempt_id: str) -> CollectionOpening:
        """See `ports.Records`."""
        row = await self.db.one(_OPEN, id=attempt_id)
        if row is None:
            raise NotFound(f"there is no attempt {attempt_id}")
        done = source = None
        if row.input_manifest or row.workspace_manifest:
            async with self.db.begin() as connection:
                source = await manifest_ref(connection, row.input_manifest)
                done = await self._done(connection, row) if row.ended_at is not None and row.workspace_manifest else None
        return CollectionOpening(attempt_id, row.lease, source, done, row.cli_session)

    async def _done(self, connection: AsyncConnection, row: Row[Any]) -> Collected:
        used = Usage.model_validate(row.usage)
        return Collected(
            workspace=await manifest_ref(connection, row.workspace_manifest),
            transcript=await manifest_ref(connection, row.transcript_manifest),
            changes=Changes.model_validate(row.changes),
            usage=_total(used, row),
            attempt_usage=used,
            events=row.events,
            attempts=len(row.others or ()) + 1,
        )

    async def commit_collection(self, collection: Collection) -> Collected:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            trees = {ManifestKind.WORKSPACE: collection.workspace, ManifestKind.TRANSCRIPT: collection.transcript}
            refs = await store_manifests(connection, collection.tenant, {kind: tree for kind, tree in trees.items() if tree is not None})
            workspace, transcript = refs.get(ManifestKind.WORKSPACE), refs.get(ManifestKind.TRANSCRIPT)
            stored = {
                "workspace": workspace.manifest_id if workspace else None,
                "transcript": transcript.manifest_id if transcript else None,
            }
            attempt = {"id": collection.attempt_id, "job": collection.job_id, "lease": collection.lease}
            words = {"verdict": encode(collection.verdict), "usage": encode(collection.usage)}
            row = await one(connection, _END_ATTEMPT, **attempt, **words, **stored)
            if row is None:
                raise LeaseLost
            usage = _total(collection.usage, row)
            if collection.ending is not None:
                await self._end(connection, collection, collection.ending, {**stored, "usage": encode(usage), "events": row.events})
            return Collected(
                workspace=workspace,
                transcript=transcript,
                changes=collection.changes,
                usage=usage,
                attempt_usage=collection.usage,
                events=row.events,
                attempts=len(row.others or ()) + 1,
            )

    async def _end(self, connection: AsyncConnection, collection: Collection, ending: Ending, values: Mapping[str, object]) -> None:
        """Write the job's end, and have its session go on from it; a job that has ended before stays as it is, and so does the session."""
        words = {"verdict": encode(ending.verdict), "text": plain(collection.text), "changes": encode(collection.changes)}
        result = await one(connection, _END_JOB, id=collection.job_id, status=ending.status, **words, **values)
        if result is not None and collection.session_id:
            await self._move_session(connection, collection.session_id, collection.tenant, collection.job_id, result)

    async def _move_session(self, connection: AsyncConnection, session_id: str, tenant: str, job_id: str, result: Row[Any]) -> None:
        owner = {"session": session_id, "tenant": tenant, "job": job_id}
        await connection.execute(_MOVE_SESSION, {**owner, "workspace": result.workspace, "transcript": result.transcript})

    async def end_job(self, job_id: str, request: JobRequest, ending: Ending) -> Ending:
        """See `ports.Records`."""
        held = await self._ending(job_id, request.tenant)
        if held is not None:
            return held
        values: dict[str, object] = {"id": job_id, "status": ending.status, "verdict": encode(ending.verdict)}
        owner = {"tenant": request.tenant, "session": request.session_id, "request": encode(request)}
        words = {"prompt": plain((request.task.prompt or "")[:500]), "labels": encode(request.labels)}
        async with self.db.begin() as connection:
            written = await connection.execute(_LATE_END, {**values, **owner, **words})
            if written.rowcount:
                await connection.execute(_CLOSE_ATTEMPTS, {"id": job_id, "verdict": encode(ending.verdict)})
                job = await one(connection, _LATE_RESULT, id=job_id)
                if job is not None and job.session_id:
                    await self._move_session(connection, job.session_id, job.tenant, job_id, job)
                return ending
        return await self._ending(job_id, request.tenant) or ending  # somebody else was faster: that word holds

    async def _ending(self, job_id: str, tenant: str) -> Ending | None:
        row = await self.db.one(_ENDING, id=job_id, tenant=tenant)
        return Ending(status=JobStatus(row.status), verdict=Verdict.model_validate(row.verdict)) if row is not None else None

    async def end_session(self, session_id: str, state: SessionState, withdrawn: Sequence[str]) -> None:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            await connection.execute(_END_SESSION, {"id": session_id, "state": state})
            if withdrawn:
                await connection.execute(_WITHDRAW, {"ids": list(withdrawn)})


def _total(usage: Usage, row: Row[Any]) -> Usage:
    for other in row.others or ():
        usage = usage.plus(Usage.model_validate(other))
    return usage
