"""The supervisor of the embedded stack: order, restarts, ends of every kind, one stack per state directory."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from dogwatch.errors import PortTaken, ServerDidNotStart, StackAlreadyRunning
from tests.processes import assert_all_end, family
from tests.servers import PROJECT
from worker.embedded.keeper import FIRST_PAUSE_S
from worker.embedded.option import Programs, StackOptions
from worker.embedded.postgres import Postgres
from worker.embedded.stack import FILE, Stack, running_stack
from worker.embedded.up import run_stack

WITHIN_S = 90.0


def stand_in(verb: str) -> tuple[str, ...]:
    """The argument list of a program in place of one of the stack's own."""
    return (sys.executable, str(Path(__file__).with_name("stand_in.py")), verb)


def options(state: Path, *, http: str = "http", http_port: int = 0, ui: bool = False) -> StackOptions:
    """A stack of real servers and stand-in programs on free ports."""
    return StackOptions(
        state_dir=state,
        http_port=http_port,
        temporal_port=0,
        temporal_ui_port=0 if ui else None,
        search_attributes={"Colour": "Keyword"},
        env={"PATH": os.environ["PATH"], "TEMPORAL_API_KEY": "of another cluster"},
        durable=False,
        programs=Programs(
            migrate=stand_in("migrate"),
            worker=stand_in("worker"),
            http=stand_in(http),
            farewell=stand_in("farewell"),
            cwd=PROJECT,
        ),
    )


def postgres_of(stack: Stack) -> Postgres:
    """The stack's own Postgres."""
    assert stack.postgres
    return stack.postgres


async def ran(stack: Stack) -> list[str]:
    """The programs that ran so far, over the life of the state directory, in order."""
    async with await postgres_of(stack).connect("dogwatch") as connection:
        rows = await (await connection.execute("select verb from ran order by id")).fetchall()
    return [verb for (verb,) in rows]


async def await_new_pid(stack: Stack, name: str, old: int) -> int:
    """Wait until the child runs again, is known to `stack.json`, and return its process id."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        listed = json.loads((stack.state_dir / FILE).read_text())["children"][name]
        if listed not in (None, old):
            return int(listed)
        assert time.monotonic() < deadline, f"{name} was not restarted"
        await asyncio.sleep(0.05)


async def test_everything_runs_and_stack_json_says_where(tmp_path: Path) -> None:
    """Migration runs first; servers, worker and door are up; the file for other commands is private and without secrets."""
    async with running_stack(options(tmp_path / "state", ui=True)) as stack:
        assert await ran(stack) == ["migrate", "worker"]
        path = stack.state_dir / FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert postgres_of(stack).password not in path.read_text()
        content = json.loads(path.read_text())
        assert content["pid"] == os.getpid()
        assert list(content["children"]) == ["postgres", "temporal", "worker", "http"]
        async with httpx.AsyncClient(trust_env=False) as http:
            for url in (content["urls"]["http"] + "/v1/health", content["urls"]["temporal_ui"]):
                assert (await http.get(url, timeout=30)).status_code == 200
        environment = psutil.Process(content["children"]["worker"]).environ()
        assert environment["TEMPORAL_ADDRESS"] == content["addresses"]["temporal"]
        assert "TEMPORAL_API_KEY" not in environment
        assert "DOGWATCH_READY_FILE" not in psutil.Process(content["children"]["http"]).environ()
        processes = [process for pid in content["children"].values() for process in family(pid)]
    assert not path.exists()
    assert_all_end(processes, within_s=5)


async def test_a_killed_child_is_restarted_alone(tmp_path: Path) -> None:
    """After kill -9 of any one child it runs again, while the others keep their processes."""
    async with running_stack(options(tmp_path)) as stack:
        for name in ("postgres", "temporal", "worker", "http"):
            before = {child: stack.children[child].pid for child in stack.children}
            victim = before.pop(name)
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            assert await await_new_pid(stack, name, victim) != victim
            assert {child: stack.children[child].pid for child in before} == before
        assert await ran(stack) == ["migrate", "worker", "worker"]


async def test_a_child_can_be_restarted_on_purpose(tmp_path: Path) -> None:
    """A program that uses the stack may restart one child, which the keeper does not take for a death."""
    async with running_stack(options(tmp_path)) as stack:
        worker = stack.children["worker"]
        old = family(worker.pid)
        await worker.restart()
        assert_all_end(old)
        new = worker.pid
        ending = asyncio.create_task(worker.wait())
        await asyncio.wait({ending}, timeout=4 * FIRST_PAUSE_S)
        assert worker.pid == new
        assert await ran(stack) == ["migrate", "worker", "worker"]


async def test_state_survives_a_restart(tmp_path: Path) -> None:
    """A second stack on the same directory finds what the first stored, and its own first stop said farewell."""
    async with running_stack(options(tmp_path)) as stack:
        password = postgres_of(stack).password
    async with running_stack(options(tmp_path)) as stack:
        assert postgres_of(stack).password == password
        assert await ran(stack) == ["migrate", "worker", "farewell", "migrate", "worker"]


async def test_failed_start_names_the_program_and_leaves_nothing(tmp_path: Path) -> None:
    """When the last program fails to start, the error quotes it and everything started before is stopped."""
    with pytest.raises(ServerDidNotStart, match=r"(?s)http ended with code 1.*the stand-in fails as asked"):
        async with running_stack(options(tmp_path, http="fail")):
            pytest.fail("a stack without its door is not up")
    assert not (tmp_path / FILE).exists()
    assert processes_in(tmp_path) == []


async def test_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    """A port that another program listens on is an error with port, purpose and setting; no server was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"{port}.*HTTP door.*DOGWATCH_HTTP_PORT"):
            async with running_stack(options(tmp_path, http_port=port)):
                pytest.fail("the port is taken")
    assert list((tmp_path / "logs").iterdir()) == []


async def test_second_stack_on_the_same_state_is_refused(tmp_path: Path) -> None:
    """A second stack is told which process runs the first, which is not disturbed."""
    async with running_stack(options(tmp_path)) as stack:
        with pytest.raises(StackAlreadyRunning, match=f"process {os.getpid()}"):
            async with running_stack(options(tmp_path)):
                pytest.fail("two stacks on one directory")
        assert await ran(stack) == ["migrate", "worker"]


@contextmanager
def stack_program(state: Path) -> Iterator[subprocess.Popen[str]]:
    """A stack as a process of its own, in a session of its own, that prints its table when it is up."""
    program = subprocess.Popen(
        [sys.executable, __file__, str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
        start_new_session=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=WITHIN_S)


def read_until(program: subprocess.Popen[str], word: str) -> str:
    """The output up to the first line that holds `word`."""
    assert program.stdout is not None
    seen = ""
    for line in program.stdout:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"{word!r} never appeared in:\n{seen}")


def processes_in(state: Path) -> list[psutil.Process]:
    """Every process that holds the lock of a state directory, which all children of its stack do."""
    lock = (state / "lock").resolve()
    return [process for process in psutil.process_iter() if lock in open_files(process)]


def open_files(process: psutil.Process) -> set[Path]:
    """What the descriptors of a process point at; nothing for one that has ended."""
    found = set()
    for descriptor in Path(f"/proc/{process.pid}/fd").glob("*"):
        try:
            found.add(descriptor.readlink())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and a closed terminal end the stack with code 0 and leave no process."""
    with stack_program(tmp_path) as program:
        output = read_until(program, "Logs")
        assert "Ctrl-C stops everything" in output
        processes = processes_in(tmp_path)
        assert len(processes) > 5
        program.send_signal(number)
        assert program.wait(timeout=WITHIN_S) == 0
        assert_all_end(processes, within_s=1)
    assert not (tmp_path / FILE).exists()


def test_ctrl_c_in_the_middle_of_the_start_stops_everything(tmp_path: Path) -> None:
    """A stack that is not up yet can be stopped as well."""
    with stack_program(tmp_path) as program:
        read_until(program, "child=postgres")
        processes = processes_in(tmp_path)
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=WITHIN_S) == 0
        assert_all_end(processes, within_s=1)
    assert processes_in(tmp_path) == []


def test_children_end_when_the_supervisor_is_killed_and_the_next_stack_starts(tmp_path: Path) -> None:
    """After kill -9 of the supervisor its servers end by themselves; a new stack waits for that and finds all data."""
    with stack_program(tmp_path) as program:
        read_until(program, "Logs")
        processes = processes_in(tmp_path)
        program.kill()
        program.wait(timeout=WITHIN_S)
        with stack_program(tmp_path) as successor:
            read_until(successor, "Logs")
            assert_all_end(processes, within_s=0)
            content = json.loads((tmp_path / FILE).read_text())
            secret = json.loads((tmp_path / "secrets.json").read_text())["postgres_password"]
            with psycopg.connect(f"postgresql://dogwatch:{secret}@{content['addresses']['postgres']}") as connection:
                rows = connection.execute("select verb from ran order by id").fetchall()
            assert [verb for (verb,) in rows] == ["migrate", "worker", "migrate", "worker"]
            successor.send_signal(signal.SIGTERM)
            assert successor.wait(timeout=WITHIN_S) == 0
    assert processes_in(tmp_path) == []


if __name__ == "__main__":
    sys.exit(asyncio.run(run_stack(options(Path(sys.argv[1])))))


async def test_a_configured_postgres_wins_over_an_embedded_one(tmp_path: Path, postgres: Postgres) -> None:
    """With an address of a database no server is started, and the programs find that database."""
    wanted = replace(options(tmp_path / "state"), database_url=postgres.url("postgres"))
    async with running_stack(wanted) as stack:
        assert set(stack.children) == {"temporal", "worker", "http"}
        assert stack.environment()["DOGWATCH_DATABASE_URL"] == postgres.url("postgres")
        assert stack.database_place == "as DOGWATCH_DATABASE_URL says"
    assert not (tmp_path / "state" / "postgres").exists()
