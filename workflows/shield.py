"""Ordering an activity, and the two ways to await it that neither lose a cancel nor skip a release."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityConfig, ActivityHandle

A = TypeVar("A")
T = TypeVar("T")


def order(method: Callable[[Any, A], Coroutine[Any, Any, T]], request: A, policy: ActivityConfig, summary: str) -> ActivityHandle[T]:
    """Start an activity under a policy; `summary` is its line in the Temporal UI."""
    options: ActivityConfig = {**policy, "summary": summary}
    return workflow.start_activity_method(method, request, **options)


@dataclass(frozen=True)
class Held(Generic[T]):
    """How an awaited activity came out: its value, or its error, and whether the workflow was cancelled meanwhile."""

    value: T | None
    error: ActivityError | None
    cancelled: bool


async def step(handle: ActivityHandle[T], on_cancel: Callable[[], Awaitable[object]]) -> Held[T]:
    """Await an activity. When the workflow is cancelled: do `on_cancel`, ask the activity to end, and wait until it has.

    A plain await could swallow the cancel: the activity may finish before a heartbeat tells it, and the await would return its result as if
    nothing had been asked. Only the first cancel of a workflow is delivered, so the awaits after it are safe.
    """
    try:
        return Held(await asyncio.shield(handle), None, cancelled=False)
    except ActivityError as error:
        return Held(None, error, cancelled=False)
    except asyncio.CancelledError:
        await on_cancel()
        handle.cancel()  # also ends a retry that is backing off
        return await _finish(handle, cancelled=True)


async def certain(handle: ActivityHandle[T]) -> Held[T]:
    """Await an activity that a cancel may not skip; the cancel is told, not raised."""
    try:
        return Held(await asyncio.shield(handle), None, cancelled=False)
    except ActivityError as error:
        return Held(None, error, cancelled=False)
    except asyncio.CancelledError:
        return await _finish(handle, cancelled=True)


async def _finish(handle: ActivityHandle[T], *, cancelled: bool) -> Held[T]:
    try:
        return Held(await handle, None, cancelled)
    except ActivityError as error:
        return Held(None, error, cancelled)
    except asyncio.CancelledError:  # cancelled before the server had even scheduled it
        return Held(None, None, cancelled)
