"""Where the time of a job goes: every call that a step makes through a port, timed on its way."""

import inspect
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from temporalio import activity

SANDBOXES = ("create", "attach", "find")
"""Calls that give a sandbox, whose calls are timed as well."""


@dataclass(frozen=True)
class Call:
    """One call through a port."""

    workflow: str
    step: str
    port: str
    name: str
    seconds: float


class Clock:
    """Collects calls in memory, where they cost least."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.calls: list[Call] = []

    def around(self, target: object, port: str) -> Any:
        """The same object with every asynchronous method timed."""
        return _Timed(target, port, self)

    def note(self, port: str, name: str, since: float) -> None:
        """Take down a call that has ended, where a step made it."""
        if activity.in_activity():
            info = activity.info()
            self.calls.append(Call(info.workflow_id or "", info.activity_type, port, name, time.perf_counter() - since))

    def as_json(self) -> list[dict[str, Any]]:
        """All calls as JSON values."""
        return [asdict(call) for call in self.calls]


class _Timed:
    def __init__(self, target: object, port: str, clock: Clock) -> None:
        self._target, self._port, self._clock = target, port, clock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.isasyncgenfunction(value):
            return self._streaming(name, value)
        return self._awaiting(name, value) if inspect.iscoroutinefunction(value) else value

    def _awaiting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*arguments: Any, **options: Any) -> Any:
            since = time.perf_counter()
            try:
                answer = await call(*arguments, **options)
            finally:
                self._clock.note(self._port, _label(name, arguments), since)
            return self._clock.around(answer, "sandbox") if name in SANDBOXES and answer is not None else answer

        return timed

    def _streaming(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            since = time.perf_counter()
            try:
                async for item in call(*arguments, **options):
                    yield item
            finally:
                self._clock.note(self._port, _label(name, arguments), since)

        return timed


def _label(name: str, arguments: tuple[Any, ...]) -> str:
    """`exec tar`, `exec poll.sh`, `stream find`, `create`: the program is the script where a shell runs one."""
    if name not in ("exec", "stream"):
        return name
    argv = arguments[0]
    program = argv[0]
    if program == "sh":
        program = {"-c": argv[3] if len(argv) > 3 else "sh", "-s": "stop.sh"}.get(argv[1], PurePath(argv[1]).name)
    return f"{name} {program}"
