"""The HTTP door in a test: served for real on a free port, over real Postgres, Temporal and blobs."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text
from temporalio import workflow
from temporalio.client import Client as TemporalClient
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.session import Sessions
from dogwatch import names
from dogwatch.agent.stream import LineSplitter, read_event
from dogwatch.client import Client
from dogwatch.contracts.agent import Usage, Verdict, VerdictCode
from dogwatch.contracts.job import Ending, JobRequest, JobResult, JobStatus
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.workspace import Changes, Entry, EntryKind, Manifest
from dogwatch.http.app import serve
from dogwatch.http.deps import Deps, Limits
from dogwatch.ports import Collection, Tree
from dogwatch.store.doors import Doors
from dogwatch.store.engine import Database
from dogwatch.store.news import News
from dogwatch.store.records import PostgresRecords
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.manifest import digest
from dogwatch.workspace.tree import entry
from workflows.session import Session

TELL = "tell"
"""Signal that ends a stand-in job: the JobResult it returns, or fails with."""


@workflow.defn(name=names.JOB)
class JobStandIn:
    """Takes a job's request and waits to be told how it ends."""

    @workflow.init
    def __init__(self, request: JobRequest) -> None:
        """Not told yet."""
        self.request = request
        self.told: JobResult | None = None

    @workflow.signal(name=TELL)
    def tell(self, result: JobResult) -> None:
        """The end."""
        self.told = result

    @workflow.run
    async def run(self, request: JobRequest) -> JobResult:
        """Ends as the real one does: by a result, or by a failure that holds it."""
        await workflow.wait_condition(lambda: self.told is not None)
        assert self.told is not None
        if self.told.status is not JobStatus.SUCCEEDED:
            raise ApplicationError("told so", self.told, type=self.told.verdict.code, non_retryable=True)
        return self.told


@dataclass
class Door:
    """A door that is open, and what a test reads and writes behind it."""

    url: str
    http: httpx.AsyncClient
    deps: Deps
    db: Database
    records: PostgresRecords

    @property
    def temporal(self) -> TemporalClient:
        """Temporal's own client."""
        return self.deps.temporal.temporal

    async def count(self, table: str) -> int:
        """Rows of a table."""
        async with self.db.begin() as connection:
            return int((await connection.execute(text(f"select count(*) from {table}"))).scalar_one())

    async def value(self, statement: str, **values: object) -> Any:
        """The first value of a query."""
        async with self.db.begin() as connection:
            return (await connection.execute(text(statement), values)).scalar_one()

    async def workflows(self) -> list[str]:
        """Ids of the workflows on this door's task queue, once Temporal lists them."""
        query = f"TaskQueue = '{self.deps.temporal.task_queue}'"
        return [found.id async for found in self.temporal.list_workflows(query)]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker with the real session and the stand-in job."""
        eager = await TemporalClient.connect(self.temporal.service_client.config.target_host, data_converter=pydantic_data_converter)
        worker = Worker(
            eager,
            task_queue=self.deps.temporal.task_queue,
            workflows=[JobStandIn, Session],
            activities=[Sessions(self.records).end_session],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with worker:
            yield

    async def begin(self, job_id: str, number: int = 1) -> "Writing":
        """Open an attempt of a job, as its first step does."""
        request = JobRequest.model_validate(await self.value("select request from jobs where id = :id", id=job_id))
        opened = await self.records.open_attempt(job_id, number, request, Provider.LOCAL)
        await self.records.bind_sandbox(opened.attempt_id, opened.lease, "sb-1", datetime.now(UTC) + timedelta(hours=1))
        return Writing(self, job_id, request, opened.attempt_id)


@dataclass
class Writing:
    """Writes what the steps of a job would write."""

    door: Door
    job_id: str
    request: JobRequest
    attempt_id: str
    offset: int = 0

    async def say(self, *lines: bytes) -> None:
        """Store lines of output and tell the doors."""
        cursor = await self.door.records.take_lease(self.attempt_id)
        stored = [read_event(line)[0] for line in LineSplitter(cursor.offset).feed(b"".join(lines))]
        await self.door.records.append_events(cursor, stored, {"cli_version": "2.1.0"})
        await self.door.records.announce(self.job_id)

    async def say_long(self, line: bytes) -> None:
        """Store a line whose body is a blob."""
        cursor = await self.door.records.take_lease(self.attempt_id)
        event, _ = read_event(LineSplitter(cursor.offset).feed(line)[0])
        deposit = Deposit(self.door.deps.blobs, self.door.records.note_blobs, Path())
        sha256 = await deposit.add(line)
        await deposit.flush()
        await self.door.records.append_events(cursor, [replace(event, sha256=sha256)], {})

    async def end(
        self,
        files: Mapping[bytes, bytes] | None = None,
        *,
        status: JobStatus = JobStatus.SUCCEEDED,
        code: VerdictCode = VerdictCode.SUCCESS,
        transcript: bytes | None = None,
        extra: Sequence[Entry] = (),
        cost_usd: float = 0.0,
    ) -> None:
        """Commit the job's results and its end, then tell the doors."""
        opening = await self.door.records.open_collection(self.attempt_id)
        verdict = Verdict(code=code, message="as told")
        await self.door.records.commit_collection(
            Collection(
                job_id=self.job_id,
                attempt_id=self.attempt_id,
                lease=opening.lease,
                session_id=self.request.session_id,
                tenant=self.request.tenant,
                workspace=await self._tree(files, extra) if files is not None else None,
                transcript=await self._tree({b"a/b.jsonl": transcript}) if transcript is not None else None,
                changes=Changes(),
                verdict=verdict,
                ending=Ending(status=status, verdict=verdict),
                usage=Usage(cost_usd=cost_usd),
                text="done",
            )
        )
        await self.door.records.announce(self.job_id)

    async def _tree(self, files: Mapping[bytes, bytes], extra: Sequence[Entry] = ()) -> Tree:
        deposit = Deposit(self.door.deps.blobs, self.door.records.note_blobs, Path())
        entries = [
            entry(path, EntryKind.FILE, mode=0o644, size=len(data), sha256=await deposit.add(data)) for path, data in sorted(files.items())
        ]
        await deposit.flush()
        manifest = Manifest(entries=tuple(sorted([*entries, *extra], key=lambda row: row.path.encode("utf-8", "surrogateescape"))))
        return Tree(manifest, digest(manifest))


@asynccontextmanager
async def open_door(
    database_url: str,
    temporal_address: str,
    directory: Path,
    *,
    records_url: str | None = None,
    tenant: str = "default",
    api_key: str | None = None,
    limits: Limits | None = None,
    deadline_s: float = 20.0,
) -> AsyncIterator[Door]:
    """A door on a free port. Its deadlines are long unless a test is about them: the machine may be slow."""
    db, own = Database(database_url), Database(records_url or database_url)
    connected = await TemporalClient.connect(temporal_address, data_converter=pydantic_data_converter, lazy=True)
    records = await PostgresRecords.connect(own)
    deps = Deps(
        doors=Doors(db, records.deployment, deadline_s=deadline_s),
        blobs=ObstoreBlobs(str(directory / "blobs")),
        temporal=Client(connected, task_queue=f"door-{secrets.token_hex(6)}", deadline_s=deadline_s),
        news=News(database_url),
        limits=limits or Limits(),
        api_key=api_key,
        tenant=tenant,
    )
    stop, port = asyncio.Event(), asyncio.Future[int]()
    serving = asyncio.create_task(serve(deps, stop, port=0, ready=port.set_result))
    both: list[asyncio.Future[Any]] = [serving, port]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    try:
        url = f"http://127.0.0.1:{port.result()}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            yield Door(url, http, deps, own, records)
    finally:
        stop.set()
        await serving
        await db.close()
        await own.close()
