"""A job without sandbox and agent, beside a workflow of four steps that do nothing: what dogwatch itself costs."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median

from bench.bare import QUEUE, Bare
from bench.machine import readings
from bench.report import Row, at_most, exactly, shown
from bench.servers import Servers, worker
from dogwatch import names
from dogwatch.contracts.agent import AgentTask
from dogwatch.contracts.job import JobRequest, JobStatus

SETTLE_S = 0.3
"""What the servers get to finish what nobody waits for, before their CPU is read."""
STEPS = 4
REQUEST = JobRequest(task=AgentTask(prompt="Do nothing."))
Run = Callable[[], Awaitable[str]]
"""Runs one workflow to its end and returns its id."""


@dataclass(frozen=True)
class Size:
    """How much is measured at one number of callers."""

    callers: int
    rounds: int
    runs: int
    """Workflows of each kind in each round."""


FULL = (Size(callers=1, rounds=9, runs=12), Size(callers=20, rounds=5, runs=60))
QUICK = (Size(callers=1, rounds=1, runs=3), Size(callers=20, rounds=1, runs=20))


@dataclass
class Batch:
    """One round of one kind."""

    cpu: dict[str, float]
    """Milliseconds of CPU per workflow, by process."""
    wall: list[float]
    """Milliseconds of each workflow from start to result."""
    rate: float
    """Workflows per second."""


@dataclass
class Pair:
    """All rounds of both kinds, in the order they were run: one of each in turn."""

    bare: list[Batch] = field(default_factory=list)
    job: list[Batch] = field(default_factory=list)

    def ratio(self, figure: Callable[[Batch], float]) -> float:
        """The middle of the rounds' ratios: what disturbs a round disturbs both of its halves."""
        return median(figure(job) / figure(bare) for bare, job in zip(self.bare, self.job, strict=True))

    def both(self, figure: Callable[[Batch], float], unit: str) -> str:
        """The middle of either kind, for people."""
        return f"{shown(median(map(figure, self.job)))} against {shown(median(map(figure, self.bare)))} {unit}"


async def measure(servers: Servers, sizes: tuple[Size, ...]) -> list[Row]:
    """Rows about CPU, time, events and bytes."""
    rows: list[Row] = []
    async with AsyncExitStack() as closing:
        pids = {"server": servers.temporal_pid, "postgres": servers.postgres_pid}
        bare_pid = await closing.enter_async_context(worker(servers, "bare"))
        null_pid = await closing.enter_async_context(worker(servers, "null"))
        bare, job = _bare(servers), _job(servers)
        for run in (bare, job):
            await _batch(run, Size(callers=4, rounds=1, runs=20), {})
        for size in sizes:
            pair = Pair()
            for _ in range(size.rounds):
                pair.bare.append(await _batch(bare, size, {**pids, "worker": bare_pid}))
                pair.job.append(await _batch(job, size, {**pids, "worker": null_pid}))
            rows += _rows(pair, size.callers)
        rows += await _history(servers, await bare(), await job())
    return rows


def _bare(servers: Servers) -> Run:
    async def run() -> str:
        workflow_id = f"bare/{uuid.uuid4()}"
        await servers.client.temporal.execute_workflow(Bare.run, STEPS, id=workflow_id, task_queue=QUEUE)
        return workflow_id

    return run


def _job(servers: Servers) -> Run:
    async def run() -> str:
        handle = await servers.client.start_job(REQUEST)
        result = await handle.result()
        if result.status is not JobStatus.SUCCEEDED:
            raise RuntimeError(f"a job failed: {result.verdict}")
        return names.job_workflow_id(result.job_id)

    return run


async def _batch(run: Run, size: Size, pids: Mapping[str, int]) -> Batch:
    """So many workflows by so many callers, each of whom waits for a result before starting the next."""
    wall: list[float] = []
    todo = iter(repeat(None, size.runs))

    async def caller(todo: Iterator[None]) -> None:
        for _ in todo:
            since = time.perf_counter()
            await run()
            wall.append(1000 * (time.perf_counter() - since))

    before, since = readings(pids), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(size.callers):
            group.create_task(caller(todo))
    seconds = time.perf_counter() - since
    await asyncio.sleep(SETTLE_S)
    after = readings(pids)
    return Batch({name: 1000 * (after[name] - before[name]) / size.runs for name in pids}, wall, size.runs / seconds)


def _rows(pair: Pair, callers: int) -> list[Row]:
    where = f"{callers} caller{'s' * (callers > 1)}"

    def cpu_of(name: str) -> Callable[[Batch], float]:
        return lambda batch: batch.cpu[name]

    def wall(batch: Batch) -> float:
        return median(batch.wall)

    def ratio(what: str, figure: Callable[[Batch], float], unit: str, most: float | None) -> Row:
        value = pair.ratio(figure)
        values = [[figure(batch) for batch in batches] for batches in (pair.bare, pair.job)]
        figures = {"ratio": value, "bare": values[0], "job": values[1]}
        return Row(f"{what}, {where}", f"{value:.2f}×", at_most(value, most, "×"), pair.both(figure, unit), figures)

    postgres = [batch.cpu["postgres"] for batch in pair.job]
    return [
        ratio("Temporal server CPU of a job", cpu_of("server"), "ms", 1.3),
        ratio("worker CPU of a job", cpu_of("worker"), "ms", 2.0),
        ratio("time of a job", wall, "ms", 1.5) if callers == 1 else ratio("jobs per second", lambda batch: batch.rate, "/s", None),
        Row(f"Postgres CPU of a job, {where}", f"{shown(median(postgres))} ms", detail="against none", figures={"job": postgres}),
    ]


async def _history(servers: Servers, bare: str, job: str) -> list[Row]:
    lengths, sizes = [], []
    for workflow_id in (bare, job):
        described = await servers.client.temporal.get_workflow_handle(workflow_id).describe()
        lengths.append(described.history_length)
        sizes.append(described.raw_description.workflow_execution_info.history_size_bytes)
    events, history = {"bare": lengths[0], "job": lengths[1]}, {"bare": sizes[0], "job": sizes[1]}
    return [
        Row("history events of a job", str(lengths[1]), exactly(lengths[1], lengths[0]), f"against {lengths[0]}", events),
        Row("history of a job", f"{sizes[1]:,} bytes", detail=f"against {sizes[0]:,}", figures=history),
    ]
