"""Rows of jobs and sessions as a door writes them: accepted once per idempotency key, then confirmed or taken back."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.job import JobRequest, JobStatus
from dogwatch.contracts.session import SessionInput, SessionState
from dogwatch.contracts.workspace import ManifestKind, ManifestWorkspace
from dogwatch.errors import IdempotencyConflict
from dogwatch.ports import Tree
from dogwatch.store.bounded import bounded
from dogwatch.store.engine import Database, encode, one, plain
from dogwatch.store.manifests import store_manifest

_ACCEPT_JOB = text("""
insert into jobs (id, tenant, session_id, idempotency_key, request_hash, request, prompt, prompt_sha256, labels, status, input_manifest)
values (:id, :tenant, :session, :key, :hash, cast(:request as jsonb), :prompt, :prompt_sha256, cast(:labels as jsonb), 'accepted',
  :manifest)
on conflict do nothing returning id, status as state, request_hash, idempotency_key
""")
# A job that was started although its door saw no answer has a row without a key, made by its own first step: the id says it is the one.
_KNOWN_JOB = text("""
select id, status as state, request_hash, idempotency_key from jobs
where tenant = :tenant and (id = :id or idempotency_key = :key) order by id = :id desc limit 1
""")
_ADOPT_JOB = text("update jobs set idempotency_key = :key, request_hash = :hash where id = :id and idempotency_key is null")
_PROMPT_STORED = text("update blobs set stored = true where sha256 = :sha256")
_QUEUED = text("""
update jobs set status = case when status = 'accepted' then 'queued' else status end where id = :id and tenant = :tenant returning status
""")
_DROP_JOB = text("delete from jobs where id = :id and tenant = :tenant and status = 'accepted'")
_WITHDRAWN = text("""
update jobs set status = 'cancelled', finished_at = now(), verdict = '{"code": "withdrawn", "message": "cancelled before it began"}'::jsonb
where id = :id and tenant = :tenant and status in ('accepted', 'queued')
""")

_ACCEPT_SESSION = text("""
insert into sessions (id, tenant, state, ttl_s, input_manifest, workspace_manifest, idempotency_key, request_hash, labels, expires_at)
values (:id, :tenant, 'open', :ttl, :manifest, :manifest, :key, :hash, cast(:labels as jsonb), now() + make_interval(secs => :ttl))
on conflict do nothing returning id, state, request_hash, idempotency_key, expires_at
""")
_KNOWN_SESSION = text("""
select id, state, request_hash, idempotency_key, expires_at from sessions
where tenant = :tenant and (id = :id or idempotency_key = :key) order by id = :id desc limit 1
""")
# A session has no state before `open`, so its end of life tells two requests with one key apart: whoever has started it moves the end by a
# microsecond, and whoever could not start it deletes only the row with the end it has seen.
_STARTED = text("update sessions set expires_at = expires_at + interval '1 microsecond' where id = :id and tenant = :tenant returning id")
_DROP_SESSION = text("delete from sessions where id = :id and tenant = :tenant and expires_at = :seen")
_EXTEND = text("update sessions set expires_at = greatest(expires_at, :expires) where id = :id and tenant = :tenant")
_CLOSING = text("update sessions set state = 'closing' where id = :id and tenant = :tenant and state = 'open'")


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job that a door wants to accept."""

    job_id: str
    request: JobRequest
    """What the workflow gets; its workspace is replaced where there is an upload."""
    prompt: str
    """The beginning of the prompt."""
    key: str | None
    """The caller's idempotency key."""
    upload: Tree | None
    """Files that came with the request."""


@dataclass(frozen=True)
class AcceptedJob:
    """A job that has its row."""

    job_id: str
    request: JobRequest
    status: JobStatus


@dataclass(frozen=True)
class AcceptedSession:
    """A session that has its row."""

    session_id: str
    state: SessionState
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class NewSession:
    """A session that a door wants to open."""

    session: SessionInput
    labels: dict[str, str]
    key: str | None
    """The caller's idempotency key."""
    upload: Tree
    """Its first files."""


class Acceptance:
    """Queries of submitting and opening."""

    def __init__(self, db: Database, deadline_s: float) -> None:
        """Reads and writes through `db`; each query has `deadline_s` seconds."""
        self.db = db
        self.deadline_s = deadline_s

    @bounded
    async def accept_job(self, job: NewJob) -> AcceptedJob:
        """Write the row and the input manifest, or find the row of an earlier request with the same key and content.

        Raises IdempotencyConflict where the key was used for anything else.
        """
        async with self.db.begin() as connection:
            request, manifest = job.request, None
            if job.upload is not None:
                manifest = (await store_manifest(connection, request.tenant, ManifestKind.WORKSPACE, job.upload)).manifest_id
                request = request.model_copy(update={"workspace": ManifestWorkspace(manifest_id=manifest)})
            prompt_sha256 = bytes.fromhex(request.task.prompt_sha256) if request.task.prompt_sha256 else None
            if prompt_sha256:
                await connection.execute(_PROMPT_STORED, {"sha256": prompt_sha256})
            values: dict[str, object] = {
                "id": job.job_id,
                "tenant": request.tenant,
                "session": request.session_id,
                "key": job.key,
                "hash": _hash(encode(request), job.prompt),
                "request": encode(request),
                "prompt": plain(job.prompt[:500]),
                "prompt_sha256": prompt_sha256,
                "labels": encode(request.labels),
                "manifest": manifest,
            }
            row = await _accept(connection, values, _ACCEPT_JOB, _KNOWN_JOB)
            if row.idempotency_key is None and job.key is not None:
                await connection.execute(_ADOPT_JOB, {"id": row.id, "key": job.key, "hash": values["hash"]})
            return AcceptedJob(row.id, request, JobStatus(row.state))

    @bounded
    async def mark_queued(self, tenant: str, job_id: str) -> bool:
        """Record that the workflow has been started; False where the row is gone, taken back by another request with the same key."""
        async with self.db.begin() as connection:
            return await one(connection, _QUEUED, id=job_id, tenant=tenant) is not None

    @bounded
    async def drop_accepted(self, tenant: str, job_id: str) -> None:
        """Take the row of a refused start back, unless the job has been started after all."""
        async with self.db.begin() as connection:
            await connection.execute(_DROP_JOB, {"id": job_id, "tenant": tenant})

    @bounded
    async def mark_withdrawn(self, tenant: str, job_id: str) -> None:
        """Record that a session has taken a job out of its queue."""
        async with self.db.begin() as connection:
            await connection.execute(_WITHDRAWN, {"id": job_id, "tenant": tenant})

    @bounded
    async def accept_session(self, new: NewSession) -> AcceptedSession:
        """Write a session's row, or find the one of an earlier request with the same key and content. Raises IdempotencyConflict."""
        session = new.session
        async with self.db.begin() as connection:
            manifest = await store_manifest(connection, session.tenant, ManifestKind.WORKSPACE, new.upload)
            values: dict[str, object] = {
                "id": session.session_id,
                "tenant": session.tenant,
                "ttl": session.ttl_s,
                "manifest": manifest.manifest_id,
                "key": new.key,
                "hash": _hash(str(session.ttl_s), manifest.manifest_id, encode(new.labels)),
                "labels": encode(new.labels),
            }
            row = await _accept(connection, values, _ACCEPT_SESSION, _KNOWN_SESSION)
            return AcceptedSession(row.id, SessionState(row.state), row.expires_at)

    @bounded
    async def mark_started(self, tenant: str, session_id: str) -> bool:
        """Record that the workflow has been started; False where the row is gone, taken back by another request with the same key."""
        async with self.db.begin() as connection:
            return await one(connection, _STARTED, id=session_id, tenant=tenant) is not None

    @bounded
    async def drop_session(self, tenant: str, accepted: AcceptedSession) -> None:
        """Take the row of a session back whose workflow could not be started, unless another request has started it."""
        async with self.db.begin() as connection:
            await connection.execute(_DROP_SESSION, {"id": accepted.session_id, "tenant": tenant, "seen": accepted.expires_at})

    @bounded
    async def extend_session(self, tenant: str, session_id: str, expires_at: datetime) -> None:
        """Record the later end that the workflow has answered."""
        async with self.db.begin() as connection:
            await connection.execute(_EXTEND, {"id": session_id, "tenant": tenant, "expires": expires_at})

    @bounded
    async def mark_closing(self, tenant: str, session_id: str) -> None:
        """Record that the workflow takes no more jobs."""
        async with self.db.begin() as connection:
            await connection.execute(_CLOSING, {"id": session_id, "tenant": tenant})


async def _accept(connection: AsyncConnection, values: dict[str, object], insert: TextClause, known: TextClause) -> Row[Any]:
    row = await one(connection, insert, **values)
    if row is None:
        row = await one(connection, known, tenant=values["tenant"], id=values["id"], key=values["key"])
        if row is None or (row.idempotency_key is not None and bytes(row.request_hash) != values["hash"]):
            raise IdempotencyConflict
    return row


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
