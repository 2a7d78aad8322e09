"""Leases, cursors and the lines of an agent's output, on a real Postgres."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from dogwatch.errors import AttemptEnded, CursorMoved, LeaseLost, StorageUnavailable
from dogwatch.ports import Cursor, EventLine
from dogwatch.store.events import CHANNEL, TAIL
from dogwatch.store.records import PostgresRecords
from tests.store import CANCELLED, connected, look, opened, request, sha, value, write


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresRecords]:
    """The store on a database of this test's own."""
    async with connected(database_url) as store:
        yield store


def lines(offset: int, *raws: bytes, kind: str = "assistant") -> list[EventLine]:
    """Lines that follow each other from `offset` on."""
    starts = itertools.accumulate((len(raw) for raw in raws), initial=offset)
    return [EventLine(start, raw, kind, None) for start, raw in zip(starts, raws, strict=False)]


async def spool(records: PostgresRecords, job: str = "job-1") -> bytes:
    """What was stored of a job, in order; fails where it has a gap, an overlap or a number twice."""
    rows = await look(records, 'select seq, "offset", length, raw from events where job_id = :job order by seq', job=job)
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    stored = b""
    for row in rows:
        raw = row["raw"]
        assert isinstance(raw, bytes)
        assert (row["offset"], row["length"]) == (len(stored), len(raw))
        stored += raw
    return stored


async def test_lines_are_stored_byte_for_byte(records: PostgresRecords) -> None:
    """NUL, invalid UTF-8 and a last line without its end come back as they were; the cursor stands behind them."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    raws = (b"\x00\x00\n", b"\xff\xfe{\xc3\n", b"\n", b'{"a": "\\u0000"}\n', b"no end")
    moved = await records.append_events(cursor, lines(0, *raws), {})
    assert (moved.offset, moved.next_seq, moved.tail, moved.lease) == (len(b"".join(raws)), 6, b"no end", cursor.lease)
    assert await spool(records) == b"".join(raws)
    again = await records.take_lease("job-1.1")
    assert (again.offset, again.next_seq, again.tail, again.lease) == (moved.offset, 6, b"no end", cursor.lease + 1)


async def test_nothing_to_store_moves_nothing(records: PostgresRecords) -> None:
    """An empty batch returns the cursor, even a stale one, without a word to the database."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    assert await records.append_events(cursor, [], {}) is cursor


async def test_the_tail_of_a_long_line_is_kept(records: PostgresRecords) -> None:
    """Enough of the last line stays on the attempt to notice a spool that was changed."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    raw = bytes(random.Random(1).randbytes(60_000)) + b"\n"
    assert (await records.append_events(cursor, lines(0, raw), {})).tail == raw[-TAIL:]
    assert (await records.take_lease("job-1.1")).tail == raw[-TAIL:]


async def test_odd_words_of_an_agent_are_stored(records: PostgresRecords) -> None:
    """Types and progress are the agent's own words: U+0000, lone surrogates, NaN, quotes and huge numbers are no obstacle."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    odd = "a\x00b\ud800c'\"{}\\:name %s\u202e" + "x" * 5000
    line = EventLine(0, b"{}\n", odd, odd)
    progress = {odd: [odd, None, True, {"n": 10**300, "nan": float("nan"), "inf": float("-inf"), "deep": [[[odd]]]}], "session_id": "s\x00"}
    await records.append_events(cursor, [line, EventLine(3, b"{}\n", "", "")], progress)
    shown = odd.replace("\x00", "\ufffd").replace("\ud800", "?")
    assert await look(records, "select type, subtype from events order by seq") == [
        {"type": shown, "subtype": shown},
        {"type": "", "subtype": None},
    ]
    stored = (await records.take_lease("job-1.1")).progress
    assert stored == {shown: [shown, None, True, {"n": 10**300, "nan": None, "inf": None, "deep": [[[shown]]]}], "session_id": "s\ufffd"}
    assert (await records.open_collection("job-1.1")).transcript_of == "s\ufffd"


async def test_a_long_line_lives_in_a_blob(records: PostgresRecords) -> None:
    """Its row has the length and the digest and no body, between rows that have one."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    long = b"x" * 100_000 + b"\n"
    await records.note_blobs({sha(long): len(long)})
    batch = [
        EventLine(0, b"a\n", "user", None),
        EventLine(2, long, "oversize", None, sha(long)),
        EventLine(2 + len(long), b"b\n", "user", None),
    ]
    moved = await records.append_events(cursor, batch, {})
    assert moved.offset == 4 + len(long)
    assert await look(records, "select seq, \"offset\", length, raw, encode(sha256, 'hex') as sha256 from events order by seq") == [
        {"seq": 1, "offset": 0, "length": 2, "raw": b"a\n", "sha256": None},
        {"seq": 2, "offset": 2, "length": len(long), "raw": None, "sha256": sha(long)},
        {"seq": 3, "offset": 2 + len(long), "length": 2, "raw": b"b\n", "sha256": None},
    ]


async def test_a_line_whose_blob_is_gone_is_not_stored(records: PostgresRecords) -> None:
    """A blob that was never announced, or that is being collected, cannot be named; the step is repeated and puts it anew."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    batch = [EventLine(0, b"x" * 10, "oversize", None, sha("x" * 10))]
    with pytest.raises(StorageUnavailable):
        await records.append_events(cursor, batch, {})
    await records.note_blobs({sha("x" * 10): 10})
    await write(records, "update blobs set deleting_since = now()")
    with pytest.raises(StorageUnavailable):
        await records.append_events(cursor, batch, {})
    assert await value(records, "select next_offset from attempts") == 0
    await records.forget_blobs([sha("x" * 10)])
    await records.note_blobs({sha("x" * 10): 10})
    assert (await records.append_events(cursor, batch, {})).offset == 10


async def test_a_batch_of_5000_lines(records: PostgresRecords) -> None:
    """A burst is one statement; its lines keep their order."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    raws = [b'{"n": %d}\n' % number for number in range(5000)]
    await records.append_events(cursor, lines(0, *raws), {})
    assert await spool(records) == b"".join(raws)


async def test_a_zombie_loses(records: PostgresRecords) -> None:
    """Whoever took the lease last writes; the one before it has lost, whatever it read."""
    zombie = await records.take_lease((await opened(records)).attempt_id)
    owner = await records.take_lease("job-1.1")
    with pytest.raises(LeaseLost):
        await records.append_events(zombie, lines(0, b"zombie\n"), {})
    owner = await records.append_events(owner, lines(0, b"owner\n"), {})
    with pytest.raises(LeaseLost):
        await records.append_events(zombie, lines(6, b"zombie\n"), {})
    await records.open_collection("job-1.1")
    with pytest.raises(LeaseLost):
        await records.append_events(owner, lines(6, b"owner\n"), {})
    assert await spool(records) == b"owner\n"


async def test_a_batch_cannot_be_stored_twice(records: PostgresRecords) -> None:
    """With the right lease and an old position it is CursorMoved: the batch is dropped and read again."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    await records.append_events(cursor, lines(0, b"once\n"), {"events": 1})
    with pytest.raises(CursorMoved):
        await records.append_events(cursor, lines(0, b"twice\n"), {"events": 2})
    assert await spool(records) == b"once\n"
    assert await value(records, "select progress from attempts") == {"events": 1}


async def test_nothing_is_followed_after_the_end(records: PostgresRecords) -> None:
    """An ended attempt gives no lease and takes no lines."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    await records.end_job("job-1", request(), CANCELLED)
    with pytest.raises(AttemptEnded):
        await records.take_lease("job-1.1")
    with pytest.raises(AttemptEnded):
        await records.append_events(cursor, lines(0, b"late\n"), {})
    assert await value(records, "select count(*) from events") == 0


async def test_two_followers_store_every_byte_once(records: PostgresRecords) -> None:
    """Two followers that take the lease from each other at random leave exactly the agent's bytes, without a gap or a copy."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - replays a failure
    chance = random.Random(seed)
    output = [chance.randbytes(chance.randrange(40)).replace(b"\n", b"-") + b"\n" for _ in range(600)]
    starts = list(itertools.accumulate((len(raw) for raw in output), initial=0))
    await opened(records)
    outcomes: dict[str, int] = {"stored": 0, "lost": 0}

    async def follow() -> None:
        while True:
            cursor = await records.take_lease("job-1.1")
            try:
                for _ in range(chance.randrange(8)):
                    batch = unread(cursor)
                    if not batch:
                        return
                    for _ in range(chance.choice([0, 1, 20])):
                        await asyncio.sleep(0)
                    cursor = await records.append_events(cursor, batch, {"seen": cursor.next_seq})
                    outcomes["stored"] += 1
            except LeaseLost:
                outcomes["lost"] += 1

    def unread(cursor: Cursor) -> Sequence[EventLine]:
        first = starts.index(cursor.offset)
        assert first == cursor.next_seq - 1
        return lines(cursor.offset, *output[first : first + chance.randrange(1, 9)])

    async with asyncio.timeout(120):
        await asyncio.gather(follow(), follow())
    assert await spool(records) == b"".join(output)
    assert min(outcomes.values()) > 0, outcomes


async def test_a_cancelled_writer_leaves_all_or_nothing(records: PostgresRecords) -> None:
    """Cancelled at any moment, an append is either stored whole or not at all."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    for steps in range(40):
        writing = asyncio.ensure_future(records.append_events(cursor, lines(cursor.offset, b"one\n", b"two\n"), {}))
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing}, timeout=30)
        cursor = await records.take_lease("job-1.1")
        assert cursor.offset == len(await spool(records))
        assert cursor.offset % 8 == 0


async def test_an_announcement_carries_the_job_id_only(records: PostgresRecords, database_url: str) -> None:
    """A listener hears which job has news, and nothing of it."""
    async with await psycopg.AsyncConnection.connect(database_url.replace("+psycopg", ""), autocommit=True) as listener:
        await listener.execute(f"listen {CHANNEL}".encode())
        await records.announce("job-1")
        heard = [notice.payload async for notice in listener.notifies(timeout=30, stop_after=1)]
    assert heard == ["job-1"]


async def test_progress_survives_as_json(records: PostgresRecords) -> None:
    """The parser's state comes back equal, so that another worker goes on with it."""
    cursor = await records.take_lease((await opened(records)).attempt_id)
    progress = json.loads('{"session_id": null, "seen": {"cost_usd": 0.1, "input_tokens": 12345678901}, "words": "ü 🐕", "recent": {}}')
    await records.append_events(cursor, lines(0, b"{}\n"), progress)
    assert (await records.take_lease("job-1.1")).progress == progress
