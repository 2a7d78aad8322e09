"""A make of sandbox that answers at once from memory: its agent has always just ended well, and its workspace is empty."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from dogwatch.contracts.sandbox import Network, Provider, SandboxSpec
from dogwatch.errors import SandboxRefused
from dogwatch.ports import ExecResult, Sandbox, SandboxInfo

_SESSION = "5f0c1c7e-0000-4000-8000-000000000000"
_EVENTS = (
    {
        "type": "system",
        "subtype": "init",
        "session_id": _SESSION,
        "model": "none",
        "claude_code_version": "2.1.329",
        "cwd": "/workspace",
        "tools": ["Bash", "Edit", "Read", "Write"],
    },
    {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": "done",
        "stop_reason": "end_turn",
        "terminal_reason": "completed",
        "num_turns": 1,
        "session_id": _SESSION,
        "total_cost_usd": 0.0,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
)
_OUTPUT = b"".join(json.dumps(event).encode() + b"\n" for event in _EVENTS)
_EXIT = {"rc": 0, "reason": "exited", "survivors": 0, "ended_at": 1, "out_bytes": len(_OUTPUT)}
_STATUS = json.dumps({"claimed": True, "alive": False, "exit": _EXIT, "size": len(_OUTPUT), "err_size": 0}).encode() + b"\n"
_NO_BYTES: tuple[bytes, ...] = ()
_NO_SANDBOXES: tuple[SandboxInfo, ...] = ()


class NullSandbox:
    """A sandbox in which everything has been done."""

    workspace, runs, agent_command, isolation = "/workspace", "/runs", "/bin/true", "nothing"
    model_url: str | None = None

    def __init__(self, name: str) -> None:
        """It is known by its name."""
        self.name = self.sandbox_id = name

    async def exec(self, argv: Sequence[str], **_: object) -> ExecResult:
        """Answer `poll.sh` with the run's end and what it wrote; all else succeeds silently."""
        if len(argv) == 6 and argv[1].endswith("/poll.sh"):
            return ExecResult(0, _STATUS + _OUTPUT[int(argv[3]) :], b"")
        return ExecResult(0, b"", b"")

    async def stream(self, argv: Sequence[str], **_: object) -> AsyncIterator[bytes]:
        """No output: there are no files."""
        for chunk in _NO_BYTES:
            yield chunk

    async def launch(self, argv: Sequence[str], **_: object) -> None:
        """It has ended already."""

    async def alive(self) -> bool:
        """Always."""
        return True


class NullSandboxes:
    """The port `Sandboxes` without any."""

    provider = Provider.LOCAL

    async def create(self, spec: SandboxSpec, *, name: str, tags: Mapping[str, str], lifetime: timedelta) -> Sandbox:
        """There it is."""
        return NullSandbox(name)

    async def attach(self, sandbox_id: str) -> Sandbox:
        """See `create`."""
        return NullSandbox(sandbox_id)

    async def find(self, name: str) -> Sandbox | None:
        """See `create`."""
        return NullSandbox(name)

    async def list(self, tags: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """None runs."""
        for info in _NO_SANDBOXES:
            yield info

    async def terminate(self, sandbox_id: str) -> bool:
        """Done."""
        return True

    async def terminate_named(self, name: str) -> bool:
        """Done."""
        return True

    def check(self, network: Network, *, real_model: bool) -> None:
        """Only for agents that do nothing. Raises SandboxRefused for a real model."""
        if real_model:
            raise SandboxRefused("there is no sandbox here")
