"""Where dogwatch's errors become Temporal's, and where every step beats while it works."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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
        async with beating():
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
    """What the next heartbeat says."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.details: tuple[object, ...] = ()


_PULSE: ContextVar[Pulse] = ContextVar("pulse")


def pulse() -> Pulse:
    """The pulse of the step that runs, for a step that has progress to tell."""
    return _PULSE.get()


@asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Beat in the background until the body ends: a worker's death is noticed by the missing beat, a cancel arrives with its answer."""
    beat = Pulse()
    _PULSE.set(beat)
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return
    ticker = asyncio.create_task(_tick(min(timeout.total_seconds() / 4, MOST_S), beat))
    try:
        yield
    finally:
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker


async def _tick(every_s: float, beat: Pulse) -> None:
    while True:
        await asyncio.sleep(every_s)  # first: the start of a step is its first sign of life, and a short step needs no other
        activity.heartbeat(*beat.details)
