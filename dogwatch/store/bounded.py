"""A deadline for what a person waits for: a database that hangs must not hold a request."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from dogwatch.errors import DatabaseUnavailable


class Bounded(Protocol):
    """Something whose queries have a deadline."""

    deadline_s: float
    """Seconds after which an answer counts as absent."""


P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound=Bounded)


def bounded(query: Callable[Concatenate[B, P], Awaitable[R]]) -> Callable[Concatenate[B, P], Coroutine[Any, Any, R]]:
    """Give a query up after `deadline_s` seconds with DatabaseUnavailable.

    The query is asked to end and not waited for: the driver's own way to cancel waits for the server, which may be the one that hangs.
    """

    @functools.wraps(query)
    async def within(self: B, /, *args: P.args, **kwargs: P.kwargs) -> R:
        task = asyncio.ensure_future(query(self, *args, **kwargs))
        try:
            done, _ = await asyncio.wait({task}, timeout=self.deadline_s)
        except asyncio.CancelledError:
            _abandon(task)
            raise
        if not done:
            _abandon(task)
            raise DatabaseUnavailable(f"Postgres did not answer within {self.deadline_s:g} s")
        return task.result()

    return within


def _abandon(task: asyncio.Future[R]) -> None:
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
    task.cancel()
