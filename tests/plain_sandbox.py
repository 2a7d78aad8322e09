"""The smallest real thing with the commands of `ports.Sandbox`: plain processes on a directory, under a shell of choice."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dogwatch.errors import CommandTimeout
from dogwatch.ports import ExecResult


@dataclass
class PlainSandbox:
    """Runs commands with a clean environment; `shell` takes the place of `sh`."""

    base: Path
    shell: str = "sh"
    agent_command: str = "/bin/false"
    model_url: str | None = None
    sandbox_id: str = "plain"
    name: str = "plain"
    isolation: str = "processes"
    path: str = "/usr/local/bin:/usr/bin:/bin"

    def __post_init__(self) -> None:
        self.workspace, self.runs = str(self.base / "workspace"), str(self.base / "runs")
        Path(self.workspace).mkdir(parents=True)
        Path(self.runs).mkdir()
        self.launched: list[subprocess.Popen[bytes]] = []

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
        assert stdin is None or isinstance(stdin, bytes)
        process = await asyncio.create_subprocess_exec(
            *self._argv(argv),
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd or self.base,
            env={"PATH": self.path, **(env or {})},
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise CommandTimeout(f"{argv[0]} took over {timeout_s} s") from None
        assert process.returncode is not None
        return ExecResult(process.returncode, out[:max_output], err[:max_output])

    async def launch(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start a command that lives on."""
        self.launched.append(
            subprocess.Popen(
                self._argv(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=cwd,
                env={"PATH": self.path, **(env or {})},
                start_new_session=True,
            )
        )

    def stream(
        self, argv: Sequence[str], *, stdin: AsyncIterable[bytes] | bytes | None = None, cwd: str | None = None, timeout_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """Not needed by the supervisor."""
        raise NotImplementedError

    async def alive(self) -> bool:
        """It cannot be lost."""
        return True

    def marked(self) -> list[psutil.Process]:
        """Everything that runs under this sandbox, by the marker in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DOGWATCH_RUN", "").startswith(self.runs):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def close(self) -> None:
        """End what a failed test left behind, by pid, and reap the supervisors."""
        for process in self.launched:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        for left in self.marked():
            left.kill()

    def _argv(self, argv: Sequence[str]) -> list[str]:
        return [*self.shell.split(), *argv[1:]] if argv[0] == "sh" else list(argv)
