"""One job: prepare, run, collect, release, as often as its attempts allow; then on to activities/prepare.py."""

import asyncio
from datetime import datetime, timedelta
from functools import reduce
from typing import Self

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.collect import Collect
    from activities.prepare import Prepare
    from activities.release import Release
    from activities.run import Run
    from activities.stop import Stop
    from dogwatch import errors, names
    from dogwatch.contracts.agent import Usage, Verdict, VerdictCode
    from dogwatch.contracts.job import Ending, JobRequest, JobResult, JobStatus
    from dogwatch.contracts.sandbox import SandboxRef
    from dogwatch.contracts.steps import (
        AttemptRef,
        Collected,
        CollectInput,
        PrepareInput,
        ReleaseInput,
        StopInput,
        StopReason,
    )
    from dogwatch.contracts.workspace import InlineWorkspace
    from workflows import policies
    from workflows.attempt import Attempt
    from workflows.ending import CANCELLED, ending_of, verdict_of
    from workflows.refusal import expect_one, expect_small, refusal
    from workflows.shield import certain, order, step


@workflow.defn(name=names.JOB, failure_exception_types=[errors.DogwatchError])
class Job:
    """Runs the agent on a workspace until it has ended for good, and always releases the sandbox.

    Succeeds with a JobResult, fails with an ApplicationError whose type is the verdict's code and whose details hold the JobResult, or ends
    cancelled. The row in Postgres says the same.
    """

    def __new__(cls, *arguments: object) -> Self:
        """Before `__init__` could fail on them."""
        expect_one(JobRequest, arguments)
        return super().__new__(cls)

    @workflow.init
    def __init__(self, request: JobRequest) -> None:
        """The state is complete before the first step."""
        self.request = request
        self.job_id = names.job_id_of(workflow.info().workflow_id) or ""
        self.attempts: list[Attempt] = []
        self.deadline: datetime | None = None
        self.cancelled = False
        self.collected: Collected | None = None

    @workflow.run
    async def run(self, request: JobRequest) -> JobResult:
        """The story of a job."""
        self._refuse_what_cannot_be()
        # No `finally`: errors and cancels come as values, and a run that a stopping worker drops must not order steps when it is collected.
        ending = await self._attempt_until_ended()
        self._show("releasing")
        released = await certain(
            order(
                Release.release_sandbox,
                ReleaseInput(job_id=self.job_id, request=request, ending=ending),
                policies.RELEASE,
                "release the sandbox, settle the row",
            )
        )
        return self._conclude(released.value.ending if released.value and released.value.ending else ending)

    def _refuse_what_cannot_be(self) -> None:
        if not self.job_id:
            raise refusal(errors.BadJobId())
        if isinstance(self.request.workspace, InlineWorkspace):
            raise refusal(errors.InlineFilesRefused())
        expect_small(self.request)

    async def _attempt_until_ended(self) -> Ending:
        while True:
            attempt = Attempt(len(self.attempts) + 1)
            self.attempts.append(attempt)
            await self._execute(attempt)
            pause = self._pause_before_next(attempt)
            ending = None if pause is not None else self._ending(attempt)
            ending, pause = await self._collect(attempt, ending, pause)
            if ending is not None:
                return ending
            if pause is None or not await self._release_and_wait(attempt, pause):
                return CANCELLED

    async def _execute(self, attempt: Attempt) -> None:
        """Prepare and run; `attempt` says how it came out. A cancel stops the agent in its living sandbox, so that its files can be had."""
        self._show("preparing")
        left = self._seconds_left()
        prepared = await step(
            order(
                Prepare.prepare_sandbox,
                PrepareInput(job_id=self.job_id, attempt=attempt.number, request=self.request, run_s=left, budget_usd=self._budget_left()),
                policies.PREPARE,
                f"attempt {attempt.number}: sandbox, workspace, start the agent",
            ),
            on_cancel=lambda: self._stop(StopReason.CANCEL),
        )
        if prepared.value is not None:
            attempt.sandbox = prepared.value.sandbox
        if prepared.cancelled:
            self.cancelled, attempt.verdict = True, CANCELLED.verdict
        elif prepared.error is not None:
            attempt.verdict = verdict_of(prepared.error)
        elif prepared.value is not None:
            self.deadline = self.deadline or workflow.now() + timedelta(seconds=left)
            await self._follow(attempt, prepared.value.sandbox)

    async def _follow(self, attempt: Attempt, sandbox: SandboxRef) -> None:
        self._show("running")
        left = self._seconds_left()
        ran = await step(
            order(
                Run.run_agent,
                AttemptRef(
                    job_id=self.job_id, attempt=attempt.number, sandbox=sandbox, run_s=left, cancel_grace_s=self.request.cancel_grace_s
                ),
                policies.run(left + self.request.cancel_grace_s),
                f"attempt {attempt.number}: follow the agent",
            ),
            on_cancel=lambda: self._stop(StopReason.CANCEL),
        )
        if ran.value is not None:
            attempt.verdict, attempt.usage, attempt.text = ran.value.verdict, ran.value.usage, ran.value.text
        elif ran.error is not None:
            attempt.verdict = verdict_of(ran.error)
        if ran.cancelled:
            self.cancelled, attempt.verdict = True, CANCELLED.verdict
        elif attempt.verdict is not None and attempt.verdict.code in (VerdictCode.DEADLINE, VerdictCode.BUDGET_EXCEEDED):
            await self._stop(StopReason.DEADLINE if attempt.verdict.code is VerdictCode.DEADLINE else StopReason.BUDGET)
        elif ran.error is not None:
            await self._stop(StopReason.CANCEL)  # nobody follows any more: it must not go on alone

    async def _stop(self, reason: StopReason) -> None:
        """End the agent inside its sandbox. Where that fails, releasing the sandbox is the last word."""
        self._show("stopping")
        held = await certain(
            order(
                Stop.stop_agent,
                StopInput(job_id=self.job_id, reason=reason, grace_s=self.request.cancel_grace_s),
                policies.STOP,
                f"stop the agent: {reason}",
            )
        )
        self.cancelled = self.cancelled or held.cancelled

    async def _collect(self, attempt: Attempt, ending: Ending | None, pause: timedelta | None) -> tuple[Ending | None, timedelta | None]:
        """Save what the attempt left: as the result with an ending, as the next attempt's start without one."""
        verdict = self._verdict(attempt)
        if attempt.sandbox is None:
            return ending, pause
        self._show("collecting")
        held = await certain(
            order(
                Collect.collect_results,
                CollectInput(
                    job_id=self.job_id,
                    attempt=attempt.number,
                    sandbox=attempt.sandbox,
                    session_id=self.request.session_id,
                    tenant=self.request.tenant,
                    verdict=verdict,
                    ending=ending,
                    usage=attempt.usage,
                    text=attempt.text,
                ),
                policies.COLLECT,
                f"attempt {attempt.number}: files, transcript, usage" if ending else f"attempt {attempt.number}: save for the next",
            )
        )
        if held.value is not None:
            self._keep(held.value)
            attempt.usage = held.value.attempt_usage
        elif held.error is not None and (ending is None or ending.status is JobStatus.SUCCEEDED):
            attempt.verdict = verdict_of(held.error)  # success without its files is none
            pause = self._pause_before_next(attempt)
            ending = None if pause is not None else self._ending(attempt)
        if held.cancelled and ending is None:
            self.cancelled, ending, pause = True, CANCELLED, None
        return ending, pause

    def _keep(self, collected: Collected) -> None:
        """What was saved last is the result; an attempt that lost its sandbox saves its usage only."""
        before = self.collected or collected
        refs = {"workspace": collected.workspace or before.workspace, "transcript": collected.transcript or before.transcript}
        self.collected = collected.model_copy(update=refs)

    async def _release_and_wait(self, attempt: Attempt, pause: timedelta) -> bool:
        """Between two attempts; False when the job was cancelled meanwhile."""
        self._show("releasing")
        released = await certain(
            order(
                Release.release_sandbox,
                ReleaseInput(job_id=self.job_id, request=self.request),
                policies.RELEASE,
                f"attempt {attempt.number}: release the sandbox",
            )
        )
        self.cancelled = released.cancelled
        if not self.cancelled:
            self._show("waiting")
            try:
                await workflow.sleep(pause, summary=attempt.decision)
            except asyncio.CancelledError:
                self.cancelled = True
        return not self.cancelled

    def _pause_before_next(self, attempt: Attempt) -> timedelta | None:
        """The decision after an attempt: how long to wait before another one, or None when the job ends with this one."""
        verdict = self._verdict(attempt)
        pause = policies.backoff(attempt.number, verdict.code)
        if self.cancelled or not verdict.transient:
            attempt.decision = "final"
        elif attempt.number >= self.request.max_attempts:
            attempt.decision = f"final: {self.request.max_attempts} attempts are the limit"
        elif self._budget_left() <= 0:
            attempt.decision = "final: the budget is spent"
        elif pause.total_seconds() >= self._seconds_left():
            attempt.decision = "final: no time is left"
        else:
            attempt.decision = f"attempt {attempt.number + 1} follows {verdict.code} after {pause.total_seconds():g} s"
            return pause
        return None

    def _ending(self, attempt: Attempt) -> Ending:
        """How the job ends with this attempt: a cancel that came before is the reason where another attempt would have followed."""
        verdict = self._verdict(attempt)
        return CANCELLED if self.cancelled and verdict.transient else ending_of(verdict)

    def _verdict(self, attempt: Attempt) -> Verdict:
        return attempt.verdict or Verdict(code=VerdictCode.NO_RESULT, message="the attempt left no verdict")

    def _seconds_left(self) -> float:
        """Of the agent's time; at least one, so that a late attempt ends in order."""
        if self.deadline is None:
            return self.request.timeout_s
        return max(1.0, (self.deadline - workflow.now()).total_seconds())

    def _budget_left(self) -> float:
        return self.request.task.options.max_cost_usd - sum(attempt.usage.cost_usd for attempt in self.attempts)

    def _conclude(self, ending: Ending) -> JobResult:
        self._show(ending.status)
        result = self._result(ending)
        if ending.status is JobStatus.CANCELLED and self.cancelled:
            raise asyncio.CancelledError
        if ending.status is not JobStatus.SUCCEEDED:
            verdict = ending.verdict
            message = f"{verdict.message} {verdict.remedy}".strip() or verdict.code
            raise ApplicationError(message, result, type=verdict.error_code or verdict.code, non_retryable=True)
        return result

    def _result(self, ending: Ending) -> JobResult:
        collected = self.collected or Collected()
        return JobResult(
            job_id=self.job_id,
            session_id=self.request.session_id,
            status=ending.status,
            verdict=ending.verdict,
            attempts=len(self.attempts),
            usage=reduce(Usage.plus, (attempt.usage for attempt in self.attempts)),
            text=self.attempts[-1].text,
            workspace=collected.workspace,
            transcript=collected.transcript,
            changes=collected.changes,
            events=collected.events,
        )

    def _show(self, phase: str) -> None:
        """What the Temporal UI shows of a job: the phase, and a line for each attempt with its cause, decision and cost. Costs no event."""
        lines = [f"**{phase}**", ""]
        if self.deadline is not None:
            lines.append(f"agent's deadline {self.deadline:%Y-%m-%d %H:%M:%S} UTC")
        for attempt in self.attempts:
            code = attempt.verdict.code if attempt.verdict else "under way"
            where = f" in {attempt.sandbox.name}" if attempt.sandbox else ""
            lines += ["", f"attempt {attempt.number}{where}: **{code}**, ${attempt.usage.cost_usd:.4f}"]
            lines += [attempt.decision] if attempt.decision else []
        workflow.set_current_details("\n".join(lines))
