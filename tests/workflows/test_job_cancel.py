"""A cancel in every phase of a job, on the real server: never lost, never a skipped release, never a write after the end."""

import asyncio
import random
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from dogwatch import names
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import JobStatus
from dogwatch.contracts.steps import StopReason
from tests.workflows.doubles import WITHIN_S, answer, fail, outcome, transient
from tests.workflows.stage import Closed, Handle, Stage, empty_stage

PREPARE, RUN, STOP = names.PREPARE_SANDBOX, names.RUN_AGENT, names.STOP_AGENT
COLLECT, RELEASE = names.COLLECT_RESULTS, names.RELEASE_SANDBOX
COMPLETED, FAILED, CANCELED = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.CANCELED


async def cancelled(played: Stage, handle: Handle) -> Closed:
    """Cancel, and see that the job ends so with its row saying the same."""
    await handle.cancel()
    closed = await played.closed(handle)
    assert closed.status is CANCELED
    assert played.ending(handle).status is JobStatus.CANCELLED
    return closed


async def seen(handle: Handle, event: str) -> None:
    """Until the history holds an event of that type."""
    async with asyncio.timeout(WITHIN_S):
        while not any(event in kind for kind in await names_of_events(handle)):
            await asyncio.sleep(0.02)


async def names_of_events(handle: Handle) -> list[str]:
    """The types of the events so far."""
    return Closed(COMPLETED, None, None, await handle.fetch_history()).events


async def test_before_anything_has_run(temporal_client: Client) -> None:
    """Start and cancel reach the first workflow task together: no agent, but the row and whatever there may be are settled."""
    played = empty_stage(temporal_client)
    handle = await played.start_job()
    await handle.cancel()
    played.hands.on(PREPARE, fail("attempt_ended"))
    async with played.worker():
        closed = await played.closed(handle)
    assert closed.status is CANCELED
    assert RUN not in played.hands.ran()
    assert played.hands.ran()[-1] == RELEASE
    assert played.ending(handle).status is JobStatus.CANCELLED


async def test_in_prepare_once_the_agent_is_launched(real: Stage) -> None:
    """The agent is stopped, prepare finishes and says where it was, and what the agent did by then is collected."""
    gate = real.hands.gate(PREPARE, deaf=True)
    real.hands.stop_opens.append(gate)
    handle = await real.start_job()
    await gate.wait()
    await cancelled(real, handle)
    assert real.hands.ran() == [PREPARE, STOP, COLLECT, RELEASE]
    assert real.hands.steps(COLLECT)[0].ending.status is JobStatus.CANCELLED


@pytest.mark.parametrize("error", ["attempt_ended", None], ids=["refused the launch", "noticed the cancel"])
async def test_in_prepare_before_the_agent_is_launched(real: Stage, error: str | None) -> None:
    """Nothing ran and nothing is collected, whether the stop kept prepare from launching or prepare noticed the cancel itself."""
    gate = real.hands.gate(PREPARE, error=error)
    if error is not None:
        real.hands.stop_opens.append(gate)
    handle = await real.start_job()
    await gate.wait()
    await cancelled(real, handle)
    assert real.hands.ran() == [PREPARE, STOP, RELEASE]


async def test_in_run(real: Stage) -> None:
    """Stop, then the run's own end with its usage, then collect with the ending, then release: 35 events, as none is there twice."""
    gate = real.hands.agent_until_stopped()
    handle = await real.start_job()
    await gate.wait()
    closed = await cancelled(real, handle)
    assert real.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]
    assert real.hands.steps(STOP)[0].reason is StopReason.CANCEL
    (collect,) = real.hands.steps(COLLECT)
    assert (collect.ending.status, collect.text, collect.usage.cost_usd) == (JobStatus.CANCELLED, "half", 0.5)
    assert closed.events.count("ACTIVITY_TASK_SCHEDULED") == 5


async def test_in_run_when_stopping_fails(real: Stage) -> None:
    """The run notices the cancel by its heartbeat; releasing the sandbox is the last word."""
    gate = real.hands.gate(RUN)
    real.hands.on(STOP, fail("command_failed"))
    handle = await real.start_job()
    await gate.wait()
    await cancelled(real, handle)
    assert real.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]


async def test_a_run_that_ends_well_before_it_hears_of_the_cancel(real: Stage) -> None:
    """The lost cancel: awaited plainly, the result would be taken and the job would go on to success."""
    gate = real.hands.gate(RUN, deaf=True)
    stop = real.hands.gate(STOP)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await stop.wait()
    gate.open()  # the agent succeeds while it is being stopped
    await seen(handle, "CANCEL_REQUESTED")
    stop.open()
    await cancelled(real, handle)
    (collect,) = real.hands.steps(COLLECT)
    assert (collect.ending.status, collect.text) == (JobStatus.CANCELLED, "done")


async def test_a_cancel_that_races_the_end_of_the_run(real: Stage) -> None:
    """Whoever wins, the job has one ending, the row says it too, and nothing is left; both endings come up."""
    chance = random.Random(7)

    async def one(number: int) -> WorkflowExecutionStatus:
        gate = real.hands.gate(RUN, deaf=True)
        handle = await real.start_job(f"race-{number}")
        await gate.wait()
        await asyncio.gather(_after(chance.uniform(0, 0.03), gate.open), _cancel_after(chance.uniform(0, 0.03), handle))
        return (await real.closed(handle)).status

    statuses = [await one(number) for number in range(12)]
    assert set(statuses) <= {COMPLETED, CANCELED}
    assert CANCELED in statuses


async def _after(seconds: float, act: object) -> None:
    await asyncio.sleep(seconds)
    assert callable(act)
    act()


async def _cancel_after(seconds: float, handle: Handle) -> None:
    await asyncio.sleep(seconds)
    await handle.cancel()


async def test_while_the_agent_is_stopped_for_its_deadline(real: Stage) -> None:
    """The deadline came first and is the reason; the cancel changes nothing."""
    real.hands.on(RUN, answer(outcome(VerdictCode.DEADLINE)))
    gate = real.hands.gate(STOP, deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await seen(handle, "CANCEL_REQUESTED")
    gate.open()
    closed = await real.closed(handle)
    assert closed.failure is not None
    assert closed.failure.type == "deadline"
    assert real.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]


async def test_while_the_agent_of_a_lost_run_is_stopped(real: Stage) -> None:
    """Another attempt would have followed: the job is cancelled instead."""
    real.hands.on(RUN, fail("sandbox_lost"))
    gate = real.hands.gate(STOP, deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await seen(handle, "CANCEL_REQUESTED")
    gate.open()
    assert (await real.closed(handle)).status is CANCELED
    assert PREPARE not in real.hands.ran()[1:]


@pytest.mark.parametrize("step", [COLLECT, RELEASE])
async def test_once_the_ending_is_decided(real: Stage, step: str) -> None:
    """A cancel during the final collect or release changes nothing: the job succeeds, released before it closes."""
    gate = real.hands.gate(step, deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await seen(handle, "CANCEL_REQUESTED")
    gate.open()
    closed = await real.closed(handle)
    assert closed.status is COMPLETED
    assert real.hands.ran() == [PREPARE, RUN, COLLECT, RELEASE]
    assert real.hands.released[names.job_id_of(handle.id) or ""] == 1


@pytest.mark.parametrize("step", [COLLECT, RELEASE])
async def test_between_two_attempts(real: Stage, step: str) -> None:
    """A cancel during the checkpoint or the release in between: no further attempt, and the job ends as cancelled."""
    real.hands.on(RUN, transient())
    gate = real.hands.gate(step, deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await seen(handle, "CANCEL_REQUESTED")
    gate.open()
    closed = await real.closed(handle)
    assert closed.status is CANCELED
    expected = [PREPARE, RUN, COLLECT, RELEASE] + ([RELEASE] if step == RELEASE else [])
    assert real.hands.ran() == expected
    assert real.hands.steps(RELEASE)[-1].ending.status is JobStatus.CANCELLED


async def test_while_a_failed_checkpoint_is_undone(real: Stage) -> None:
    """The checkpoint lost its sandbox and the cancel came meanwhile: cancelled, not retried."""
    real.hands.on(RUN, transient())
    gate = real.hands.gate(COLLECT, error="sandbox_lost", deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await seen(handle, "CANCEL_REQUESTED")
    gate.open()
    assert (await real.closed(handle)).status is CANCELED
    assert real.hands.ran() == [PREPARE, RUN, COLLECT, RELEASE]


async def test_while_it_waits_for_the_next_attempt(real: Stage) -> None:
    """The timer is given up at once."""
    real.hands.on(RUN, transient(VerdictCode.API_OVERLOADED))
    handle = await real.start_job()
    await seen(handle, "TIMER_STARTED")
    closed = await cancelled(real, handle)
    assert "TIMER_CANCELED" in closed.events
    assert real.hands.ran() == [PREPARE, RUN, COLLECT, RELEASE, RELEASE]


@pytest.mark.parametrize("step", [PREPARE, RUN])
async def test_while_a_step_waits_for_its_retry(real: Stage, step: str) -> None:
    """No execution is there to hear of it: the retry is given up and not waited for."""
    real.hands.on(step, *[fail("database_unavailable", retryable=True)] * 4)
    handle = await real.start_job()
    async with asyncio.timeout(WITHIN_S):
        while len(real.hands.steps(step)) < 3:
            await asyncio.sleep(0.02)
    before = len(real.hands.steps(step))
    await cancelled(real, handle)
    assert len(real.hands.steps(step)) <= before + 1
    collected = [COLLECT] if step == RUN else []
    assert [name for name in real.hands.ran() if name != step] == ([PREPARE] if step == RUN else []) + [STOP, *collected, RELEASE]


async def test_a_second_cancel_changes_nothing(real: Stage) -> None:
    """Impatience neither skips the collection nor the release."""
    gate = real.hands.agent_until_stopped()
    collect = real.hands.gate(COLLECT, deaf=True)
    handle = await real.start_job()
    await gate.wait()
    await handle.cancel()
    await collect.wait()
    await handle.cancel()
    collect.open()
    assert (await real.closed(handle)).status is CANCELED
    assert real.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]


async def test_a_worker_that_is_replaced_ends_nothing(temporal_client: Client) -> None:
    """A deploy in the middle of the run: the next worker's execution attaches, the job takes the same 29 events."""
    played = empty_stage(temporal_client)
    async with played.worker(graceful_shutdown_timeout=timedelta(0)):
        gate = played.hands.gate(RUN)
        handle = await played.start_job()
        await gate.wait()
    assert [call.ended for call in played.hands.calls] == ["done", "cancelled"]
    async with played.worker():
        closed = await played.closed(handle)
    assert closed.status is COMPLETED
    assert len(closed.events) == 29
    assert len(played.hands.steps(RUN)) == 2
    assert STOP not in played.hands.ran()
