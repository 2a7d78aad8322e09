"""A process named so that it cannot be confused with a later one of the same number."""

# ruff: noqa: PTH123 - the programs of this room import this file at each start, and pathlib alone would double what that costs

import os
import select
import signal
from typing import Final, NamedTuple

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_EXITING: Final = 0x4
"""PF_EXITING: the first process of a PID namespace has it before the kernel ends the others, so whoever sees those die sees the flag."""


class Process(NamedTuple):
    """A process of this machine, in any PID namespace below ours."""

    pid: int
    """Its number as seen from here."""
    started: str
    """Boot of the machine, and the start in clock ticks since then."""


def identify(pid: int) -> Process | None:
    """The running process of that number; None where there is none, or only one that is ending."""
    found = _look(pid)
    return found[0] if found and not found[1] else None


def lives(process: Process) -> bool:
    """Whether exactly this process runs."""
    return identify(process.pid) == process


def open_handle(process: Process) -> int | None:
    """A pidfd of exactly this process, for the caller to close; None where it has ended or is ending."""
    handle = _handle(process)
    if handle is not None and not lives(process):
        os.close(handle)
        return None
    return handle


def end(process: Process, timeout_s: float) -> bool:
    """Kill it and wait until it is gone. True where it was running; raises TimeoutError where that takes too long."""
    handle = _handle(process)
    if handle is None:
        return False
    try:
        running = lives(process)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        wait_for(handle, timeout_s)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return running


def wait_gone(process: Process, timeout_s: float) -> None:
    """Wait for the end of a process that ends by itself; raises TimeoutError."""
    handle = _handle(process)
    if handle is None:
        return
    try:
        wait_for(handle, timeout_s)
    finally:
        os.close(handle)


def wait_for(handle: int, timeout_s: float) -> None:
    """Wait until the process of a pidfd has ended; raises TimeoutError."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError(f"a process did not end within {timeout_s:.0f} seconds")


def _handle(process: Process) -> int | None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    found = _look(process.pid)
    if found and found[0] == process:
        return handle
    os.close(handle)
    return None


def _look(pid: int) -> tuple[Process, bool] | None:
    """A process and whether it is ending."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ending = fields[0] in "ZX" or bool(int(fields[6]) & _EXITING)
    return Process(pid, f"{_read(_BOOT_ID).strip()}:{fields[19]}"), ending


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
