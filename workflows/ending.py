"""From what went wrong to how a job ends: errors to verdicts, verdicts to endings."""

from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError

from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.contracts.job import Ending, JobStatus
from dogwatch.errors import ERRORS, SandboxLost

_STATUS = {
    VerdictCode.SUCCESS: JobStatus.SUCCEEDED,
    VerdictCode.DEADLINE: JobStatus.TIMED_OUT,
    VerdictCode.CANCELLED: JobStatus.CANCELLED,
    VerdictCode.WITHDRAWN: JobStatus.CANCELLED,
}

CANCELLED = Ending(
    status=JobStatus.CANCELLED,
    verdict=Verdict(code=VerdictCode.CANCELLED, message="The job was cancelled; what the agent had done by then is kept."),
)


def ending_of(verdict: Verdict) -> Ending:
    """How a job ends whose last attempt came to this verdict."""
    return Ending(status=_STATUS.get(verdict.code, JobStatus.FAILED), verdict=verdict)


def verdict_of(error: ActivityError) -> Verdict:
    """What a failed step means for its attempt. Its retries are behind it, so it is final unless the sandbox was lost."""
    cause = error.cause
    if isinstance(cause, TimeoutError) and error.activity_type == "run_agent":
        return Verdict(
            code=VerdictCode.DEADLINE, message="The agent's time was over.", remedy="Allow more with timeout_s, or ask for less in one job."
        )
    if isinstance(cause, TimeoutError):
        return Verdict(
            code=VerdictCode.INFRASTRUCTURE,
            error_code="step_timeout",
            message=f"The step {error.activity_type} did not end in time.",
            remedy="Look at the step in the Temporal UI and at the workers' logs.",
        )
    if isinstance(cause, ApplicationError):
        lost = cause.type == SandboxLost.code
        known = ERRORS.get(cause.type or "")
        return Verdict(
            code=VerdictCode.SANDBOX_LOST if lost else VerdictCode.INFRASTRUCTURE,
            transient=lost,
            error_code=(cause.type or "")[:64] or None,
            message=cause.message.partition(f" [{cause.type}]")[0][:2000],  # what follows is the remedy
            remedy=known.remedy if known else "Look at the step in the Temporal UI and at the workers' logs.",
        )
    return Verdict(
        code=VerdictCode.INFRASTRUCTURE,
        error_code="step_failed",
        message=f"The step {error.activity_type} failed: {type(cause).__name__ if cause else 'cancelled'}.",
        remedy="Look at the step in the Temporal UI and at the workers' logs.",
    )
