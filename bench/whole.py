"""A scripted job from submission to result, beside the same agent run directly: what dogwatch and the sandbox add, and where."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from pydantic import SecretStr

from bench.clock import Call
from bench.direct import run_directly
from bench.report import Row, at_most, shown
from bench.script import FILES, PROMPT
from bench.servers import Servers, calls_of, scripted_model, worker
from dogwatch import names
from dogwatch.contracts.agent import AgentOptions, AgentTask
from dogwatch.contracts.job import JobRequest, JobStatus
from dogwatch.contracts.workspace import ManifestKind, ManifestWorkspace, Upload, UploadFile
from dogwatch.ports import Tree
from dogwatch.settings import Settings
from dogwatch.store.engine import Database
from dogwatch.store.manifests import store_manifest
from dogwatch.store.records import PostgresRecords
from dogwatch.workspace.manifest import digest
from dogwatch.workspace.upload import receive
from worker.sandbox import agent_binary
from worker.wiring import open_blobs

FULL, QUICK = 12, 1
MOST_S = 1.0
OPTIONS = AgentOptions(model="claude-haiku-4-5")
STEPS = (names.PREPARE_SANDBOX, names.RUN_AGENT, names.COLLECT_RESULTS, names.RELEASE_SANDBOX)
WAITING = "exec poll.sh"
"""The call that waits for the agent: its time is the agent's."""


@dataclass(frozen=True)
class Job:
    """One job, in seconds."""

    workflow_id: str
    whole: float
    steps: Mapping[str, float]


async def measure(servers: Servers, pairs: int) -> list[Row]:
    """Rows about the whole overhead and its parts. The first pair warms the caches up and does not count."""
    jobs: list[Job] = []
    direct: list[float] = []
    async with AsyncExitStack() as closing:
        url = await closing.enter_async_context(scripted_model(servers))
        settings = Settings(database_url=SecretStr(servers.database_url), state_dir=servers.directory, blob_url=None)
        binary = agent_binary(settings)
        request = JobRequest(
            task=AgentTask(prompt=PROMPT, options=OPTIONS), workspace=ManifestWorkspace(manifest_id=await _store(settings)), max_attempts=1
        )
        async with worker(servers, "local", model_url=url, claude_binary=str(binary)):
            for _ in range(1 + pairs):
                direct.append(await run_directly(binary, url, OPTIONS))
                jobs.append(await _job(servers, request))
    calls = [Call(**call) for call in json.loads(calls_of(servers, "local").read_text())]
    return _rows(jobs[1:], direct[1:], calls)


async def _store(settings: Settings) -> str:
    """The agent's files as a stored manifest; its id."""
    received = receive(Upload(files=tuple(UploadFile(path=path, content=content) for path, content in FILES.items())))
    db, blobs = Database(settings.database_url.get_secret_value()), open_blobs(settings)
    try:
        records = await PostgresRecords.connect(db)
        await records.note_blobs({sha256: len(data) for sha256, data in received.blobs.items()})
        for sha256, data in received.blobs.items():
            await blobs.put(sha256, data)
        async with db.begin() as connection:
            tree = Tree(received.manifest, digest(received.manifest))
            return (await store_manifest(connection, "default", ManifestKind.WORKSPACE, tree)).manifest_id
    finally:
        await db.close()


async def _job(servers: Servers, request: JobRequest) -> Job:
    since = time.perf_counter()
    handle = await servers.client.start_job(request)
    result = await handle.result()
    seconds = time.perf_counter() - since
    if result.status is not JobStatus.SUCCEEDED or result.changes.modified != 1:
        raise RuntimeError(f"a job failed: {result}")
    return Job(handle.workflow_id, seconds, await _steps(servers, handle.workflow_id))


async def _steps(servers: Servers, workflow_id: str) -> dict[str, float]:
    """Seconds of each step, by the server's clock."""
    history = await servers.client.temporal.get_workflow_handle(workflow_id).fetch_history()
    events = {event.event_id: event for event in history.events}
    seconds = {}
    for event in history.events:
        if event.HasField("activity_task_completed_event_attributes"):
            completed = event.activity_task_completed_event_attributes
            name = events[completed.scheduled_event_id].activity_task_scheduled_event_attributes.activity_type.name
            began = events[completed.started_event_id].event_time
            seconds[name] = (event.event_time.ToNanoseconds() - began.ToNanoseconds()) / 1e9
    return seconds


def _rows(jobs: Sequence[Job], direct: Sequence[float], calls: Sequence[Call]) -> list[Row]:
    differences = [job.whole - alone for job, alone in zip(jobs, direct, strict=True)]
    added = median(differences)
    means = f"{median(job.whole for job in jobs):.2f} s against {median(direct):.2f} s of the agent alone, p50 of {len(jobs)} pairs"
    figures = {"job": [job.whole for job in jobs], "direct": list(direct)}
    known = {job.workflow_id for job in jobs}
    counted = [call for call in calls if call.workflow in known]
    outside = [job.whole - sum(job.steps.values()) for job in jobs]
    return [
        Row("added to a scripted job, cold, in a local sandbox", f"{added:.2f} s", at_most(added, MOST_S, " s"), means, figures),
        *(_step_row(name, jobs, counted) for name in STEPS),
        Row("  before, between and after the steps", f"{1000 * median(outside):.0f} ms", figures={"seconds": outside}),
        _commands(counted, len(jobs)),
    ]


def _step_row(step: str, jobs: Sequence[Job], calls: Sequence[Call]) -> Row:
    """A step's time and its most expensive calls: the middle over jobs of what all calls of one name took together."""
    seconds = [job.steps[step] for job in jobs]
    by_name: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys((job.workflow_id for job in jobs), 0.0))
    for call in calls:
        if call.step == step:
            by_name[call.name if call.port.startswith("sandbox") else call.port][call.workflow] += call.seconds
    parts = {name: median(of_jobs.values()) for name, of_jobs in by_name.items()}
    told = sorted(parts.items(), key=lambda part: -part[1])
    detail = ", ".join(f"{name} {shown(1000 * part)}" for name, part in told)
    return Row(f"  {step}", f"{1000 * median(seconds):.0f} ms", detail=detail, figures={"seconds": seconds, "parts": parts})


def _commands(calls: Sequence[Call], jobs: int) -> Row:
    """How many commands a job runs in its sandbox, and what one takes."""
    commands = [call for call in calls if call.port == "sandbox" and call.name != "alive"]
    own = [call.seconds for call in commands if call.name != WAITING]
    figure = f"{len(commands) / jobs:.1f}"
    detail = f"without waiting for the agent {len(own) / jobs:.1f}, {1000 * sum(own) / jobs:.0f} ms, p50 of one {1000 * median(own):.0f} ms"
    return Row("commands in the sandbox per job", figure, detail=detail, figures={"seconds": own})
