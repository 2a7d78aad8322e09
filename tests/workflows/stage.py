"""A worker with doubled steps on a real server, and what a test looks at when a workflow has closed."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from dogwatch import names
from dogwatch.contracts.agent import AgentTask
from dogwatch.contracts.job import Ending, JobRequest, JobResult
from dogwatch.contracts.session import SessionInput, SessionResult
from tests.workflows.doubles import WITHIN_S, Hands
from worker.converter import for_worker
from worker.runner import strict_runner
from workflows.cleanup import Cleanup
from workflows.job import Job
from workflows.session import Session

WORKFLOWS = [Job, Session, Cleanup]
TASK = AgentTask(prompt="say hello")
Handle = WorkflowHandle[Any, Any]


def request(**changes: Any) -> JobRequest:
    """A job's request that differs from the usual one in these fields."""
    return JobRequest(**{"task": TASK, "timeout_s": 600, **changes})


@dataclass(frozen=True)
class Closed:
    """A workflow that has ended."""

    status: WorkflowExecutionStatus
    result: JobResult | None
    """What it returned, or what its failure carries."""
    failure: ApplicationError | None
    history: WorkflowHistory

    @property
    def events(self) -> list[str]:
        """The types of its events."""
        return event_names(self.history)


@dataclass(frozen=True)
class Stage:
    """A client, a queue that nobody else uses, and the doubles behind it."""

    client: Client
    queue: str
    hands: Hands

    def worker(self, *, workflows: bool = True, activities: bool = True, **options: Any) -> Worker:
        """A worker of this queue, for all or for a half of its work."""
        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=WORKFLOWS if workflows else [],
            activities=self.hands.all() if activities else [],
            workflow_runner=strict_runner(),
            max_heartbeat_throttle_interval=timedelta(milliseconds=100),
            identity="worker",
            **options,
        )

    async def start_job(self, job_id: str | None = None, **changes: Any) -> Handle:
        """Start a job the plain way: by the workflow's name."""
        job_id = job_id or secrets.token_hex(8)
        return await self.client.start_workflow(
            names.JOB, request(**changes), id=names.job_workflow_id(job_id), task_queue=self.queue, result_type=JobResult
        )

    async def start_session(self, session_id: str | None = None, **changes: Any) -> Handle:
        """Open a session."""
        session_id = session_id or secrets.token_hex(8)
        return await self.client.start_workflow(
            names.SESSION,
            SessionInput(session_id=session_id, **changes),
            id=names.session_workflow_id(session_id),
            task_queue=self.queue,
            result_type=SessionResult,
        )

    async def closed(self, handle: Handle) -> Closed:
        """Wait for a job's end and check what holds for every one: no workflow task failed, no step runs on, row and outcome agree."""
        result: JobResult | None = None
        failure: ApplicationError | None = None
        try:
            async with asyncio.timeout(WITHIN_S):
                result = await handle.result()
        except WorkflowFailureError as failed:
            if isinstance(failed.cause, ApplicationError):
                failure = failed.cause
                result = JobResult.model_validate(failure.details[0]) if failure.details else None
        history = await handle.fetch_history()
        assert_no_task_failed(history)
        status = (await handle.describe()).status
        assert status is not None
        self._check(names.job_id_of(handle.id) or "", status, result)
        return Closed(status, result, failure, history)

    async def job(self, **changes: Any) -> Closed:
        """A job from its start to its end."""
        return await self.closed(await self.start_job(**changes))

    def _check(self, job_id: str, status: WorkflowExecutionStatus, result: JobResult | None) -> None:
        mine = [call for call in self.hands.calls if getattr(call.step, "job_id", None) == job_id]
        assert not [call for call in mine if not call.ended], "a step outlived its workflow"
        assert not self.hands.sandboxes[job_id], "a sandbox was left"
        if not mine:
            return
        assert mine[-1].name == names.RELEASE_SANDBOX, "something followed the release"
        row = self.hands.rows[job_id]
        assert mine[-1].step.ending is not None
        if status is WorkflowExecutionStatus.CANCELED:
            assert row.status == "cancelled"
        else:
            assert result is not None
            assert (result.status, result.verdict) == (row.status, row.verdict)

    def ending(self, handle: Handle) -> Ending:
        """What the job's row says."""
        return self.hands.rows[names.job_id_of(handle.id) or ""]


def empty_stage(client: Client) -> Stage:
    """Nobody works yet."""
    return Stage(for_worker(client), f"queue-{secrets.token_hex(4)}", Hands())


@asynccontextmanager
async def stage(client: Client, **options: Any) -> AsyncIterator[Stage]:
    """A worker as the product makes it, but with doubled steps."""
    played = empty_stage(client)
    async with played.worker(**options):
        yield played


def event_names(history: WorkflowHistory) -> list[str]:
    """Event types without their common prefix."""
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events]


def assert_no_task_failed(history: WorkflowHistory) -> None:
    """A failed workflow task is tried again for ever: a wedge. Only a completion that new events overtook is no fault of the code."""
    causes = [
        WorkflowTaskFailedCause.Name(event.workflow_task_failed_event_attributes.cause)
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    ]
    bad = Counter(cause for cause in causes if not cause.endswith("UNHANDLED_COMMAND"))
    assert not bad, f"workflow tasks failed: {bad}"
