"""The things with more than one make: sandboxes, blobs, records, secrets. Activities name these and no vendor."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from dogwatch.contracts.agent import Usage, Verdict
from dogwatch.contracts.job import Ending, JobRequest
from dogwatch.contracts.sandbox import Network, Provider, SandboxSpec
from dogwatch.contracts.session import SessionState
from dogwatch.contracts.steps import Collected, StopReason
from dogwatch.contracts.workspace import Changes, Manifest, ManifestRef

# --- sandboxes --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExecResult:
    """How a command inside a sandbox ended, and the beginning of what it said."""

    exit_code: int
    """128 + n after signal n."""
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class SandboxInfo:
    """A running sandbox in a provider's list."""

    sandbox_id: str
    name: str
    tags: Mapping[str, str]
    created_at: datetime


class Sandbox(Protocol):
    """One running sandbox. Any process can hold one; closing the handle does not end the sandbox.

    Every method raises SandboxLost where the sandbox is gone for good and SandboxUnavailable where it did not answer.
    """

    sandbox_id: str
    """The provider's id."""
    name: str
    """The name it was created under."""
    workspace: str
    """Absolute path of the workspace as the agent sees it."""
    runs: str
    """Absolute path, as the agent sees it, of the directory beside the workspace that holds one directory per attempt."""
    agent_command: str
    """Absolute path of the agent's CLI as seen inside."""
    isolation: str
    """How it is isolated, in a word for people: `bubblewrap`, `processes`, `gvisor`."""
    model_url: str | None
    """Address at which the model's API is reached from inside; None leaves the CLI's default."""

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes] | bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run a command to its end with a clean environment plus `env`. Output beyond `max_output` bytes per stream is read and dropped.
        Raises CommandTimeout after `timeout_s` seconds, with the command ended."""
        ...

    def stream(
        self, argv: Sequence[str], *, stdin: AsyncIterable[bytes] | bytes | None = None, cwd: str | None = None, timeout_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """Run a command and yield its standard output as it comes, without holding it. Raises CommandFailed with the end of its error
        output when it exits with anything but 0 or 1 (tar's 1 means that a file changed while it was read), after all was yielded."""
        ...

    async def launch(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start a command that lives on when this process dies. `env` may hold secrets: it reaches the command's environment by the
        provider's own means and never an argument list. Output is dropped."""
        ...

    async def alive(self) -> bool:
        """Whether the sandbox runs."""
        ...


class Sandboxes(Protocol):
    """A make of sandboxes."""

    provider: Provider

    async def create(self, spec: SandboxSpec, *, name: str, tags: Mapping[str, str], lifetime: timedelta) -> Sandbox:
        """Create a sandbox, or adopt the running one of that name when its tags match. The provider ends it by itself after `lifetime`,
        whatever happens to us. Raises SandboxRefused for what cannot be and SandboxUnavailable for what may work later."""
        ...

    async def attach(self, sandbox_id: str) -> Sandbox:
        """The running sandbox of that id, from any process; raises SandboxLost."""
        ...

    async def find(self, name: str) -> Sandbox | None:
        """The running sandbox of that name."""
        ...

    def list(self, tags: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """All running sandboxes that carry these tags."""
        ...

    async def terminate(self, sandbox_id: str) -> bool:
        """End a sandbox and every process of it, and remove what it kept. True where it was running; gone is fine."""
        ...

    async def terminate_named(self, name: str) -> bool:
        """The same by name, for an intent whose id was never stored."""
        ...

    def check(self, network: Network, *, real_model: bool) -> None:
        """Raise IsolationMissing or SandboxRefused where this make cannot run such a job here."""
        ...


# --- blobs ------------------------------------------------------------------------------------------------------------------------


class Blobs(Protocol):
    """Bytes by their SHA-256. Knows nothing of rows: `Records` decides what may be collected."""

    async def put(self, sha256: str, data: bytes) -> None:
        """Store bytes under their digest, atomically; storing them again is fine. Raises StorageUnavailable, StorageFull."""
        ...

    async def put_file(self, sha256: str, path: str) -> None:
        """Store a file's bytes under their digest without holding them in memory."""
        ...

    async def has(self, sha256: str) -> bool:
        """Whether the bytes are there."""
        ...

    async def get(self, sha256: str) -> bytes:
        """All bytes, verified against the digest. Raises BlobMissing, BlobCorrupt."""
        ...

    def read(self, sha256: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, as a stream. A whole read is verified against the digest; raises BlobCorrupt at its end."""
        ...

    async def delete(self, sha256: str) -> None:
        """Remove the bytes; gone is fine."""
        ...


# --- secrets ----------------------------------------------------------------------------------------------------------------------


class Secrets(Protocol):
    """Looks up what a `secret://` reference stands for, in the worker, at the last moment."""

    async def resolve(self, reference: str, tenant: str) -> str:
        """The secret's value. Raises SecretMissing."""
        ...


# --- records ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """A manifest with the digest that names it."""

    manifest: Manifest
    digest: str
    """SHA-256 in hex, the same for equal trees."""


@dataclass(frozen=True)
class Opening:
    """What the first transaction of `prepare_sandbox` found and wrote."""

    deployment: str
    attempt_id: str
    lease: int
    sandbox_name: str
    sandbox_id: str | None
    """Already recorded by an earlier execution of the step."""
    launched: bool
    """An earlier execution got as far as launching."""
    input: ManifestRef | None
    """Files to start with."""
    transcript: ManifestRef | None
    """Conversation to go on with."""
    conversation: Literal["new", "resumed"]


@dataclass(frozen=True)
class Cursor:
    """Where following an attempt's output stands. The lease fences every write."""

    attempt_id: str
    lease: int
    offset: int
    next_seq: int
    tail: bytes = b""
    """The last stored line, by which a changed spool is noticed."""
    progress: Mapping[str, object] = field(default_factory=dict)
    """The parser's state after the last stored line."""
    stop_requested: StopReason | None = None


@dataclass(frozen=True)
class EventLine:
    """One line of the agent's output, with its line end, as it goes into the table of events."""

    offset: int
    raw: bytes
    type: str
    subtype: str | None
    sha256: str | None = None
    """The blob that holds a line too long for a row; the row then has no body."""


@dataclass(frozen=True)
class CollectionOpening:
    """What the first transaction of `collect_results` found."""

    attempt_id: str
    lease: int
    input: ManifestRef | None
    """The files the job started with."""
    done: Collected | None
    """What an earlier execution of the step has committed already."""
    transcript_of: str | None
    """The CLI's session id, which names the transcript's file."""


@dataclass(frozen=True)
class Live:
    """The attempt of a job that a stop or a release is about."""

    attempt_id: str
    number: int
    provider: Provider
    sandbox_name: str
    sandbox_id: str | None
    launched: bool
    ended: bool


@dataclass(frozen=True)
class Stray:
    """A sandbox that may have lost its owner."""

    name: str
    provider: Provider
    job_id: str
    sandbox_id: str | None
    created_at: datetime
    settled: bool
    """Its row says that it is gone, or there is none."""


class Owners(Protocol):
    """Knows which workflows live."""

    async def lives(self, workflow_id: str) -> bool:
        """Whether a workflow of that id runs. Raises TemporalUnavailable rather than guess."""
        ...


class Janitor(Protocol):
    """The rows that the cleanup looks at."""

    deployment: str

    async def strays(self, grace: timedelta, most: int) -> Sequence[Stray]:
        """Unsettled sandboxes older than `grace`, the oldest first."""
        ...

    async def stray(self, name: str) -> Stray | None:
        """The row of one sandbox."""
        ...

    async def older_than(self, stray: Stray, grace: timedelta) -> bool:
        """Whether a sandbox is older than `grace`, by the database's clock."""
        ...

    async def settle_sandbox(self, name: str, reason: str) -> None:
        """Record that the sandbox of an intent is gone."""
        ...

    async def mark_deleting(self, grace: timedelta, most: int = 1000) -> Sequence[str]:
        """Blobs that nothing names and nobody put within `grace`, marked so that a new put waits."""
        ...

    async def forget_blobs(self, digests: Sequence[str]) -> None:
        """Remove the rows of blobs whose bytes are gone."""
        ...


class Records(Protocol):
    """The rows. Every method is one transaction; each may raise DatabaseUnavailable."""

    async def open_attempt(self, job_id: str, number: int, request: JobRequest, provider: Provider) -> Opening:
        """Upsert the job's row, move it to running, write the attempt and the intent of its sandbox, take the lease. An earlier attempt
        that is still open is ended here. Raises AttemptEnded, and NotFound for a workspace that does not exist."""
        ...

    async def bind_sandbox(self, attempt_id: str, lease: int, sandbox_id: str, expires_at: datetime) -> str:
        """Record the sandbox of an attempt unless one is recorded; returns the recorded id. Raises LeaseLost, AttemptEnded."""
        ...

    async def mark_launching(self, attempt_id: str, lease: int) -> None:
        """Allow the launch. Raises AttemptEnded where a stop was requested or the attempt has ended, LeaseLost."""
        ...

    async def manifest(self, manifest_id: str) -> Manifest:
        """A stored manifest. Raises NotFound."""
        ...

    async def take_lease(self, attempt_id: str) -> Cursor:
        """Begin to follow: take the lease, mark the attempt running, say where to go on. Raises AttemptEnded."""
        ...

    async def append_events(self, cursor: Cursor, lines: Sequence[EventLine], progress: Mapping[str, object]) -> Cursor:
        """Store lines and move the cursor in one transaction. Raises LeaseLost, CursorMoved, AttemptEnded."""
        ...

    async def announce(self, job_id: str) -> None:
        """Tell the doors that a job has news."""
        ...

    async def note_blobs(self, blobs: Mapping[str, int]) -> Sequence[str]:
        """Announce blobs (digest to size) about to be referenced; returns those whose bytes must be put. Waits out a collection."""
        ...

    async def open_collection(self, attempt_id: str) -> CollectionOpening:
        """Take the lease for collecting. Raises NotFound."""
        ...

    async def commit_collection(self, collection: "Collection") -> Collected:
        """Manifest, transcript, usage, verdict and, with an ending, the final status: all or nothing. Raises LeaseLost."""
        ...

    async def request_stop(self, job_id: str, reason: StopReason) -> Live | None:
        """Record that the job's live attempt is to stop; None where the job has no attempt."""
        ...

    async def unreleased(self, job_id: str) -> Sequence[Live]:
        """Attempts of a job whose sandbox is not settled yet, the job's newest last."""
        ...

    async def settle_sandbox(self, name: str, reason: str) -> None:
        """Record that the sandbox of an intent is gone."""
        ...

    async def end_job(self, job_id: str, request: JobRequest, ending: Ending) -> Ending:
        """Write the ending where the row has not ended yet, making the row where there is none; returns the ending that holds."""
        ...

    async def end_session(self, session_id: str, state: SessionState, withdrawn: Sequence[str]) -> None:
        """Write a session's end and that of the jobs that never ran."""
        ...


@dataclass(frozen=True)
class Collection:
    """Everything `collect_results` commits at once."""

    job_id: str
    attempt_id: str
    lease: int
    session_id: str | None
    tenant: str
    workspace: Tree | None
    transcript: Tree | None
    changes: Changes
    """How the files differ from the job's input."""
    verdict: Verdict
    ending: Ending | None
    usage: Usage
    text: str


__all__ = [
    "Blobs",
    "Collection",
    "CollectionOpening",
    "Cursor",
    "EventLine",
    "ExecResult",
    "Janitor",
    "Live",
    "Opening",
    "Owners",
    "Records",
    "Sandbox",
    "SandboxInfo",
    "Sandboxes",
    "Secrets",
    "Stray",
    "Tree",
]
