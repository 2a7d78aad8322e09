"""States move forward only, whoever writes, and every step leaves a row. On a real Postgres, by plain SQL."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy.exc

from dogwatch.contracts.job import AttemptState, JobStatus
from dogwatch.contracts.session import SessionState
from dogwatch.contracts.steps import StopReason
from dogwatch.store.records import PostgresRecords
from tests.store import SUCCESS, bound, collection, connected, look, opened, request, session, value, write

SANDBOX_STATES = ("intended", "created", "ended")
SUBJECTS = {
    "jobs": ("status", {status.value: status.rank for status in JobStatus}),
    "sessions": ("state", {state.value: state.rank for state in SessionState}),
    "attempts": ("state", {state.value: state.rank for state in AttemptState}),
    "sandboxes": ("state", {state: rank for rank, state in enumerate(SANDBOX_STATES)}),
}


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresRecords]:
    """The store on a database of this test's own."""
    async with connected(database_url) as store:
        yield store


async def insert(records: PostgresRecords, table: str, state: str) -> None:
    """Replace everything by one row `x` in a state."""
    for name in ("attempts", "jobs", "sessions", "sandboxes", "transitions"):
        await write(records, f"delete from {name}")
    if table == "sessions":
        await session(records, "x", state=state)
    elif table == "jobs":
        await write(records, "insert into jobs (id, tenant, request, status) values ('x', 't', '{}', :state)", state=state)
    elif table == "sandboxes":
        row = "insert into sandboxes (name, tenant, provider, job_id, state, spec) values ('x', 't', 'local', 'j', :state, '{}')"
        await write(records, row, state=state)
    else:
        await write(records, "insert into jobs (id, tenant, request, status) values ('j', 't', '{}', 'running')")
        row = """insert into attempts (id, job_id, tenant, number, state, cause, provider, ended_at)
            values ('x', 'j', 't', 1, :state, 'first', 'local', case when :state = 'ended' then now() end)"""
        await write(records, row, state=state)


async def move(records: PostgresRecords, table: str, column: str, state: str) -> None:
    """Write a state over whatever is there."""
    ended = ", ended_at = case when :state = 'ended' then now() end" if table == "attempts" else ""
    await write(records, f"update {table} set {column} = :state{ended}", state=state)


@pytest.mark.parametrize("table", SUBJECTS)
async def test_only_forward(records: PostgresRecords, table: str) -> None:
    """Of all pairs of states only the forward ones are possible; each leaves one row, and staying leaves none."""
    column, ranks = SUBJECTS[table]
    for before, low in ranks.items():
        for after, high in ranks.items():
            await insert(records, table, before)
            if before == after or high > low:
                await move(records, table, column, after)
            else:
                with pytest.raises(sqlalchemy.exc.IntegrityError, match=f"{table} x: {after} cannot follow {before}"):
                    await move(records, table, column, after)
            steps = await look(
                records, "select from_state, to_state from transitions where subject = :t and subject_id = 'x' order by id", t=table
            )
            moved = [{"from_state": before, "to_state": after}] if high > low else []
            assert steps == [{"from_state": None, "to_state": before}, *moved]
            assert await value(records, f"select {column} from {table}") == (after if high > low else before)


@pytest.mark.parametrize("table", SUBJECTS)
async def test_no_other_states(records: PostgresRecords, table: str) -> None:
    """A state that is not in the list is refused, for a new row as for an old one."""
    column, ranks = SUBJECTS[table]
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await insert(records, table, "unknown")
    await insert(records, table, next(iter(ranks)))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await move(records, table, column, "unknown")


async def test_a_job_tells_its_whole_story(records: PostgresRecords) -> None:
    """The steps of a job, its attempts and its sandboxes, in order, each once, with the reason of an end."""
    opening = await opened(records)
    await opened(records)
    again = await opened(records)
    await bound(records, again)
    await records.mark_launching(again.attempt_id, again.lease)
    await records.mark_launching(again.attempt_id, again.lease)
    await records.take_lease(again.attempt_id)
    await records.take_lease(again.attempt_id)
    await records.request_stop("job-1", StopReason.CANCEL)
    lease = (await records.open_collection(again.attempt_id)).lease
    await records.commit_collection(collection(opening, lease))
    await records.settle_sandbox(opening.sandbox_name, "released")
    await records.end_job("job-1", request(), SUCCESS)
    steps = await look(records, "select subject, from_state, to_state, reason from transitions order by subject, id")
    assert [tuple(step.values()) for step in steps] == [
        ("attempts", None, "intended", None),
        ("attempts", "intended", "prepared", None),
        ("attempts", "prepared", "launching", None),
        ("attempts", "launching", "running", None),
        ("attempts", "running", "ended", "success"),
        ("jobs", None, "running", None),
        ("jobs", "running", "succeeded", "success"),
        ("sandboxes", None, "intended", None),
        ("sandboxes", "intended", "created", None),
        ("sandboxes", "created", "ended", "released"),
    ]


async def test_a_refused_step_takes_its_transaction_back(records: PostgresRecords) -> None:
    """What stands beside a backward step in one transaction is not written either."""
    await insert(records, "jobs", "succeeded")
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await write(records, "update jobs set status = 'running', text = 'changed'")
    assert await look(records, "select status, text from jobs") == [{"status": "succeeded", "text": ""}]
