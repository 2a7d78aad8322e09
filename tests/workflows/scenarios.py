"""The main paths, played so that their histories can be kept: each returns the workflows it started."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from dogwatch import names
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.workspace import InlineWorkspace
from tests.workflows.doubles import WITHIN_S, answer, fail, outcome, transient
from tests.workflows.stage import Handle, Stage, event_names
from tests.workflows.visitor import Visitor

Scenario = Callable[[Stage], Awaitable[Handle]]


async def success(stage: Stage) -> Handle:
    """Four steps."""
    return await stage.start_job()


async def refusal(stage: Stage) -> Handle:
    """No step at all."""
    return await stage.start_job(workspace=InlineWorkspace.model_validate({"files": [{"path": "a.txt", "content": "a"}]}))


async def prepare_fails(stage: Stage) -> Handle:
    """Two steps, the first with a retry."""
    stage.hands.on(names.PREPARE_SANDBOX, fail("sandbox_unavailable", retryable=True), fail("secret_missing"))
    return await stage.start_job()


async def agent_fails(stage: Stage) -> Handle:
    """A failure with a result."""
    stage.hands.on(names.RUN_AGENT, answer(outcome(VerdictCode.MAX_TURNS)))
    return await stage.start_job()


async def three_attempts(stage: Stage) -> Handle:
    """A transient verdict, a sandbox lost while collecting, success."""
    stage.hands.on(names.RUN_AGENT, transient())
    stage.hands.on(names.COLLECT_RESULTS, answer(None), fail("sandbox_lost"))
    return await stage.start_job()


async def deadline(stage: Stage) -> Handle:
    """A stop."""
    stage.hands.on(names.RUN_AGENT, answer(outcome(VerdictCode.DEADLINE)))
    return await stage.start_job()


async def cancel_in_prepare(stage: Stage) -> Handle:
    """The agent was launched."""
    gate = stage.hands.gate(names.PREPARE_SANDBOX, deaf=True)
    stage.hands.stop_opens.append(gate)
    handle = await stage.start_job()
    await gate.wait()
    await handle.cancel()
    return handle


async def cancel_in_run(stage: Stage) -> Handle:
    """A stop, and the partial work collected."""
    gate = stage.hands.agent_until_stopped()
    handle = await stage.start_job()
    await gate.wait()
    await handle.cancel()
    return handle


async def cancel_in_pause(stage: Stage) -> Handle:
    """A timer given up."""
    stage.hands.on(names.RUN_AGENT, transient(VerdictCode.API_OVERLOADED))
    handle = await stage.start_job()
    async with asyncio.timeout(WITHIN_S):
        while "TIMER_STARTED" not in event_names(await handle.fetch_history()):
            await asyncio.sleep(0.02)
    await handle.cancel()
    return handle


async def session_continues(stage: Stage) -> Handle:
    """Three jobs in two runs, then closed."""
    gate = stage.hands.gate(names.RUN_AGENT)
    visitor = await Visitor.of(stage, continue_after=2)
    jobs = [await visitor.submit() for _ in range(3)]
    await visitor.extend(86_400)
    gate.open()
    await visitor.close_after(jobs[-1].job_id)
    return visitor.handle


async def session_closes_with_cancel(stage: Stage) -> Handle:
    """One job cancelled, one withdrawn."""
    gate = stage.hands.agent_until_stopped()
    visitor = await Visitor.of(stage)
    await visitor.submit()
    await visitor.submit()
    await gate.wait()
    await visitor.close(cancel=True)
    return visitor.handle


async def session_is_cancelled(stage: Stage) -> Handle:
    """With its job."""
    gate = stage.hands.agent_until_stopped()
    visitor = await Visitor.of(stage)
    await visitor.submit()
    await gate.wait()
    await visitor.handle.cancel()
    return visitor.handle


async def session_expires(stage: Stage) -> Handle:
    """After a job."""
    visitor = await Visitor.of(stage, ttl_s=0.5)
    await visitor.submit()
    return visitor.handle


SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.__name__: scenario
    for scenario in (
        *(success, refusal, prepare_fails, agent_fails, three_attempts, deadline, cancel_in_prepare, cancel_in_run, cancel_in_pause),
        *(session_continues, session_closes_with_cancel, session_is_cancelled, session_expires),
    )
}
