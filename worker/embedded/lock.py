"""One stack per state directory: a file lock that the children hold too."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dogwatch.errors import StackAlreadyRunning

_POLL_S = 0.1


@asynccontextmanager
async def state_lock(path: Path, *, patience_s: float = 30.0) -> AsyncIterator[int]:
    """Hold the lock and yield its descriptor.

    The children inherit it, so the lock is free only once the last of them has ended: what is left of a stack that was
    killed ends within seconds and is waited for, up to `patience_s`. Raises StackAlreadyRunning, at once while the
    supervisor that holds the lock lives.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _acquire(descriptor, path, time.monotonic() + patience_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


async def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip()
            if _lives(holder):
                raise StackAlreadyRunning(f"A stack runs on {path.parent} already, as process {holder}.") from None
            if time.monotonic() > deadline:
                raise StackAlreadyRunning(f"The stack on {path.parent} was killed, and processes of it still hold {path}.") from None
            await asyncio.sleep(_POLL_S)
        else:
            return


def _lives(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()
