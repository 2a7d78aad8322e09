"""Opening, binding, launching and stopping attempts, on a real Postgres."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import StopReason
from dogwatch.contracts.workspace import JobWorkspace, ManifestWorkspace, SessionWorkspace
from dogwatch.errors import AttemptEnded, DogwatchError, LeaseLost, NotFound
from dogwatch.ports import EventLine, Opening, Tree
from dogwatch.store.records import PostgresRecords
from tests.store import CANCELLED, bound, collection, connected, entry, look, note, opened, request, session, sha, tree, value, write


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresRecords]:
    """The store on a database of this test's own."""
    async with connected(database_url) as store:
        yield store


async def finish(
    records: PostgresRecords, opening: Opening, *, workspace: Tree | None = None, transcript: Tree | None = None, last: bool = True
) -> None:
    """Collect an attempt, as the job's last one or not."""
    await note(records, workspace, transcript)
    lease = (await records.open_collection(opening.attempt_id)).lease
    ending = CANCELLED if last else None
    await records.commit_collection(collection(opening, lease, workspace=workspace, transcript=transcript, ending=ending))


# --- open -------------------------------------------------------------------------------------------------------------------------


async def test_a_plain_start_makes_every_row(records: PostgresRecords) -> None:
    """A job that no door has accepted gets its row, its attempt and the intent of its sandbox from the first step."""
    opening = await opened(records, labels={"team": "a\x00"}, sandbox={"provider": "local"})
    assert (opening.attempt_id, opening.lease, opening.launched, opening.conversation) == ("job-1.1", 1, False, "new")
    assert (opening.input, opening.transcript, opening.sandbox_id, opening.deployment) == (None, None, None, records.deployment)
    (job,) = await look(records, "select status, tenant, prompt, labels, started_at is not null as started from jobs")
    assert job == {"status": "running", "tenant": "default", "prompt": "count the files", "labels": {"team": "a\ufffd"}, "started": True}
    (sandbox,) = await look(records, "select name, state, owner_attempt, job_id, provider from sandboxes")
    assert sandbox == {
        "name": opening.sandbox_name,
        "state": "intended",
        "owner_attempt": "job-1.1",
        "job_id": "job-1",
        "provider": "local",
    }


async def test_an_accepted_job_goes_on_from_its_row(records: PostgresRecords) -> None:
    """The row a door wrote moves to running and keeps the files the door has stored."""
    files = tree(entry("a"))
    await finish(records, await opened(records, "before"), workspace=files)
    manifest = await value(records, "select output_manifest from jobs")
    accepted = "insert into jobs (id, tenant, request, status, input_manifest) values ('job-1', 'default', '{}', 'accepted', :manifest)"
    await write(records, accepted, manifest=manifest)
    opening = await opened(records)
    assert opening.input is not None
    assert (opening.input.manifest_id, opening.input.digest, opening.input.files) == (manifest, files.digest, 1)
    assert await value(records, "select status from jobs where id = 'job-1'") == "running"


async def test_a_repeated_open_raises_the_lease_and_says_what_is_there(records: PostgresRecords) -> None:
    """Every execution gets a higher lease, the recorded sandbox, and word that an agent may have been started."""
    first = await opened(records)
    await bound(records, first)
    second = await opened(records)
    assert (second.lease, second.sandbox_id, second.launched) == (2, "sandbox-1", False)
    await records.mark_launching(second.attempt_id, second.lease)
    third = await opened(records)
    assert (third.lease, third.launched, third.sandbox_name) == (3, True, first.sandbox_name)
    assert await value(records, "select count(*) from sandboxes") == 1


async def test_first_opens_at_once_make_one_attempt(records: PostgresRecords) -> None:
    """Ten executions that open the same attempt at once get ten leases and one row."""
    openings = await asyncio.gather(*(opened(records) for _ in range(10)))
    assert sorted(opening.lease for opening in openings) == list(range(1, 11))
    assert await value(records, "select count(*) from attempts") == 1


async def test_an_ended_job_takes_no_attempt(records: PostgresRecords) -> None:
    """What wakes up after the job has ended is told so, and changes nothing."""
    await records.end_job("job-1", request(), CANCELLED)
    with pytest.raises(AttemptEnded):
        await opened(records)
    await finish(records, await opened(records, "job-2"))
    for number in (1, 2):
        with pytest.raises(AttemptEnded):
            await opened(records, "job-2", number=number)
    assert await value(records, "select count(*) from attempts") == 1


async def test_a_job_of_another_tenant_is_not_touched(records: PostgresRecords) -> None:
    """An id that another tenant uses opens nothing, ends nothing and tells nothing."""
    await opened(records)
    before = await look(records, "select * from jobs")
    with pytest.raises(AttemptEnded):
        await opened(records, tenant="other")
    assert await records.end_job("job-1", request(tenant="other"), CANCELLED) == CANCELLED
    assert await look(records, "select * from jobs") == before


# --- where the files come from ----------------------------------------------------------------------------------------------------


async def test_files_of_a_manifest_and_of_a_job(records: PostgresRecords) -> None:
    """A job starts from a named manifest, or from what another job left, else from what that one had started with."""
    files = tree(entry("a"), entry("b"))
    await finish(records, await opened(records, "one"), workspace=files)
    manifest = str(await value(records, "select output_manifest from jobs"))
    by_manifest = await opened(records, "two", workspace=ManifestWorkspace(manifest_id=manifest))
    by_job = await opened(records, "three", workspace=JobWorkspace(job_id="one"))
    by_unfinished_job = await opened(records, "four", workspace=JobWorkspace(job_id="three"))
    for opening in (by_manifest, by_job, by_unfinished_job):
        assert opening.input is not None
        assert (opening.input.manifest_id, opening.conversation) == (manifest, "new")


async def test_files_that_do_not_exist_leave_no_row(records: PostgresRecords) -> None:
    """A manifest, job or session that is not the tenant's own is NotFound, and nothing of the job is written."""
    await finish(records, await opened(records, "one"), workspace=tree(entry("a")), transcript=tree(entry("t")))
    await session(records, "theirs", tenant="other")
    transcript = str(await value(records, "select transcript_manifest from jobs"))
    for fields in (
        {"workspace": ManifestWorkspace(manifest_id="none")},
        {"workspace": ManifestWorkspace(manifest_id=transcript)},
        {"workspace": JobWorkspace(job_id="none")},
        {"workspace": JobWorkspace(job_id="one"), "tenant": "other"},
        {"workspace": SessionWorkspace(), "session_id": "none"},
        {"workspace": SessionWorkspace(), "session_id": "theirs"},
    ):
        with pytest.raises(NotFound):
            await opened(records, "two", **fields)
    assert await value(records, "select count(*) from jobs") == 1


async def test_a_sessions_files_and_conversation_go_on(records: PostgresRecords) -> None:
    """A job in a session starts where the last one ended, moves the session's end away, and may begin a new conversation."""
    await session(records)
    inside: dict[str, Any] = {"session_id": "session-1", "workspace": SessionWorkspace()}
    first = await opened(records, "one", **inside)
    assert (first.input, first.conversation) == (None, "new")
    files, words = tree(entry("a")), tree(entry("talk.jsonl"))
    await note(records, files, words)
    lease = (await records.open_collection(first.attempt_id)).lease
    await records.commit_collection(collection(first, lease, workspace=files, transcript=words, session="session-1"))
    await write(records, "update sessions set expires_at = now()")
    second = await opened(records, "two", **inside)
    assert second.input is not None
    assert second.transcript is not None
    assert (second.input.digest, second.transcript.digest, second.conversation) == (files.digest, words.digest, "resumed")
    assert await value(records, "select expires_at > now() + interval '50 s' from sessions")
    third = await opened(records, "three", **inside, conversation="new")
    assert (third.transcript, third.conversation) == (None, "new")


async def test_a_repeated_open_starts_with_the_same_files(records: PostgresRecords) -> None:
    """What the first execution found holds, also when it found nothing and there is something by now."""
    first = await opened(records, "two", workspace=JobWorkspace(job_id=(await opened(records, "one")).attempt_id[:-2]))
    await finish(records, await opened(records, "one"), workspace=tree(entry("a")))
    second = await opened(records, "two", workspace=JobWorkspace(job_id="one"))
    assert (first.input, second.input, second.lease) == (None, None, 2)


# --- further attempts -------------------------------------------------------------------------------------------------------------


async def test_a_second_attempt_resumes_from_the_checkpoint(records: PostgresRecords) -> None:
    """It starts with the files and the conversation that the one before it left, and its numbers of events run on."""
    first = await opened(records)
    cursor = await records.take_lease(first.attempt_id)
    await records.append_events(cursor, [EventLine(0, b"{}\n", "system", None), EventLine(3, b"{}\n", "user", None)], {})
    files, words = tree(entry("a")), tree(entry("talk.jsonl"))
    await finish(records, first, workspace=files, transcript=words, last=False)
    second = await opened(records, number=2)
    assert second.input is not None
    assert second.transcript is not None
    assert (second.input.digest, second.transcript.digest, second.conversation) == (files.digest, words.digest, "resumed")
    assert await value(records, "select cause from attempts where number = 2") == "resumed"
    cursor = await records.take_lease(second.attempt_id)
    assert (cursor.next_seq, cursor.offset, cursor.tail) == (3, 0, b"")
    await records.append_events(cursor, [EventLine(0, b"{}\n", "system", None)], {})
    assert await look(records, "select seq, attempt_id from events order by seq") == [
        {"seq": 1, "attempt_id": "job-1.1"},
        {"seq": 2, "attempt_id": "job-1.1"},
        {"seq": 3, "attempt_id": "job-1.2"},
    ]


async def test_a_second_attempt_restarts_without_a_checkpoint(records: PostgresRecords) -> None:
    """Where nothing was saved, or only a torn tree, it starts with what the job started with."""
    files = tree(entry("a"))
    await finish(records, await opened(records, "before"), workspace=files)
    first = await opened(records, workspace=JobWorkspace(job_id="before"))
    second = await opened(records, number=2, workspace=JobWorkspace(job_id="before"))
    assert second.input == first.input
    await finish(records, second, workspace=tree(entry("b"), limit="pull_timeout"), transcript=tree(entry("t")), last=False)
    third = await opened(records, number=3, workspace=JobWorkspace(job_id="before"))
    assert (third.input, third.transcript) == (first.input, None)
    assert await look(records, "select number, cause from attempts where job_id = 'job-1' order by number") == [
        {"number": 1, "cause": "first"},
        {"number": 2, "cause": "restarted"},
        {"number": 3, "cause": "restarted"},
    ]


async def test_an_earlier_attempt_is_ended(records: PostgresRecords) -> None:
    """A new attempt ends the one before it, whoever still holds its lease."""
    first = await opened(records)
    await bound(records, first)
    cursor = await records.take_lease(first.attempt_id)
    await opened(records, number=2)
    assert await look(records, "select state, verdict ->> 'code' as code from attempts where number = 1") == [
        {"state": "ended", "code": "sandbox_lost"}
    ]
    with pytest.raises(AttemptEnded):
        await records.append_events(cursor, [EventLine(0, b"{}\n", "system", None)], {})
    with pytest.raises(AttemptEnded):
        await records.take_lease(first.attempt_id)
    with pytest.raises(AttemptEnded):
        await opened(records, number=1)
    assert [(live.number, live.sandbox_id, live.ended) for live in await records.unreleased("job-1")] == [
        (1, "sandbox-1", True),
        (2, None, False),
    ]


async def test_no_attempt_is_skipped(records: PostgresRecords) -> None:
    """A third attempt without a second one is refused, and does not end the first."""
    await opened(records)
    with pytest.raises(NotFound):
        await opened(records, number=3)
    assert await value(records, "select state from attempts") == "intended"


# --- bind and launch --------------------------------------------------------------------------------------------------------------


async def test_two_prepares_at_once_record_one_sandbox(records: PostgresRecords) -> None:
    """With the same lease the second is told which sandbox is recorded; with an older one it has lost."""
    opening = await opened(records)
    told = await asyncio.gather(*(bound(records, opening, f"sandbox-{n}") for n in range(8)))
    assert len(set(told)) == 1
    assert await look(records, "select sandbox_id, state from sandboxes") == [{"sandbox_id": told[0], "state": "created"}]
    older, newer = await opened(records, "job-2"), await opened(records, "job-2")
    with pytest.raises(LeaseLost):
        await bound(records, older, "old")
    assert await bound(records, newer, "new") == "new"


async def test_nothing_binds_after_the_end(records: PostgresRecords) -> None:
    """A preparation that was paused and wakes up after the job's end gets no sandbox and no launch."""
    opening = await opened(records)
    await records.end_job("job-1", request(), CANCELLED)
    with pytest.raises(AttemptEnded):
        await bound(records, opening)
    with pytest.raises(AttemptEnded):
        await records.mark_launching(opening.attempt_id, opening.lease)
    assert await value(records, "select state from sandboxes") == "intended"


async def test_nothing_binds_to_an_intent_that_was_given_up(records: PostgresRecords) -> None:
    """Between the release of a sandbox and the end of its job, a preparation that wakes up is refused: nobody would look again."""
    opening = await opened(records)
    await records.settle_sandbox(opening.sandbox_name, "found gone")
    with pytest.raises(AttemptEnded):
        await bound(records, opening)
    assert await value(records, "select sandbox_id is null and state = 'intended' from attempts")


async def test_launching_needs_a_sandbox_the_lease_and_no_stop(records: PostgresRecords) -> None:
    """It is allowed into a recorded sandbox only, for the newest execution only, and never after a stop."""
    older = await opened(records)
    with pytest.raises(AttemptEnded):
        await records.mark_launching(older.attempt_id, older.lease)
    await bound(records, older)
    newer = await opened(records)
    with pytest.raises(LeaseLost):
        await records.mark_launching(older.attempt_id, older.lease)
    await records.mark_launching(newer.attempt_id, newer.lease)
    await records.mark_launching(newer.attempt_id, newer.lease)
    live = await records.request_stop("job-1", StopReason.CANCEL)
    assert live is not None
    assert (live.attempt_id, live.sandbox_id, live.launched, live.ended) == ("job-1.1", "sandbox-1", True, False)
    with pytest.raises(AttemptEnded):
        await records.mark_launching(newer.attempt_id, newer.lease)


async def test_the_first_stop_reason_stays(records: PostgresRecords) -> None:
    """A later stop changes neither the reason nor the time, and whoever follows learns the reason."""
    assert await records.request_stop("job-1", StopReason.CANCEL) is None
    opening = await opened(records)
    live = await records.request_stop("job-1", StopReason.DEADLINE)
    assert live is not None
    assert (live.launched, live.sandbox_name) == (False, opening.sandbox_name)
    asked = await value(records, "select stop_requested_at from attempts")
    await records.request_stop("job-1", StopReason.CANCEL)
    assert await value(records, "select stop_requested_at from attempts") == asked
    assert (await records.take_lease(opening.attempt_id)).stop_requested is StopReason.DEADLINE


async def test_settled_sandboxes_are_not_released_again(records: PostgresRecords) -> None:
    """Settling twice keeps the first reason, and what is settled is not listed."""
    opening = await opened(records)
    await bound(records, opening)
    await records.settle_sandbox(opening.sandbox_name, "released")
    await records.settle_sandbox(opening.sandbox_name, "swept")
    assert await records.unreleased("job-1") == []
    assert await value(records, "select reason from sandboxes") == "released"


async def test_random_interleavings_keep_bind_and_launch_safe(records: PostgresRecords) -> None:
    """200 jobs, each prepared twice, stopped and ended at random times: never two sandboxes, never a launch after a stop or an end."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - replays a failure
    chance, clock, sandboxes = random.Random(seed), itertools.count(), itertools.count()
    launched: list[tuple[str, int, int]] = []
    stopped: dict[str, int] = {}

    async def prepare(job: str, pauses: list[int]) -> list[str]:
        told = []
        for _ in range(2):
            await pause(pauses)
            opening = await opened(records, job)
            await pause(pauses)
            told.append(await bound(records, opening, f"sandbox-{next(sandboxes)}") if opening.sandbox_id is None else opening.sandbox_id)
            await pause(pauses)
            begun = next(clock)
            await records.mark_launching(opening.attempt_id, opening.lease)
            launched.append((job, begun, next(clock)))
        return told

    async def stop(job: str, pauses: list[int]) -> list[str]:
        await pause(pauses)
        if await records.request_stop(job, StopReason.CANCEL) is not None:
            stopped[job] = next(clock)
        return []

    async def end(job: str, pauses: list[int]) -> list[str]:
        await pause(pauses)
        await records.end_job(job, request(), CANCELLED)
        stopped.setdefault(job, next(clock))
        return []

    async def pause(pauses: list[int]) -> None:
        for _ in range(pauses.pop()):
            await asyncio.sleep(0)

    async def play(job: str) -> None:
        actors = [prepare, prepare, *chance.choices([stop, end], k=chance.randrange(3))]
        plays = [actor(job, [chance.choice([0, 0, 3, 30, 200]) for _ in range(6)]) for actor in actors]
        outcomes = await asyncio.gather(*plays, return_exceptions=True)
        faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert not [fault for fault in faults if not isinstance(fault, AttemptEnded | LeaseLost)], faults
        told = {sandbox for outcome in outcomes if isinstance(outcome, list) for sandbox in outcome}
        recorded = await look(records, "select sandbox_id from attempts where job_id = :job", job=job)
        assert told <= {str(row["sandbox_id"]) for row in recorded}, (job, told, recorded)

    for batch in range(20):
        await asyncio.gather(*(play(f"job-{batch}-{n}") for n in range(10)))
    late = [(job, begun, stopped[job]) for job, begun, _ in launched if job in stopped and begun > stopped[job]]
    assert not late
    assert launched
    assert not await look(records, "select id from attempts where sandbox_id is null and state in ('prepared', 'launching', 'running')")
    assert not await look(
        records,
        "select s.name from sandboxes s join attempts a on a.id = s.owner_attempt where s.sandbox_id is distinct from a.sandbox_id",
    )


async def test_an_unknown_attempt_is_a_typed_error(records: PostgresRecords) -> None:
    """Every question about an attempt that does not exist is answered by a typed error."""
    for question in (
        records.take_lease("none.1"),
        records.open_collection("none.1"),
        records.mark_launching("none.1", 1),
        records.manifest("none"),
    ):
        with pytest.raises(DogwatchError):
            await question


async def test_strays_are_old_unsettled_intents(records: PostgresRecords) -> None:
    """The cleanup sees sandboxes that are older than the grace and not settled, the oldest first, by the database's clock."""
    openings = [await opened(records, f"job-{n}") for n in range(4)]
    await bound(records, openings[0])
    for age, opening in ((3, openings[1]), (2, openings[0]), (5, openings[2])):
        aged = "update sandboxes set created_at = now() - make_interval(hours => :age) where name = :name"
        await write(records, aged, age=age, name=opening.sandbox_name)
    await records.settle_sandbox(openings[2].sandbox_name, "released")
    strays = await records.strays(timedelta(hours=1), 10)
    assert [(stray.job_id, stray.sandbox_id, stray.settled) for stray in strays] == [("job-1", None, False), ("job-0", "sandbox-1", False)]
    assert [stray.job_id for stray in await records.strays(timedelta(hours=1), 1)] == ["job-1"]
    assert await records.older_than(strays[0], timedelta(hours=2))
    assert not await records.older_than(strays[0], timedelta(hours=4))
    settled = await records.stray(openings[2].sandbox_name)
    assert settled is not None
    assert (settled.settled, settled.provider) == (True, Provider.LOCAL)
    assert await records.stray(sha("none")) is None
