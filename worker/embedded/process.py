"""One named child process: started, waited for until ready, stopped by pid."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from dogwatch.errors import ServerBinaryMissing, ServerDidNotStart

POLL_S = 0.03
"""Pause between two looks at whether a child is ready."""
READY_WITHIN_S = 90.0
"""A first start may have to make a data directory on a busy machine."""
STOP_WITHIN_S = 20.0
"""What a child gets to end by itself before it is killed."""
_TAIL_BYTES = 2000


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run.

    `env` is its whole environment. Its output is added to the file `log`. `account` is a program prefix that changes the
    Unix account. `keep_open` are descriptors it inherits. `stop_signal` is what asks it to end.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    account: tuple[str, ...] = ()
    keep_open: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM


class Child:
    """A process of ours that dies with us.

    It gets a session of its own, so Ctrl-C in a terminal reaches the supervisor only, which then stops its children in
    order. If the supervisor is killed, the kernel sends every child its stop signal. Start children from the main
    thread: the kernel watches the thread that made them.
    """

    def __init__(
        self,
        command: Command,
        *,
        ready: Callable[[], Awaitable[bool]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`ready` answers whether the child serves, and may be asked many times; `prepare` runs before every start."""
        self.command = command
        self._ready = ready
        self._prepare = prepare
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self._changing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process id while the child runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and return once it is ready; does nothing while it runs.

        Raises ServerDidNotStart, with nothing left running.
        """
        async with self._changing:
            if self.pid is None:
                await self._start()

    async def stop(self) -> None:
        """End the process: its stop signal, the grace, then SIGKILL. Does nothing when it has ended already."""
        async with self._changing:
            await self._stop()

    async def restart(self) -> None:
        """Stop this child and start it again; the others are not touched."""
        async with self._changing:
            await self._stop()
            await self._start()

    async def wait(self) -> int:
        """Wait for the process to end and return its exit code (negative: the signal that ended it)."""
        if self._process is None:
            raise RuntimeError(f"{self.command.name} was never started")
        return await self._process.wait()

    async def _start(self) -> None:
        if self._prepare:
            await self._prepare()
        with self.command.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await _spawn(self.command, log.fileno())
        try:
            await self._wait_ready(self._process)
        except BaseException:
            await self._stop()
            raise

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.command.stop_signal)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + READY_WITHIN_S
        try:
            while not await self._ready() or ended.done():
                await asyncio.wait({ended}, timeout=POLL_S)
                if ended.done():
                    raise self._failure(f"ended with code {ended.result()} before it was ready")
                if time.monotonic() > deadline:
                    raise self._failure(f"was not ready after {READY_WITHIN_S:.0f} s")
        finally:
            ended.cancel()

    def _failure(self, what: str) -> ServerDidNotStart:
        return ServerDidNotStart(f"{self.command.name} {what}; {log_tail(self.command.log, self._log_start)}")


async def run_once(command: Command, *, within_s: float = 120.0) -> None:
    """Run a program to its end. Raises ServerDidNotStart unless it exits with 0 within the time."""
    with command.log.open("ab") as log:
        start = log.tell()
        process = await _spawn(command, log.fileno())
    try:
        async with asyncio.timeout(within_s):
            code = await process.wait()
    except TimeoutError:
        what = f"did not end within {within_s:.0f} s"
        raise ServerDidNotStart(f"{command.name} {what}; {log_tail(command.log, start)}") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise ServerDidNotStart(f"{command.name} ended with code {code}; {log_tail(command.log, start)}")


def log_tail(log: Path, start: int = 0) -> str:
    """The end of what `log` holds from byte `start` on, introduced by its path: for error messages."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace").strip()
    return f"{log} ends with:\n{text}" if text else f"{log} is empty"


def setpriv() -> str:
    """Path of `setpriv`. Raises ServerBinaryMissing."""
    path = which("setpriv")
    if path is None:
        raise ServerBinaryMissing("setpriv was not found: install the package util-linux")
    return path


async def _spawn(command: Command, log: int) -> asyncio.subprocess.Process:
    # The account comes first: a change of account clears the death signal.
    death = (setpriv(), "--pdeathsig", command.stop_signal.name.removeprefix("SIG"), "--")
    return await asyncio.create_subprocess_exec(
        *(*command.account, *death, *command.argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(command.env),
        cwd=command.cwd,
        pass_fds=command.keep_open,
        start_new_session=True,
    )
