"""The embedded Postgres: made once, kept, startable after every kind of end, under any account."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from dogwatch.errors import ServerBinaryMissing, ServerDidNotStart
from tests.environment import requires_root
from tests.processes import assert_all_end, family
from tests.servers import PROJECT, fresh_database, running
from worker.embedded.port import free_port
from worker.embedded.postgres import Postgres, find_postgres

NOBODY = 65534


def server_in(directory: Path, *, binaries: Path | None = None, durable: bool = True) -> Postgres:
    """A server with its data below `directory`, on a new port."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return Postgres(
        state_dir=directory,
        log=directory / "postgres.log",
        port=free_port(),
        binaries=binaries or find_postgres(),
        durable=durable,
    )


async def query(server: Postgres, text: str, database: str = "postgres") -> object:
    """The first column of the first row that `text` selects."""
    async with await server.connect(database) as connection:
        row = await (await connection.execute(text.encode())).fetchone()
        return row[0] if row else None


async def test_first_start_makes_a_protected_utf8_server(tmp_path: Path) -> None:
    """The first start initialises data that only the server's account may enter, with a password that only we may read."""
    server = server_in(tmp_path / "state")
    async with running(server.child()):
        await server.create_database()
        await server.create_database()
        assert await query(server, "select current_database()", "dogwatch") == "dogwatch"
        assert await query(server, "show server_encoding") == "UTF8"
        assert await query(server, "show timezone") == "UTC"
        assert await query(server, "show unix_socket_directories") == ""
        assert await query(server, "show fsync") == "on"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await psycopg.AsyncConnection.connect(f"host=127.0.0.1 port={server.port} user=dogwatch password=guess dbname=postgres")
    assert server.data_dir.stat().st_mode & 0o777 == 0o700
    assert (server.state_dir / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in server.state_dir.iterdir()) == ["postgres", "postgres.log", "secrets.json"]


async def test_password_is_in_no_argument_list(tmp_path: Path) -> None:
    """Nobody who lists the machine's processes sees the password."""
    server = server_in(tmp_path)
    async with running(server.child()) as child:
        shown = [" ".join(process.cmdline()) for process in family(child.pid)]
    assert not [line for line in shown if server.password in line]


async def test_restart_keeps_data_and_password(tmp_path: Path) -> None:
    """A later server on the same directory, with another port, serves what an earlier one stored."""
    first, second = server_in(tmp_path), server_in(tmp_path)
    async with running(first.child()), await first.connect() as connection:
        await connection.execute("create table kept as select 42 as answer")
    async with running(second.child()):
        assert await query(second, "select answer from kept") == 42


async def test_start_after_kill_waits_for_the_old_backends(tmp_path: Path) -> None:
    """After kill -9 the next start waits until the last old process is gone, and then serves every committed row."""
    server = server_in(tmp_path)
    child = server.child()
    await child.start()
    async with contextlib.AsyncExitStack() as clients:
        connections = [await server.connect() for _ in range(5)]
        for connection in connections:
            clients.push_async_callback(connection.close)
        await connections[0].execute("create table kept as select 42 as answer")
        slow_backend = connections[1].info.backend_pid
        assert child.pid is not None
        os.kill(slow_backend, signal.SIGSTOP)
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
        again = server.child()
        starting = asyncio.create_task(again.start())
        try:
            done, _ = await asyncio.wait({starting}, timeout=1)
            assert not done
        finally:
            os.kill(slow_backend, signal.SIGCONT)
        await starting
        assert await query(server, "select answer from kept") == 42
        await again.stop()


async def test_stale_pid_file_that_names_a_living_process_does_not_block(tmp_path: Path) -> None:
    """After a reboot the number in postmaster.pid may belong to any process: the server starts all the same."""
    server, other = server_in(tmp_path / "one", durable=False), server_in(tmp_path / "two", durable=False)
    async with running(server.child()):
        stale = (server.data_dir / "postmaster.pid").read_text().splitlines()
    async with running(other.child()) as living_process:
        (server.data_dir / "postmaster.pid").write_text("\n".join([str(living_process.pid), *stale[1:]]))
        async with running(server.child()):
            assert await query(server, "select 1") == 1


async def test_interrupted_initialisation_leaves_nothing_half_made(tmp_path: Path) -> None:
    """What an initdb that was killed left behind is thrown away, and the start succeeds."""
    server = server_in(tmp_path)
    half_made = tmp_path / "postgres.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    async with running(server.child()):
        assert await query(server, "select 1") == 1
    assert not half_made.exists()


async def test_failure_names_the_reason_from_the_log(tmp_path: Path) -> None:
    """A server that refuses its data directory is a typed error that quotes its last words."""
    server = server_in(tmp_path)
    async with running(server.child()):
        pass
    (server.data_dir / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ServerDidNotStart, match="database files are incompatible with server"):
        await server.child().start()


async def test_stop_ends_open_connections(tmp_path: Path) -> None:
    """A client that never hangs up does not keep the server from stopping, and no process is left."""
    server = server_in(tmp_path, durable=False)
    child = server.child()
    await child.start()
    connection = await server.connect()
    processes = family(child.pid)
    await child.stop()
    assert child.pid is None
    assert_all_end(processes, within_s=5)
    await connection.close()


async def test_fresh_databases_are_copies_that_do_not_meet(tmp_path: Path) -> None:
    """Each test gets a database of its own from the template, and leaves none behind."""
    server = server_in(tmp_path, durable=False)
    async with running(server.child()):
        assert await query(server, "show fsync") == "off"
        await server.create_database("source")
        async with await server.connect("source") as connection:
            await connection.execute("create table shared as select 1 as n")
        count = "select count(*) from pg_database where datname like 'test_%'"
        async with fresh_database(server, "source") as one, fresh_database(server, "source") as two:
            assert one != two
            assert await query(server, count) == 2
            for url in (one, two):
                with psycopg.connect(url.replace("+psycopg", "")) as copy:
                    copy.execute("update shared set n = n + 1")
                    assert copy.execute("select n from shared").fetchone() == (2,)
        assert await query(server, count) == 0


@requires_root
async def test_root_starts_it_as_another_account_with_one_capability(tmp_path: Path) -> None:
    """Started by root, from binaries and a state directory below directories that only root may enter, the server runs as
    another account, which may read everything and change nothing of root's."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    wheel = find_postgres().parents[1]
    copied = hidden / wheel.name / find_postgres().parent.name
    shutil.copytree(find_postgres().parent, copied)
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), hidden / f"{wheel.name}.libs")
    server = server_in(hidden / "state", binaries=copied / "bin")
    async with running(server.child()) as child:
        process = psutil.Process(child.pid)
        assert process.exe() == str(copied / "bin" / "postgres")
        assert process.uids().effective not in (0, os.geteuid())
        status = Path(f"/proc/{child.pid}/status").read_text()
        read_search = f"{1 << 2:016x}"
        assert f"CapEff:\t{read_search}" in status
        assert f"CapBnd:\t{read_search}" in status
        assert "Groups:\t \n" in status
        assert await query(server, "select 1") == 1


@requires_root
def test_root_of_a_container_starts_it_too(tmp_path: Path) -> None:
    """Containers take dac_read_search from root by default: the server still reaches its data."""
    with server_program(tmp_path, ["setpriv", "--bounding-set=-dac_read_search", "--"]) as (_, pid):
        assert psutil.Process(pid).uids().effective != 0
        assert f"CapEff:\t{1 << 1:016x}" in Path(f"/proc/{pid}/status").read_text()


@requires_root
def test_another_account_starts_it_as_itself(tmp_path: Path) -> None:
    """A person without root gets the same server, running under their own account."""
    os.chown(tmp_path, NOBODY, NOBODY)
    # The capability lets the other account reach this interpreter, which may lie in root's home.
    keep = "-all,+dac_read_search"
    account = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={keep}"]
    account += [f"--ambient-caps={keep}", f"--bounding-set={keep}", "--securebits=+no_setuid_fixup", "--"]
    with server_program(tmp_path, account) as (program, pid):
        assert psutil.Process(pid).uids().effective == NOBODY
        assert program.stdin is not None
        program.stdin.close()
        assert program.wait(timeout=60) == 0
        assert not psutil.pid_exists(pid)


def test_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """When the process that started it is killed, the server and its backends end by themselves."""
    with server_program(tmp_path, []) as (program, pid):
        processes = family(pid)
        program.kill()
        assert_all_end(processes)


def test_missing_binaries_are_named(tmp_path: Path) -> None:
    """A configured directory without a server is an error that names the setting."""
    with pytest.raises(ServerBinaryMissing, match="DOGWATCH_POSTGRES_BIN"):
        find_postgres(tmp_path)


@contextmanager
def server_program(state: Path, account: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """This file as a program, run under `account`, that serves until it reads a line; with the server's process id."""
    with subprocess.Popen(
        [*account, sys.executable, __file__, str(state), str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
    ) as program:
        try:
            assert program.stdout is not None
            pid = int(program.stdout.readline())
            processes = family(pid)
            yield program, pid
        finally:
            program.kill()
    assert_all_end(processes)


async def serve_until_told(state: Path, port: int) -> None:
    """Run a server, print its process id, stop it at the first line of standard input."""
    server = Postgres(state_dir=state, log=state / "postgres.log", port=port, binaries=find_postgres())
    async with running(server.child()) as child:
        print(child.pid, flush=True)  # noqa: T201 - the parent reads it
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(serve_until_told(Path(sys.argv[1]), int(sys.argv[2])))
