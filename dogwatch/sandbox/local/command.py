"""One command on its way through a sandbox: its pipes, its deadline, and its end in every case."""

import asyncio
import marshal
import os
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, SubprocessStreamProtocol
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from dogwatch.errors import SandboxUnavailable
from dogwatch.sandbox.local.faults import machine_fault
from dogwatch.sandbox.local.marked import COMMAND, end_marked, kill_marked

Input = AsyncIterable[bytes] | bytes | None
T = TypeVar("T")
CHUNK: Final = 1 << 16
_BUFFER: Final = 1 << 18
_START_S: Final = 30.0
_END_S: Final = 10.0
_PROGRAM: Final = Path(__file__).with_name("program.py")
_LAST_WORDS_S: Final = 1.0
"""How long output is still read after the command's own end, where something that it left behind holds the pipe open."""


def program_argv(name: str, *arguments: str) -> list[str]:
    """How one of this room's programs is started."""
    return [sys.executable, "-I", "-S", str(_PROGRAM), name, *arguments]


class _Protocol(SubprocessStreamProtocol):
    """Streams, and word of the exit also where an inherited pipe stays open."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class Command:
    """A running command. Made by `started`, which ends it when its block is left before it has ended."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol, report: int, marker: str) -> None:
        self._transport, self._protocol, self._report, self._marker = transport, protocol, report, marker
        assert protocol.stdout
        assert protocol.stderr
        self.stdout, self.stderr = protocol.stdout, protocol.stderr

    async def feed(self, data: Input) -> None:
        """Write all of its standard input and close it. A command that does not want it all is fine."""
        await self._until_exit(self._write(data), grace_s=0.0)

    async def read(self, pipe: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What comes out of a pipe, until its end or shortly after the command's own."""
        while chunk := await self._until_exit(pipe.read(CHUNK), grace_s=_LAST_WORDS_S):
            yield chunk

    async def exit_code(self) -> int:
        """Wait for the command's own end."""
        await self._protocol.exited.wait()
        code = self._transport.get_returncode()
        assert code is not None
        return code

    def refusal(self) -> tuple[int, str] | None:
        """Error number and reason where it was never started. To be asked after its end."""
        return _refusal(self._report)

    async def end(self) -> None:
        """Kill the command and all it started, and wait until they are gone."""
        deadline = time.monotonic() + _END_S
        # The helper goes last: it reaps the command, which is no child of the sandbox's first process.
        while not self._protocol.exited.is_set() and time.monotonic() < deadline:
            await asyncio.to_thread(kill_marked, COMMAND, self._marker, but=self._transport.get_pid())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._protocol.exited.wait(), 0.02)
        await asyncio.to_thread(end_marked, COMMAND, self._marker, _END_S)
        await self._protocol.exited.wait()

    async def close(self) -> None:
        """Leave nothing open or running."""
        if not self._protocol.exited.is_set():
            await asyncio.shield(asyncio.ensure_future(self.end()))
        self._transport.close()

    async def _write(self, data: Input) -> None:
        if (pipe := self._protocol.stdin) is None:
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            async for chunk in _chunks(data):
                pipe.write(chunk)
                await pipe.drain()
            pipe.close()
            await pipe.wait_closed()

    async def _until_exit(self, work: Coroutine[Any, Any, T], *, grace_s: float) -> T | None:
        """The result of some work; None where the command has ended and the work is not done within `grace_s` seconds after."""
        task, exited = asyncio.ensure_future(work), asyncio.ensure_future(self._protocol.exited.wait())
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({task}, timeout=grace_s)
            return task.result() if task.done() else None
        finally:
            exited.cancel()
            task.cancel()


@asynccontextmanager
async def started(order: Mapping[str, Any], markers: Mapping[str, str], *, stdin: bool) -> AsyncIterator[Command]:
    """Start a command by an order for `enter`, for the length of the block. The markers are the environment of `enter` itself.

    Raises SandboxUnavailable where this machine cannot start another process.
    """
    loop = asyncio.get_running_loop()
    report, their_report = os.pipe()
    try:
        with _order_file(order) as order_fd:
            transport, protocol = await loop.subprocess_exec(
                lambda: _Protocol(_BUFFER, loop),
                *program_argv("enter", str(order_fd), str(their_report)),
                stdin=PIPE if stdin else DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env=markers,
                cwd="/",
                pass_fds=(order_fd, their_report),
                start_new_session=True,  # Ctrl-C is for the worker, which then decides about its commands
            )
    except OSError as error:
        os.close(report)
        raise machine_fault(error) from error
    finally:
        os.close(their_report)
    try:
        command = Command(transport, protocol, report, markers[COMMAND])
        try:
            yield command
        finally:
            await command.close()
    finally:
        os.close(report)


def launch(order: Mapping[str, Any], markers: Mapping[str, str]) -> tuple[int, str] | None:
    """Start a command that nobody waits for; returns, once it runs, nothing, or why it does not. Raises SandboxUnavailable. Blocks."""
    report, their_report = os.pipe()
    try:
        with _order_file(order) as order_fd:
            subprocess.run(
                program_argv("enter", str(order_fd), str(their_report)),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
                env=markers,
                cwd="/",
                pass_fds=(order_fd, their_report),
                start_new_session=True,
                timeout=_START_S,
                check=False,
            )
        os.close(their_report)
        their_report = -1
        return _refusal(report)
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(f"a command did not start within {_START_S:.0f} seconds") from error
    except OSError as error:
        raise machine_fault(error) from error
    finally:
        for handle in (report, their_report):
            if handle >= 0:
                os.close(handle)


def _refusal(report: int) -> tuple[int, str] | None:
    number, _, reason = os.read(report, 4096).decode(errors="replace").partition(" ")
    return (int(number), reason) if number else None


@contextmanager
def _order_file(order: Mapping[str, Any]) -> Iterator[int]:
    """A descriptor from which the order can be read: neither an argument list nor an environment holds it."""
    handle = os.memfd_create("order")
    with os.fdopen(handle, "wb") as file:
        marshal.dump(dict(order), file)
        file.flush()
        file.seek(0)
        yield handle


async def _chunks(data: Input) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
    elif data is not None:
        async for chunk in data:
            yield chunk
