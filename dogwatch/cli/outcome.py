"""How commands end: one exit code for each kind of outcome."""

from typing import Final

from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import JobStatus, JobView
from dogwatch.errors import DogwatchError

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
TIMED_OUT: Final = 3
CANCELLED: Final = 4
INFRASTRUCTURE: Final = 5
INTERRUPTED: Final = 130

_BY_STATUS = {JobStatus.SUCCEEDED: OK, JobStatus.TIMED_OUT: TIMED_OUT, JobStatus.CANCELLED: CANCELLED}
_OURS = {VerdictCode.INFRASTRUCTURE, VerdictCode.SANDBOX_LOST, VerdictCode.SUPERVISOR_LOST, VerdictCode.ORPHANED}


def of_job(job: JobView) -> int:
    """0 succeeded, 1 failed, 3 timed out, 4 cancelled, 5 where not the agent but what runs it failed."""
    if job.status is JobStatus.FAILED and job.verdict is not None and job.verdict.code in _OURS:
        return INFRASTRUCTURE
    return _BY_STATUS.get(job.status, FAILED)


def of_error(error: DogwatchError) -> int:
    """2 for what was refused, 5 for what could not be served."""
    return REFUSED if error.http_status < 500 else INFRASTRUCTURE
