"""One command on its way through a sandbox: its pipes, its deadline, and its end in every case."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, SubprocessStreamProtocol
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from dogwatch.sandbox.local.marked import COMMAND, end_marked, kill_marked

Input = AsyncIterable[bytes] | bytes | None
T = TypeVar("T")
CHUNK: Final = 1 << 16
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
        """Error number and reason why it was never started; None where it was. To be asked after its end."""
        number, _, reason = os.read(self._report, 4096).decode(errors="replace").partition(" ")
        return (int(number), reason) if number else None

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
        pipe = self._protocol.stdin
        assert pipe
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
async def started(order: Mapping[str, Any], marker: str, *, stdin: bool) -> AsyncIterator[Command]:
    """Start a command by an order for `enter`, for the length of the block."""
    report_read, report_write = os.pipe()
    order_fd = write_order(order)
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(CHUNK, loop),
            *program_argv("enter", str(order_fd), str(report_write)),
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={COMMAND: marker},
            cwd="/",
            pass_fds=(order_fd, report_write),
        )
    except BaseException:
        os.close(report_read)
        raise
    finally:
        os.close(order_fd)
        os.close(report_write)
    command = Command(transport, protocol, report_read, marker)
    try:
        yield command
    finally:
        try:
            await command.close()
        finally:
            os.close(report_read)


def write_order(order: Mapping[str, Any]) -> int:
    """A descriptor from which the order can be read once: neither an argument list nor an environment holds it."""
    handle = os.memfd_create("order")
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(json.dumps(order).encode())
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


async def _chunks(data: Input) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
    elif data is not None:
        async for chunk in data:
            yield chunk
