"""A deployment in a test: real Postgres, Temporal, sandboxes and CLI, a scripted model, one worker in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from dogwatch import names
from dogwatch.contracts.agent import AgentOptions, AgentTask
from dogwatch.contracts.job import JobRequest, JobResult
from dogwatch.contracts.sandbox import Provider, SandboxSpec
from dogwatch.contracts.workspace import Manifest, ManifestKind, ManifestWorkspace, Upload, UploadFile
from dogwatch.ports import Blobs, Sandboxes, Tree
from dogwatch.sandbox.local.place import default_root, remove_root
from dogwatch.settings import Settings
from dogwatch.store.engine import Database, rows
from dogwatch.store.manifests import store_manifest
from dogwatch.store.records import PostgresRecords
from dogwatch.testing.model import ScriptedModel
from dogwatch.workspace.manifest import digest
from dogwatch.workspace.upload import receive
from worker.sandbox import local_sandboxes
from worker.wiring import make_worker, open_blobs, steps

MODEL = "claude-haiku-4-5"


@dataclass
class World:
    """What a test does with a deployment and looks at in it."""

    client: Client
    settings: Settings
    db: Database
    records: PostgresRecords
    blobs: Blobs
    sandboxes: Sandboxes
    model: ScriptedModel
    started: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker for the length of the block. Its end detaches, as a deploy does."""
        hands = steps(self.settings, self.client, self.records, self.blobs, {Provider.LOCAL: self.sandboxes})
        async with make_worker(self.client, hands, self.settings):
            yield

    async def store(self, files: Mapping[str, str]) -> ManifestWorkspace:
        """Text files as a stored manifest, by reference."""
        received = receive(Upload(files=tuple(UploadFile(path=path, content=content) for path, content in files.items())))
        await self.records.note_blobs({sha256: len(data) for sha256, data in received.blobs.items()})
        for sha256, data in received.blobs.items():
            await self.blobs.put(sha256, data)
        tree = Tree(received.manifest, digest(received.manifest))
        async with self.db.begin() as connection:
            ref = await store_manifest(connection, "default", ManifestKind.WORKSPACE, tree)
        return ManifestWorkspace(manifest_id=ref.manifest_id)

    async def start(self, request: JobRequest, job_id: str | None = None) -> WorkflowHandle[Any, JobResult]:
        """Start the workflow `Job` by its name."""
        job_id = job_id or names.new_id()
        self.started.append(names.job_workflow_id(job_id))
        return await self.client.start_workflow(
            names.JOB, request, id=names.job_workflow_id(job_id), task_queue=names.TASK_QUEUE, result_type=JobResult
        )

    async def run(self, request: JobRequest, job_id: str | None = None) -> JobResult:
        """Run a job to its end; a failed one's result comes out of its failure."""
        return await outcome(await self.start(request, job_id))

    async def rows(self, query: str, **values: object) -> Sequence[Any]:
        """Rows of a query."""
        async with self.db.begin() as connection:
            return await rows(connection, text(query), **values)

    async def files(self, result: JobResult) -> dict[str, bytes]:
        """The regular files that a job left, from manifest and blobs."""
        assert result.workspace is not None, result
        manifest = await self.records.manifest(result.workspace.manifest_id)
        return {entry.path: await self.blobs.get(entry.sha256) for entry in manifest.entries if entry.sha256}

    async def manifest(self, result: JobResult) -> Manifest:
        """The manifest of what a job left."""
        assert result.workspace is not None, result
        return await self.records.manifest(result.workspace.manifest_id)

    async def until(self, query: str, patience_s: float = 60.0, **values: object) -> Any:
        """Wait until a query has a row, and return it."""
        deadline = time.monotonic() + patience_s
        while not (found := await self.rows(query, **values)):
            assert time.monotonic() < deadline, f"no row after {patience_s} s: {query} {values}"
            await asyncio.sleep(0.05)
        return found[0]

    async def nothing_is_left(self) -> None:
        """Assert that every sandbox is gone, at the provider and in the ledger."""
        assert [info async for info in self.sandboxes.list({})] == []
        assert await self.rows("select name from sandboxes where state <> 'ended'") == []


@asynccontextmanager
async def a_world(client: Client, database_url: str, directory: Path, **settings: Any) -> AsyncIterator[World]:
    """A deployment with its state in `directory`; workflows that a test leaves open are ended."""
    async with AsyncExitStack() as closing:
        model = closing.enter_context(ScriptedModel())
        chosen = {"model_url": model.url, "scripted_model": True, **settings}
        made = Settings(database_url=SecretStr(database_url), state_dir=directory, **chosen)
        db = Database(database_url)
        closing.push_async_callback(db.close)
        world = World(client, made, db, await PostgresRecords.connect(db), open_blobs(made), local_sandboxes(made), model)
        try:
            yield world
        finally:
            for workflow_id in world.started:
                with suppress(RPCError):
                    await client.get_workflow_handle(workflow_id).terminate("the test is over")
            async for info in world.sandboxes.list({}):
                await world.sandboxes.terminate(info.sandbox_id)
            assert remove_root(default_root(directory))  # for root it lies outside of the test's directory


async def outcome(handle: WorkflowHandle[Any, JobResult]) -> JobResult:
    """How a job came out: a failed one's result is in the details of its failure."""
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        if not isinstance(failure.cause, ApplicationError):
            raise
        return JobResult.model_validate(failure.cause.details[0])


def ask(prompt: str, **more: Any) -> JobRequest:
    """A request with the defaults of the tests; `options` are those of the agent."""
    options = AgentOptions.model_validate({"model": MODEL, **more.pop("options", {})})
    return JobRequest(task=AgentTask(prompt=prompt, options=options), sandbox=more.pop("sandbox", SandboxSpec()), **more)
