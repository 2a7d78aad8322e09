"""What an agent tries against the machine that runs it, in a bubblewrap sandbox, checked from outside."""

import asyncio
import importlib.util
import json
import os
import secrets
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dogwatch.contracts.sandbox import Network, Resources, SandboxSpec
from dogwatch.errors import SandboxLost
from dogwatch.ports import ExecResult, Sandbox
from dogwatch.sandbox.local.provider import SANDBOX_UID, LocalSandboxes
from dogwatch.testing.model import ScriptedModel
from tests import hostile
from tests.conformance.local import local_sandboxes
from tests.conformance.sandboxes import LIFETIME, answer_of, elsewhere, new_name, sh, until
from tests.environment import requires_root
from tests.unprivileged import pytest_as_nobody

pytestmark = pytest.mark.bwrap
CASES = hostile.cases("N")
ACCOUNT = SANDBOX_UID if os.geteuid() == 0 else os.geteuid()
"""Who the agent is, seen from outside."""
_WHEEL = importlib.util.find_spec("claude_agent_sdk")
CLI = Path((_WHEEL and _WHEEL.origin) or "missing").parent / "_bundled" / "claude"
"""The CLI that the wheel claude-agent-sdk carries; its package is not imported."""


@dataclass
class Listener:
    """A service of the machine on loopback that greets, and counts whom."""

    port: int = 0
    accepted: int = 0

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the first line of a connection."""
        self.accepted += 1
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A service for the length of the block."""
    listener = Listener()
    async with await asyncio.start_server(listener.greet, "127.0.0.1", 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener


@dataclass
class World:
    """A sandbox, and things of the machine around it that it must not touch."""

    provider: LocalSandboxes
    setup: str
    sandbox: Sandbox
    neighbour: Sandbox
    victim: psutil.Process
    canary: str
    service: Listener
    model: Listener

    async def run(self, script: str) -> ExecResult:
        """What an agent's script gives; `{NAME}` as in the corpus."""
        values = {
            "CANARY": self.canary,
            "HOST_PID": str(self.victim.pid),
            "HOSTPORT": str(self.service.port),
            "SESSION_B": self.neighbour.name,
        }
        case = {"input": script}
        return await self.sandbox.exec(["bash", "-c", hostile.load(case, **values)], timeout_s=120)


@pytest.fixture
async def service() -> AsyncIterator[Listener]:
    """A service of this machine, on loopback."""
    async with listening() as listener:
        yield listener


@pytest.fixture
async def model() -> AsyncIterator[Listener]:
    """What stands for the model, on loopback."""
    async with listening() as listener:
        yield listener


@pytest.fixture
def victim() -> Iterator[psutil.Process]:
    """A process outside that has the agent's own account, where that may be chosen: nothing but the sandbox protects it."""
    account = ACCOUNT if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=account, group=account, cwd="/") as process:
        yield psutil.Process(process.pid)
        process.kill()


@pytest.fixture
async def world(service: Listener, model: Listener, victim: psutil.Process) -> AsyncIterator[World]:
    """A sandbox made by a process with a secret in its environment, and a neighbour of it."""
    canary, name = secrets.token_hex(16), new_name()
    async with local_sandboxes("bubblewrap", model_url=f"http://127.0.0.1:{model.port}") as (provider, setup):
        body = """
            os.environ["LATE"] = os.environ["CANARY"]
            sandbox = await provider.create(SandboxSpec(), name=sys.argv[1], tags={}, lifetime=timedelta(minutes=5))
            await sandbox.launch(["sleep", "600"])
            print(json.dumps(sandbox.sandbox_id))
        """
        made = await answer_of(await elsewhere(setup, body, name, env={**os.environ, "CANARY": canary}))
        neighbour = await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=LIFETIME)
        await sh(neighbour, "echo private >note")
        yield World(provider, setup, await provider.attach(made), neighbour, victim, canary, service, model)
        assert victim.status() != psutil.STATUS_ZOMBIE
        assert service.accepted == 0
        assert await sh(neighbour, "cat note; ls") == "private\nnote\n"


async def no_canary(world: World, result: ExecResult) -> None:
    """N-01: the sandbox's processes were read, and none of them knows the secret."""
    assert b"PATH=" in result.stdout
    assert b"sleep" in result.stdout
    assert world.canary.encode() not in result.stdout + result.stderr


async def no_such_process(world: World, result: ExecResult) -> None:
    """N-02: outside nothing was killed, and the sandbox itself lives on too, so that its files can be collected."""
    assert b"done" in result.stdout
    assert b"No such process" in result.stderr
    assert world.victim.is_running()
    assert await world.sandbox.alive()


async def refused(world: World, result: ExecResult) -> None:
    """N-04: no connection; the world's end looks at the listener."""
    assert result.exit_code != 0
    assert b"refused" in result.stderr


async def not_mounted(world: World, result: ExecResult) -> None:
    """N-08: neither by root's means nor by others."""
    assert b"rc 0" not in result.stdout
    assert b"tmpfs /workspace" not in (await world.run("cat /proc/mounts")).stdout


async def no_namespace(world: World, result: ExecResult) -> None:
    """N-09: no new user namespace, so no capabilities."""
    codes = [line for line in result.stdout.splitlines() if line.startswith(b"rc ")]
    assert len(codes) == 2
    assert b"rc 0" not in codes


async def not_visible(world: World, result: ExecResult) -> None:
    """N-12: nothing of the neighbour, and of the machine's directories only those that every sandbox has."""
    assert world.neighbour.name.encode() not in result.stdout
    assert b"cannot access '/var/lib'" in result.stdout
    assert set((await sh(world.sandbox, "ls /")).split()) == VISIBLE


async def no_sockets(world: World, result: ExecResult) -> None:
    """N-13: no socket anywhere, and none in the environment."""
    found, _, rest = result.stdout.partition(b"ls: cannot access")
    assert found == b""
    assert rest.splitlines()[-1] == b"SSH= DOCKER="


VISIBLE = {name for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin") if Path("/", name).exists()} | {
    *("dev", "dogwatch", "etc", "home", "opt", "proc", "tmp", "usr", "workspace")
}
CHECKS: dict[str, Callable[[World, ExecResult], Awaitable[None]]] = {
    "N-01": no_canary,
    "N-02": no_such_process,
    "N-04": refused,
    "N-08": not_mounted,
    "N-09": no_namespace,
    "N-12": not_visible,
    "N-13": no_sockets,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
async def test_corpus(world: World, case: hostile.Case) -> None:
    """Every case of group N has its right answer, and the world around is as it was."""
    check = CHECKS[case["id"]]
    await check(world, await world.run(case["input"]))


DENIED = {
    "write to the system": "touch /usr/bin/x || touch /etc/x || touch /x || touch /dev/x || touch /opt/dogwatch/x || echo >>/etc/passwd",
    "read secrets of the machine": "cat /etc/shadow || ls /root || ls /var || cat /home/*/.ssh/*",
    "kernel settings": "echo 1 >/proc/sys/kernel/panic || echo b >/proc/sysrq-trigger",
    "device nodes": "mknod /tmp/disk b 254 0",
    "raw sockets": "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
    "other namespaces": "nsenter -t 1 -U true || unshare -m true || unshare -n true || unshare -p -f true",
    "other roots": "chroot / true || python3 -c 'import os; os.chroot(\"/tmp\")'",
    "remount": "mount -o remount,rw /usr || umount /usr || umount /proc",
    "other accounts": "su -c true || sudo -n true || python3 -c 'import os; os.setuid(0)'",
    "name service": "getent hosts example.com",
    "the internet": "timeout 5 bash -c 'exec 3<>/dev/tcp/8.8.8.8/53'",
    "private networks": "timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.0.1/80' || timeout 5 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80'",
    "other loopback addresses": 'nc() { timeout 5 bash -c "exec 3<>/dev/tcp/$1/{HOSTPORT}"; }; nc 127.0.0.2 || nc 0.0.0.0 || nc ::1',
}


@pytest.mark.parametrize("script", DENIED.values(), ids=DENIED.keys())
async def test_denied(world: World, script: str) -> None:
    """Other ways of the same classes fail too."""
    result = await world.run(script)
    assert result.exit_code != 0, result


async def test_no_rights_in_entered_processes(world: World) -> None:
    """Commands of ours and launched ones have no capability and no way to one."""
    await world.sandbox.launch(["sh", "-c", "cat /proc/self/status >status"])
    launched = await until(lambda: world.run("cat status"))
    for text in (launched.stdout.decode(), await sh(world.sandbox, "cat /proc/self/status")):
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"
        assert fields["Uid"].split() == ["1000"] * 4


async def test_no_descriptor_of_ours_inside(world: World) -> None:
    """A command has its three pipes and nothing else that is open in the worker or its programs."""
    held = await sh(world.sandbox, "for fd in /proc/1/fd/* /proc/self/fd/[0-2]; do readlink $fd; done; ls /proc/$$/fd")
    targets = {line.partition(":")[0] for line in held.splitlines()}
    assert targets == {"/dev/null", "pipe", "0", "1", "2"}


async def test_abstract_sockets_of_the_machine_are_out_of_reach(world: World) -> None:
    """A socket without a file belongs to the network namespace."""
    name = f"dogwatch-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        result = await world.run(f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + '{name}')\"")
    assert result.exit_code != 0
    assert b"Connection refused" in result.stderr


async def test_the_model_and_nothing_else(world: World) -> None:
    """With a network of `model` its endpoint answers under the same address, many times at once and in long streams."""
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{world.model.port}; echo agent >&3; cat <&3"
    assert (await world.run(connect)).stdout == b"hello agent\n"
    assert (await world.run(f"for i in $(seq 100); do ({connect}) & done; wait")).stdout == b"hello agent\n" * 100
    assert world.model.accepted == 101
    assert world.sandbox.model_url == f"http://127.0.0.1:{world.model.port}"


async def test_an_https_model_by_its_name() -> None:
    """The host's name means us inside, on its own port; a name that cannot be looked up outside ends the connection, not the relay."""
    async with local_sandboxes("bubblewrap", model_url="https://model.invalid") as (provider, _):
        sandbox = await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=LIFETIME)
        assert sandbox.model_url == "https://model.invalid"
        for _ in range(2):
            assert await sh(sandbox, "bash -c 'exec 3<>/dev/tcp/model.invalid/443; cat <&3; echo closed'") == "closed\n"


async def test_network_none_and_open(world: World) -> None:
    """`none` reaches not even the model; `open` reaches what the machine reaches."""
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{world.model.port}; echo agent >&3; cat <&3"
    closed = await world.provider.create(SandboxSpec(network=Network.NONE), name=new_name(), tags={}, lifetime=LIFETIME)
    assert (await closed.exec(["bash", "-c", connect])).exit_code != 0
    assert world.model.accepted == 0
    opened = await world.provider.create(SandboxSpec(network=Network.OPEN), name=new_name(), tags={}, lifetime=LIFETIME)
    assert (await opened.exec(["bash", "-c", connect])).stdout == b"hello agent\n"


async def test_planted_programs_have_nobodys_rights(world: World) -> None:
    """A setuid program that an agent leaves belongs to the agent's account, and nobody else can reach it."""
    await sh(world.sandbox, "cp /usr/bin/id planted; chmod 6755 planted; chmod 777 .; ln -s /etc/shadow link; mkfifo pipe")
    planted = world.provider.root / world.sandbox.name / "workspace" / "planted"
    found = planted.stat()
    assert found.st_uid == ACCOUNT
    assert found.st_mode & stat.S_ISUID
    assert not world.provider.root.stat().st_mode & stat.S_IRWXO
    if os.geteuid() == 0:
        with pytest.raises(PermissionError):
            subprocess.run([planted], user=65_534, group=65_534, extra_groups=[], cwd="/", check=False)


async def test_a_tree_built_against_removal_is_removed(world: World) -> None:
    """Depth beyond any path, directories without rights, links to elsewhere: all goes, and what links lead to stays."""
    kept = world.provider.root / "kept"
    kept.mkdir()
    (kept / "file").write_text("here")
    script = f"""
        ln -s {world.provider.root}/kept out; ln -s / root; mkdir locked; touch locked/file; chmod 000 locked
        python3 -c "
import os
for _ in range(3000):
    os.mkdir('deep-directory-name'); os.chdir('deep-directory-name')
open('bottom', 'w').close(); os.chmod('.', 0)"
        mkdir many; cd many; seq 5000 | xargs touch; mkfifo pipe; chmod 500 .
    """
    await sh(world.sandbox, script, timeout_s=120)
    assert await world.provider.terminate(world.sandbox.sandbox_id)
    assert (kept / "file").read_text() == "here"
    assert not (world.provider.root / world.sandbox.name).exists()
    (kept / "file").unlink()
    kept.rmdir()


LIMITS = SandboxSpec(resources=Resources(memory_mib=1024, disk_mib=16, processes=48))


async def test_limits_hold(world: World) -> None:
    """Files, the temporary directory and memory end where the request says."""
    sandbox = await world.provider.create(LIMITS, name=new_name(), tags={}, lifetime=LIFETIME)
    for place in (".", "$HOME", "/tmp"):
        filled = await sandbox.exec(["sh", "-c", f"dd if=/dev/zero of={place}/fill bs=1M; stat -c %s {place}/fill; rm {place}/fill"])
        assert 15 << 20 <= int(filled.stdout) <= 16 << 20
    greedy = await sandbox.exec(["python3", "-c", "x = bytearray(1500 << 20); print(len(x))"], timeout_s=120)
    assert greedy.exit_code != 0
    assert greedy.stdout == b""
    assert (await sandbox.exec(["true"])).exit_code == 0
    handles = await sandbox.exec(["python3", "-c", "import os\nwhile True: os.dup(0)"])
    assert b"Too many open files" in handles.stderr


async def test_a_full_sandbox_can_still_be_used_by_us(world: World) -> None:
    """Processes of an agent that has used up its number leave us room to look and to end them."""
    sandbox = await world.provider.create(LIMITS, name=new_name(), tags={}, lifetime=LIFETIME)
    bomb = "import os, time\nwhile True:\n try:\n  os.fork()\n except OSError:\n  open('full', 'w').close(); time.sleep(0.01)"
    await sandbox.launch(["python3", "-c", bomb])
    await until(lambda: _has(sandbox, "full"))
    assert int(await sh(sandbox, "ls -d /proc/[0-9]* | wc -l")) <= 48 + 8
    assert (await world.sandbox.exec(["true"])).exit_code == 0
    assert await world.provider.terminate(sandbox.sandbox_id)


async def test_a_command_loses_its_sandbox_only_when_it_is_gone(world: World) -> None:
    """Signals from inside do not reach the first process; a command in a sandbox that was ended from outside says that it is lost."""
    await sh(world.sandbox, "kill -9 1; kill -TERM 1; kill -INT 1; :")
    assert await world.sandbox.alive()
    await world.provider.terminate(world.sandbox.sandbox_id)
    with pytest.raises(SandboxLost):
        await world.sandbox.exec(["true"])


@requires_root
@pytest.mark.slow
async def test_the_same_as_an_unprivileged_user() -> None:
    """Everything above, and the conformance suite, holds where the worker is not root."""
    done = await pytest_as_nobody("tests/acceptance/test_sandbox_isolation.py", "tests/conformance/test_local_bubblewrap.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


async def _has(sandbox: Sandbox, path: str) -> bool:
    return (await sandbox.exec(["test", "-e", path])).exit_code == 0


@pytest.mark.cli
async def test_the_real_cli_works_inside() -> None:
    """The CLI starts, asks the model through the relay, writes a file and runs a program with its tools."""
    turns = [
        {"tool": "Write", "input": {"file_path": "/workspace/greeting.txt", "content": "hello\n"}},
        {"tool": "Bash", "input": {"command": "cat greeting.txt greeting.txt >twice.txt"}},
        {"text": "Done."},
    ]
    with ScriptedModel({"turns": turns}) as model:
        async with local_sandboxes("bubblewrap", agent=CLI, model_url=model.url) as (provider, _):
            sandbox = await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=LIFETIME)
            assert "Claude Code" in (await sandbox.exec([sandbox.agent_command, "--version"], timeout_s=120)).stdout.decode()
            flags = ["-p", "--output-format", "json", "--model", "claude-haiku-4-5", "--permission-mode", "bypassPermissions"]
            settings = {
                "ANTHROPIC_BASE_URL": sandbox.model_url or "",
                "ANTHROPIC_API_KEY": "sk-ant-none",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "CLAUDE_CODE_MAX_RETRIES": "0",
                "DISABLE_AUTOUPDATER": "1",
            }
            done = await sandbox.exec([sandbox.agent_command, *flags], stdin=b"Greet twice.", env=settings, timeout_s=240)
            assert done.exit_code == 0, done
            assert json.loads(done.stdout)["result"] == "Done."
            assert await sh(sandbox, "cat twice.txt") == "hello\nhello\n"
