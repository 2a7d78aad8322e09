"""What the workflow `Job` hands to its five activities and gets back: references, counts and verdicts."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from dogwatch.contracts.agent import Usage, Verdict
from dogwatch.contracts.base import Contract, JobId, SessionId, TenantId
from dogwatch.contracts.job import Ending, JobRequest
from dogwatch.contracts.sandbox import SandboxRef
from dogwatch.contracts.workspace import Changes, ManifestRef


class PrepareInput(Contract):
    """What `prepare_sandbox` needs."""

    job_id: JobId
    """The job."""
    attempt: Annotated[int, Field(ge=1)]
    """Number of the attempt."""
    request: JobRequest
    """The job's request; the row is made from it where no door has written one."""
    run_s: Annotated[float, Field(gt=0)]
    """Seconds the agent may still work."""
    budget_usd: Annotated[float, Field(gt=0)]
    """Dollars the job may still spend."""


class Prepared(Contract):
    """A sandbox with the workspace in it and the agent started."""

    sandbox: SandboxRef
    """Where."""
    conversation: Literal["new", "resumed"]
    """Whether the agent goes on with an earlier conversation."""
    summary: Annotated[str, Field(max_length=200)] = ""
    """Provider, isolation and files pushed, in a line for the Temporal UI."""


class AttemptRef(Contract):
    """An attempt and its sandbox: what `run_agent` needs to attach."""

    job_id: JobId
    """The job."""
    attempt: Annotated[int, Field(ge=1)]
    """Number of the attempt."""
    sandbox: SandboxRef
    """Where it runs."""
    run_s: Annotated[float, Field(gt=0)]
    """Seconds the agent may work."""
    cancel_grace_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds between TERM and KILL when the agent is ended."""


class RunPhase(StrEnum):
    """What `run_agent` is doing, in its heartbeat."""

    ATTACHING = "attaching"
    FOLLOWING = "following"
    ENDED = "ended"


class RunProgress(Contract):
    """Heartbeat of `run_agent`: live progress in the Temporal UI. The truth is in Postgres; this may be stale."""

    phase: RunPhase
    """What it is doing."""
    events: int = 0
    """Events stored so far."""
    turns: int = 0
    """Agent turns so far."""
    cost_usd: float = 0.0
    """Dollars so far, a lower bound until the run has ended."""
    last: Annotated[str, Field(max_length=200)] = ""
    """The last thing the agent did, in a line."""


class AttemptOutcome(Contract):
    """How an attempt's run ended."""

    verdict: Verdict
    """The reason."""
    usage: Usage = Usage()
    """What this attempt used."""
    text: Annotated[str, Field(max_length=2100)] = ""
    """The agent's last words, up to 2,000 characters."""
    events: int = 0
    """Events of the job stored so far."""


class StopReason(StrEnum):
    """Why a running agent is ended from outside."""

    CANCEL = "cancel"
    DEADLINE = "deadline"
    BUDGET = "budget"


class StopInput(Contract):
    """What `stop_agent` needs."""

    job_id: JobId
    """The job, whichever attempt of it is alive."""
    reason: StopReason
    """Why."""
    grace_s: float = 5.0
    """Seconds between TERM and KILL."""


class Stopped(Contract):
    """What `stop_agent` found and did."""

    found: Literal["running", "not_started", "ended", "no_sandbox", "lost"]
    """State of the attempt when the stop came."""
    survivors: int = 0
    """Processes that could not be ended inside the sandbox; releasing it ends them."""


class CollectInput(Contract):
    """What `collect_results` needs."""

    job_id: JobId
    """The job."""
    attempt: Annotated[int, Field(ge=1)]
    """Number of the attempt."""
    sandbox: SandboxRef
    """Where the files are."""
    session_id: SessionId | None = None
    """The session that moves on with the result."""
    tenant: TenantId
    """Owner of the job."""
    verdict: Verdict
    """How the attempt ended."""
    ending: Ending | None = None
    """How the job ends; None when another attempt follows, which starts from what is collected here."""
    usage: Usage = Usage()
    """What the attempt used."""
    text: Annotated[str, Field(max_length=2100)] = ""
    """The agent's last words."""


class Collected(Contract):
    """What was collected, by reference."""

    workspace: ManifestRef | None = None
    """The files."""
    transcript: ManifestRef | None = None
    """The conversation."""
    changes: Changes = Changes()
    """How the files differ from the job's input."""
    usage: Usage = Usage()
    """Sum over all attempts of the job."""
    attempt_usage: Usage = Usage()
    """What this attempt used, its last lines included."""
    events: int = 0
    """Events of the job."""
    attempts: int = 0
    """Executions of the agent."""


class ReleaseInput(Contract):
    """What `release_sandbox` needs."""

    job_id: JobId
    """The job; its sandboxes are found by attempt, also those that a half-done preparation left."""
    request: JobRequest
    """The job's request, for a job that ended before it had a row."""
    ending: Ending | None = None
    """Written where the row has not ended yet; None when another attempt follows."""


class Released(Contract):
    """What `release_sandbox` ended."""

    sandboxes: int = 0
    """Sandboxes that were terminated now."""
    ending: Ending | None = None
    """How the job's row says that it ended: the word that holds."""


class EndSession(Contract):
    """What `end_session` needs."""

    session_id: SessionId
    """The session."""
    state: Literal["closed", "expired"]
    """How it ended."""
    withdrawn: tuple[JobId, ...] = ()
    """Jobs that never ran."""
