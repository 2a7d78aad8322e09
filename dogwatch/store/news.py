"""News of jobs: one listening connection per process, handed on to whoever waits for a job."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
import structlog
from psycopg import sql
from sqlalchemy.engine import make_url

from dogwatch.store.events import CHANNEL

log = structlog.get_logger()

AGAIN_AFTER_S = 1.0
"""Pause before a lost connection is opened anew; readers look by themselves meanwhile."""


class Watch:
    """One reader's interest in one job."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self._news = asyncio.Event()

    def tell(self) -> None:
        """There is news."""
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Until there was news since the last wait, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()


class News:
    """Fans notifications out by job id. A missed one is harmless: it makes a reader look sooner, never later than it would anyway."""

    def __init__(self, database_url: str) -> None:
        """`database_url` is the SQLAlchemy URL of the database."""
        self._conninfo = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._watches: dict[str, set[Watch]] = {}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen for the length of the block."""
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watch]:
        """Watch a job. Begin before the first look, so that nothing falls between look and wait."""
        watch = Watch()
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                async for job_id in listen(self._conninfo, CHANNEL):
                    for watch in self._watches.get(job_id, ()):
                        watch.tell()
            except psycopg.Error as error:
                log.warning("not listening", error=type(error).__name__, again_in_s=AGAIN_AFTER_S)
            await asyncio.sleep(AGAIN_AFTER_S)


async def listen(conninfo: str, channel: str) -> AsyncIterator[str]:
    """The payloads of a channel, over a connection of their own. Raises psycopg.Error when it is lost."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5, keepalives_idle=10) as connection:
        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        async for notification in connection.notifies():
            yield notification.payload
