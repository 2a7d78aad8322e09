"""A local provider for a test, and the proof that nothing of it is left."""

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from dogwatch.sandbox.local.provider import LocalSandboxes
from dogwatch.sandbox.local.removal import remove_below
from tests.conformance.sandboxes import PREFIX

Isolation = Literal["bubblewrap", "processes"]
_LEFT_S = 20.0


@asynccontextmanager
async def local_sandboxes(
    isolation: Isolation, agent: Path = Path("/bin/true"), model_url: str | None = None
) -> AsyncIterator[tuple[LocalSandboxes, str]]:
    """A provider with a root of its own, and the source that makes the same one in another process. Its sandboxes end with the block."""
    mounts = _mounts()
    root = Path(tempfile.mkdtemp(prefix="dogwatch-test-", dir="/tmp"))
    provider = LocalSandboxes(root, agent_binary=agent, model_url=model_url, isolation=isolation)
    setup = (
        "from pathlib import Path\nfrom dogwatch.sandbox.local.provider import LocalSandboxes\n"
        f"provider = LocalSandboxes(Path({str(root)!r}), agent_binary=Path({str(agent)!r}),"
        f" model_url={model_url!r}, isolation={isolation!r})\n"
    )
    try:
        yield provider, setup
        names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
        for name in names:
            await provider.terminate_named(name)
        assert_nothing_left(root, mounts)
    finally:
        remove_below(root)
        root.rmdir()


def assert_nothing_left(root: Path, mounts: list[str]) -> None:
    """No directory of a sandbox, no process that names the root or carries a sandbox's marker, no cgroup, no mount."""
    kept = {path.name for path in root.iterdir()}
    assert kept <= {".cli", ".trash"}
    assert not list(root.glob(".trash/*"))
    deadline = time.monotonic() + _LEFT_S
    while left := _processes_of(root):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/dogwatch-{PREFIX}*"))
    assert _mounts() == mounts


def _mounts() -> list[str]:
    return [line.partition(" ")[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _processes_of(root: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            state = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        ours = path.name == str(os.getpid()) or state == "Z"
        if not ours and (bytes(root) in command or f"DOGWATCH_SANDBOX={PREFIX}".encode() in environment):
            found.append(f"{path.name} {command!r}")
    return found
