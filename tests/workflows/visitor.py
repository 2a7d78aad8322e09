"""A session as its users see it: jobs submitted, the end moved, all of its runs looked at when it has closed."""

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from dogwatch import names
from dogwatch.contracts.job import JobResult
from dogwatch.contracts.session import JobSubmitted, QueuedJob, SessionInput, SessionResult, SessionState
from tests.workflows.doubles import WITHIN_S
from tests.workflows.stage import Handle, Stage, assert_no_task_failed, event_names, request


@dataclass(frozen=True)
class Visitor:
    """Holds a session open for a test."""

    stage: Stage
    session_id: str
    handle: Handle

    @classmethod
    async def of(cls, stage: Stage, **changes: Any) -> "Visitor":
        """Open a session."""
        session_id = f"s-{secrets.token_hex(6)}"
        return cls(stage, session_id, await stage.start_session(session_id, **changes))

    async def submit(self, job_id: str | None = None, **changes: Any) -> JobSubmitted:
        """Submit a job."""
        queued = QueuedJob(job_id=job_id or secrets.token_hex(8), request=request(**{"session_id": self.session_id, **changes}))
        answer: JobSubmitted = await self.handle.execute_update(names.SUBMIT_JOB, queued, result_type=JobSubmitted)
        return answer

    async def refused(self, job_id: str | None = None, **changes: Any) -> str | None:
        """Submit a job that is refused; the code."""
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await self.submit(job_id, **changes)
        assert isinstance(failed.value.cause, ApplicationError)
        return failed.value.cause.type

    async def extend(self, seconds: float) -> datetime:
        """Move the end."""
        answer: datetime = await self.handle.execute_update(names.EXTEND, seconds, result_type=datetime)
        return answer

    async def withdraw(self, job_id: str) -> bool:
        """Take a job out of the queue; whether it was there."""
        answer: bool = await self.handle.execute_update(names.WITHDRAW_JOB, job_id, result_type=bool)
        return answer

    async def close(self, *, cancel: bool = False) -> None:
        """Close the session."""
        await self.handle.execute_update(names.CLOSE, cancel)

    async def close_after(self, job_id: str) -> None:
        """Close the session once a job has begun."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.statuses([job_id]))[job_id] is None:
                await asyncio.sleep(0.02)
        await self.close()

    async def cancelled(self) -> None:
        """Wait for the end of a session that was cancelled."""
        with pytest.raises(WorkflowFailureError) as failed:
            async with asyncio.timeout(WITHIN_S):
                await self.handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        for history in await self.runs():
            assert_no_task_failed(history)

    async def ended(self) -> SessionResult:
        """Wait for the session's end, however often it has continued as new; nothing in it may have failed."""
        async with asyncio.timeout(WITHIN_S):
            result: SessionResult = await self.handle.result()
        for history in await self.runs():
            assert_no_task_failed(history)
        (end,) = [step for step in self.stage.hands.steps(names.END_SESSION) if step.session_id == self.session_id]
        assert SessionState(end.state) is result.state
        return result

    async def runs(self) -> list[WorkflowHistory]:
        """The histories of all runs, the first one first."""
        run_id, found = self.handle.first_execution_run_id, []
        while run_id:
            history = await self.stage.client.get_workflow_handle(self.handle.id, run_id=run_id).fetch_history()
            found.append(history)
            run_id = history.events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
        return found

    async def events(self) -> list[str]:
        """The types of the latest run's events."""
        return event_names((await self.runs())[-1])

    async def job(self, job_id: str) -> JobResult:
        """Wait for a job's success."""
        async with asyncio.timeout(WITHIN_S):
            handle = self.stage.client.get_workflow_handle(names.job_workflow_id(job_id), result_type=JobResult)
            while True:
                if (await self.statuses([job_id]))[job_id] is not None:
                    result: JobResult = await handle.result()
                    return result
                await asyncio.sleep(0.02)

    async def statuses(self, jobs: Iterable[str]) -> dict[str, WorkflowExecutionStatus | None]:
        """What Temporal says of jobs; None for one it does not know."""
        return {job: await self._status(job) for job in jobs}

    async def _status(self, job: str) -> WorkflowExecutionStatus | None:
        try:
            return (await self.stage.client.get_workflow_handle(names.job_workflow_id(job)).describe()).status
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise


def lived(history: WorkflowHistory) -> timedelta:
    """How long a run lived, by its own clock."""
    return history.events[-1].event_time.ToDatetime() - history.events[0].event_time.ToDatetime()


def input_of(history: WorkflowHistory) -> SessionInput:
    """What a run was started with."""
    stored = history.events[0].workflow_execution_started_event_attributes.input.payloads[0].data
    return SessionInput.model_validate_json(stored)


def timers(history: WorkflowHistory) -> int:
    """How many timers a run has started."""
    return event_names(history).count("TIMER_STARTED")
