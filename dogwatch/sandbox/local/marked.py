"""Processes found by a variable in their environment, which their children inherit whatever groups and sessions they make."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

SANDBOX: Final = "DOGWATCH_SANDBOX"
"""The variable that every process of a sandbox carries; its value is the sandbox's id."""
COMMAND: Final = "DOGWATCH_EXEC"
"""The variable that a command run by `exec` or `stream`, and all it starts, carries."""


def end_marked(name: str, value: str, timeout_s: float) -> bool:
    """Kill every process with this variable until two scans in a row find none. True where there was one; raises TimeoutError.

    A process that emptied its own environment is not found: only a PID namespace ends those.
    """
    deadline, found, empty = time.monotonic() + timeout_s, False, 0
    while empty < 2:
        killed = kill_marked(name, value)
        found, empty = found or killed > 0, 0 if killed else empty + 1
        if killed:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{killed} processes of {value} did not end within {timeout_s:.0f} seconds")
            time.sleep(0.01)
    return found


def kill_marked(name: str, value: str, *, but: int | None = None) -> int:
    """Send SIGKILL once to every process with this variable, `but` one; returns how many there were."""
    killed = 0
    for pid in _processes():
        if pid not in (but, os.getpid()):
            killed += _kill_if_marked(pid, f"{name}={value}".encode())
    return killed


def _kill_if_marked(pid: int, entry: bytes) -> bool:
    # The handle is taken first: whatever the environment says is then said of the process that gets the signal.
    with suppress(ProcessLookupError, PermissionError, FileNotFoundError):
        handle = os.pidfd_open(pid)
        try:
            if entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208 - names are all that is wanted
