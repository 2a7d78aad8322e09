"""A directory and plain processes with the two commands of `ports.Sandbox` that move files, under a user of choice."""

import asyncio
import os
import signal
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dogwatch.errors import CommandFailed, CommandTimeout
from dogwatch.ports import ExecResult


@dataclass
class ProcessSandbox:
    """Runs commands with `path` as their search path; `uid` drops root's right to read everything."""

    workspace: str
    uid: int | None = None
    path: str = "/usr/bin:/bin"
    runs: str = "/nowhere"
    sandbox_id: str = "plain"
    name: str = "plain"
    agent_command: str = "/bin/false"
    isolation: str = "processes"
    model_url: str | None = None

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes] | bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run a command to its end."""
        process = await self._start(argv, cwd, env)
        assert process.stdout
        assert process.stderr
        reading = asyncio.gather(process.stdout.read(), process.stderr.read())
        try:
            async with asyncio.timeout(timeout_s):
                await _feed(process, stdin)
                out, err = await reading
                code = await process.wait()
        except TimeoutError:
            raise CommandTimeout(f"{argv[0]} took over {timeout_s} s") from None
        finally:
            _kill(process)
            await asyncio.gather(reading, return_exceptions=True)
            await process.wait()
        return ExecResult(code if code >= 0 else 128 - code, out[:max_output], err[:max_output])

    async def stream(
        self, argv: Sequence[str], *, stdin: AsyncIterable[bytes] | bytes | None = None, cwd: str | None = None, timeout_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """Run a command and yield its output."""
        process = await self._start(argv, cwd, None)
        assert process.stdout
        assert process.stderr
        feeding = asyncio.ensure_future(_feed(process, stdin))
        complaints = asyncio.ensure_future(process.stderr.read())
        try:
            while chunk := await asyncio.wait_for(process.stdout.read(65536), timeout_s):
                yield chunk
            code = await process.wait()
            if code not in (0, 1):
                raise CommandFailed(f"{argv[0]} ended with {code}: {(await complaints)[-500:].decode('utf-8', 'replace')}")
        finally:
            _kill(process)
            while await process.stdout.read(65536):  # asyncio's wait() does not return before the pipe is empty
                continue
            await process.wait()
            await asyncio.gather(feeding, complaints, return_exceptions=True)

    async def launch(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Nothing that moves files lives on."""
        raise NotImplementedError

    async def alive(self) -> bool:
        """It cannot be lost."""
        return Path(self.workspace).is_dir()

    async def _start(self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        uid = self.uid if self.uid is not None else os.geteuid()
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                cwd=cwd,
                env={"PATH": self.path, **(env or {})},
                start_new_session=True,
                user=uid,
                group=uid,
            )
        except FileNotFoundError as missing:
            raise CommandFailed(f"{argv[0]} ended with 127: {missing}") from None


async def _feed(process: asyncio.subprocess.Process, stdin: AsyncIterable[bytes] | bytes | None) -> None:
    assert process.stdin
    with suppress(BrokenPipeError, ConnectionResetError):
        if isinstance(stdin, bytes):
            process.stdin.write(stdin)
            await process.stdin.drain()
        elif stdin is not None:
            async for chunk in stdin:
                process.stdin.write(chunk)
                await process.stdin.drain()
    process.stdin.close()


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
