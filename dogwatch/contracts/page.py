"""Lists as the doors show them, a page at a time, and the form of their refusals."""

from pydantic import Field

from dogwatch.contracts.agent import EventView
from dogwatch.contracts.base import Contract
from dogwatch.contracts.job import JobView
from dogwatch.contracts.session import SessionView
from dogwatch.contracts.workspace import FileView


class JobPage(Contract):
    """Some jobs, newest first."""

    jobs: tuple[JobView, ...]
    """The jobs, without their files."""
    next: str | None = None
    """What to send as `after` for the page that follows; None at the end."""


class SessionPage(Contract):
    """Some sessions, newest first."""

    sessions: tuple[SessionView, ...]
    """The sessions."""
    next: str | None = None
    """What to send as `after` for the page that follows; None at the end."""


class FilePage(Contract):
    """Some files of a job's result, ordered by path."""

    manifest_id: str | None = None
    """Id of the manifest they are in; None while the job has left no files."""
    complete: bool = True
    """False when a limit ended the reading of the workspace, so that files are missing."""
    files: tuple[FileView, ...] = ()
    """The files, and those that are gone since the job began."""
    next: str | None = None
    """What to send as `after` for the page that follows; None at the end."""


class EventPage(Contract):
    """Some events of a job, in order."""

    events: tuple[EventView, ...]
    """The events."""
    next: int
    """What to send as `after` to go on: the number of the last event."""
    ended: bool
    """True when the job has ended and these are its last events."""


class Problem(Contract):
    """Why a request was refused or could not be served (RFC 9457)."""

    type: str
    """`urn:dogwatch:error:<code>`."""
    title: str
    """The kind of problem in a sentence."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened this time."""
    code: str
    """The stable code of the error."""
    remedy: str
    """What to do about it."""
    details: tuple[dict[str, str], ...] = Field(default=())
    """Every refused field with its problem."""
