"""Watching processes end from outside."""

import time
from collections.abc import Iterable

import psutil


def family(pid: int | None) -> list[psutil.Process]:
    """A process and all it has started, as seen now."""
    assert pid is not None
    main = psutil.Process(pid)
    return [main, *main.children(recursive=True)]


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that waits only for its exit code to be read has ended."""
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_all_end(processes: Iterable[psutil.Process], *, within_s: float = 30.0) -> None:
    """Wait until every process has ended; fail with those that have not."""
    known, deadline = list(processes), time.monotonic() + within_s
    while left := living(known):
        assert time.monotonic() < deadline, f"still running: {[(process.pid, process.name()) for process in left]}"
        time.sleep(0.05)
