"""The edge between steps and Temporal: typed errors, beats, and who may end an agent when a step is cancelled."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from activities.boundary import MOST_S, as_application_error, boundary, pulse
from activities.run import Run
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.sandbox import Provider, SandboxRef
from dogwatch.contracts.steps import AttemptOutcome, AttemptRef, StopReason
from dogwatch.errors import ERRORS, CursorMoved, DogwatchError, LeaseLost, SandboxLost
from dogwatch.ports import Blobs, Cursor, EventLine, ExecResult, Records, Sandboxes

SHUTDOWN = activity.ActivityCancellationDetails(worker_shutdown=True)
REQUESTED = activity.ActivityCancellationDetails(cancel_requested=True)
RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "bye",
    "session_id": "s",
    "num_turns": 1,
    "total_cost_usd": 0.1,
}
INIT = {"type": "system", "subtype": "init", "session_id": "s"}


def environment(heartbeat_s: float | None = 60.0) -> ActivityEnvironment:
    """Where a step runs without a worker."""
    env = ActivityEnvironment()
    timeout = timedelta(seconds=heartbeat_s) if heartbeat_s is not None else None
    env.info = replace(ActivityEnvironment.default_info(), heartbeat_timeout=timeout)
    return env


# --- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_keeps_its_code_and_says_whether_a_retry_may_help(kind: type[DogwatchError]) -> None:
    """The type is the code: policies and workflows know errors by nothing else. The remedy is there for who reads the UI."""
    error = as_application_error(kind("it broke"))
    assert error.type == kind.code
    assert error.non_retryable is not kind.retryable
    assert error.message == f"it broke [{kind.code}] {kind.remedy}"


@pytest.mark.parametrize("kind", [LeaseLost, CursorMoved])
def test_losing_a_race_is_no_alarm(kind: type[DogwatchError]) -> None:
    """Another execution has the work: neither a warning in the log nor a failure in the metrics."""
    assert as_application_error(kind()).category is ApplicationErrorCategory.BENIGN


async def test_a_step_lets_typed_errors_out_and_all_else_as_it_is() -> None:
    """A bug keeps its own type and is retried by the policy."""

    @boundary
    async def step(_: object, request: Exception) -> None:
        raise request

    with pytest.raises(ApplicationError, match="the sandbox") as typed:
        await environment().run(step, None, SandboxLost("the sandbox"))
    assert typed.value.type == "sandbox_lost"
    with pytest.raises(KeyError):
        await environment().run(step, None, KeyError("bug"))


def test_a_bounded_step_keeps_its_name_and_its_types() -> None:
    """By them the worker decodes a request into its contract."""
    definition = activity._Definition.must_from_callable(Run.run_agent)
    assert definition.name == "run_agent"
    assert definition.arg_types == [AttemptRef]
    assert definition.ret_type is AttemptOutcome


# --- beats ------------------------------------------------------------------------------------------------------------------------


async def test_a_step_beats_while_it_works_and_tells_its_progress() -> None:
    """Four beats in a heartbeat timeout, each with what there is to tell then; none after the end."""
    env, told = environment(heartbeat_s=0.08), list[tuple[object, ...]]()
    enough = asyncio.Event()

    def hear(*details: object) -> None:
        told.append(details)
        if len(told) == 4:
            enough.set()

    env.on_heartbeat = hear

    @boundary
    async def step(_: object, request: str) -> str:
        while len(told) < 2:
            await asyncio.sleep(0.005)
        pulse().progress = lambda: request
        await enough.wait()
        return "done"

    async with asyncio.timeout(10):
        assert await env.run(step, None, "half way") == "done"
    assert told == [(), (), ("half way",), ("half way",)]
    await asyncio.sleep(0.06)
    assert len(told) == 4


async def test_a_step_without_a_heartbeat_timeout_does_not_beat() -> None:
    """The server would not hear it."""
    env, told = environment(heartbeat_s=None), list[object]()
    env.on_heartbeat = lambda *details: told.append(details)

    @boundary
    async def step(_: object, _request: None) -> None:
        await asyncio.sleep(0.02)

    await env.run(step, None, None)
    assert told == []


def test_progress_in_the_ui_is_never_older_than_a_few_seconds() -> None:
    """However long the heartbeat timeout is."""
    assert MOST_S <= 5


# --- shutdown and cancel ----------------------------------------------------------------------------------------------------------


@dataclass
class FakeSandbox:
    """A sandbox whose agent has written `output` and ends when `exit` is set; every command is noted."""

    output: bytes = json.dumps(INIT).encode() + b"\n"
    exit: str | None = None
    sandbox_id: str = "id"
    runs: str = "/runs"
    commands: list[str] = field(default_factory=list)
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def exec(self, argv: Sequence[str], **_: object) -> ExecResult:
        """Only polls are expected."""
        self.commands.append(argv[1])
        assert argv[1].endswith("/poll.sh"), argv
        offset, limit = int(argv[3]), int(argv[4])
        if offset >= len(self.output) and self.exit is None:
            self.polled.set()
            await self.wake.wait()
        ended = {"rc": 0, "reason": self.exit, "out_bytes": len(self.output)} if self.exit else None
        status = {"claimed": True, "alive": ended is None, "exit": ended, "size": len(self.output), "err_size": 0}
        return ExecResult(0, json.dumps(status).encode() + b"\n" + self.output[offset : offset + limit], b"")

    def end(self, reason: str, *lines: Mapping[str, object]) -> None:
        """Let the agent end."""
        self.output += b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.exit = reason
        self.wake.set()


@dataclass
class FakeSandboxes:
    """One sandbox, or none any more."""

    sandbox: FakeSandbox | None

    async def attach(self, _: str) -> FakeSandbox:
        """Raises SandboxLost."""
        if self.sandbox is None:
            raise SandboxLost
        return self.sandbox


@dataclass
class FakeRecords:
    """One attempt's cursor and its events."""

    cursor: Cursor = field(default_factory=lambda: Cursor("job.1", lease=0, offset=0, next_seq=1))
    stop: StopReason | None = None
    lines: list[EventLine] = field(default_factory=list)

    async def take_lease(self, _: str) -> Cursor:
        """The next lease."""
        self.cursor = replace(self.cursor, lease=self.cursor.lease + 1, stop_requested=self.stop)
        return self.cursor

    async def append_events(self, cursor: Cursor, lines: Sequence[EventLine], progress: Mapping[str, object]) -> Cursor:
        """Store."""
        if cursor.lease != self.cursor.lease:
            raise LeaseLost
        self.lines += lines
        last = lines[-1]
        self.cursor = replace(
            cursor,
            offset=last.offset + len(last.raw),
            next_seq=cursor.next_seq + len(lines),
            tail=last.raw,
            progress=progress,
            stop_requested=self.stop,
        )
        return self.cursor

    async def announce(self, _: str) -> None:
        """To nobody."""


@dataclass
class Scene:
    """A run step with its fakes."""

    sandbox: FakeSandbox = field(default_factory=FakeSandbox)
    records: FakeRecords = field(default_factory=FakeRecords)
    lost: bool = False

    def begin(self, env: ActivityEnvironment) -> "asyncio.Task[Any]":
        """Start to follow, in an execution of its own."""
        sandboxes = cast("Mapping[Provider, Sandboxes]", {Provider.LOCAL: FakeSandboxes(None if self.lost else self.sandbox)})
        run = Run(sandboxes, cast("Records", self.records), cast("Blobs", None))
        ref = SandboxRef(provider=Provider.LOCAL, sandbox_id="id", name="sb", workspace="/workspace")
        return asyncio.create_task(env.run(run.run_agent, AttemptRef(job_id="job", attempt=1, sandbox=ref, run_s=60)))


@pytest.mark.parametrize(
    "details",
    [
        SHUTDOWN,
        activity.ActivityCancellationDetails(paused=True),
        activity.ActivityCancellationDetails(reset=True),
        activity.ActivityCancellationDetails(timed_out=True),
        activity.ActivityCancellationDetails(not_found=True),
    ],
    ids=["worker shutdown", "paused", "reset", "timed out", "not found"],
)
async def test_all_but_a_requested_cancel_only_detaches(details: activity.ActivityCancellationDetails) -> None:
    """The step ends at once and as cancelled, no command reaches the agent, and the next execution goes on at the very byte."""
    scene, env = Scene(), environment()
    task = scene.begin(env)
    async with asyncio.timeout(10):
        await scene.sandbox.polled.wait()
        env.cancel(details)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {command.rpartition("/")[2] for command in scene.sandbox.commands} == {"poll.sh"}
        scene.sandbox.end("exited", RESULT)
        outcome = await scene.begin(environment())
    assert outcome.verdict.code is VerdictCode.SUCCESS
    assert [line.type for line in scene.records.lines] == ["system", "result"], "no line twice, none lost"
    assert scene.records.cursor.lease == 2


async def test_a_requested_cancel_waits_for_the_last_lines_and_returns() -> None:
    """The workflow has ended the agent before it asks: what it wrote to the end is stored, and the outcome is returned, not dropped."""
    scene, env = Scene(), environment()
    task = scene.begin(env)
    async with asyncio.timeout(10):
        await scene.sandbox.polled.wait()
        env.cancel(REQUESTED)
        await asyncio.sleep(0.02)
        assert not task.done()
        scene.records.stop = StopReason.CANCEL
        scene.sandbox.end("stopped", {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "half done"}]}})
        outcome = await task
    assert (outcome.verdict.code, outcome.text, outcome.events) == (VerdictCode.CANCELLED, "half done", 2)


async def test_a_worker_that_stops_meanwhile_leaves_no_follower_behind() -> None:
    """Cancelled by its workflow, then by its worker: the step ends, and nothing of it polls on."""
    scene, env = Scene(), environment()
    task = scene.begin(env)
    before = asyncio.all_tasks()
    async with asyncio.timeout(10):
        await scene.sandbox.polled.wait()
        env.cancel(REQUESTED)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not [left for left in asyncio.all_tasks() - before if not left.done()]


async def test_a_lost_sandbox_is_a_result() -> None:
    """Whether it is gone before or while it is followed: the workflow decides about another attempt."""
    outcome = await Scene(lost=True).begin(environment())
    assert (outcome.verdict.code, outcome.verdict.transient) == (VerdictCode.SANDBOX_LOST, True)


async def test_a_follower_that_lost_its_lease_says_so() -> None:
    """A zombie writes nothing."""
    scene = Scene()
    task = scene.begin(environment())
    async with asyncio.timeout(10):
        await scene.sandbox.polled.wait()
        await scene.records.take_lease("job.1")
        scene.sandbox.end("exited", RESULT)
        with pytest.raises(ApplicationError) as failed:
            await task
    assert failed.value.type == "lease_lost"
    assert [line.type for line in scene.records.lines] == ["system"]
