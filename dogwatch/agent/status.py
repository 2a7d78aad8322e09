"""What the scripts in a sandbox say about a run. The agent could have changed them: nothing here is trusted, nothing raises."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

MAX_STATUS = 4096
"""Bytes of a status line; a real one has about 250."""

Count = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True)
class ExitFacts:
    """The content of exit.json."""

    rc: Annotated[int, Field(ge=0, le=255)] | None
    """Exit code of the CLI, 128 + n after signal n; None where it never ran or was never seen to end."""
    reason: Literal["exited", "deadline", "output_limit", "stopped", "hung_after_result", "not_started", "supervisor_lost"]
    """What ended the run."""
    survivors: Count = 0
    """Processes that could not be ended; releasing the sandbox ends them."""
    ended_at: Count = 0
    """Seconds since the epoch by the sandbox's clock."""
    out_bytes: Count = 0
    """Size of the output."""


@dataclass(frozen=True)
class Status:
    """A look at a run, taken before the bytes that came with it."""

    claimed: bool
    """Whether the run was ever started, or stopped before its start."""
    alive: bool
    """Whether its supervisor lives."""
    size: Count
    """Bytes of output."""
    err_size: Count
    """Bytes of error output."""
    exit: ExitFacts | None
    """How it ended."""
    tampered: bool = False
    """The answer is none that the scripts give, or the output is shorter than it was."""

    @property
    def lost(self) -> bool:
        """Whether the supervisor died without a word: the agent may still run, and only a stop ends it."""
        return self.claimed and not self.alive and self.exit is None and not self.tampered

    def done(self, position: int) -> bool:
        """Whether nothing more comes for a reader who has everything before `position`."""
        return self.tampered or self.lost or (self.exit is not None and position >= self.size)


TAMPERED = Status(claimed=True, alive=False, size=0, err_size=0, exit=None, tampered=True)

_STATUS = TypeAdapter(Status)


def parse_status(line: bytes, offset: int) -> Status:
    """The status in the first line of an answer to a reader at `offset`; TAMPERED for anything else."""
    if len(line) > MAX_STATUS:
        return TAMPERED
    try:
        status = _STATUS.validate_json(line, strict=True)
    except ValidationError:
        return TAMPERED
    return TAMPERED if status.tampered or status.size < offset else status


@dataclass(frozen=True)
class StopAnswer:
    """What stop.sh says."""

    found: Literal["running", "not_started", "ended", "lost"]
    survivors: Count


_STOP = TypeAdapter(StopAnswer)


def parse_stop(line: bytes) -> StopAnswer | None:
    """The answer of stop.sh; None where it is none."""
    try:
        return _STOP.validate_json(line[:MAX_STATUS], strict=True)
    except ValidationError:
        return None
