"""The database as the rest sees it: transactions, one error for every kind of absence, health."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy.exc
from pydantic import BaseModel
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from dogwatch.errors import DatabaseUnavailable, DogwatchError, StorageFull

DISK_FULL = "53100"


class Database:
    """A pool of connections. Nothing is opened until the first use."""

    def __init__(self, url: str, *, pool_size: int = 10, statement_timeout_s: float = 30.0) -> None:
        """`url` is a SQLAlchemy URL of the driver psycopg. A connection that does not answer within 5 seconds counts as absent."""
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=5,
            pool_use_lifo=True,
            connect_args={
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "tcp_user_timeout": 10_000,
                "options": f"-c statement_timeout={int(statement_timeout_s * 1000)} -c timezone=UTC",
            },
        )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end, rolled back on any error. Raises DatabaseUnavailable, StorageFull."""
        try:
            async with self.engine.begin() as connection:
                yield connection
        except DogwatchError:
            raise
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError, OSError) as error:
            raise _absent(error) from error
        except sqlalchemy.exc.DBAPIError as error:
            if error.connection_invalidated or isinstance(error, sqlalchemy.exc.InternalError):
                raise _absent(error) from error
            raise

    async def check(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        async with self.begin() as connection:
            await connection.execute(text("select 1"))

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def _absent(error: BaseException) -> DogwatchError:
    original = getattr(error, "orig", None) or error
    if getattr(original, "sqlstate", None) == DISK_FULL:
        return StorageFull("Postgres has no space left")
    return DatabaseUnavailable(f"Postgres does not answer: {type(original).__name__}")


async def one(connection: AsyncConnection, statement: TextClause, **values: object) -> Row[Any] | None:
    """The first row of a statement."""
    return (await connection.execute(statement, values)).first()


async def rows(connection: AsyncConnection, statement: TextClause, **values: object) -> Sequence[Row[Any]]:
    """All rows of a statement."""
    return (await connection.execute(statement, values)).all()


def encode(value: BaseModel | Mapping[str, object]) -> str:
    """JSON that jsonb accepts: it refuses U+0000 and lone surrogates, which an agent's words may hold."""
    data = value.model_dump(mode="python") if isinstance(value, BaseModel) else value
    return json.dumps(_clean(data), separators=(",", ":"), default=str)


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
    return value
