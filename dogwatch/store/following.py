"""Rows of events as the doors read them: pages by number, and whether more can come."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from dogwatch.contracts.job import JobStatus
from dogwatch.errors import NotFound
from dogwatch.store.bounded import bounded
from dogwatch.store.engine import Database, one, rows

_STATUS = text("select status from jobs where id = :id and tenant = :tenant")
_PAGE = text("""
select * from (
  select e.seq, a.number as attempt, e."offset", e.length, e.type, e.subtype, e.raw, e.sha256, e.received_at,
    sum(e.length) over (order by e.seq) - e.length as before
  from (select * from events where job_id = :id and seq > :after order by seq limit :limit) e join attempts a on a.id = e.attempt_id
) page where before < :bytes order by seq
""")


@dataclass(frozen=True)
class EventRow:
    """One stored line of an agent's output."""

    seq: int
    attempt: int
    offset: int
    length: int
    type: str
    subtype: str | None
    raw: bytes | None
    """The line; None where it is a blob."""
    sha256: str | None
    """The blob that holds a long line."""
    received_at: datetime


@dataclass(frozen=True)
class EventRows:
    """Some events in order."""

    rows: tuple[EventRow, ...]
    status: JobStatus
    """The job's status before the events were read."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows: the job had ended before the page was read, and the page is empty."""
        return not self.rows and self.status.terminal


class Following:
    """Queries of reading events, bound to a tenant."""

    def __init__(self, db: Database, deadline_s: float) -> None:
        """Reads through `db`; each query has `deadline_s` seconds."""
        self.db = db
        self.deadline_s = deadline_s

    @bounded
    async def events(self, tenant: str, job_id: str, *, after: int = 0, limit: int = 500, most_bytes: int = 4 << 20) -> EventRows:
        """The events with numbers over `after`: at most `limit`, and none that begins beyond `most_bytes` bytes. Raises NotFound."""
        async with self.db.begin() as connection:
            job = await one(connection, _STATUS, id=job_id, tenant=tenant)
            if job is None:
                raise NotFound("there is no such job")
            page = await rows(connection, _PAGE, id=job_id, after=after, limit=limit, bytes=most_bytes)
        events = tuple(
            EventRow(
                seq=row.seq,
                attempt=row.attempt,
                offset=row.offset,
                length=row.length,
                type=row.type,
                subtype=row.subtype,
                raw=bytes(row.raw) if row.raw is not None else None,
                sha256=bytes(row.sha256).hex() if row.sha256 is not None else None,
                received_at=row.received_at,
            )
            for row in page
        )
        return EventRows(events, JobStatus(job.status))
