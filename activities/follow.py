"""Following an agent's output: from the cursor in Postgres, by whoever follows, every byte stored once."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace

from dogwatch.agent.progress import Progress
from dogwatch.agent.status import Status
from dogwatch.agent.stream import Line, LineSplitter, read_event
from dogwatch.agent.supervisor import Supervisor
from dogwatch.agent.verdict import Lost
from dogwatch.errors import SandboxLost
from dogwatch.ports import Blobs, Cursor, EventLine, Records

CHUNK = 1 << 20
"""Bytes read from the spool at once."""
PATIENCE_S = 5.0
"""Longest wait inside the sandbox for the next bytes."""
INLINE = 64 << 10
"""A longer line is stored as a blob."""
ANNOUNCE_S = 0.2
"""Least time between two announcements of one job: they serialise the database's commits."""
CLAIM_S = 30.0
"""How long a launched supervisor may take to show up."""


class Follower:
    """One execution's hold on an attempt's output. Losing the lease ends it."""

    def __init__(self, job_id: str, attempt_id: str, records: Records, blobs: Blobs) -> None:
        """Nothing is read before `follow`."""
        self.job_id, self.attempt_id, self.records, self.blobs = job_id, attempt_id, records, blobs
        self.cursor: Cursor | None = None
        self.progress = Progress()
        self.lost: Lost | None = None
        self.status: Status | None = None
        self._announced = 0.0
        self._untold = False

    async def take(self) -> Cursor:
        """Take the lease and take up the state of whoever followed before."""
        self.cursor = await self.records.take_lease(self.attempt_id)
        self.progress = Progress.from_json(self.cursor.progress)
        return self.cursor

    async def follow(self, supervisor: Supervisor) -> None:
        """Store the output until the run has ended and everything is stored; `status` and `lost` say how it ended."""
        try:
            cursor = await self.take()
            if await self._tampered(supervisor, cursor):
                self.lost = "tampered"
            else:
                await self._read(supervisor, LineSplitter(cursor.offset, cursor.tail))
        except SandboxLost:
            self.lost = "sandbox"
        if self._untold:
            await self.announce(now=True)

    async def _read(self, supervisor: Supervisor, splitter: LineSplitter) -> None:
        begun, deaths = time.monotonic(), 0
        while True:
            status, data = await supervisor.poll(splitter.position, CHUNK, PATIENCE_S)
            self.status = status
            await self.store(splitter.feed(data))
            if data and not status.tampered and not (status.exit and status.done(splitter.position)):
                continue
            if status.tampered:
                self.lost = "tampered"
            elif status.lost:
                deaths += 1  # looked at again: exit.json appears just before the lock is let go
                self.lost = "supervisor" if deaths > 1 else None
            elif not status.claimed and time.monotonic() - begun > CLAIM_S:
                self.lost = "supervisor"
            if self.lost is not None or (status.done(splitter.position) and not status.lost):
                await self.store(splitter.finish())
                return

    async def store(self, lines: Sequence[Line]) -> None:
        """Append lines behind the cursor and fold them into the progress."""
        if not lines or self.cursor is None:
            return
        events = []
        for line in lines:
            event, data = read_event(line)
            self.progress.add(event.type, event.subtype, data)
            events.append(await self._outsource(event))
        self.cursor = await self.records.append_events(self.cursor, events, self.progress.to_json())
        await self.announce()

    async def _outsource(self, event: EventLine) -> EventLine:
        if len(event.raw) <= INLINE:
            return event
        sha256 = hashlib.sha256(event.raw).hexdigest()
        if await self.records.note_blobs({sha256: len(event.raw)}):
            await self.blobs.put(sha256, event.raw)
        return replace(event, sha256=sha256)

    async def announce(self, *, now: bool = False) -> None:
        """Tell the doors that there is news, not too often."""
        self._untold = not now and time.monotonic() - self._announced < ANNOUNCE_S
        if not self._untold:
            self._announced = time.monotonic()
            await self.records.announce(self.job_id)

    async def _tampered(self, supervisor: Supervisor, cursor: Cursor) -> bool:
        """Whether the bytes below the cursor are not those that were stored."""
        if not cursor.tail:
            return False
        status, tail = await supervisor.poll(cursor.offset - len(cursor.tail), len(cursor.tail), 0)
        return status.size < cursor.offset or tail != cursor.tail


async def until_ended(follower: Follower, supervisor: Supervisor, patience_s: float) -> None:
    """Follow for at most `patience_s` seconds: for the last lines of an agent that was ended."""
    async with asyncio.timeout(patience_s):
        await follower.follow(supervisor)
