"""Rows of results: what was collected, how jobs and sessions end, all or nothing."""

from collections.abc import Sequence
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
from dogwatch.store.engine import Database, encode, one, plain, rows
from dogwatch.store.manifests import manifest_ref, store_manifest

_OPEN = text("""
update attempts a set lease = lease + 1 from jobs j where a.id = :id and j.id = a.job_id
returning a.lease, a.ended_at, a.workspace_manifest, a.transcript_manifest, a.progress ->> 'session_id' as cli_session,
  a.usage, j.id as job_id, j.status, j.input_manifest, j.changes
""")
_END_ATTEMPT = text("""
update attempts set state = 'ended', ended_at = coalesce(ended_at, now()), verdict = cast(:verdict as jsonb), usage = cast(:usage as jsonb),
  workspace_manifest = coalesce(:workspace, workspace_manifest), transcript_manifest = coalesce(:transcript, transcript_manifest)
where id = :id and lease = :lease returning next_seq
""")
# What an attempt saved last is the job's result where the ending itself brought none.
_LAST_SAVED = "(select a.{} from attempts a where a.job_id = jobs.id and a.{} is not null order by a.number desc limit 1)"
_SAVED_FILES = _LAST_SAVED.format("workspace_manifest", "workspace_manifest")
_SAVED_WORDS = _LAST_SAVED.format("transcript_manifest", "transcript_manifest")
_END_JOB = text(f"""
update jobs set status = :status, verdict = cast(:verdict as jsonb), text = :text, usage = cast(:usage as jsonb),
  changes = cast(:changes as jsonb), events = :events, output_manifest = coalesce(:workspace, {_SAVED_FILES}),
  transcript_manifest = coalesce(:transcript, {_SAVED_WORDS}), finished_at = now()
where id = :id and status in ('accepted', 'queued', 'running')
""")
_MOVE_SESSION = text("""
update sessions set workspace_manifest = coalesce(:workspace, workspace_manifest),
  transcript_manifest = coalesce(:transcript, transcript_manifest), latest_job_id = :job,
  expires_at = greatest(expires_at, now() + make_interval(secs => ttl_s))
where id = :session and tenant = :tenant
""")
_SUMS = text("select usage, next_seq from attempts where job_id = :job and state = 'ended' order by number")
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
where id = :id returning tenant, session_id, output_manifest, transcript_manifest
""")
_ENDING = text("select status, verdict from jobs where id = :id")
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
        async with self.db.begin() as connection:
            row = await one(connection, _OPEN, id=attempt_id)
            if row is None:
                raise NotFound(f"there is no attempt {attempt_id}")
            done = await self._done(connection, row) if row.ended_at is not None and row.workspace_manifest else None
            source = await manifest_ref(connection, row.input_manifest)
            return CollectionOpening(attempt_id, row.lease, source, done, row.cli_session)

    async def _done(self, connection: AsyncConnection, row: Row[Any]) -> Collected:
        usage, events, attempts = await self._sums(connection, row.job_id)
        return Collected(
            workspace=await manifest_ref(connection, row.workspace_manifest),
            transcript=await manifest_ref(connection, row.transcript_manifest),
            changes=Changes.model_validate(row.changes),
            usage=usage,
            attempt_usage=Usage.model_validate(row.usage),
            events=events,
            attempts=attempts,
        )

    async def commit_collection(self, collection: Collection) -> Collected:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            workspace = transcript = None
            if collection.workspace is not None:
                workspace = await store_manifest(connection, collection.tenant, ManifestKind.WORKSPACE, collection.workspace)
            if collection.transcript is not None:
                transcript = await store_manifest(connection, collection.tenant, ManifestKind.TRANSCRIPT, collection.transcript)
            stored = {
                "workspace": workspace.manifest_id if workspace else None,
                "transcript": transcript.manifest_id if transcript else None,
            }
            attempt = {"id": collection.attempt_id, "lease": collection.lease, "verdict": encode(collection.verdict)}
            if await one(connection, _END_ATTEMPT, **attempt, usage=encode(collection.usage), **stored) is None:
                raise LeaseLost
            usage, events, attempts = await self._sums(connection, collection.job_id)
            if collection.ending is not None:
                await connection.execute(
                    _END_JOB,
                    {
                        "id": collection.job_id,
                        "status": collection.ending.status,
                        "verdict": encode(collection.ending.verdict),
                        "text": plain(collection.text),
                        "usage": encode(usage),
                        "changes": encode(collection.changes),
                        "events": events,
                        **stored,
                    },
                )
                if collection.session_id:
                    session = {"session": collection.session_id, "tenant": collection.tenant, "job": collection.job_id}
                    await connection.execute(_MOVE_SESSION, {**session, **stored})
            return Collected(
                workspace=workspace,
                transcript=transcript,
                changes=collection.changes,
                usage=usage,
                attempt_usage=collection.usage,
                events=events,
                attempts=attempts,
            )

    async def _sums(self, connection: AsyncConnection, job_id: str) -> tuple[Usage, int, int]:
        usage, events, attempts = Usage(), 0, 0
        for row in await rows(connection, _SUMS, job=job_id):
            usage, events, attempts = usage.plus(Usage.model_validate(row.usage)), row.next_seq - 1, attempts + 1
        return usage, events, attempts

    async def end_job(self, job_id: str, request: JobRequest, ending: Ending) -> Ending:
        """See `ports.Records`."""
        values: dict[str, object] = {"id": job_id, "status": ending.status, "verdict": encode(ending.verdict)}
        owner = {"tenant": request.tenant, "session": request.session_id, "request": encode(request)}
        words = {"prompt": plain((request.task.prompt or "")[:500]), "labels": encode(request.labels)}
        async with self.db.begin() as connection:
            written = await connection.execute(_LATE_END, {**values, **owner, **words})
            if not written.rowcount:  # it has ended before: that word holds
                row = await one(connection, _ENDING, id=job_id)
                return Ending(status=JobStatus(row.status), verdict=Verdict.model_validate(row.verdict)) if row is not None else ending
            await connection.execute(_CLOSE_ATTEMPTS, {"id": job_id, "verdict": encode(ending.verdict)})
            job = await one(connection, _LATE_RESULT, id=job_id)
            if job is not None and job.session_id:
                result = {"workspace": job.output_manifest, "transcript": job.transcript_manifest}
                await connection.execute(_MOVE_SESSION, {"session": job.session_id, "tenant": job.tenant, "job": job_id, **result})
            return ending

    async def end_session(self, session_id: str, state: SessionState, withdrawn: Sequence[str]) -> None:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            await connection.execute(_END_SESSION, {"id": session_id, "state": state})
            if withdrawn:
                await connection.execute(_WITHDRAW, {"ids": list(withdrawn)})
