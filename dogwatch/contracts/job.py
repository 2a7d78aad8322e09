"""What a job is: the request a workflow takes, the result it gives, and the views the doors show."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from dogwatch.contracts.agent import AgentOptions, AgentTask, EnvName, SecretRef, Usage, Verdict, check_prompt
from dogwatch.contracts.base import Contract, JobId, SessionId, TenantId, Utc
from dogwatch.contracts.sandbox import Provider, SandboxSpec
from dogwatch.contracts.workspace import Changes, EmptyWorkspace, FileView, ManifestRef, SessionWorkspace, Upload, WorkspaceSource

DEFAULT_TIMEOUT_S = 600.0
"""Seconds the agent may work, all attempts together, unless the request says otherwise."""
MAX_TIMEOUT_S = 1800.0
"""Most seconds a request may ask for, unless the deployment's settings allow more."""

MAX_REQUEST_BYTES = 512 << 10
"""Bytes of a request as JSON: it stands in the input of several steps, each of which Temporal limits to 2 MiB."""


class JobStatus(StrEnum):
    """Where a job is. It moves forward only; the last four are final."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"

    @property
    def rank(self) -> int:
        """Position in the order of states; the final ones share the highest."""
        return {"accepted": 0, "queued": 1, "running": 2}.get(self.value, 9)

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.rank == 9


class AttemptState(StrEnum):
    """Where an attempt is. It moves forward only."""

    INTENDED = "intended"
    PREPARED = "prepared"
    LAUNCHING = "launching"
    RUNNING = "running"
    ENDED = "ended"

    @property
    def rank(self) -> int:
        """Position in the order of states."""
        return list(AttemptState).index(self)


Label = Annotated[str, Field(max_length=200)]
Task = AgentTask
"""What a job does. One kind today; more join as a union told apart by `kind`, which every task carries from the start."""


class JobRequest(Contract):
    """The input of the workflow `Job`: references only, so that histories stay small and free of secrets.

    Started by its name with JSON from any SDK or the `temporal` command line, under the workflow id `job/<job id>`.
    """

    task: Task
    """What to do."""
    workspace: WorkspaceSource = EmptyWorkspace()
    """Which files to start with. Inline files are refused here: upload them at the HTTP door, or name a manifest."""
    session_id: SessionId | None = None
    """Session the job belongs to; the session's workspace and conversation move on with it."""
    conversation: Literal["continue", "new"] = "continue"
    """Within a session: go on with its conversation, or begin a new one."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = DEFAULT_TIMEOUT_S
    """Seconds the agent may work, all attempts together. Preparing, collecting and releasing have time of their own."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Most executions of the agent. A further one follows only a lost sandbox or a transient verdict."""
    cancel_grace_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    """Seconds between TERM and KILL when the agent is ended."""
    sandbox: SandboxSpec = SandboxSpec()
    """Where to run."""
    tenant: TenantId = "default"
    """Owner of the job."""
    model_credential: SecretRef = "secret://model"
    """Secret that holds the key for the model's API."""
    secrets: dict[EnvName, SecretRef] = {}
    """Further secrets for the agent, by the environment variable that carries each. The agent can read them."""
    labels: dict[Label, Label] = {}
    """Free text for the caller's own use; shown, never acted on."""

    @model_validator(mode="after")
    def _session_workspace(self) -> Self:
        if isinstance(self.workspace, SessionWorkspace) and self.session_id is None:
            raise PydanticCustomError("session_missing", "a session's workspace needs session_id")
        return self


class JobSubmission(Contract):
    """What a client sends to the HTTP door to have a job run."""

    prompt: Annotated[str, AfterValidator(lambda text: check_prompt(text, allow_slash_commands=True))]
    """The request to the agent; reaches it byte for byte."""
    options: AgentOptions = AgentOptions()
    """How the CLI is run."""
    upload: Upload | None = None
    """Files for a job of its own; a job in a session works on the session's files."""
    workspace: WorkspaceSource | None = None
    """Files by reference, instead of an upload."""
    conversation: Literal["continue", "new"] = "continue"
    """Within a session: go on with its conversation, or begin a new one."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = DEFAULT_TIMEOUT_S
    """Seconds the agent may work, all attempts together."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Most executions of the agent."""
    cancel_grace_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    """Seconds between TERM and KILL when the agent is ended."""
    sandbox: SandboxSpec = SandboxSpec()
    """Where to run."""
    model_credential: SecretRef = "secret://model"
    """Secret that holds the key for the model's API."""
    secrets: dict[EnvName, SecretRef] = {}
    """Further secrets for the agent, by environment variable."""
    labels: dict[Label, Label] = {}
    """Free text for the caller's own use."""

    @model_validator(mode="after")
    def _slash_and_files(self) -> Self:
        check_prompt(self.prompt, allow_slash_commands=self.options.allow_slash_commands)
        if self.upload is not None and self.workspace is not None:
            raise PydanticCustomError("two_workspaces", "give upload or workspace, not both")
        return self


class Ending(Contract):
    """How a job ends, decided once by its workflow before the results are collected."""

    status: JobStatus
    """The final status."""
    verdict: Verdict
    """The reason."""


class AttemptView(Contract):
    """One execution of the agent for a job."""

    number: int
    """From 1."""
    state: AttemptState
    """Where it is."""
    cause: Literal["first", "resumed", "restarted"]
    """Why it exists: the first one, one that resumed the conversation of the one before, or one that had to start over."""
    sandbox: str | None = None
    """The provider's id of its sandbox."""
    provider: Provider | None = None
    """Make of its sandbox."""
    verdict: Verdict | None = None
    """How it ended."""
    usage: Usage = Usage()
    """What it used."""
    cli_version: str | None = None
    """Version the CLI reported."""
    started_at: Utc | None = None
    """When its agent was first seen running."""
    ended_at: Utc | None = None
    """When it ended."""


class JobResult(Contract):
    """What the workflow `Job` returns, and what a failed one carries in its failure's details."""

    job_id: JobId
    """The job."""
    session_id: SessionId | None = None
    """Its session."""
    status: JobStatus
    """The final status."""
    verdict: Verdict
    """The reason."""
    attempts: int = 0
    """Executions of the agent."""
    usage: Usage = Usage()
    """Sum over all attempts."""
    text: Annotated[str, Field(max_length=2100)] = ""
    """The agent's last words, up to 2,000 characters."""
    workspace: ManifestRef | None = None
    """The files it left."""
    transcript: ManifestRef | None = None
    """Its conversation, by which a later job goes on."""
    changes: Changes = Changes()
    """How the files differ from the job's input."""
    events: int = 0
    """Events stored."""


class JobView(Contract):
    """A job as the doors show it."""

    job_id: JobId
    """The job."""
    session_id: SessionId | None = None
    """Its session."""
    tenant: TenantId
    """Its owner."""
    status: JobStatus
    """Where it is."""
    prompt: str
    """The beginning of the request, up to 500 characters."""
    verdict: Verdict | None = None
    """The reason it ended."""
    error: str | None = None
    """What went wrong, in a sentence; None while it runs and after success."""
    created_at: Utc
    """When it was accepted."""
    started_at: Utc | None = None
    """When its first sandbox was asked for."""
    finished_at: Utc | None = None
    """When it ended."""
    attempts: tuple[AttemptView, ...] = ()
    """Its executions."""
    usage: Usage = Usage()
    """Sum over all attempts."""
    text: str = ""
    """The agent's last words."""
    events: int = 0
    """Events stored so far."""
    changes: Changes = Changes()
    """How the files differ from the job's input."""
    output_files: tuple[FileView, ...] | None = None
    """The files it left; None while there are none, and in lists."""
    transcript: ManifestRef | None = None
    """Its conversation."""
    workflow_id: str
    """Where to look in the Temporal UI."""
    labels: dict[str, str] = {}
    """The caller's own words."""
