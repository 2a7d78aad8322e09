"""What every make of sandboxes must do: one suite for the ports `Sandboxes` and `Sandbox`."""

import asyncio
import hashlib
import json
import os
import secrets
import signal
import sys
import textwrap
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dogwatch.contracts.sandbox import SandboxSpec
from dogwatch.errors import CommandFailed, CommandTimeout, SandboxLost, SandboxRefused
from dogwatch.ports import Sandbox, Sandboxes

LIFETIME = timedelta(minutes=5)
PREFIX = f"dw-test-{os.getpid()}-"
"""How the names of this run begin."""
PROJECT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


def new_name() -> str:
    """A name no other test uses."""
    return PREFIX + secrets.token_hex(6)


async def until(condition: Callable[[], Awaitable[Any]], within_s: float = WAIT_S) -> Any:
    """The first true answer of `condition`, asked again and again."""
    async with asyncio.timeout(within_s):
        while not (answer := await condition()):
            await asyncio.sleep(0.05)
        return answer


async def elsewhere(setup: str, body: str, *arguments: str, env: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """Run `body`, which may await, in another Python process in which `setup` has made `provider`."""
    main = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    imports = "import asyncio, json, os, signal, sys\nfrom datetime import timedelta\nfrom dogwatch.contracts.sandbox import SandboxSpec\n"
    program = f"{imports}{setup}\nasync def main():\n{main}\nasyncio.run(main())\n"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        cwd=PROJECT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def answer_of(process: asyncio.subprocess.Process) -> Any:
    """What such a process printed last, as JSON."""
    output, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, errors.decode()
    return json.loads(output.splitlines()[-1])


async def sh(sandbox: Sandbox, script: str, **options: Any) -> str:
    """What a shell script prints; it must succeed."""
    result = await sandbox.exec(["sh", "-c", script], **options)
    assert result.exit_code == 0, result
    return result.stdout.decode()


class SandboxConformance:
    """A make is tested by a subclass with the fixtures `provider` and `setup`.

    `setup` is the source of a program's beginning, which makes the same provider in another process. What a test leaves behind is
    terminated by the fixture, which then looks from outside that nothing is left.
    """

    @pytest.fixture
    async def sandbox(self, provider: Sandboxes) -> Sandbox:
        """A fresh sandbox."""
        return await provider.create(SandboxSpec(), name=new_name(), tags={"deployment": "conformance"}, lifetime=LIFETIME)

    # --- the life of a sandbox ---

    async def test_create_twice_adopts_the_running_one(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """A creator that is started again meets the sandbox it has made already."""
        again = await provider.create(SandboxSpec(), name=sandbox.name, tags={"deployment": "conformance"}, lifetime=LIFETIME)
        assert again.sandbox_id == sandbox.sandbox_id
        assert again.workspace == sandbox.workspace

    async def test_create_refuses_a_name_with_other_tags(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """A sandbox of somebody else is not adopted."""
        with pytest.raises(SandboxRefused):
            await provider.create(SandboxSpec(), name=sandbox.name, tags={"deployment": "other"}, lifetime=LIFETIME)
        assert await sandbox.alive()

    async def test_ten_creates_of_one_name_from_five_processes_make_one(self, provider: Sandboxes, setup: str) -> None:
        """Whoever comes at the same time gets the same sandbox."""
        name = new_name()
        body = """
            made = [provider.create(SandboxSpec(), name=sys.argv[1], tags={}, lifetime=timedelta(minutes=5)) for _ in range(2)]
            print(json.dumps([sandbox.sandbox_id for sandbox in await asyncio.gather(*made)]))
        """
        processes = [await elsewhere(setup, body, name) for _ in range(5)]
        ids = {made for process in processes for made in await answer_of(process)}
        found = await provider.find(name)
        assert found is not None
        assert ids == {found.sandbox_id}

    async def test_any_process_finds_and_uses_it(self, sandbox: Sandbox, setup: str) -> None:
        """Name and id lead to the same sandbox from another process."""
        await sh(sandbox, "echo from here >note")
        body = """
            sandbox = await provider.attach(sys.argv[1])
            found = await provider.find(sandbox.name)
            result = await found.exec(["cat", "note"])
            print(json.dumps([found.sandbox_id, result.stdout.decode()]))
        """
        assert await answer_of(await elsewhere(setup, body, sandbox.sandbox_id)) == [sandbox.sandbox_id, "from here\n"]

    async def test_unknown_names_and_ids(self, provider: Sandboxes) -> None:
        """What never was is not found, not attached to, and not terminated."""
        assert await provider.find(new_name()) is None
        assert not await provider.terminate_named(new_name())
        for unknown in (f"{new_name()}~0123456789ab", "sb-0123456789", "../../etc", ""):
            with pytest.raises(SandboxLost):
                await provider.attach(unknown)
            assert not await provider.terminate(unknown)

    async def test_list_by_tags(self, provider: Sandboxes) -> None:
        """The list has the running sandboxes that carry all given tags, with name, tags and time."""
        run, before = secrets.token_hex(4), datetime.now(UTC)
        made = [
            await provider.create(SandboxSpec(), name=new_name(), tags={"run": run, "number": str(number)}, lifetime=LIFETIME)
            for number in range(2)
        ]
        found = [info async for info in provider.list({"run": run})]
        assert {info.sandbox_id for info in found} == {sandbox.sandbox_id for sandbox in made}
        assert all(before - timedelta(seconds=2) <= info.created_at <= datetime.now(UTC) for info in found)
        (second,) = [info async for info in provider.list({"run": run, "number": "1"})]
        assert (second.name, dict(second.tags)) == (made[1].name, {"run": run, "number": "1"})
        await provider.terminate(made[1].sandbox_id)
        assert [info.sandbox_id async for info in provider.list({"run": run})] == [made[0].sandbox_id]

    async def test_terminate_is_idempotent_and_final(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """True once; afterwards everything says that the sandbox is lost."""
        assert await provider.terminate(sandbox.sandbox_id)
        assert not await provider.terminate(sandbox.sandbox_id)
        assert not await sandbox.alive()
        assert await provider.find(sandbox.name) is None
        with pytest.raises(SandboxLost):
            await provider.attach(sandbox.sandbox_id)
        with pytest.raises(SandboxLost):
            await sandbox.exec(["true"])
        with pytest.raises(SandboxLost):
            await sandbox.launch(["true"])
        with pytest.raises(SandboxLost):
            [chunk async for chunk in sandbox.stream(["true"])]

    async def test_terminate_by_name(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """An intent without an id is settled by name."""
        assert await provider.terminate_named(sandbox.name)
        assert not await provider.terminate_named(sandbox.name)
        assert not await sandbox.alive()

    async def test_an_old_id_never_ends_a_newer_sandbox(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """A sandbox made anew under the same name has another id and none of the old one's files."""
        await sh(sandbox, "echo old >note")
        await provider.terminate(sandbox.sandbox_id)
        newer = await provider.create(SandboxSpec(), name=sandbox.name, tags={}, lifetime=LIFETIME)
        assert newer.sandbox_id != sandbox.sandbox_id
        assert not await provider.terminate(sandbox.sandbox_id)
        with pytest.raises(SandboxLost):
            await sandbox.exec(["true"])
        assert await newer.alive()
        assert await sh(newer, "ls") == ""

    async def test_it_ends_by_itself(self, provider: Sandboxes) -> None:
        """After its lifetime a sandbox is gone with everything in it, without anybody's doing."""
        sandbox = await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=timedelta(seconds=3))
        await sandbox.launch(["sh", "-c", "setsid sleep 300 & exec sleep 300"])

        async def gone() -> bool:
            return not await sandbox.alive()

        await until(gone)
        assert await provider.find(sandbox.name) is None
        assert not await provider.terminate(sandbox.sandbox_id)

    async def test_terminate_ends_what_ignores_signals_and_left_its_session(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """Daemons go with the sandbox, also those that ignore TERM and HUP."""
        await sandbox.launch(["sh", "-c", "trap '' TERM HUP INT; (setsid sh -c 'echo up >up; sleep 300; sleep 300' &) ; sleep 300"])
        await until(lambda: sandbox.exec(["cat", "up"]))
        assert await provider.terminate(sandbox.sandbox_id)

    async def test_terminate_during_a_command(self, provider: Sandboxes, sandbox: Sandbox) -> None:
        """A command whose sandbox is taken away says so, instead of giving an exit code."""
        running = asyncio.create_task(sandbox.exec(["sh", "-c", "echo up >up; sleep 300"], timeout_s=120))
        await until(lambda: _exists(sandbox, "up"))
        await provider.terminate(sandbox.sandbox_id)
        with pytest.raises(SandboxLost):
            await running

    # --- exec ---

    async def test_exit_codes(self, sandbox: Sandbox) -> None:
        """The command's own code; 128 + n after signal n."""
        result = await sandbox.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
        assert (await sandbox.exec(["sh", "-c", "kill -KILL $$"])).exit_code == 128 + signal.SIGKILL

    async def test_arguments_arrive_as_they_are(self, sandbox: Sandbox) -> None:
        """No shell looks at an argument."""
        arguments = ["a b", "$HOME", "*", "'", '"', "\\", "\n", "", "-n", "ünï", ";id"]
        result = await sandbox.exec(["printf", "%s\\0", *arguments])
        assert result.stdout.decode().split("\0")[:-1] == arguments

    async def test_environment_and_directory(self, sandbox: Sandbox) -> None:
        """A clean environment plus what is given, in the workspace or where it is said."""
        names = {line.partition("=")[0] for line in (await sh(sandbox, "env")).splitlines()}
        assert {"PATH", "HOME", "LANG"} <= names
        assert not {"VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "PYTHONPATH"} & names
        assert await sh(sandbox, "pwd; echo $GIVEN", env={"GIVEN": "x y"}) == f"{sandbox.workspace}\nx y\n"
        assert await sh(sandbox, "pwd", cwd=sandbox.runs) == f"{sandbox.runs}\n"
        await sh(sandbox, "echo 1 >one", cwd=sandbox.runs)
        assert await sh(sandbox, f"cat {sandbox.runs}/one; echo $HOME; touch $HOME/x") == f"1\n{await sh(sandbox, 'echo $HOME')}"

    async def test_standard_input(self, sandbox: Sandbox) -> None:
        """None is empty; bytes and streams arrive whole."""
        assert (await sandbox.exec(["cat"])).stdout == b""
        assert (await sandbox.exec(["cat"], stdin=b"some\0bytes")).stdout == b"some\0bytes"
        assert (await sandbox.exec(["cat"], stdin=_chunks(b"a" * 10, b"", b"b" * 10))).stdout == b"a" * 10 + b"b" * 10

    async def test_big_input_against_big_output(self, sandbox: Sandbox) -> None:
        """Both directions are full at once, and output beyond the bound is dropped without stopping the command."""
        data = secrets.token_bytes(1 << 20)
        result = await sandbox.exec(["tee", "copy"], stdin=_chunks(*[data] * 20), max_output=1000, timeout_s=120)
        assert (result.exit_code, result.stdout) == (0, data[:1000])
        assert await sh(sandbox, "sha256sum <copy") == f"{hashlib.sha256(data * 20).hexdigest()}  -\n"

    async def test_a_command_need_not_read_its_input(self, sandbox: Sandbox) -> None:
        """A closed pipe is no error."""
        assert (await sandbox.exec(["true"], stdin=b"x" * (8 << 20))).exit_code == 0

    async def test_failing_input_ends_the_command(self, sandbox: Sandbox) -> None:
        """Half an input is never taken for a whole one."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            raise ConnectionError("the source broke")

        with pytest.raises(ConnectionError):
            await sandbox.exec(["sh", "-c", "cat >/dev/null; echo whole >done"], stdin=broken())
        assert not await _exists(sandbox, "done")

    async def test_timeout_ends_the_command_and_what_it_started(self, sandbox: Sandbox) -> None:
        """Nothing of a command that took too long goes on."""
        script = "setsid sleep 4321 & sleep 4321 & trap '' TERM; sleep 4321"
        with pytest.raises(CommandTimeout):
            await sandbox.exec(["sh", "-c", script], timeout_s=2)
        assert await _commands(sandbox, "sleep 4321") == 0

    async def test_cancelling_ends_the_command(self, sandbox: Sandbox) -> None:
        """Whoever stops waiting leaves nothing behind."""
        task = asyncio.create_task(sandbox.exec(["sh", "-c", "echo up >up; sleep 4322"]))
        await until(lambda: _exists(sandbox, "up"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await _commands(sandbox, "sleep 4322") == 0

    async def test_background_children_do_not_hold_the_command(self, sandbox: Sandbox) -> None:
        """A command has ended when it has, also if something it left behind holds its output open."""
        assert (await sandbox.exec(["sh", "-c", "sleep 300 & echo done"], timeout_s=60)).stdout == b"done\n"

    async def test_missing_program(self, sandbox: Sandbox) -> None:
        """A program that is not there is named."""
        with pytest.raises(CommandFailed, match="no-such-program"):
            await sandbox.exec(["no-such-program"])
        with pytest.raises(CommandFailed, match="no-such-program"):
            await sandbox.launch(["no-such-program"])

    # --- streams ---

    async def test_fifty_megabytes_out(self, sandbox: Sandbox) -> None:
        """A long stream arrives whole, in pieces."""
        await sh(sandbox, "head -c 52428800 /dev/urandom >big", timeout_s=120)
        expected, digest, largest = (await sh(sandbox, "sha256sum <big")).split()[0], hashlib.sha256(), 0
        async for chunk in sandbox.stream(["cat", "big"], timeout_s=300):
            digest.update(chunk)
            largest = max(largest, len(chunk))
        assert digest.hexdigest() == expected
        assert largest < 8 << 20

    async def test_fifty_megabytes_in_and_out(self, sandbox: Sandbox) -> None:
        """A stream through a command neither stops nor changes."""
        piece = secrets.token_bytes(1 << 20)
        received = hashlib.sha256()
        async for chunk in sandbox.stream(["cat"], stdin=_chunks(*[piece] * 50), timeout_s=300):
            received.update(chunk)
        assert received.digest() == hashlib.sha256(piece * 50).digest()

    async def test_stream_comes_while_the_command_runs(self, sandbox: Sandbox) -> None:
        """Output is not held back until the end."""
        stream = sandbox.stream(["sh", "-c", "echo first; cat go 2>/dev/null; until [ -e go ]; do sleep 0.05; done; echo last"])
        assert await anext(stream) == b"first\n"
        await sh(sandbox, "touch go")
        assert [chunk async for chunk in stream] == [b"last\n"]

    async def test_stream_tells_failure_after_its_output(self, sandbox: Sandbox) -> None:
        """0 and 1 are fine, as with tar; anything else is raised with the command's last words."""
        assert await _collect(sandbox.stream(["sh", "-c", "echo some; exit 1"])) == (b"some\n", None)
        output, error = await _collect(sandbox.stream(["sh", "-c", "echo some; echo why >&2; exit 2"]))
        assert output == b"some\n"
        assert isinstance(error, CommandFailed)
        assert "why" in str(error)

    async def test_stream_timeout(self, sandbox: Sandbox) -> None:
        """A stream that takes too long is ended with its command."""
        output, error = await _collect(sandbox.stream(["sh", "-c", "echo some; sleep 4323"], timeout_s=2))
        assert output == b"some\n"
        assert isinstance(error, CommandTimeout)
        assert await _commands(sandbox, "sleep 4323") == 0

    async def test_leaving_a_stream_ends_the_command(self, sandbox: Sandbox) -> None:
        """Who has read enough closes the stream."""
        stream = sandbox.stream(["sh", "-c", "yes | head -c 10000000; sleep 4324"])
        await anext(stream)
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()
        assert await _commands(sandbox, "sleep 4324") == 0

    # --- launch ---

    async def test_launched_commands_outlive_their_launcher(self, sandbox: Sandbox, setup: str) -> None:
        """What a killed process has launched goes on, and others see it."""
        body = """
            sandbox = await provider.attach(sys.argv[1])
            await sandbox.launch(["sh", "-c", "while :; do echo . >>beats; sleep 0.05; done"])
            os.kill(os.getpid(), signal.SIGKILL)
        """
        launcher = await elsewhere(setup, body, sandbox.sandbox_id)
        await asyncio.wait_for(launcher.communicate(), WAIT_S)
        assert launcher.returncode == -signal.SIGKILL
        before = len(await sh(sandbox, "cat beats || :"))
        await until(lambda: _longer(sandbox, "beats", before + 20))
        assert await _commands(sandbox, "echo . >>beats") == 1

    async def test_launched_secrets_are_in_the_environment_only(self, sandbox: Sandbox) -> None:
        """The environment of a launch arrives, and no argument list shows it."""
        secret = secrets.token_hex(16)
        await sandbox.launch(["sh", "-c", 'printf %s "$KEY" | sha256sum >digest; sleep 300'], env={"KEY": secret})
        digest = await until(lambda: _text(sandbox, "digest"))
        assert digest.split()[0] == hashlib.sha256(secret.encode()).hexdigest()
        assert secret not in await sh(sandbox, "cat /proc/[0-9]*/cmdline 2>/dev/null || :")

    async def test_commands_see_and_end_launched_processes(self, sandbox: Sandbox) -> None:
        """A command of ours can end the agent."""
        await sandbox.launch(["sh", "-c", "echo $$ >pid; exec sleep 4325"])
        await until(lambda: _text(sandbox, "pid"))
        assert await _commands(sandbox, "sleep 4325") == 1
        await sh(sandbox, "kill -KILL $(cat pid)")
        await until(lambda: _is_zero(_commands(sandbox, "sleep 4325")))


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _collect(stream: AsyncIterator[bytes]) -> tuple[bytes, Exception | None]:
    output = b""
    try:
        async for chunk in stream:
            output += chunk
    except (CommandFailed, CommandTimeout) as error:
        return output, error
    return output, None


async def _text(sandbox: Sandbox, path: str) -> str:
    return (await sandbox.exec(["cat", path])).stdout.decode()


async def _exists(sandbox: Sandbox, path: str) -> bool:
    return (await sandbox.exec(["test", "-e", path])).exit_code == 0


async def _longer(sandbox: Sandbox, path: str, length: int) -> bool:
    return len(await _text(sandbox, path)) > length


async def _is_zero(count: Awaitable[int]) -> bool:
    return await count == 0


async def _commands(sandbox: Sandbox, text: str) -> int:
    """How many processes of the sandbox have this text in their command line, seen from inside."""
    pattern = text[:-1] + f"[{text[-1]}]"  # which does not match itself
    script = f"for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -qe '{pattern}' && echo $p; done; :"
    return len((await sh(sandbox, script)).split())
