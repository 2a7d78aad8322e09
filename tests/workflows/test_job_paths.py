"""Every way in which a job can go, on the server whose clock jumps."""

from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory

from dogwatch import names
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import JobStatus
from dogwatch.contracts.steps import StopReason
from tests.workflows.doubles import Behaviour, answer, fail, outcome, transient
from tests.workflows.impatient import Impatient
from tests.workflows.stage import TASK, Stage, stage

PREPARE, RUN, STOP = names.PREPARE_SANDBOX, names.RUN_AGENT, names.STOP_AGENT
COLLECT, RELEASE = names.COLLECT_RESULTS, names.RELEASE_SANDBOX
COMPLETED, FAILED = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED
ONE_ATTEMPT = [PREPARE, RUN, COLLECT, RELEASE]


def timers(history: WorkflowHistory) -> list[tuple[timedelta, str]]:
    """How long each timer ran for, and its summary in the Temporal UI."""
    return [
        (event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta(), event.user_metadata.summary.data.decode().strip('"'))
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]


async def test_a_successful_job_is_four_steps_and_29_events(skipping: Stage) -> None:
    """Prepare, run, collect with the ending, release; the result is made of references and figures."""
    closed = await skipping.job()
    assert closed.status is COMPLETED
    assert skipping.hands.ran() == ONE_ATTEMPT
    assert len(closed.events) == 29, closed.events
    assert closed.result is not None
    assert (closed.result.status, closed.result.attempts, closed.result.usage.cost_usd) == (JobStatus.SUCCEEDED, 1, 0.5)
    assert closed.result.workspace is not None
    assert closed.result.text == "done"
    (collect,) = skipping.hands.steps(COLLECT)
    assert collect.ending.status is JobStatus.SUCCEEDED


async def test_an_agent_that_fails_fails_the_job_after_its_files_are_collected(skipping: Stage) -> None:
    """The failure's type is the verdict's code, its details hold the result."""
    skipping.hands.on(RUN, answer(outcome(VerdictCode.MAX_TURNS)))
    closed = await skipping.job()
    assert closed.status is FAILED
    assert closed.failure is not None
    assert (closed.failure.type, closed.failure.message) == ("max_turns", "it came to max_turns Do something about it.")
    assert closed.result is not None
    assert closed.result.workspace is not None
    assert skipping.hands.ran() == ONE_ATTEMPT


async def test_an_error_of_a_step_fails_the_job_with_its_code_and_says_the_remedy_once(skipping: Stage) -> None:
    """A verdict `infrastructure` names the error behind it; an agent that nobody follows any more is stopped."""
    skipping.hands.on(RUN, fail("command_failed"))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "command_failed"
    assert closed.failure.message.count("error output") == 1
    assert closed.result is not None
    assert closed.result.verdict.code is VerdictCode.INFRASTRUCTURE
    assert skipping.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]


@pytest.mark.parametrize(("code", "pause_s"), [(VerdictCode.NO_RESULT, 1), (VerdictCode.API_OVERLOADED, 10)])
async def test_a_transient_failure_is_followed_by_a_second_attempt(skipping: Stage, code: VerdictCode, pause_s: int) -> None:
    """The first sandbox is released, a timer with a summary waits, and the next attempt gets the time and the money that are left."""
    skipping.hands.on(RUN, transient(code))
    closed = await skipping.job()
    assert closed.status is COMPLETED
    assert skipping.hands.ran() == ONE_ATTEMPT * 2
    assert timers(closed.history) == [(timedelta(seconds=pause_s), f"attempt 2 follows {code} after {pause_s} s")]
    first, second = skipping.hands.steps(PREPARE)
    assert (first.budget_usd, second.budget_usd) == (10.0, 9.5)
    assert first.run_s == 600
    assert second.run_s <= 600 - pause_s
    checkpoint, final = skipping.hands.steps(COLLECT)
    assert checkpoint.ending is None
    assert final.ending is not None
    between, last = skipping.hands.steps(RELEASE)
    assert between.ending is None
    assert last.ending == final.ending
    assert closed.result is not None
    assert (closed.result.attempts, closed.result.usage.cost_usd) == (2, 1.0)


async def test_the_third_attempt_is_the_last_by_default(skipping: Stage) -> None:
    """Three transient failures in a row end the job with the last verdict; each pause is twice the one before."""
    skipping.hands.on(RUN, transient(), transient(), transient())
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "no_result"
    assert [pause.total_seconds() for pause, _ in timers(closed.history)] == [1, 2]
    assert skipping.hands.ran() == ONE_ATTEMPT * 3


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        (transient(), {"max_attempts": 1}),
        (transient(cost=1.0), {"task": TASK.model_copy(update={"options": TASK.options.model_copy(update={"max_cost_usd": 1.0})})}),
        (transient(VerdictCode.API_OVERLOADED), {"timeout_s": 8}),
    ],
    ids=["attempts", "budget", "time"],
)
async def test_no_further_attempt_beyond_a_limit(skipping: Stage, run: Behaviour, changes: dict[str, object]) -> None:
    """Attempts, money or time are used up: the transient verdict ends the job."""
    skipping.hands.on(RUN, run)
    closed = await skipping.job(**changes)
    assert closed.status is FAILED
    assert skipping.hands.ran() == ONE_ATTEMPT


async def test_a_small_budget_is_handed_over_as_it_is(skipping: Stage) -> None:
    """A cap below a cent is not raised."""
    await skipping.job(task=TASK.model_copy(update={"options": TASK.options.model_copy(update={"max_cost_usd": 0.002})}))
    assert skipping.hands.steps(PREPARE)[0].budget_usd == 0.002


@pytest.mark.parametrize("lost_in", [PREPARE, RUN, COLLECT])
async def test_a_lost_sandbox_is_followed_by_another_attempt(skipping: Stage, lost_in: str) -> None:
    """Wherever it is noticed: in prepare there is nothing to collect, in run the usage is still committed, in collect success is undone."""
    lost = fail("sandbox_lost") if lost_in != RUN else transient(VerdictCode.SANDBOX_LOST)
    skipping.hands.on(lost_in, lost)
    closed = await skipping.job()
    assert closed.status is COMPLETED
    first = [PREPARE, RELEASE] if lost_in == PREPARE else ONE_ATTEMPT
    assert skipping.hands.ran() == [*first, *ONE_ATTEMPT]
    assert closed.result is not None
    assert closed.result.usage.cost_usd == (0.5 if lost_in == PREPARE else 1.0)
    assert closed.result.workspace is not None


async def test_what_an_earlier_attempt_saved_is_the_result_when_the_last_sandbox_is_lost(skipping: Stage) -> None:
    """The second attempt loses its sandbox and saves nothing: the checkpoint of the first is what the job leaves."""
    skipping.hands.on(RUN, transient(), transient(VerdictCode.SANDBOX_LOST))
    skipping.hands.lose_workspace_of(2)
    closed = await skipping.job(max_attempts=2)
    assert closed.failure is not None
    assert closed.failure.type == "sandbox_lost"
    assert closed.result is not None
    assert closed.result.workspace is not None
    assert closed.result.workspace.manifest_id == "m-1"


async def test_a_job_that_cannot_be_prepared_fails_in_17_events(skipping: Stage) -> None:
    """A final error in prepare: release and nothing else."""
    skipping.hands.on(PREPARE, fail("secret_missing"))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "secret_missing"
    assert skipping.hands.ran() == [PREPARE, RELEASE]
    assert len(closed.events) == 17, closed.events


async def test_preparing_is_tried_five_times(skipping: Stage) -> None:
    """Trouble that may pass is tried again by the activity, not by another attempt, and ends."""
    skipping.hands.on(PREPARE, *[fail("sandbox_unavailable", retryable=True)] * 5)
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "sandbox_unavailable"
    assert [call.retry for call in skipping.hands.calls if call.name == PREPARE] == [1, 2, 3, 4, 5]
    assert skipping.hands.ran() == [PREPARE, RELEASE]


async def test_trouble_of_ours_while_following_is_tried_again_in_the_same_attempt(skipping: Stage) -> None:
    """The next execution attaches; the agent is neither stopped nor started again."""
    skipping.hands.on(RUN, fail("database_unavailable", retryable=True))
    closed = await skipping.job()
    assert closed.status is COMPLETED
    assert skipping.hands.ran() == ONE_ATTEMPT
    assert len(skipping.hands.steps(RUN)) == 2


async def test_a_run_that_does_not_answer_in_time_is_stopped(temporal_client: Client) -> None:
    """Its total time is over: the agent is stopped, its files are collected, the job timed out."""
    async with stage(temporal_client, interceptors=[Impatient()]) as played:
        played.hands.agent_until_stopped()
        closed = await played.job()
    assert closed.failure is not None
    assert closed.failure.type == "deadline"
    assert closed.result is not None
    assert closed.result.status is JobStatus.TIMED_OUT
    assert played.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]
    assert played.hands.steps(STOP)[0].reason is StopReason.DEADLINE


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (VerdictCode.DEADLINE, StopReason.DEADLINE, JobStatus.TIMED_OUT),
        (VerdictCode.BUDGET_EXCEEDED, StopReason.BUDGET, JobStatus.FAILED),
    ],
)
async def test_deadline_and_budget_stop_the_agent_before_its_files_are_collected(
    skipping: Stage, code: VerdictCode, reason: StopReason, status: JobStatus
) -> None:
    """What the CLI left running is ended inside the living sandbox."""
    skipping.hands.on(RUN, answer(outcome(code)))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == code
    assert closed.result is not None
    assert closed.result.status is status
    assert skipping.hands.ran() == [PREPARE, RUN, STOP, COLLECT, RELEASE]
    assert [stop.reason for stop in skipping.hands.steps(STOP)] == [reason]


async def test_success_without_its_files_is_none(skipping: Stage) -> None:
    """Collecting fails for good: the job fails with that error, and release writes it."""
    skipping.hands.on(COLLECT, fail("blob_corrupt"))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "blob_corrupt"
    assert skipping.hands.steps(RELEASE)[-1].ending.verdict.error_code == "blob_corrupt"


async def test_a_failure_keeps_its_word_when_collecting_fails_too(skipping: Stage) -> None:
    """The agent's verdict is what the person needs to know."""
    skipping.hands.on(RUN, answer(outcome(VerdictCode.REFUSED)))
    skipping.hands.on(COLLECT, fail("blob_corrupt"))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "refused"


async def test_the_word_of_the_row_holds(skipping: Stage) -> None:
    """Someone else has ended the row: the workflow says the same, whatever it thought itself."""
    job_id = "ended-by-cleanup"
    skipping.hands.on(COLLECT, fail("storage_full"))
    ending = outcome(VerdictCode.ORPHANED).verdict
    skipping.hands.end_row(job_id, JobStatus.FAILED, ending)
    closed = await skipping.closed(await skipping.start_job(job_id))
    assert closed.failure is not None
    assert closed.failure.type == "orphaned"


async def test_an_outcome_without_a_known_code_still_ends_the_job(skipping: Stage) -> None:
    """An exception that nobody typed, with a name longer than any code, is no reason to hang."""
    skipping.hands.on(PREPARE, fail("x" * 200))
    closed = await skipping.job()
    assert closed.failure is not None
    assert closed.failure.type == "x" * 64
