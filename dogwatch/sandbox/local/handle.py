"""A running sandbox of this machine, in the hands of any process."""

import asyncio
import errno
import secrets
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dogwatch.contracts.sandbox import Network
from dogwatch.errors import CommandFailed, CommandTimeout, DogwatchError, SandboxLost, SandboxUnavailable, StorageFull
from dogwatch.ports import ExecResult
from dogwatch.sandbox.local import bubblewrap
from dogwatch.sandbox.local.command import Command, Input, order_file, program_argv, started
from dogwatch.sandbox.local.ledger import State
from dogwatch.sandbox.local.limits import process_limits
from dogwatch.sandbox.local.marked import COMMAND, SANDBOX

_START_S: Final = 30.0
_LAST_ERROR_BYTES: Final = 4096
_SIGNALLED: Final = 128
"""Exit codes above mean that a signal ended the command, perhaps because the sandbox ended."""


@dataclass(frozen=True)
class Inside:
    """Where things are, as the agent sees them."""

    workspace: str
    runs: str
    home: str
    temporary: str
    agent: str


class LocalSandbox:
    """The port `Sandbox` by a program that enters the sandbox's namespaces, or for plain processes its directory, and becomes the command."""

    def __init__(self, state: State, inside: Inside, model_url: str | None) -> None:
        self._state, self._inside = state, inside
        self.sandbox_id = state.sandbox_id
        self.name = state.name
        self.workspace = inside.workspace
        self.runs = inside.runs
        self.agent_command = inside.agent
        self.isolation = "bubblewrap" if state.isolated else "processes"
        self.model_url = model_url

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: Input = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """See the port. Output that comes from something left in the background after the command's end is not waited for."""
        try:
            async with asyncio.timeout(timeout_s), self._started(argv, stdin, cwd, env) as command:
                output, errors, _ = await asyncio.gather(
                    _beginning(command.read(command.stdout), max_output),
                    _beginning(command.read(command.stderr), max_output),
                    command.feed(stdin),
                )
                code = await command.exit_code()
                self._check(command, code)
        except TimeoutError as error:
            raise self._timeout(argv, timeout_s) from error
        return ExecResult(code, output, errors)

    async def stream(
        self, argv: Sequence[str], *, stdin: Input = None, cwd: str | None = None, timeout_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """See the port."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        async with self._started(argv, stdin, cwd, None) as command:
            feeding = asyncio.ensure_future(command.feed(stdin))
            errors = asyncio.ensure_future(_end(command.read(command.stderr), _LAST_ERROR_BYTES))
            try:
                output = command.read(command.stdout)
                while chunk := await asyncio.wait_for(anext(output, b""), deadline - loop.time()):
                    yield chunk
                await asyncio.wait_for(feeding, deadline - loop.time())
                code = await asyncio.wait_for(command.exit_code(), deadline - loop.time())
                last = await errors
            except TimeoutError as error:
                raise self._timeout(argv, timeout_s) from error
            finally:
                feeding.cancel()
                errors.cancel()
            self._check(command, code)
            if code not in (0, 1):
                raise CommandFailed(f"{argv[0]} ended with {code}: {last.decode(errors='replace').strip()}")

    async def launch(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """See the port. Returns once the command runs."""
        order = self._order(argv, cwd, env, detached=True)
        # In a thread, to its end: a launch that is half done when its caller is cancelled is done.
        refusal = await asyncio.to_thread(_launch, order)
        if refusal:
            self._refuse(*refusal)

    async def alive(self) -> bool:
        """See the port."""
        return self._state.running

    @asynccontextmanager
    async def _started(
        self, argv: Sequence[str], stdin: Input, cwd: str | None, env: Mapping[str, str] | None
    ) -> AsyncIterator[Command]:
        marker = secrets.token_hex(8)
        order = self._order(argv, cwd, {**(env or {}), COMMAND: marker})
        try:
            async with started(order, marker, stdin=stdin is not None) as command:
                yield command
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise _unavailable(error) from error

    def _order(
        self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None, *, detached: bool = False
    ) -> dict[str, Any]:
        state = self._state
        if not state.running:
            raise self._lost()
        memory_held = any("memory" in group or group.count("/") == 4 for group in state.cgroups)
        return {
            "argv": list(argv),
            "cwd": cwd or self.workspace,
            "env": {**self._environment(), **(env or {}), SANDBOX: self.sandbox_id},
            "first": state.first if state.isolated else None,
            "account": state.account,
            "cgroups": state.cgroups,
            "limits": process_limits(state.spec.resources, own=not detached, memory_held=memory_held),
            "detached": detached,
        }
