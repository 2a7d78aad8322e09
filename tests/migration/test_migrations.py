"""The migrations: up, down, twice, at once, and against somebody's lock. On a real Postgres, through the alembic program."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dogwatch.errors import DatabaseUnavailable
from dogwatch.store.engine import Database
from dogwatch.store.records import deployment_id
from migrations.run import migrate
from tests.servers import PROJECT, fresh_database
from worker.embedded.postgres import Postgres

OBJECTS = """
select 'table ' || relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'S', 'm')
union all select 'function ' || proname from pg_proc where pronamespace = 'public'::regnamespace
union all select 'type ' || typname from pg_type where typnamespace = 'public'::regnamespace and typtype in ('e', 'd')
order by 1
"""
VERSION_TABLE = ["table alembic_version"]


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[str]:
    """The address of a database in which nothing is."""
    async with fresh_database(postgres, "template1") as url:
        yield url


async def alembic(url: str, *arguments: str) -> tuple[int, str]:
    """Run the program as a person does; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *arguments),
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DOGWATCH_DATABASE_URL": url},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()


async def done(url: str, *arguments: str) -> str:
    """Run the program; fail with what it said unless it succeeds."""
    code, said = await alembic(url, *arguments)
    assert code == 0, said
    return said


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection of somebody else."""
    async with await psycopg.AsyncConnection.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        yield other


async def objects(url: str) -> list[str]:
    """Everything the database holds of ours."""
    async with connection(url) as other:
        return [row[0] for row in await (await other.execute(OBJECTS)).fetchall()]


async def test_up_is_what_the_tables_say(empty: str) -> None:
    """After an upgrade of an empty database there is nothing left that a new migration would have to change."""
    await done(empty, "upgrade", "head")
    assert "No new upgrade operations detected" in await done(empty, "check")
    assert {"table jobs", "table events", "function keep_order"} <= set(await objects(empty))


async def test_down_leaves_nothing_behind(empty: str) -> None:
    """A downgrade to nothing takes every table, function and type away, and an upgrade works again."""
    await done(empty, "upgrade", "head")
    await done(empty, "downgrade", "base")
    assert await objects(empty) == VERSION_TABLE
    await done(empty, "upgrade", "head")


async def test_up_twice_changes_nothing(empty: str) -> None:
    """A second upgrade keeps the deployment's id, which is part of every sandbox's name."""
    await done(empty, "upgrade", "head")
    before = await objects(empty)
    db = Database(empty)
    first = await deployment_id(db)
    await done(empty, "upgrade", "head")
    assert (await deployment_id(db), await objects(empty)) == (first, before)
    await db.close()


async def test_two_at_once_both_succeed(empty: str) -> None:
    """Several processes of a deployment that start together all come up on the same tables."""
    await asyncio.gather(*(done(empty, "upgrade", "head") for _ in range(3)))
    async with connection(empty) as other:
        assert await (await other.execute("select count(*) from deployment")).fetchone() == (1,)


async def test_a_second_process_waits_for_a_slow_first_one(empty: str) -> None:
    """The wait for another migration is longer than that for a lock of the application."""
    async with connection(empty) as other:
        await other.execute("select pg_advisory_lock(hashtext('dogwatch migrations'))")
        upgrading = asyncio.create_task(done(empty, "upgrade", "head"))
        finished, _ = await asyncio.wait({upgrading}, timeout=6)
        assert not finished
        await other.execute("select pg_advisory_unlock_all()")
        await upgrading


async def test_a_lock_that_somebody_holds_is_named(empty: str) -> None:
    """A migration that meets a long transaction gives up within seconds, says for what it waited, and leaves all as it was."""
    await done(empty, "upgrade", "head")
    before = await objects(empty)
    async with connection(empty) as other, other.transaction():
        await other.execute("select * from events")
        begun = time.monotonic()
        code, said = await alembic(empty, "downgrade", "base")
        assert time.monotonic() - begun < 15
    assert code != 0
    assert "did not get the lock for `DROP TABLE events` within 4 s" in said
    assert await objects(empty) == before
    await done(empty, "downgrade", "base")


async def test_a_failed_upgrade_leaves_nothing(empty: str) -> None:
    """An upgrade that breaks in the middle is one transaction: nothing of it stays, and it can be repeated."""
    async with connection(empty) as other:
        await other.execute("create table transitions (mine int)")
        code, _ = await alembic(empty, "upgrade", "head")
        assert code != 0
        assert await objects(empty) == ["table transitions"]
        await other.execute("drop table transitions")
    await done(empty, "upgrade", "head")


async def test_the_worker_migrates_by_itself(empty: str, postgres: Postgres) -> None:
    """The same from inside a process; a lock in the way and an absent database are typed errors."""
    async with connection(empty) as other, other.transaction(force_rollback=True):
        await other.execute("create table jobs (mine int)")
        with pytest.raises(DatabaseUnavailable, match="did not get the lock"):
            await asyncio.to_thread(migrate, empty, PROJECT)
    await asyncio.to_thread(migrate, empty, PROJECT)
    await asyncio.to_thread(migrate, empty, PROJECT)
    with pytest.raises(DatabaseUnavailable):
        await asyncio.to_thread(migrate, postgres.url("missing"), PROJECT)


async def test_they_run_online_only(empty: str) -> None:
    """A script of SQL could not see what is there: it is refused."""
    code, said = await alembic(empty, "upgrade", "head", "--sql")
    assert code != 0
    assert "online only" in said


def test_one_place_configures_them() -> None:
    """There is no alembic.ini: the program finds everything in pyproject.toml."""
    assert not list(PROJECT.glob("alembic.ini"))
    assert not list((PROJECT / "migrations").glob("*.ini"))
    assert "[tool.alembic]" in Path(PROJECT, "pyproject.toml").read_text()


async def test_every_step_down_and_up_again(empty: str) -> None:
    """Each revision by itself can be taken back and applied again."""
    steps = len(list((PROJECT / "migrations" / "versions").glob("[0-9]*.py")))
    for _ in range(steps):
        await done(empty, "upgrade", "+1")
        await done(empty, "downgrade", "-1")
        await done(empty, "upgrade", "+1")
    assert "(head)" in await done(empty, "current")
    async with connection(empty) as other:
        version = await (await other.execute(sql.SQL("select version_num from alembic_version"))).fetchone()
    assert version is not None
