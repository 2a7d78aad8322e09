"""A session's jobs one at a time, and each of its ends."""

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from dogwatch import names
from dogwatch.contracts.agent import AgentOptions
from dogwatch.contracts.session import SessionState
from tests.workflows.doubles import WITHIN_S, fail
from tests.workflows.stage import TASK, Stage, stage
from tests.workflows.visitor import Visitor, input_of, lived, timers

RUN = names.RUN_AGENT
COMPLETED, CANCELED = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CANCELED
HOUR = timedelta(hours=1)


# --- jobs -------------------------------------------------------------------------------------------------------------------------


async def test_jobs_run_one_at_a_time_in_order(real: Stage) -> None:
    """The answer tells how many jobs are ahead; the next one begins when the one before has released its sandbox."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    first = await visitor.submit("j1" + visitor.session_id)
    await gate.wait()
    others = [await visitor.submit(f"j{number}{visitor.session_id}") for number in (2, 3)]
    assert [first.position, *(other.position for other in others)] == [0, 1, 2]
    gate.open()
    await visitor.close_after(others[-1].job_id)
    assert (await visitor.ended()).jobs == 3
    order = [call.step.job_id for call in real.hands.calls if hasattr(call.step, "job_id")]
    assert order == sorted(order)
    assert len(order) == 12


async def test_the_same_job_again_is_the_same_job(real: Stage) -> None:
    """While it runs, while it waits and after it has ended: same position, no second execution."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    running, waiting = "r" + visitor.session_id, "w" + visitor.session_id
    await visitor.submit(running)
    await gate.wait()
    await visitor.submit(waiting)
    assert (await visitor.submit(running)).position == 0
    assert (await visitor.submit(waiting)).position == 1
    gate.open()
    await visitor.job(waiting)
    assert (await visitor.submit(running)).position == 0
    await visitor.close()
    assert (await visitor.ended()).jobs == 2
    assert len(real.hands.steps(RUN)) == 2


async def test_a_job_that_has_run_elsewhere_does_not_run_again_and_does_no_harm(real: Stage) -> None:
    """Its id is taken: the session goes on with the next one."""
    visitor = await Visitor.of(real)
    taken = "taken" + visitor.session_id
    await real.closed(await real.start_job(taken))
    await visitor.submit(taken)
    after = await visitor.submit()
    await visitor.job(after.job_id)
    await visitor.close()
    await visitor.ended()
    assert len(real.hands.steps(RUN)) == 2


async def test_a_job_that_fails_does_not_end_the_session(real: Stage) -> None:
    """How a job ends is the job's matter."""
    real.hands.on(RUN, fail("command_failed"))
    visitor = await Visitor.of(real)
    failing, good = await visitor.submit(), await visitor.submit()
    await visitor.job(good.job_id)
    assert (await visitor.statuses([failing.job_id]))[failing.job_id] is WorkflowExecutionStatus.FAILED
    await visitor.close()
    assert (await visitor.ended()).jobs == 2


async def test_sixty_submissions_at_once(real: Stage) -> None:
    """All are accepted, each has a place of its own; the ones that wait when it closes are withdrawn in order."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    answers = await asyncio.gather(*(visitor.submit() for _ in range(60)))
    assert sorted(answer.position for answer in answers) == list(range(60))
    await gate.wait()
    await visitor.close()
    gate.open()
    assert (await visitor.ended()).jobs == 1
    (end,) = real.hands.steps(names.END_SESSION)
    by_position = [answer.job_id for answer in sorted(answers, key=lambda answer: answer.position)]
    assert end.withdrawn == tuple(by_position[1:])


async def test_a_job_that_waits_can_be_withdrawn(real: Stage) -> None:
    """It never runs; one that runs, has ended or is unknown is not in the queue, and the answer says so."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    running, waiting, last = [(await visitor.submit()).job_id for _ in range(3)]
    await gate.wait()
    assert [await visitor.withdraw(job) for job in (running, waiting, waiting, "unknown")] == [False, True, False, False]
    gate.open()
    await visitor.close_after(last)
    assert (await visitor.ended()).jobs == 2
    assert await visitor.statuses([waiting]) == {waiting: None}


async def test_a_queue_is_bounded_in_jobs_and_bytes(real: Stage) -> None:
    """What waits has to fit into the input of the next run: a session beyond it could never continue as new."""
    gate, next_gate = real.hands.gate(RUN), real.hands.gate(RUN)
    visitor = await Visitor.of(real, continue_after=1)
    await visitor.submit()
    await gate.wait()
    large = TASK.model_copy(update={"options": AgentOptions(system_prompt="x" * 100_000, append_system_prompt="y" * 100_000)})
    for _ in range(5):
        await visitor.submit(task=large)
    assert await visitor.refused(task=large) == "session_full"
    gate.open()
    await next_gate.wait()
    assert len(await visitor.runs()) == 2
    await visitor.close()
    next_gate.open()
    assert (await visitor.ended()).jobs == 2


@pytest.mark.parametrize("changes", [{"session_id": "another"}, {"tenant": "another"}])
async def test_a_job_of_another_session_or_tenant_is_refused(real: Stage, changes: dict[str, str]) -> None:
    """A session's jobs are its own."""
    visitor = await Visitor.of(real)
    assert await visitor.refused(**changes) == "invalid_request"
    await visitor.close()
    assert (await visitor.ended()).jobs == 0


# --- time -------------------------------------------------------------------------------------------------------------------------


async def test_it_expires_an_hour_after_it_was_opened_or_touched(time_skipping: WorkflowEnvironment) -> None:
    """Opened at 0:00, a job at 0:30: the end is 1:30, by one timer that looks again."""
    async with stage(time_skipping.client) as played:
        visitor = await Visitor.of(played, ttl_s=3600)
        await time_skipping.sleep(HOUR / 2)
        with time_skipping.auto_time_skipping_disabled():
            await visitor.job((await visitor.submit()).job_id)
        result = await visitor.ended()
        (history,) = await visitor.runs()
    assert (result.state, result.jobs) == (SessionState.EXPIRED, 1)
    assert timedelta(minutes=90) <= lived(history) < timedelta(minutes=91)
    assert timers(history) == 2


async def test_it_never_expires_under_a_running_job(time_skipping: WorkflowEnvironment) -> None:
    """The job works over the end; an hour after the job the session expires."""
    async with stage(time_skipping.client) as played:
        played.hands.on(RUN, *[fail("database_unavailable", retryable=True)] * 12)  # retries: about 85 s
        visitor = await Visitor.of(played, ttl_s=20)
        job = await visitor.submit(timeout_s=600)
        assert (await visitor.ended()).state is SessionState.EXPIRED
        (history,) = await visitor.runs()
        assert (await visitor.statuses([job.job_id]))[job.job_id] is COMPLETED
    assert lived(history) > timedelta(seconds=80)
    assert timers(history) == 2, "no timer while a job runs"


async def test_extend_moves_the_end_forward_only(time_skipping: WorkflowEnvironment) -> None:
    """By three hours from now; a shorter extension changes nothing; the answer is the end."""
    async with stage(time_skipping.client) as played:
        visitor = await Visitor.of(played, ttl_s=3600)
        end = await visitor.extend(3 * 3600)
        assert await visitor.extend(60) == end
        assert (await visitor.ended()).state is SessionState.EXPIRED
        (history,) = await visitor.runs()
    assert HOUR * 3 <= lived(history) < HOUR * 3 + timedelta(minutes=1)


@pytest.mark.parametrize("seconds", [0, -1, 31 * 86_400])
async def test_extend_by_nonsense_is_refused(real: Stage, seconds: float) -> None:
    """Refused by the validator: no event is written."""
    visitor = await Visitor.of(real)
    with pytest.raises(Exception, match="update failed") as failed:
        await visitor.extend(seconds)
    assert getattr(failed.value.__cause__, "type", None) == "range"
    await visitor.close()
    await visitor.ended()


# --- ends -------------------------------------------------------------------------------------------------------------------------


async def test_close_lets_the_running_job_finish_and_withdraws_the_rest(real: Stage) -> None:
    """No new jobs meanwhile; the same job again is still answered."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    running, waiting = await visitor.submit(), await visitor.submit()
    await gate.wait()
    await visitor.close()
    assert await visitor.refused() == "session_closing"
    assert await visitor.refused("never-seen") == "session_closing"
    assert (await visitor.submit(running.job_id)).position == 0
    gate.open()
    result = await visitor.ended()
    assert (result.state, result.jobs) == (SessionState.CLOSED, 1)
    assert real.hands.steps(names.END_SESSION)[0].withdrawn == (waiting.job_id,)
    assert await visitor.statuses([running.job_id, waiting.job_id]) == {running.job_id: COMPLETED, waiting.job_id: None}


async def test_close_with_cancel_ends_the_running_job_too(real: Stage) -> None:
    """And waits for its end; asked twice, it is the same."""
    gate = real.hands.agent_until_stopped()
    visitor = await Visitor.of(real)
    running = await visitor.submit()
    await gate.wait()
    await visitor.close()
    await visitor.close(cancel=True)
    await visitor.close(cancel=True)
    assert (await visitor.ended()).state is SessionState.CLOSED
    assert (await visitor.statuses([running.job_id]))[running.job_id] is CANCELED
    assert real.hands.ran()[-1] == names.END_SESSION


async def test_close_with_cancel_right_after_a_submission(real: Stage) -> None:
    """The job is being started: it is cancelled all the same."""
    for _ in range(5):
        real.hands.agent_until_stopped()
        visitor = await Visitor.of(real)
        job = await visitor.submit()
        await visitor.close(cancel=True)
        await visitor.ended()
        assert (await visitor.statuses([job.job_id]))[job.job_id] in (CANCELED, None)


@pytest.mark.parametrize("pause_s", [0, 0.02, 0.1, 0.3])
async def test_cancelling_the_session_cancels_its_job_and_waits(real: Stage, pause_s: float) -> None:
    """Whenever it comes after the submission: the session ends cancelled, after the job, with its row written."""
    real.hands.agent_until_stopped()
    visitor = await Visitor.of(real)
    job = await visitor.submit()
    await asyncio.sleep(pause_s)
    await visitor.handle.cancel()
    await visitor.cancelled()
    assert (await visitor.statuses([job.job_id]))[job.job_id] in (CANCELED, None)
    assert real.hands.ran()[-1] == names.END_SESSION
    assert not real.hands.running()


async def test_cancelling_an_idle_session(real: Stage) -> None:
    """Also when it never had a job, and before its first task."""
    visitor = await Visitor.of(real)
    await visitor.handle.cancel()
    await visitor.cancelled()
    assert real.hands.ran() == [names.END_SESSION]


async def test_a_cancel_while_the_row_is_settled_changes_nothing(real: Stage) -> None:
    """The session is as good as closed."""
    gate = real.hands.gate(names.END_SESSION, deaf=True)
    visitor = await Visitor.of(real)
    await visitor.close()
    await gate.wait()
    await visitor.handle.cancel()
    gate.open()
    assert (await visitor.ended()).state is SessionState.CLOSED


async def test_submit_after_the_end_is_refused(time_skipping: WorkflowEnvironment) -> None:
    """At the end itself by the session, with a typed error; after it has closed by the server, which the doors know as gone."""
    async with stage(time_skipping.client) as played:
        gate = played.hands.gate(names.END_SESSION, deaf=True)
        visitor = await Visitor.of(played, ttl_s=60)
        await time_skipping.sleep(61)
        await gate.wait()
        assert await visitor.refused() == "session_closing"
        gate.open()
        await visitor.ended()
        with pytest.raises(RPCError, match=r"(?i)not.?found|completed|closed"):
            await visitor.submit()


async def test_a_terminated_session_leaves_its_job_alone(real: Stage) -> None:
    """ABANDON: the job works on to its own end."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real)
    job = await visitor.submit()
    await gate.wait()
    await visitor.handle.terminate()
    gate.open()
    await visitor.job(job.job_id)


# --- continue as new --------------------------------------------------------------------------------------------------------------


async def test_it_continues_as_new_between_jobs_while_jobs_wait(real: Stage) -> None:
    """Nine jobs, a new run after every two: each runs exactly once, in order, and the deadline is carried and not renewed."""
    gate = real.hands.gate(RUN)
    visitor = await Visitor.of(real, continue_after=2, ttl_s=7200)
    jobs = [(await visitor.submit(f"{number}-{visitor.session_id}")).job_id for number in range(9)]
    await gate.wait()
    end = await visitor.extend(10 * 86_400)
    gate.open()
    await visitor.job(jobs[-1])
    assert (await visitor.submit(jobs[0])).position == 0, "a repeated submission is known over runs"
    await visitor.close()
    assert (await visitor.ended()).jobs == 9
    runs = await visitor.runs()
    assert len(runs) == 5
    assert {input_of(run).expires_at for run in runs[1:]} == {end}
    assert [step.job_id for step in real.hands.steps(RUN)] == jobs


async def test_submissions_that_race_a_new_run_are_all_counted(real: Stage) -> None:
    """A new run after every job, submissions all the while: none is lost, none runs twice."""
    visitor = await Visitor.of(real, continue_after=1)
    jobs: list[str] = []
    for _ in range(2):
        jobs += [answer.job_id for answer in await asyncio.gather(*(visitor.submit() for _ in range(3)))]
        await asyncio.sleep(0.05)
    async with asyncio.timeout(WITHIN_S):
        while None in (await visitor.statuses(jobs)).values():
            await asyncio.sleep(0.05)
    await visitor.close()
    assert (await visitor.ended()).jobs == 6
    assert sorted(step.job_id for step in real.hands.steps(RUN)) == sorted(jobs)


async def test_a_close_that_races_a_new_run_is_not_lost(real: Stage) -> None:
    """Closed while the last job of a run ends: the next run does not begin open."""
    for _ in range(6):
        gate = real.hands.gate(RUN)
        visitor = await Visitor.of(real, continue_after=1)
        await visitor.submit()
        await gate.wait()
        gate.open()
        await visitor.close()
        assert (await visitor.ended()).state is SessionState.CLOSED
