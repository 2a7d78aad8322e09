"""One session: jobs one at a time on one workspace, until its time is over or it is closed."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal, Self

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.session import Sessions
    from dogwatch import errors, names
    from dogwatch.contracts.base import JobId
    from dogwatch.contracts.job import JobResult
    from dogwatch.contracts.session import (
        MAX_QUEUED_JOBS,
        JobSubmitted,
        QueuedJob,
        SessionInput,
        SessionResult,
        SessionState,
    )
    from dogwatch.contracts.steps import EndSession
    from workflows import policies
    from workflows.refusal import expect_one, expect_small, refusal
    from workflows.shield import certain, order


_ATTRIBUTES = [SearchAttributeKey.for_keyword(name) for name in names.SEARCH_ATTRIBUTES]
"""Tenant and session, by which a job is found."""
_ENDED = (ChildWorkflowError, WorkflowAlreadyStartedError)
"""A job's row and its own history say how it ended; one that ran before, under the same id, does not run again."""


@workflow.defn(name=names.SESSION, failure_exception_types=[errors.DogwatchError])
class Session:
    """Runs jobs as children of their own, each of which outlives this run of the session; continues as new between two jobs only."""

    def __new__(cls, *arguments: object) -> Self:
        """Before `__init__` could fail on them."""
        expect_one(SessionInput, arguments)
        return super().__new__(cls)

    @workflow.init
    def __init__(self, state: SessionInput) -> None:
        """All state that is carried over is in `state`; a continuation never renews the time to live."""
        self.input = state
        self.ttl = timedelta(seconds=state.ttl_s)
        self.expires_at: datetime = state.expires_at or workflow.now() + self.ttl
        self.queue = list(state.queue)
        self.seen = list(state.seen)
        self.done = state.jobs_done
        self.here = 0
        self.running: JobId | None = None
        self.child: workflow.ChildWorkflowHandle[object, JobResult] | None = None
        self.closing = self.cancelling = False
        self._attributes = TypedSearchAttributes(
            [SearchAttributePair(key, value) for key, value in zip(_ATTRIBUTES, (state.tenant, state.session_id), strict=True)]
        )

    # --- messages -----------------------------------------------------------------------------------------------------------------

    @workflow.update(name=names.SUBMIT_JOB)
    def submit_job(self, job: QueuedJob) -> JobSubmitted:
        """Put a job into the queue. The same job again gets the same answer."""
        ahead = [queued.job_id for queued in self.queue]
        if job.job_id not in self.seen:
            self.queue.append(job)
            self.seen = [*self.seen, job.job_id][-policies.SESSION_SEEN :]
            self._show()
        elif job.job_id in ahead:
            ahead = ahead[: ahead.index(job.job_id)]
        else:
            return JobSubmitted(job_id=job.job_id, position=0)
        return JobSubmitted(job_id=job.job_id, position=len(ahead) + (self.running is not None))

    @submit_job.validator
    def _may_submit(self, job: QueuedJob) -> None:
        if job.job_id in self.seen:
            return
        self._refuse_when_ending()
        size = sum(expect_small(queued.request) for queued in (job, *self.queue))
        if len(self.queue) >= MAX_QUEUED_JOBS or size > policies.SESSION_BYTES:
            raise refusal(errors.SessionFull())
        if job.request.session_id != self.input.session_id or job.request.tenant != self.input.tenant:
            raise refusal(errors.InvalidRequest("the job names another session or tenant"))

    @workflow.update(name=names.WITHDRAW_JOB)
    def withdraw_job(self, job_id: str) -> bool:
        """Take a job that waits out of the queue, for good; False where it does not wait, or not any more."""
        waiting = [queued for queued in self.queue if queued.job_id != job_id]
        withdrawn = len(waiting) < len(self.queue)
        self.queue = waiting
        self._show()
        return withdrawn

    @workflow.update(name=names.EXTEND)
    def extend(self, seconds: float) -> datetime:
        """Move the end to `seconds` from now, if that is later; returns the end."""
        self.expires_at = max(self.expires_at, workflow.now() + timedelta(seconds=seconds))
        self._show()
        return self.expires_at

    @extend.validator
    def _may_extend(self, seconds: float) -> None:
        self._refuse_when_ending()
        if not 0 < seconds <= 30 * 86_400:
            raise refusal(errors.OutOfRange("extend by more than 0 and at most 2,592,000 seconds"))

    @workflow.update(name=names.CLOSE)
    async def close(self, cancel: bool) -> None:
        """Take no more jobs and withdraw those that wait; with `cancel` also end the running one. Answers when that is under way."""
        self.closing = True
        self.cancelling = self.cancelling or cancel
        if cancel and self.child is not None:
            self.child.cancel()
        self._show()

    # --- the life -----------------------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, state: SessionInput) -> SessionResult:
        """One job after the other; closed, expired or cancelled, it ends in order."""
        clock = asyncio.create_task(self._watch_the_clock())
        self._show()
        cancelled = False
        try:
            await self._live()
        except asyncio.CancelledError:
            cancelled = True
        clock.cancel()
        result = await self._end(SessionState.CLOSED if self.closing or cancelled else SessionState.EXPIRED)
        if cancelled:
            raise asyncio.CancelledError
        return result

    async def _live(self) -> None:
        while True:
            await workflow.wait_condition(lambda: bool(self.queue) or self.closing or self._over() or self._turn_over())
            if self.closing or self._over():
                return
            if self._turn_over():
                await workflow.wait_condition(workflow.all_handlers_finished)
                if not self.closing:  # by one of them
                    workflow.continue_as_new(self._state())
            else:
                await self._run_job(self.queue.pop(0))
                self.done, self.here = self.done + 1, self.here + 1
                self.expires_at = max(self.expires_at, workflow.now() + self.ttl)

    async def _run_job(self, job: QueuedJob) -> None:
        """One child. Both awaits are shielded: a request made in the workflow task that closes the session would never be sent."""
        self.running = job.job_id
        self._show()
        starting = asyncio.create_task(
            workflow.start_child_workflow(
                names.JOB,
                job.request,
                id=names.job_workflow_id(job.job_id),
                result_type=JobResult,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=_one_line(job),
                search_attributes=self._attributes,
            )
        )
        cancelled = False
        try:
            with suppress(*_ENDED):
                child = await asyncio.shield(starting)
                self.child = child
                if self.cancelling:
                    child.cancel()
                await asyncio.shield(child)
        except asyncio.CancelledError:
            cancelled = True
            with suppress(*_ENDED):
                child = await starting
                child.cancel()
                await child
        self.running, self.child = None, None
        self._show()
        if cancelled:
            raise asyncio.CancelledError

    async def _end(self, state: SessionState) -> SessionResult:
        self.closing = True
        withdrawn = tuple(job.job_id for job in self.queue)
        self.queue.clear()
        word: Literal["closed", "expired"] = "expired" if state is SessionState.EXPIRED else "closed"
        await certain(
            order(
                Sessions.end_session,
                EndSession(session_id=self.input.session_id, state=word, withdrawn=withdrawn),
                policies.END_SESSION,
                f"{word}: settle the row" + (f", withdraw {len(withdrawn)} jobs" if withdrawn else ""),
            )
        )
        self._show(word)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return SessionResult(session_id=self.input.session_id, state=state, jobs=self.done)

    async def _watch_the_clock(self) -> None:
        """One lazy timer: it sleeps to the end as known when it began and then looks again, so that a touch costs no event."""
        while not self._over():
            await workflow.wait_condition(self._idle)
            await workflow.sleep(self.expires_at - workflow.now(), summary="time to live")

    # --- small verbs --------------------------------------------------------------------------------------------------------------

    def _idle(self) -> bool:
        return self.running is None and not self.queue

    def _over(self) -> bool:
        """Past its end, for good: an idle session that is over takes neither a job nor an extension."""
        return self._idle() and workflow.now() >= self.expires_at

    def _turn_over(self) -> bool:
        limit = self.input.continue_after
        return not self.closing and (workflow.info().is_continue_as_new_suggested() or (limit is not None and self.here >= limit))

    def _state(self) -> SessionInput:
        return self.input.model_copy(
            update={"expires_at": self.expires_at, "queue": tuple(self.queue), "seen": tuple(self.seen), "jobs_done": self.done}
        )

    def _refuse_when_ending(self) -> None:
        if self.closing:
            raise refusal(errors.SessionClosing())
        if self._over():
            raise refusal(errors.SessionGone())

    def _show(self, state: str | None = None) -> None:
        word = state or ("closing" if self.closing else "open")
        lines = [f"**{word}**, ends {self.expires_at:%Y-%m-%d %H:%M:%S} UTC unless something happens", ""]
        lines.append(
            f"{self.done} jobs done, {len(self.queue)} wait, running: {names.job_workflow_id(self.running) if self.running else 'none'}"
        )
        workflow.set_current_details("\n".join(lines))


def _one_line(job: QueuedJob) -> str:
    return names.one_line(job.request.task.prompt or "a long prompt")
