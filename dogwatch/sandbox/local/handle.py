"""A running sandbox of this machine, in the hands of any process."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dogwatch.errors import CommandFailed, CommandTimeout, DogwatchError, SandboxLost
from dogwatch.ports import ExecResult
from dogwatch.sandbox.local import bubblewrap
from dogwatch.sandbox.local.command import Command, Input, launch, started
from dogwatch.sandbox.local.faults import start_fault
from dogwatch.sandbox.local.ledger import State
from dogwatch.sandbox.local.limits import hold_memory, process_limits
from dogwatch.sandbox.local.marked import COMMAND, SANDBOX

_LAST_ERROR_BYTES: Final = 4096


@dataclass(frozen=True)
class Inside:
    """Where things are, as the agent sees them."""

    workspace: str
    runs: str
    home: str
    temporary: str
    agent: str


class LocalSandbox:
    """The port `Sandbox`, by a program that goes into the sandbox and becomes the command."""

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
                self._check(command.refusal(), code)
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
            self._check(command.refusal(), code)
            if code not in (0, 1):
                raise CommandFailed(f"{argv[0]} ended with {code}: {last.decode(errors='replace').strip()}")

    async def launch(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """See the port. Returns once the command runs."""
        order = self._order(argv, cwd, env, detached=True)
        # In a thread, to its end: a launch that is half done when its caller is cancelled is done.
        self._check(await asyncio.to_thread(launch, order, {SANDBOX: self.sandbox_id}))

    async def alive(self) -> bool:
        """See the port."""
        return self._state.running

    @asynccontextmanager
    async def _started(self, argv: Sequence[str], stdin: Input, cwd: str | None, env: Mapping[str, str] | None) -> AsyncIterator[Command]:
        marker = secrets.token_hex(8)
        order = self._order(argv, cwd, {**(env or {}), COMMAND: marker})
        async with started(order, {SANDBOX: self.sandbox_id, COMMAND: marker}, stdin=stdin is not None) as command:
            yield command

    def _order(self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None, *, detached: bool = False) -> dict[str, Any]:
        """What `enter` is to do."""
        state = self._state
        if not state.running:
            raise self._lost()
        groups = [Path(group) for group in state.cgroups]
        return {
            "argv": list(argv),
            "cwd": cwd or self.workspace,
            "env": {**self._environment(), **(env or {}), SANDBOX: self.sandbox_id},
            "first": tuple(state.first) if state.first and state.isolated else None,
            "account": state.account,
            "cgroups": state.cgroups,
            "limits": process_limits(state.spec.resources, own=not detached, memory_held=hold_memory(groups)),
            "detached": detached,
        }

    def _environment(self) -> dict[str, str]:
        inside = self._inside
        return {"PATH": bubblewrap.PATH, "HOME": inside.home, "TMPDIR": inside.temporary, "LANG": "C.UTF-8"}

    def _check(self, refusal: tuple[int, str] | None, code: int = 0) -> None:
        """Raise what keeps an exit code from being the command's own."""
        if (refusal or code) and not self._state.running:
            raise self._lost()
        if refusal:
            raise start_fault(*refusal)

    def _timeout(self, argv: Sequence[str], timeout_s: float) -> DogwatchError:
        if not self._state.running:
            return self._lost()
        return CommandTimeout(f"{argv[0]} did not end within {timeout_s:g} seconds")

    def _lost(self) -> SandboxLost:
        return SandboxLost(f"the sandbox {self.name} does not run any more")


async def _beginning(chunks: AsyncIterator[bytes], most: int) -> bytes:
    kept = bytearray()
    async for chunk in chunks:
        kept += chunk[: most - len(kept)]
    return bytes(kept)


async def _end(chunks: AsyncIterator[bytes], most: int) -> bytes:
    kept = b""
    async for chunk in chunks:
        kept = (kept + chunk)[-most:]
    return kept
