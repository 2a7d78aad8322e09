"""Local sandboxes whose makers, keepers and files come to harm at the worst moments."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from dogwatch.contracts.sandbox import SandboxSpec
from dogwatch.errors import AgentMissing, SandboxLost, SandboxRefused, SandboxUnavailable
from dogwatch.ports import Sandbox
from dogwatch.sandbox.local.provider import LocalSandboxes
from tests.conformance.local import Isolation, local_sandboxes
from tests.conformance.sandboxes import LIFETIME, elsewhere, new_name, sh, until
from tests.environment import requires_root
from tests.processes import assert_all_end

Made = tuple[LocalSandboxes, str]
BWRAP = pytest.param("bubblewrap", marks=pytest.mark.bwrap)


@pytest.fixture(params=[BWRAP, "processes"])
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Made]:
    """A provider and how another process makes it; afterwards nothing may be left."""
    isolation: Isolation = request.param
    async with local_sandboxes(isolation) as provider:
        yield provider


def state_file(provider: LocalSandboxes, name: str) -> Path:
    """Where a sandbox's state is written down."""
    return provider.root / name / "state.json"


async def create(provider: LocalSandboxes, name: str) -> str:
    """A sandbox that works; returns its id."""
    sandbox = await provider.create(SandboxSpec(), name=name, tags={}, lifetime=LIFETIME)
    assert await sh(sandbox, "echo works") == "works\n"
    return sandbox.sandbox_id


@pytest.mark.parametrize("milliseconds", [0, 10, 20, 30, 40, 50, 60, 80, 100, 150])
async def test_a_creator_killed_at_any_time(made: Made, milliseconds: int) -> None:
    """Whatever a killed creator got to, the next one has a working sandbox, and there is one only."""
    provider, setup = made
    name = new_name()
    body = """
        print("now", flush=True)
        await provider.create(SandboxSpec(), name=sys.argv[1], tags={}, lifetime=timedelta(minutes=5))
        await asyncio.sleep(60)
    """
    creator = await elsewhere(setup, body, name)
    assert creator.stdout
    while await creator.stdout.readline() != b"now\n":
        pass
    await asyncio.sleep(milliseconds / 1000)
    creator.kill()
    await creator.communicate()
    sandbox_id = await create(provider, name)
    assert [info.sandbox_id async for info in provider.list({})] == [sandbox_id]


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}"], ids=["no state", "empty", "half", "other"])
async def test_leftovers_of_a_crash_are_cleared_away(made: Made, content: bytes | None) -> None:
    """A directory without a good state is nobody's."""
    provider, name = made[0], new_name()
    (provider.root / name / "workspace").mkdir(parents=True)
    (provider.root / name / "workspace" / "old").touch()
    if content is not None:
        state_file(provider, name).write_bytes(content)
    assert await provider.find(name) is None
    await create(provider, name)
    found = await provider.find(name)
    assert found is not None
    assert await sh(found, "ls") == ""


async def test_a_sandbox_outlives_its_keeper(made: Made) -> None:
    """Without its keeper a sandbox works, and ends when it is told to."""
    provider, name = made[0], new_name()
    sandbox_id = await create(provider, name)
    keeper = psutil.Process(json.loads(state_file(provider, name).read_text())["keeper"][0])
    keeper.kill()
    assert_all_end([keeper])
    sandbox = await provider.attach(sandbox_id)
    await sandbox.launch(["sleep", "300"])
    assert await provider.terminate(sandbox_id)


async def test_a_number_that_another_process_has_now(made: Made) -> None:
    """After a restart of the machine a recorded number may belong to anybody: that process is neither the sandbox nor killed."""
    provider, name = made[0], new_name()
    sandbox_id = await create(provider, name)
    path = state_file(provider, name)
    state = json.loads(path.read_text())
    with subprocess.Popen(["sleep", "300"]) as stranger:
        path.write_text(json.dumps({**state, "first": [stranger.pid, state["first"][1]]}))
        with pytest.raises(SandboxLost):
            await provider.attach(sandbox_id)
        path.write_text(json.dumps(state))
        assert await provider.terminate(sandbox_id)
        assert stranger.poll() is None
        stranger.kill()


async def test_a_worker_killed_during_a_command(made: Made) -> None:
    """A command that nobody waits for any more is ended, the sandbox goes on."""
    provider, setup = made
    sandbox_id = await create(provider, new_name())
    sandbox = await provider.attach(sandbox_id)
    body = """
        sandbox = await provider.attach(sys.argv[1])
        await sandbox.exec(["sh", "-c", "echo $$ >pid; exec sleep 300"])
    """
    worker = await elsewhere(setup, body, sandbox_id)
    await until(lambda: _text(sandbox, "pid"))
    worker.send_signal(signal.SIGKILL)
    await worker.communicate()
    await until(lambda: _ended(sandbox, "pid"))
    assert await sandbox.alive()


async def test_what_cannot_be_is_refused(made: Made) -> None:
    """A request that this make can never serve says why, and begins nothing."""
    provider, name = made[0], new_name()
    with pytest.raises(SandboxRefused):
        await provider.create(SandboxSpec(image="other"), name=name, tags={}, lifetime=LIFETIME)
    with pytest.raises(SandboxRefused):
        await provider.create(SandboxSpec(), name=name, tags={}, lifetime=timedelta(0))
    for wrong in ("../x", "", "a/b", ".trash", "x" * 65):
        with pytest.raises(SandboxRefused):
            await provider.create(SandboxSpec(), name=wrong, tags={}, lifetime=LIFETIME)
    agentless = LocalSandboxes(provider.root, agent_binary=Path("/nowhere/claude"), isolation="processes")
    with pytest.raises(AgentMissing):
        await agentless.create(SandboxSpec(), name=name, tags={}, lifetime=LIFETIME)
    assert not (provider.root / name).exists()


@requires_root
@pytest.mark.bwrap
async def test_nothing_is_left_of_a_sandbox_that_cannot_start() -> None:
    """A start that fails gives bubblewrap's reason and clears away what it began."""
    async with local_sandboxes("bubblewrap") as (provider, _):
        provider.root.chmod(0o700)
        with pytest.raises(SandboxUnavailable, match="Permission denied"):
            await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=LIFETIME)
        assert {path.name for path in provider.root.iterdir()} <= {".cli", ".trash"}


@requires_root
async def test_everything_inside_has_an_account_of_its_own(made: Made) -> None:
    """As root nothing of an agent runs as root, and no other user can look at a sandbox."""
    provider, name = made[0], new_name()
    await create(provider, name)
    sandbox = await provider.find(name)
    assert sandbox is not None
    await sandbox.launch(["sleep", "300"])
    started = [process for process in psutil.process_iter() if name in _marker(process)]
    assert started
    assert {process.uids().real for process in started} == {61_184}
    assert provider.root.stat().st_mode & 0o777 == 0o710
    assert (provider.root.stat().st_uid, provider.root.stat().st_gid) == (0, 61_184)


def _marker(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.environ().get("DOGWATCH_SANDBOX", "")
    return ""


async def _text(sandbox: Sandbox, path: str) -> str:
    return (await sandbox.exec(["cat", path])).stdout.decode()


async def _ended(sandbox: Sandbox, path: str) -> bool:
    return (await sandbox.exec(["sh", "-c", f"kill -0 $(cat {path})"])).exit_code != 0
