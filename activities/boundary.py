"""Where dogwatch's errors become Temporal's, and where every step beats while it works."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from dogwatch.errors import CursorMoved, DogwatchError, LeaseLost

MOST_S: Final = 5.0
"""Seconds between two beats at most: what the Temporal UI shows as progress is never older."""
Step = TypeVar("Step", bound=Callable[..., Awaitable[Any]])


def boundary(step: Step) -> Step:
    """Run a step with a beating heart, and let its typed errors out as ApplicationErrors: type = code, retried only where that may help."""

    @functools.wraps(step)
    async def bounded(self: object, request: object) -> object:
        with beating():
            try:
                return await step(self, request)
            except DogwatchError as error:
                raise as_application_error(error) from error

    return cast("Step", bounded)


def as_application_error(error: DogwatchError) -> ApplicationError:
    """A typed error as Temporal carries it. Losing a lease or a race is no failure of anything: another execution has the work."""
    usual = isinstance(error, LeaseLost | CursorMoved)
    return ApplicationError(
        str(error),
        type=error.code,
        non_retryable=not error.retryable,
        category=ApplicationErrorCategory.BENIGN if usual else ApplicationErrorCategory.UNSPECIFIED,
    )


class Pulse:
    """The beats of one step: in the background, and each asks anew what there is to tell.

    The start of a step is its first sign of life, so a step that is over soon costs no beat.
    """

    def __init__(self) -> None:
        """Silent until it starts; its beats say nothing more than that the step works, until it has progress to tell."""
        self.progress: Callable[[], object] | None = None
        self._next: asyncio.TimerHandle | None = None

    def start(self, every_s: float) -> None:
        """Beat every so many seconds from then on."""
        self._next = asyncio.get_running_loop().call_later(every_s, self._beat, every_s)

    def stop(self) -> None:
        """Beat no more."""
        if self._next is not None:
            self._next.cancel()

    def _beat(self, every_s: float) -> None:
        self.start(every_s)
        activity.heartbeat(*(() if self.progress is None else (self.progress(),)))


_PULSE: ContextVar[Pulse] = ContextVar("pulse")


def pulse() -> Pulse:
    """The pulse of the step that runs, for a step that has progress to tell."""
    return _PULSE.get()


@contextmanager
def beating() -> Iterator[None]:
    """Beat until the body ends: a worker's death is noticed by the missing beat, a cancel arrives with its answer."""
    own = Pulse()
    _PULSE.set(own)
    timeout = activity.info().heartbeat_timeout
    if timeout is not None:
        own.start(min(timeout.total_seconds() / 4, MOST_S))
    try:
        yield
    finally:
        own.stop()
