"""Replies held back by name until a test releases them."""

from collections import Counter
from collections.abc import Callable
from threading import Condition
from time import monotonic
from typing import Literal

WAIT_LIMIT = 600.0
_LOOK_EVERY = 0.1

Passage = Literal["released", "gone", "expired", "closed"]


class Gate:
    """Named waits; a release lasts, so it may come before the wait."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._released: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._closed = False

    def wait(self, name: str, gone: Callable[[], bool], limit: float = WAIT_LIMIT) -> Passage:
        """Block until the name is released, the asker is gone, the gate is closed or the limit (seconds) has passed."""
        until = monotonic() + limit
        with self._changed:
            self._waiting[name] += 1
            self._changed.notify_all()
            try:
                while not self._closed:
                    if gone():
                        return "gone"
                    if name in self._released:
                        return "released"
                    if monotonic() > until:
                        return "expired"
                    self._changed.wait(_LOOK_EVERY)  # a vanished asker wakes nobody: look
                return "closed"
            finally:
                self._waiting[name] -= 1
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the gate is open."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def release(self, name: str) -> int:
        """Let everyone through who waits for the name, now and later; returns how many waited."""
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()
            return self._waiting[name]

    def close(self) -> None:
        """End all waits and pauses."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def waiting(self) -> dict[str, int]:
        """How many replies are held back, by name."""
        with self._changed:
            return dict(+self._waiting)

    def await_waiting(self, name: str, count: int, timeout: float) -> None:
        """Block until that many wait for the name; TimeoutError after the timeout (seconds)."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting[name] >= count, timeout):
                raise TimeoutError(f"{self._waiting[name]} of {count} waited for {name!r} after {timeout} s")
