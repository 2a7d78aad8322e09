"""What a job refuses, how a plain start looks, and what the Temporal UI shows: on the real server."""

import gc
import json
import secrets
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError

from dogwatch import names
from dogwatch.contracts.agent import AgentOptions, VerdictCode
from dogwatch.contracts.job import MAX_REQUEST_BYTES, JobResult, JobStatus
from dogwatch.contracts.workspace import InlineWorkspace
from tests.workflows.doubles import transient
from tests.workflows.stage import TASK, Closed, Stage, assert_no_task_failed, request, stage


async def refused(played: Stage, *arguments: Any, workflow: str = names.JOB, workflow_id: str | None = None) -> ApplicationError:
    """Start a workflow with whatever it is; it has to fail at once, for good, before any step."""
    handle = await played.client.start_workflow(
        workflow,
        args=arguments,
        id=workflow_id or names.job_workflow_id(secrets.token_hex(8)),
        task_queue=played.queue,
        execution_timeout=timedelta(seconds=10),
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError), failed.value.cause
    assert failed.value.cause.non_retryable
    assert not failed.value.cause.details, "details are for results"
    assert_no_task_failed(await handle.fetch_history())
    assert played.hands.ran() == []
    return failed.value.cause


GOOD = {"task": {"prompt": "say hello"}}


@pytest.mark.parametrize(
    ("argument", "code", "named"),
    [
        ({**GOOD, "promt": 1}, "invalid_request", "promt"),
        ({"task": {"prompt": ""}}, "prompt_empty", "task"),
        ({"task": {"prompt": "/clear"}}, "slash_command", "task"),
        ({**GOOD, "timeout_s": -1}, "range", "timeout_s"),
        ({**GOOD, "workspace": {"kind": "nowhere"}}, "invalid_request", "workspace"),
        ({**GOOD, "secrets": {"KEY": "sk-not-a-reference"}}, "invalid_request", "secrets.KEY"),
        (5, "invalid_request", "should be an object"),
        ("text", "invalid_request", "should be an object"),
    ],
)
async def test_input_that_breaks_its_contract_fails_the_workflow(real: Stage, argument: Any, code: str, named: str) -> None:
    """Typed, final, naming the field and never the value; by default its workflow task would be tried again for ever."""
    error = await refused(real, argument)
    assert error.type == code
    assert named in error.message
    assert "sk-not-a-reference" not in str(error.__dict__)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("arguments", [(), (None,), (GOOD, GOOD)], ids=["none", "null", "two"])
@pytest.mark.parametrize("workflow", [names.JOB, names.SESSION, names.CLEANUP])
async def test_a_start_without_its_one_argument_fails(temporal_client: Client, workflow: str, arguments: tuple[object, ...]) -> None:
    """A forgotten `--input` is no workflow that hangs. (The SDK then drops the coroutine of `run`, with a warning.)"""
    async with stage(temporal_client) as played:
        error = await refused(played, *arguments, workflow=workflow)
    gc.collect()
    assert error.type == "invalid_request"
    assert "one argument" in error.message


async def test_inline_files_are_refused_and_the_two_ways_are_named(real: Stage) -> None:
    """Files do not belong into a workflow's history."""
    inline = InlineWorkspace.model_validate({"files": [{"path": "a.txt", "content": "a"}]})
    error = await refused(real, request(workspace=inline))
    assert error.type == "inline_files_refused"
    assert "POST /v1/jobs" in error.message
    assert "manifest" in error.message


@pytest.mark.parametrize("workflow_id", ["job/", "job/a b", "nothing-like-it", "session/x", "job/" + "x" * 65])
async def test_a_workflow_id_that_names_no_job_is_refused(real: Stage, workflow_id: str) -> None:
    """The id is where everything finds the job again: the cleanup asks for `job/<id>` before it ends a sandbox."""
    error = await refused(real, request(), workflow_id=workflow_id)
    assert error.type == "bad_job_id"
    assert "job/<id>" in error.message


async def test_a_request_too_large_for_a_history_is_refused(real: Stage) -> None:
    """Every step's input holds it; one beyond Temporal's limit could never be ordered."""
    options = AgentOptions(env={f"V{number}": "x" * 32_000 for number in range(MAX_REQUEST_BYTES // 32_000 + 1)})
    error = await refused(real, request(task=TASK.model_copy(update={"options": options})))
    assert error.type == "request_too_large"
    assert "bytes" in error.message


async def test_a_plain_start_by_name_with_json(real: Stage) -> None:
    """As `temporal workflow start --type Job` or another language would: the least that is needed, and a plain JSON result."""
    handle = await real.client.start_workflow(names.JOB, GOOD, id="job/plain.start_1", task_queue=real.queue)
    result = await handle.result()
    assert result["status"] == "succeeded"
    assert JobResult.model_validate(result).job_id == "plain.start_1"


def summaries(history: WorkflowHistory) -> list[str]:
    """The summaries of steps and timers, as the UI's timeline shows them."""
    kinds = (EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, EventType.EVENT_TYPE_TIMER_STARTED)
    return [json.loads(event.user_metadata.summary.data) for event in history.events if event.event_type in kinds]


async def test_what_the_ui_shows(real: Stage) -> None:
    """Each step and each wait has a line; the current details tell phase, attempts, decisions and cost, and cost no event."""
    real.hands.on(names.RUN_AGENT, transient(VerdictCode.SANDBOX_LOST, cost=0.25))
    handle = await real.start_job()
    closed: Closed = await real.closed(handle)
    assert closed.status is WorkflowExecutionStatus.COMPLETED
    assert summaries(closed.history) == [
        "attempt 1: sandbox, workspace, start the agent",
        "attempt 1: follow the agent",
        "attempt 1: save for the next",
        "attempt 1: release the sandbox",
        "attempt 2 follows sandbox_lost after 1 s",
        "attempt 2: sandbox, workspace, start the agent",
        "attempt 2: follow the agent",
        "attempt 2: files, transcript, usage",
        "release the sandbox, settle the row",
    ]
    details = (await handle.query("__temporal_workflow_metadata")).current_details
    assert details.startswith(f"**{JobStatus.SUCCEEDED}**")
    assert "attempt 1 in sb-" in details
    assert ": **sandbox_lost**, $0.2500\nattempt 2 follows sandbox_lost after 1 s" in details
    assert details.endswith(": **success**, $0.5000\nfinal")


async def test_a_successful_job_has_29_events_on_the_real_server(real: Stage) -> None:
    """The budget of a job of one attempt."""
    closed = await real.job()
    assert len(closed.events) == 29, closed.events
