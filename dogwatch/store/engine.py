"""The database as the rest sees it: statements, transactions, one error for every kind of absence."""

import asyncio
import json
import math
import select
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy.exc
from pydantic import BaseModel
from sqlalchemy import TextClause, event, text
from sqlalchemy.engine import CursorResult, ExceptionContext, Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from dogwatch.errors import DatabaseUnavailable, DogwatchError, StorageFull

DISK_FULL, READ_ONLY = "53100", "25006"
CONNECT_S = 5
"""Seconds that a connection may take to open."""
Answer = TypeVar("Answer")


class Database:
    """A pool of connections. Nothing is opened until the first use; what a restart of the server broke is opened anew.

    Every method raises DatabaseUnavailable, and StorageFull where the server's disk is.
    """

    def __init__(self, url: str, *, pool_size: int = 10, statement_timeout_s: float = 30.0) -> None:
        """`url` is a SQLAlchemy URL of the driver psycopg. At most `pool_size` calls run at a time; the others wait in line."""
        self.url = url
        self._patience_s = statement_timeout_s + 2 * CONNECT_S  # for the whole transaction, the wait in line included
        # The pool's own queue lets whoever comes past take a connection before those that wait; here the first in line is next.
        self._turn = asyncio.Semaphore(pool_size)
        self._transactions = _engine(url, pool_size, statement_timeout_s)
        # A single statement is a transaction of its own, in one round trip instead of three. These connections never change their mode:
        # a caller that is cancelled while one does so would take it away with it.
        self._statements = _engine(url, pool_size, statement_timeout_s, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end, rolled back on any error."""
        with _typed():
            async with asyncio.timeout(self._patience_s), self._turn, self._transactions.begin() as connection:
                yield connection

    async def one(self, statement: TextClause, **values: object) -> Row[Any] | None:
        """Run one statement as a transaction of its own; its first row."""
        return await self._run(statement, values, lambda result: result.first())

    async def rows(self, statement: TextClause, **values: object) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own; all its rows."""
        return await self._run(statement, values, lambda result: result.all())

    async def execute(self, statement: TextClause, **values: object) -> int:
        """Run one statement as a transaction of its own; the number of rows it wrote."""
        return await self._run(statement, values, lambda result: result.rowcount)

    async def _run(self, statement: TextClause, values: Mapping[str, object], read: Callable[[CursorResult[Any]], Answer]) -> Answer:
        def work() -> Answer:
            with self._statements.sync_engine.connect() as connection:
                return read(connection.execute(statement, values))

        with _typed():
            async with asyncio.timeout(self._patience_s), self._turn:
                return await greenlet_spawn(work)  # one switch of stacks instead of one per call of the driver

    async def check(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        await self.one(text("select 1"))

    async def close(self) -> None:
        """Close all connections."""
        await self._transactions.dispose()
        await self._statements.dispose()


def _engine(url: str, pool_size: int, statement_timeout_s: float, **mode: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_use_lifo=True,
        connect_args={
            "async_creator_fn": _open,
            "connect_timeout": CONNECT_S,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "tcp_user_timeout": 10_000,
            "options": f"-c statement_timeout={int(statement_timeout_s * 1000)} -c timezone=UTC",
        },
        **mode,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_a_lost_connection)
    event.listen(engine.sync_engine, "handle_error", _leave_a_read_only_server)
    return engine


async def _open(*args: Any, **options: Any) -> psycopg.AsyncConnection:
    """Open a connection, and close it where nobody waits for it any more: one that is cancelled half open stays with both sides."""
    opening = asyncio.ensure_future(psycopg.AsyncConnection.connect(*args, **options))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[psycopg.AsyncConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().pgconn.finish()


def _refuse_a_lost_connection(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that its server has closed: then the end of the stream waits to be read on an idle socket.

    Finds what a ping would find, without the round trip that costs half as much as a statement.
    """
    driver = connection.driver_connection
    if driver.closed:
        raise sqlalchemy.exc.DisconnectionError
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    if poll.poll(0):
        raise sqlalchemy.exc.DisconnectionError


def _leave_a_read_only_server(context: ExceptionContext) -> None:
    """Have the pool open its connections anew: one that began on a server that takes no writes would never take any."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError, OSError) as error:
        raise _absent(error) from error
    except sqlalchemy.exc.DBAPIError as error:
        if error.connection_invalidated or isinstance(error, sqlalchemy.exc.InternalError):
            raise _absent(error) from error
        raise


def _absent(error: BaseException) -> DogwatchError:
    original = getattr(error, "orig", None) or error
    if getattr(original, "sqlstate", None) == DISK_FULL:
        return StorageFull("Postgres has no space left")
    return DatabaseUnavailable(f"Postgres does not answer: {type(original).__name__}")


async def one(connection: AsyncConnection, statement: TextClause, **values: object) -> Row[Any] | None:
    """The first row of a statement inside a transaction."""
    return (await connection.execute(statement, values)).first()


async def rows(connection: AsyncConnection, statement: TextClause, **values: object) -> Sequence[Row[Any]]:
    """All rows of a statement inside a transaction."""
    return (await connection.execute(statement, values)).all()


def encode(value: BaseModel | Mapping[str, object]) -> str:
    """JSON that jsonb accepts: it refuses U+0000, lone surrogates, NaN and infinity, which an agent's words may hold."""
    data = value.model_dump(mode="python") if isinstance(value, BaseModel) else value
    return json.dumps(_clean(data), separators=(",", ":"), default=str, allow_nan=False)


def plain(words: str) -> str:
    """Text that a text column accepts."""
    return words.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
