"""Rows of events: the lease, the cursor, lines stored once and in order."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import text

from dogwatch.contracts.steps import StopReason
from dogwatch.errors import AttemptEnded, CursorMoved, LeaseLost
from dogwatch.ports import Cursor, EventLine
from dogwatch.store.engine import Database, encode, plain
from dogwatch.store.manifests import hold_blobs

CHANNEL = "dogwatch_jobs"
"""Channel of NOTIFY; the payload is a job id and nothing else."""
TAIL = 4096
"""Bytes kept of the last stored line: enough to notice that the spool was changed below the cursor."""

_TAKE = text("""
update attempts set lease = lease + 1, state = 'running',
  started_at = coalesce(started_at, now())
where id = :id and ended_at is null
returning lease, next_offset, next_seq, tail, progress, stop_reason
""")
_APPEND = text("""
with moved as (
  update attempts set next_offset = :new_offset, next_seq = :new_seq, tail = :tail, progress = cast(:progress as jsonb)
  where id = :id and lease = :lease and next_offset = :offset and next_seq = :seq and ended_at is null
  returning job_id
)
insert into events (job_id, seq, attempt_id, "offset", length, type, subtype, raw, sha256)
select moved.job_id, line.seq, :id, line."offset", line.length, line.type, line.subtype, line.raw, line.sha256
from moved, unnest(cast(:seqs as bigint[]), cast(:offsets as bigint[]), cast(:lengths as int[]), cast(:types as text[]),
  cast(:subtypes as text[]), cast(:raws as bytea[]), cast(:digests as bytea[]))
  as line(seq, "offset", length, type, subtype, raw, sha256)
""")
_LEASE = text("select lease, ended_at from attempts where id = :id")
_NOTIFY = text(f"select pg_notify('{CHANNEL}', :job)")


class Events:
    """Queries of run_agent."""

    def __init__(self, db: Database) -> None:
        """Reads and writes through `db`."""
        self.db = db

    async def take_lease(self, attempt_id: str) -> Cursor:
        """See `ports.Records`."""
        row = await self.db.one(_TAKE, id=attempt_id)
        if row is None:
            raise AttemptEnded(f"attempt {attempt_id} has ended")
        return Cursor(
            attempt_id=attempt_id,
            lease=row.lease,
            offset=row.next_offset,
            next_seq=row.next_seq,
            tail=bytes(row.tail),
            progress=row.progress,
            stop_requested=StopReason(row.stop_reason) if row.stop_reason else None,
        )

    async def append_events(self, cursor: Cursor, lines: Sequence[EventLine], progress: Mapping[str, object]) -> Cursor:
        """See `ports.Records`."""
        if not lines:
            return cursor
        last = lines[-1]
        offset, seq = last.offset + len(last.raw), cursor.next_seq + len(lines)
        values: dict[str, object] = {
            "id": cursor.attempt_id,
            "lease": cursor.lease,
            "offset": cursor.offset,
            "seq": cursor.next_seq,
            "new_offset": offset,
            "new_seq": seq,
            "tail": last.raw[-TAIL:],
            "progress": encode(progress),
            **_columns(lines, cursor.next_seq),
        }
        if not await self._append(values, {line.sha256 for line in lines if line.sha256}):
            row = await self.db.one(_LEASE, id=cursor.attempt_id)
            if row is None or row.ended_at is not None:
                raise AttemptEnded(f"attempt {cursor.attempt_id} has ended")
            raise LeaseLost if row.lease != cursor.lease else CursorMoved
        return Cursor(cursor.attempt_id, cursor.lease, offset, seq, last.raw[-TAIL:], progress, cursor.stop_requested)

    async def _append(self, values: Mapping[str, object], blobs: Collection[str]) -> bool:
        if not blobs:
            return await self.db.execute(_APPEND, **values) > 0
        async with self.db.begin() as connection:
            await hold_blobs(connection, blobs)
            return (await connection.execute(_APPEND, values)).rowcount > 0

    async def announce(self, job_id: str) -> None:
        """See `ports.Records`."""
        await self.db.one(_NOTIFY, job=job_id)


def _columns(lines: Sequence[EventLine], first: int) -> dict[str, object]:
    return {
        "seqs": list(range(first, first + len(lines))),
        "offsets": [line.offset for line in lines],
        "lengths": [len(line.raw) for line in lines],
        "types": [plain(line.type) for line in lines],
        "subtypes": [plain(line.subtype) if line.subtype else None for line in lines],
        "raws": [line.raw if line.sha256 is None else None for line in lines],
        "digests": [bytes.fromhex(line.sha256) if line.sha256 else None for line in lines],
    }
