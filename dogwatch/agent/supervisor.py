"""The supervisor of one attempt, seen from a worker: laid down, started, followed and stopped through any sandbox."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from dogwatch.agent.status import MAX_STATUS, TAMPERED, Status, parse_status, parse_stop
from dogwatch.contracts.steps import Stopped, StopReason
from dogwatch.errors import CommandFailed
from dogwatch.ports import Sandbox

_SLACK_S = 30.0
"""Seconds an answer may take beyond what the scripts wait for."""
_STDERR_TAIL = 'if [ -f "$1" ]; then tail -c "$2" "$1"; fi'


@dataclass(frozen=True)
class RunFile:
    """A small file of the run directory; a name that ends with a slash is a directory."""

    name: str
    data: bytes = b""
    mode: int = 0o600


def script(name: str) -> bytes:
    """A script of this package."""
    return files("dogwatch.agent").joinpath("scripts", name).read_bytes()


def script_files() -> list[RunFile]:
    """The scripts that live in the run directory."""
    return [RunFile(name, script(name), 0o500) for name in ("supervise.sh", "poll.sh", "reap.sh")]


class Supervisor:
    """The run of one attempt in a sandbox. It holds no state: any process may make one for the same attempt at any time.

    Every method raises what `Sandbox` raises; CommandFailed tells of a sandbox that lacks a program.
    """

    def __init__(self, sandbox: Sandbox, attempt_id: str) -> None:
        self._sandbox = sandbox
        self.directory = str(PurePosixPath(sandbox.runs, attempt_id))
        """The run directory, as the agent sees it."""

    async def lay_down(self, contents: Iterable[RunFile]) -> None:
        """Write the files of the run, scripts included, in one command. Safe to repeat, also while the run goes on."""
        argv = ["sh", "-c", script("lay_down.sh").decode(), "lay_down.sh", self.directory]
        done = await self._sandbox.exec(argv, stdin=_tar([*script_files(), *contents]), timeout_s=_SLACK_S * 4)
        if done.exit_code:
            raise CommandFailed(f"the run directory could not be written: {_said(done.stderr)}")

    async def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        deadline_s: float,
        grace_s: float,
        output_limit: int,
        result_grace_s: float,
    ) -> None:
        """Start the CLI, detached, in the workspace, unless this attempt was ever started or stopped: safe to repeat.

        It is ended after `deadline_s` seconds, when its output exceeds `output_limit` bytes, and when it is silent for `result_grace_s`
        seconds after its result; `grace_s` seconds lie between TERM and KILL.
        """
        limits = [_hundredths(deadline_s), _hundredths(grace_s), str(output_limit), _hundredths(result_grace_s)]
        command = ["sh", f"{self.directory}/supervise.sh", self.directory, *limits, *argv]
        await self._sandbox.launch(command, cwd=self._sandbox.workspace, env=env)

    async def poll(self, offset: int, limit: int = 1 << 20, wait_s: float = 0.0) -> tuple[Status, bytes]:
        """The state of the run and up to `limit` bytes of its output from `offset`, once there are any, the run has ended, or `wait_s`
        seconds have passed. The state is the older of the two: everything is read when `Status.done` says so of the position reached."""
        argv = ["sh", f"{self.directory}/poll.sh", self.directory, str(offset), str(limit), _hundredths(wait_s)]
        done = await self._sandbox.exec(argv, timeout_s=wait_s + _SLACK_S, max_output=limit + MAX_STATUS)
        head, line_end, data = done.stdout.partition(b"\n")
        status = parse_status(head, offset) if done.exit_code == 0 and line_end else TAMPERED
        return status, b"" if status.tampered else data

    async def stop(self, reason: StopReason, grace_s: float) -> Stopped:
        """End the run and all it left behind, or see to it that it never starts. Safe to repeat, also where nothing was laid down."""
        argv = ["sh", "-s", "--", self.directory, reason.value, _hundredths(grace_s)]
        scripts = script("reap.sh") + script("stop.sh")
        done = await self._sandbox.exec(argv, stdin=scripts, timeout_s=2 * grace_s + _SLACK_S)
        answer = parse_stop(done.stdout)
        if done.exit_code or answer is None:
            raise CommandFailed(f"the agent could not be stopped: {_said(done.stderr)}")
        return Stopped(found=answer.found, survivors=answer.survivors)

    async def stderr_tail(self, limit: int = 4096) -> str:
        """The end of the CLI's error output; empty where there is none."""
        done = await self._sandbox.exec(["sh", "-c", _STDERR_TAIL, "tail", f"{self.directory}/err.log", str(limit)], timeout_s=_SLACK_S)
        return done.stdout.decode("utf-8", "replace")


def _tar(contents: Iterable[RunFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in contents:
            entry = tarfile.TarInfo(file.name.rstrip("/"))
            entry.size, entry.mode = len(file.data), file.mode
            if file.name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def _hundredths(seconds: float) -> str:
    return str(max(0, round(seconds * 100)))


def _said(stderr: bytes) -> str:
    return ascii(stderr.decode("utf-8", "replace").strip()[-300:])[1:-1] or "no message"
