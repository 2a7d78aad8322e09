"""A database that is away, and comes back: one typed error for every kind of absence, and the same pool heals by itself."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import LiteralString

import pytest
import sqlalchemy.exc
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from dogwatch.errors import DatabaseUnavailable, NotFound, StorageFull
from dogwatch.store.engine import Database
from dogwatch.store.records import PostgresRecords
from tests.servers import fresh_database, running, running_postgres
from worker.embedded.port import free_port
from worker.embedded.postgres import Postgres

SOON_S = 8.0
"""The promise is six seconds; the machine may be busy."""
ONE = text("select 1 as n")


@asynccontextmanager
async def pool(url: str, size: int = 10, statement_timeout_s: float = 30.0) -> AsyncIterator[Database]:
    """A database that is closed at the end."""
    db = Database(url, pool_size=size, statement_timeout_s=statement_timeout_s)
    try:
        yield db
    finally:
        await db.close()


async def assert_absent(db: Database) -> None:
    """Every way to ask fails soon, with the one error, which tells nothing secret."""
    begun = time.monotonic()
    answers = await asyncio.gather(db.check(), db.one(ONE), _transaction(db), return_exceptions=True)
    assert time.monotonic() - begun < SOON_S
    assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    assert (make_url(db.url).password or "no password") not in " ".join(map(str, answers))


async def _transaction(db: Database) -> None:
    async with db.begin() as connection:
        await connection.execute(ONE)


async def backends(server: Postgres, db: Database) -> list[int]:
    """Processes of the server that serve this database."""
    query = "select pid from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
    async with await server.connect() as connection:
        return [row[0] for row in await (await connection.execute(query, [make_url(db.url).database])).fetchall()]


# --- absences ---------------------------------------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    """A port that refuses is an absent database."""
    async with pool(f"postgresql+psycopg://x:hunter2@127.0.0.1:{free_port()}/x") as db:
        await assert_absent(db)


async def test_a_black_hole() -> None:
    """A listener that accepts and never answers is given up within seconds."""
    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    try:
        async with pool(f"postgresql+psycopg://x:hunter2@127.0.0.1:{listener.sockets[0].getsockname()[1]}/x") as db:
            await assert_absent(db)
    finally:
        for writer in held:
            writer.close()
        listener.close()
        await listener.wait_closed()


async def test_a_server_that_is_killed_and_restarted(tmp_path: Path) -> None:
    """kill -9 in the middle of a statement is the one error; once the server is back the same pool works at the first call."""
    async with running_postgres(tmp_path) as server:
        pass
    async with running(server.child()) as child, pool(server.url("postgres")) as db:
        await asyncio.gather(*(db.one(text("select pg_sleep(0.05)")) for _ in range(4)))
        asking = asyncio.create_task(db.one(text("select pg_sleep(60)")))
        while not await busy(server):
            await asyncio.sleep(0.02)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(asking, SOON_S)
        await assert_absent(db)
        async with running(server.child()):
            for _ in range(6):
                await db.check()


async def busy(server: Postgres) -> bool:
    """Whether a statement sleeps in the server."""
    async with await server.connect() as connection:
        found = await connection.execute(
            "select 1 from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
        )
        return await found.fetchone() is not None


async def test_idle_connections_that_were_broken_are_replaced(migrated: Postgres, database_url: str) -> None:
    """After a restart or a failover nobody meets an error: connections that lost their server are found before they are used."""
    async with pool(database_url) as db:
        await asyncio.gather(*(db.one(text("select pg_sleep(0.05)")) for _ in range(5)))
        broken = await backends(migrated, db)
        assert len(broken) == 5
        async with await migrated.connect() as connection:
            await connection.execute("select pg_terminate_backend(pid) from unnest(%s) as pid", [broken])
        while set(broken) & set(await backends(migrated, db)):
            await asyncio.sleep(0.02)
        for _ in range(6):
            await _transaction(db)
            assert await db.one(ONE) is not None


async def test_a_server_that_takes_no_writes(migrated: Postgres, database_url: str) -> None:
    """A standby or a full disk makes a server read-only: writing is the one error, and works again when the server takes writes."""
    name = sql.Identifier(str(make_url(database_url).database))
    note = text("insert into blobs (sha256, size) values (sha256(now()::text::bytea), 1)")

    async def alter(words: LiteralString) -> None:
        async with await migrated.connect() as connection:
            await connection.execute(sql.SQL("alter database {} {}").format(name, sql.SQL(words)))

    await alter("set default_transaction_read_only = on")
    async with pool(database_url) as db:
        for _ in range(2):
            assert await db.one(ONE) is not None
            with pytest.raises(DatabaseUnavailable):
                await db.execute(note)
            with pytest.raises(DatabaseUnavailable):
                async with db.begin() as connection:
                    await connection.execute(note)
        await asyncio.gather(*(db.one(text("select pg_sleep(0.05)")) for _ in range(4)))
        await alter("reset default_transaction_read_only")
        with pytest.raises(DatabaseUnavailable):
            await db.execute(note)  # on a connection from before: it shows that they all have to go
        for _ in range(6):
            await db.execute(note)


async def test_too_many_connections(migrated: Postgres, database_url: str) -> None:
    """A server without a free connection is absent, and is used again as soon as there is one."""
    async with await migrated.connect() as connection:
        await connection.execute("drop role if exists crowded")
        await connection.execute("create role crowded login password 'hunter2' connection limit 1")
        try:
            url = make_url(database_url).set(username="crowded", password="hunter2").render_as_string(hide_password=False)
            async with pool(url) as first, pool(url) as second:
                await first.check()
                await assert_absent(second)
                await first.close()
                await second.check()
        finally:
            await connection.execute("drop role crowded")


async def test_a_statement_that_takes_too_long(database_url: str) -> None:
    """The server breaks it off, and its connection goes on."""
    async with pool(database_url, 1, statement_timeout_s=0.2) as db:
        with pytest.raises(DatabaseUnavailable):
            await db.one(text("select pg_sleep(30)"))
        with pytest.raises(DatabaseUnavailable):
            async with db.begin() as connection:
                await connection.execute(text("select pg_sleep(30)"))
        await db.check()


@pytest.mark.slow
async def test_a_server_that_hangs(migrated: Postgres, database_url: str) -> None:
    """A backend that stops answering in the middle is given up, and the next call does not meet it."""
    async with pool(database_url, 1, statement_timeout_s=0.2) as db:
        await db.check()
        (backend,) = await backends(migrated, db)
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(db.check(), 60)
            await asyncio.wait_for(db.check(), SOON_S)
        finally:
            os.kill(backend, signal.SIGCONT)


async def test_a_full_disk(database_url: str) -> None:
    """Postgres without space is a full storage, which a person has to clear."""
    async with pool(database_url) as db:
        with pytest.raises(StorageFull):
            await db.execute(text("do $$ begin raise exception 'no space' using errcode = 'disk_full'; end $$"))
        await db.check()


async def test_two_that_lock_each_other_out(database_url: str) -> None:
    """The one that Postgres breaks off may be repeated; the other one goes on."""
    async with pool(database_url) as db:
        await db.execute(text("insert into blobs (sha256, size) values ('a', 1), ('b', 1)"))
        both = asyncio.Barrier(2)

        async def touch(first: bytes, second: bytes) -> None:
            async with db.begin() as connection:
                await connection.execute(text("update blobs set size = 2 where sha256 = :id"), {"id": first})
                await both.wait()
                await connection.execute(text("update blobs set size = 2 where sha256 = :id"), {"id": second})

        outcomes = await asyncio.gather(touch(b"a", b"b"), touch(b"b", b"a"), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DatabaseUnavailable", "NoneType"]


async def test_a_database_without_tables(postgres: Postgres) -> None:
    """Where no migration has run, the store says what to do."""
    async with fresh_database(postgres, "template1") as url, pool(url) as db:
        with pytest.raises(DatabaseUnavailable, match="run the migrations"):
            await PostgresRecords.connect(db)


# --- transactions -----------------------------------------------------------------------------------------------------------------


async def test_any_error_takes_a_transaction_back(database_url: str) -> None:
    """What was written before an error, ours or the database's, is not there; the connection is free again."""
    note = text("insert into blobs (sha256, size) values ('a', 1)")
    async with pool(database_url, 1) as db:

        async def write_twice(error: Exception | None) -> None:
            async with db.begin() as connection:
                await connection.execute(note)
                if error is not None:
                    raise error
                await connection.execute(note)

        for error in (NotFound("no"), KeyError("bug")):
            with pytest.raises(type(error)):
                await write_twice(error)
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            await write_twice(None)
        assert (row := await db.one(text("select count(*) as n from blobs"))) is not None
        assert row.n == 0
        assert await db.execute(note) == 1


async def test_more_callers_than_connections_wait_in_line(database_url: str) -> None:
    """Whoever came first is served first: none of many that ask again and again falls behind the others."""
    async with pool(database_url, 2) as db:
        served = [0] * 40
        widest = 0

        async def ask(number: int) -> None:
            nonlocal widest
            for _ in range(20):
                await db.one(ONE)
                served[number] += 1
                widest = max(widest, max(served) - min(served))

        await asyncio.gather(*(db.one(text("select pg_sleep(0.05)")) for _ in range(2)))  # whoever opens a connection is slow
        await asyncio.gather(*(ask(number) for number in range(40)))
        assert widest <= 5


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing lost is found again by Python's collector during this test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_cancelled_callers_leave_the_pool_whole(migrated: Postgres, database_url: str) -> None:
    """Calls and transactions that are cancelled at any moment, also while a connection opens, leave nothing open and nothing locked."""
    async with pool(database_url, 3) as db:
        await db.execute(text("insert into blobs (sha256, size) values ('a', 1)"))

        async def transact() -> None:
            async with db.begin() as connection:
                await connection.execute(text("update blobs set size = size + 1"))
                await connection.execute(text("select pg_sleep(0.005)"))

        async def single() -> None:
            await db.execute(text("update blobs set size = size + 1"))

        for steps in range(60):
            asking = [asyncio.ensure_future(call) for call in (transact(), single(), transact(), single())]
            for _ in range(steps):
                await asyncio.sleep(0)
            for call in asking:
                call.cancel()
            done, pending = await asyncio.wait(asking, timeout=30)
            assert not pending
            assert all(call.cancelled() or call.exception() is None for call in done)
        async with asyncio.timeout(30):
            await asyncio.gather(*(transact() for _ in range(6)), *(single() for _ in range(6)))
    async with asyncio.timeout(20):
        while await backends(migrated, db):
            await asyncio.sleep(0.05)
