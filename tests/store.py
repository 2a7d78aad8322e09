"""What the tests of the store share: a connected store, jobs and trees of few words, a look at any row."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from dogwatch.contracts.agent import AgentTask, Usage, Verdict, VerdictCode
from dogwatch.contracts.job import Ending, JobRequest, JobStatus
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.workspace import Changes, Entry, EntryKind, Manifest
from dogwatch.ports import Collection, Opening, Tree
from dogwatch.store.engine import Database
from dogwatch.store.records import PostgresRecords
from dogwatch.workspace.manifest import digest

SUCCESS = Ending(status=JobStatus.SUCCEEDED, verdict=Verdict(code=VerdictCode.SUCCESS))
CANCELLED = Ending(status=JobStatus.CANCELLED, verdict=Verdict(code=VerdictCode.CANCELLED))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[PostgresRecords]:
    """The store on a migrated database."""
    db = Database(url)
    try:
        yield await PostgresRecords.connect(db)
    finally:
        await db.close()


def request(**fields: object) -> JobRequest:
    """A job's request; `fields` replace what a plain one has."""
    return JobRequest.model_validate({"task": AgentTask(prompt="count the files"), **fields})


async def opened(records: PostgresRecords, job_id: str = "job-1", *, number: int = 1, **fields: Any) -> Opening:
    """An attempt of a job, opened as the first step does."""
    return await records.open_attempt(job_id, number, request(**fields), Provider.LOCAL)


async def bound(records: PostgresRecords, opening: Opening, sandbox: str = "sandbox-1") -> str:
    """What the store recorded when the sandbox of an attempt was announced."""
    return await records.bind_sandbox(opening.attempt_id, opening.lease, sandbox, datetime.now(UTC) + timedelta(hours=1))


def sha(words: str | bytes) -> str:
    """The digest of a few words, in hex."""
    return hashlib.sha256(words.encode() if isinstance(words, str) else words).hexdigest()


def entry(path: str, words: str = "words") -> Entry:
    """A file in a manifest."""
    return Entry(path=path, kind=EntryKind.FILE, size=len(words), sha256=sha(words))


def tree(*entries: Entry, limit: str | None = None) -> Tree:
    """Files with the digest that names them."""
    manifest = Manifest(entries=entries, complete=limit is None, limit=limit)
    return Tree(manifest, digest(manifest))


async def note(records: PostgresRecords, *trees: Tree | None) -> None:
    """Announce the blobs of trees, as every step does before it commits them."""
    entries = [entry for found in trees if found is not None for entry in found.manifest.entries]
    await records.note_blobs({entry.sha256: entry.size for entry in entries if entry.sha256})


def collection(
    opening: Opening,
    lease: int,
    *,
    workspace: Tree | None = None,
    transcript: Tree | None = None,
    ending: Ending | None = SUCCESS,
    session: str | None = None,
    usage: Usage | None = None,
    words: str = "done",
) -> Collection:
    """What a step commits for an attempt."""
    return Collection(
        job_id=opening.attempt_id.rpartition(".")[0],
        attempt_id=opening.attempt_id,
        lease=lease,
        session_id=session,
        tenant="default",
        workspace=workspace,
        transcript=transcript,
        changes=Changes(added=1),
        verdict=ending.verdict if ending else Verdict(code=VerdictCode.SANDBOX_LOST, transient=True),
        ending=ending,
        usage=usage or Usage(output_tokens=7),
        text=words,
    )


async def look(records: PostgresRecords, query: str, **values: object) -> list[dict[str, object]]:
    """All rows of a query."""
    return [dict(row._mapping) for row in await records.db.rows(text(query), **values)]


async def value(records: PostgresRecords, query: str, **values: object) -> object:
    """The one value that a query gives."""
    (row,) = await look(records, query, **values)
    (found,) = row.values()
    return found


async def write(records: PostgresRecords, statement: str, **values: object) -> int:
    """Run a statement of a test's own; the number of rows it wrote."""
    return await records.db.execute(text(statement), **values)


async def session(records: PostgresRecords, session_id: str = "session-1", **columns: object) -> None:
    """A session's row, as a door writes it."""
    known: Mapping[str, object] = {"id": session_id, "tenant": "default", "state": "open", "ttl_s": 60.0, **columns}
    names, values = ", ".join(known), ", ".join(f":{name}" for name in known)
    await write(records, f"insert into sessions ({names}, expires_at) values ({values}, now())", **known)
