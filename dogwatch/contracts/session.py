"""A session: a workspace that outlives jobs, with a sliding time to live."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from dogwatch.contracts.base import Contract, JobId, SessionId, TenantId, Utc
from dogwatch.contracts.job import JobRequest
from dogwatch.contracts.workspace import FileView, ManifestRef, Upload

DEFAULT_TTL_S = 3600.0
"""Seconds a session lives after its last job or extension."""
MAX_QUEUED_JOBS = 100
"""Most jobs that wait in one session."""


class SessionState(StrEnum):
    """Where a session is. It moves forward only."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    EXPIRED = "expired"

    @property
    def rank(self) -> int:
        """Position in the order of states; the last two are final."""
        return {"open": 0, "closing": 1}.get(self.value, 9)

    @property
    def terminal(self) -> bool:
        """Whether the session has ended."""
        return self.rank == 9


class SessionRequest(Contract):
    """What a client sends to open a session."""

    upload: Upload = Upload()
    """The first files of the workspace."""
    ttl_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = DEFAULT_TTL_S
    """Seconds to live after the last job or extension; slides forward only."""
    labels: dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=200)]] = {}
    """Free text for the caller's own use."""


class QueuedJob(Contract):
    """A job that waits in a session."""

    job_id: JobId
    """The job."""
    request: JobRequest
    """What it is asked."""


class SessionInput(Contract):
    """The input of the workflow `Session`, and all it carries when it continues as new."""

    session_id: SessionId
    """The session."""
    tenant: TenantId = "default"
    """Its owner."""
    ttl_s: Annotated[float, Field(gt=0)] = DEFAULT_TTL_S
    """Seconds to live after the last job or extension."""
    expires_at: Utc | None = None
    """The deadline so far; None on the first run."""
    queue: tuple[QueuedJob, ...] = ()
    """Jobs that wait, next one first."""
    seen: tuple[JobId, ...] = ()
    """Jobs of late, so that a repeated submission is recognised."""
    jobs_done: int = 0
    """Jobs that have ended."""
    continue_after: Annotated[int, Field(ge=1)] | None = None
    """Continue as new after so many jobs in one run; None leaves it to the server's suggestion."""


class JobSubmitted(Contract):
    """The answer to a job submitted to a session."""

    job_id: JobId
    """The job."""
    position: int
    """Jobs that run or wait before it."""


class SessionResult(Contract):
    """What the workflow `Session` returns."""

    session_id: SessionId
    """The session."""
    state: SessionState
    """How it ended: closed or expired."""
    jobs: int
    """Jobs that have ended in it."""


class SessionView(Contract):
    """A session as the doors show it."""

    session_id: SessionId
    """The session."""
    tenant: TenantId
    """Its owner."""
    state: SessionState
    """Where it is."""
    created_at: Utc
    """When it was opened."""
    expires_at: Utc
    """When it ends if nothing happens before."""
    ttl_s: float
    """Seconds to live after the last job or extension."""
    latest_job_id: JobId | None = None
    """The job that ended last."""
    workspace: ManifestRef | None = None
    """Its files now."""
    input_files: tuple[FileView, ...] = ()
    """The files it was opened with, in answers to its creation."""
    workflow_id: str
    """Where to look in the Temporal UI."""
    labels: dict[str, str] = {}
    """The caller's own words."""
