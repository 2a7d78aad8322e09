"""A job and a session, held by their ids."""

from datetime import datetime, timedelta

from temporalio import client as temporal
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError

from dogwatch import names
from dogwatch.client.refusal import answered, of_failure
from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.contracts.job import JobRequest, JobResult, JobStatus
from dogwatch.contracts.session import JobSubmitted, QueuedJob, SessionResult
from dogwatch.contracts.workspace import SessionWorkspace

UPDATE_WITHIN_S = 15.0
"""Longest wait for a session's answer, which needs a worker."""


class JobHandle:
    """One job. Making a handle asks nobody; its job may be unknown."""

    def __init__(self, client: temporal.Client, job_id: str, deadline_s: float) -> None:
        """Use `Client.start_job` or `Client.job`."""
        self.job_id = job_id
        self.workflow_id = names.job_workflow_id(job_id)
        self._deadline_s = deadline_s
        self._workflow: temporal.WorkflowHandle[object, JobResult] = client.get_workflow_handle(self.workflow_id, result_type=JobResult)

    async def result(self) -> JobResult:
        """Wait for the end; the result's `status` and `verdict` say how it came. Any failure of the job is a result and never raised.

        Of a cancelled job the workflow keeps the verdict only; the files and figures are behind the HTTP door. Raises NotFound for a job
        that Temporal does not know, InvalidRequest for one that was refused, TemporalUnavailable.
        """
        async with answered(None):
            try:
                return await self._workflow.result()
            except temporal.WorkflowFailureError as failure:
                return self._result_of(failure.cause)

    async def cancel(self) -> None:
        """Ask the job to end. What its agent has done by then is kept; `result` tells when that is so.

        A job that has ended stays as it is. Raises NotFound, TemporalUnavailable.
        """
        async with answered(self._deadline_s):
            await self._workflow.cancel(rpc_timeout=timedelta(seconds=self._deadline_s))

    def _result_of(self, cause: BaseException) -> JobResult:
        if isinstance(cause, CancelledError):
            return self._without_result(JobStatus.CANCELLED, VerdictCode.CANCELLED, "The job was cancelled.")
        if isinstance(cause, TerminatedError):
            return self._without_result(JobStatus.FAILED, VerdictCode.ORPHANED, "The job's workflow was terminated.")
        if isinstance(cause, ApplicationError) and cause.details:
            return JobResult.model_validate(cause.details[0])
        raise of_failure(cause)

    def _without_result(self, status: JobStatus, code: VerdictCode, message: str) -> JobResult:
        return JobResult(job_id=self.job_id, status=status, verdict=Verdict(code=code, message=message))


class SessionHandle:
    """One session. Making a handle asks nobody; its session may be unknown."""

    def __init__(self, client: temporal.Client, session_id: str, deadline_s: float) -> None:
        """Use `Client.open_session` or `Client.session`."""
        self.session_id = session_id
        self.workflow_id = names.session_workflow_id(session_id)
        self._client = client
        self._deadline_s = deadline_s
        self._workflow: temporal.WorkflowHandle[object, SessionResult] = client.get_workflow_handle(
            self.workflow_id, result_type=SessionResult
        )

    async def submit(self, request: JobRequest, job_id: str | None = None) -> JobHandle:
        """Put a job into the session's queue; it works on the session's files. The same `job_id` again is the same job.

        Raises SessionClosing, SessionFull, SessionGone, NotFound where the session has ended, TemporalUnavailable.
        """
        job_id = job_id or names.new_id()
        changes = {"session_id": self.session_id, "workspace": SessionWorkspace()}
        await self.enqueue(QueuedJob(job_id=job_id, request=request.model_copy(update=changes)))
        return JobHandle(self._client, job_id, self._deadline_s)

    async def enqueue(self, job: QueuedJob) -> JobSubmitted:
        """The same for a request that is complete; tells how many jobs are ahead."""
        async with answered(UPDATE_WITHIN_S):
            submitted: JobSubmitted = await self._workflow.execute_update(
                names.SUBMIT_JOB, job, id=job.job_id, result_type=JobSubmitted, rpc_timeout=timedelta(seconds=UPDATE_WITHIN_S)
            )
        return submitted

    async def withdraw(self, job_id: str) -> bool:
        """Take a job that waits out of the queue; False where it does not wait, or not any more. Raises NotFound, TemporalUnavailable."""
        async with answered(UPDATE_WITHIN_S):
            withdrawn: bool = await self._workflow.execute_update(
                names.WITHDRAW_JOB, job_id, result_type=bool, rpc_timeout=timedelta(seconds=UPDATE_WITHIN_S)
            )
        return withdrawn

    async def extend(self, seconds: float) -> datetime:
        """Let the session live at least so many seconds from now; returns when it ends. Raises as `submit`."""
        async with answered(UPDATE_WITHIN_S):
            end: datetime = await self._workflow.execute_update(
                names.EXTEND, seconds, result_type=datetime, rpc_timeout=timedelta(seconds=UPDATE_WITHIN_S)
            )
        return end

    async def close(self, *, cancel: bool = False) -> None:
        """Take no more jobs and withdraw those that wait; the running one finishes, or is cancelled with `cancel`. Raises as `submit`."""
        async with answered(UPDATE_WITHIN_S):
            await self._workflow.execute_update(names.CLOSE, cancel, rpc_timeout=timedelta(seconds=UPDATE_WITHIN_S))

    async def result(self) -> SessionResult:
        """Wait for the session's end. Raises NotFound, TemporalUnavailable."""
        async with answered(None):
            try:
                return await self._workflow.result()
            except temporal.WorkflowFailureError as failure:
                raise of_failure(failure.cause) from failure
