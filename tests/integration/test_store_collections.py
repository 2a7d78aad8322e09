"""Collections and endings: all or nothing, each tree stored once, exactly one word about how a job ended. On a real Postgres."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy.exc

from dogwatch.contracts.agent import Usage, Verdict, VerdictCode
from dogwatch.contracts.job import Ending, JobStatus
from dogwatch.contracts.session import SessionState
from dogwatch.contracts.workspace import Entry, EntryKind, Manifest, ManifestKind
from dogwatch.errors import LeaseLost, StorageUnavailable
from dogwatch.ports import EventLine, Opening, Tree
from dogwatch.store.manifests import store_manifest
from dogwatch.store.records import PostgresRecords
from dogwatch.workspace.manifest import digest
from tests.store import CANCELLED, SUCCESS, collection, connected, entry, look, note, opened, request, session, sha, tree, value, write


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresRecords]:
    """The store on a database of this test's own."""
    async with connected(database_url) as store:
        yield store


async def lease_of(records: PostgresRecords, opening: Opening) -> int:
    """The lease for collecting an attempt."""
    return (await records.open_collection(opening.attempt_id)).lease


async def counts(records: PostgresRecords) -> tuple[object, object]:
    """How many manifests and entries there are."""
    return await value(records, "select count(*) from manifests"), await value(records, "select count(*) from manifest_entries")


# --- manifests --------------------------------------------------------------------------------------------------------------------


async def test_a_manifest_comes_back_as_it_was(records: PostgresRecords) -> None:
    """Every kind of entry, names of 4,096 bytes that differ in the last one, and names that are no UTF-8, survive the table."""
    long = "d/" * 2047
    kept = tree(
        Entry(path="a\udcff\udc80\n'\"\\", kind=EntryKind.FILE, size=5, mode=0o755, sha256=sha("a"), reason="duplicate_name"),
        Entry(path="dir", kind=EntryKind.DIRECTORY, mode=0o700),
        Entry(path=long + "xa", kind=EntryKind.FILE, sha256=sha("b")),
        Entry(path=long + "xb", kind=EntryKind.SYMLINK, target="../\udcfe" + "t" * 4000, mode=0o777),
        Entry(path=".git/config", kind=EntryKind.FILE, sha256=sha("a"), size=5, repo_config=True),
        Entry(path="pipe", kind=EntryKind.SKIPPED, reason="special_file"),
        limit="total_bytes",
    )
    opening = await opened(records)
    await note(records, kept)
    done = await records.commit_collection(collection(opening, await lease_of(records, opening), workspace=kept))
    assert done.workspace is not None
    assert (done.workspace.files, done.workspace.bytes, done.workspace.complete) == (3, 10, False)
    loaded = await records.manifest(done.workspace.manifest_id)
    assert loaded == kept.manifest
    assert digest(loaded) == kept.digest == done.workspace.digest


async def test_an_empty_tree_is_a_manifest(records: PostgresRecords) -> None:
    """A workspace without any file is a result like any other."""
    opening = await opened(records)
    done = await records.commit_collection(collection(opening, await lease_of(records, opening), workspace=tree()))
    assert done.workspace is not None
    assert await records.manifest(done.workspace.manifest_id) == Manifest()


async def test_a_tree_of_20000_entries(records: PostgresRecords) -> None:
    """A big tree is stored and read back whole."""
    big = tree(*(entry(f"src/{number:05}.py", str(number)) for number in range(20_000)))
    opening = await opened(records)
    await note(records, big)
    done = await records.commit_collection(collection(opening, await lease_of(records, opening), workspace=big))
    assert done.workspace is not None
    assert await records.manifest(done.workspace.manifest_id) == big.manifest
    assert await value(records, "select bool_and(stored) from blobs")


async def test_a_tree_is_stored_once(records: PostgresRecords) -> None:
    """The same tree of one tenant is one manifest, whichever job left it; another tenant, kind or limit makes another."""
    same = tree(entry("a"), entry("b"))
    await note(records, same)
    async with records.db.begin() as connection:
        refs = [
            await store_manifest(connection, "one", ManifestKind.WORKSPACE, same),
            await store_manifest(connection, "one", ManifestKind.WORKSPACE, same),
            await store_manifest(connection, "two", ManifestKind.WORKSPACE, same),
            await store_manifest(connection, "one", ManifestKind.TRANSCRIPT, same),
            await store_manifest(connection, "one", ManifestKind.WORKSPACE, tree(entry("a"), entry("b"), limit="entries")),
        ]
    assert refs[0] == refs[1]
    assert len({ref.manifest_id for ref in refs}) == 4
    assert await counts(records) == (4, 8)


async def test_jobs_that_leave_the_same_tree_at_once(records: PostgresRecords) -> None:
    """Twenty jobs that commit the same files and conversation at the same time all succeed and share one manifest of each."""
    files, words = tree(*(entry(f"f{n}", str(n)) for n in range(50))), tree(entry("talk"), entry("more", "7"))
    await note(records, files, words)
    openings = [await opened(records, f"job-{n}") for n in range(20)]
    leases = [await lease_of(records, opening) for opening in openings]
    commits = [collection(o, lease, workspace=files, transcript=words) for o, lease in zip(openings, leases, strict=True)]
    done = await asyncio.gather(*(records.commit_collection(commit) for commit in commits))
    assert len({found.workspace for found in done}) == len({found.transcript for found in done}) == 1
    assert await counts(records) == (2, 52)


async def test_jobs_that_share_some_files_at_once(records: PostgresRecords) -> None:
    """Trees that overlap in files, listed in opposite orders, never block each other for good."""
    names = [f"f{n:03}" for n in range(200)]
    openings = [await opened(records, f"job-{n}") for n in range(12)]

    async def work(number: int, opening: Opening) -> None:
        order = names if number % 2 else names[::-1]
        files = tree(entry(f"own-{number}"), *(entry(f"{number}/{name}", name) for name in order))
        words = tree(*(entry(f"{number}/{name}", name) for name in order[::3]))
        await note(records, files, words)
        await records.commit_collection(collection(opening, await lease_of(records, opening), workspace=files, transcript=words))

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(number, opening) for number, opening in enumerate(openings)))
    assert await value(records, "select count(*) from jobs where status = 'succeeded'") == 12


# --- collections ------------------------------------------------------------------------------------------------------------------


async def test_a_collection_ends_attempt_and_job(records: PostgresRecords) -> None:
    """Files, conversation, usage, words and verdict arrive together, summed over the attempts; the step repeated gives the same."""
    first = await opened(records)
    cursor = await records.take_lease(first.attempt_id)
    await records.append_events(cursor, [EventLine(0, b"{}\n", "system", None)], {"session_id": "cli-1"})
    lease = await lease_of(records, first)
    await records.commit_collection(collection(first, lease, ending=None, usage=Usage(output_tokens=5, cost_usd=0.5)))
    second = await opened(records, number=2)
    files, words = tree(entry("a")), tree(entry("talk"))
    await note(records, files, words)
    found = await records.open_collection(second.attempt_id)
    assert (found.done, found.input, found.transcript_of) == (None, None, None)
    used = Usage(output_tokens=7, cost_usd=0.25, estimated=True)
    commit = collection(second, found.lease, workspace=files, transcript=words, usage=used, words="all\x00done")
    done = await records.commit_collection(commit)
    assert (done.events, done.attempts, done.attempt_usage) == (1, 2, used)
    assert done.usage == Usage(output_tokens=12, cost_usd=0.75, estimated=True)
    (job,) = await look(records, "select status, text, events, usage, changes, verdict, finished_at is not null as finished from jobs")
    assert (job["status"], job["text"], job["events"], job["finished"]) == ("succeeded", "all\ufffddone", 1, True)
    assert Usage.model_validate(job["usage"]) == done.usage
    assert await value(records, "select state from attempts where number = 2") == "ended"
    again = await records.open_collection(second.attempt_id)
    assert again.done == done


async def test_a_failure_in_the_middle_leaves_nothing(records: PostgresRecords) -> None:
    """A tree that the table refuses takes everything back: no manifest, no entry, the attempt open, the job running."""
    opening = await opened(records)
    twice, words = tree(entry("a"), entry("b"), entry("a", "other")), tree(entry("talk"))
    await note(records, twice, words)
    lease = await lease_of(records, opening)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await records.commit_collection(collection(opening, lease, workspace=twice, transcript=words))
    assert await counts(records) == (0, 0)
    assert await value(records, "select state from attempts") == "intended"
    assert await value(records, "select status from jobs") == "running"
    assert not await value(records, "select bool_or(stored) from blobs")


async def test_a_reader_sees_all_entries_or_none(records: PostgresRecords) -> None:
    """While trees are committed, whoever looks sees manifests with all their entries only."""
    trees = [tree(*(entry(f"{n}/{k}", str(k)) for k in range(300))) for n in range(15)]
    await note(records, *trees)
    openings = [await opened(records, f"job-{n}") for n in range(15)]
    ended = asyncio.Event()

    async def watch() -> int:
        looks = 0
        while not ended.is_set():
            listed = "select count(e.path) as n from manifests m left join manifest_entries e on e.manifest_id = m.id group by m.id"
            assert {row["n"] for row in await look(records, listed)} <= {300}
            looks += 1
        return looks

    watching = asyncio.create_task(watch())
    for opening, files in zip(openings, trees, strict=True):
        await records.commit_collection(collection(opening, await lease_of(records, opening), workspace=files))
    ended.set()
    assert await watching > 0
    assert await counts(records) == (15, 4500)


async def test_an_old_lease_commits_nothing(records: PostgresRecords) -> None:
    """A collection that was overtaken loses everything it brought, also after the winner has committed."""
    opening = await opened(records)
    files = tree(entry("a"))
    await note(records, files)
    zombie = await lease_of(records, opening)
    winner = await lease_of(records, opening)
    late = collection(opening, zombie, workspace=files, ending=CANCELLED)
    with pytest.raises(LeaseLost):
        await records.commit_collection(late)
    assert await counts(records) == (0, 0)
    await records.commit_collection(collection(opening, winner))
    with pytest.raises(LeaseLost):
        await records.commit_collection(late)
    assert await value(records, "select status from jobs") == "succeeded"


async def test_files_whose_blobs_are_gone_are_not_committed(records: PostgresRecords) -> None:
    """A tree whose blobs were never announced, or are being collected, is refused: the step is repeated and puts them anew."""
    opening = await opened(records)
    files = tree(entry("a", "one"), entry("b", "two"))
    lease = await lease_of(records, opening)
    with pytest.raises(StorageUnavailable):
        await records.commit_collection(collection(opening, lease, workspace=files))
    await note(records, files)
    await write(records, "update blobs set deleting_since = now() where size = 3 and encode(sha256, 'hex') = :sha", sha=sha("one"))
    with pytest.raises(StorageUnavailable):
        await records.commit_collection(collection(opening, lease, workspace=files))
    assert await counts(records) == (0, 0)


async def test_a_job_that_has_ended_keeps_its_word(records: PostgresRecords) -> None:
    """A collection that comes after the end is kept with its attempt; job and session stay as they are."""
    await session(records)
    opening = await opened(records, session_id="session-1")
    await records.end_job("job-1", request(session_id="session-1"), CANCELLED)
    job, seen = await look(records, "select * from jobs"), await look(records, "select * from sessions")
    files = tree(entry("late"))
    await note(records, files)
    lease = await lease_of(records, opening)
    done = await records.commit_collection(collection(opening, lease, workspace=files, session="session-1"))
    assert done.workspace is not None
    assert await look(records, "select * from jobs") == job
    assert await look(records, "select * from sessions") == seen
    (attempt,) = await look(records, "select state, workspace_manifest from attempts")
    assert attempt == {"state": "ended", "workspace_manifest": done.workspace.manifest_id}


async def test_end_and_collection_at_once_agree(records: PostgresRecords) -> None:
    """A collection and an end of the same job at the same time: one word holds, and neither of them is locked out by the other."""
    for number in range(20):
        job = f"job-{number}"
        opening = await opened(records, job)
        lease = await lease_of(records, opening)
        commit, ending = await asyncio.gather(
            records.commit_collection(collection(opening, lease)), records.end_job(job, request(), CANCELLED), return_exceptions=True
        )
        assert isinstance(ending, Ending)
        assert not isinstance(commit, BaseException) or isinstance(commit, LeaseLost)
        (row,) = await look(records, "select j.status, a.state from jobs j join attempts a on a.job_id = j.id where j.id = :job", job=job)
        assert row == {"status": ending.status.value, "state": "ended"}


# --- sessions ---------------------------------------------------------------------------------------------------------------------


async def test_a_session_moves_on_with_the_result(records: PostgresRecords) -> None:
    """It takes over files, conversation and job, and lives on; a result without files leaves what it had."""
    await session(records)
    first = await opened(records, "one", session_id="session-1")
    files, words = tree(entry("a")), tree(entry("talk"))
    await note(records, files, words)
    lease = await lease_of(records, first)
    done = await records.commit_collection(collection(first, lease, workspace=files, transcript=words, session="session-1"))
    assert done.workspace is not None
    assert done.transcript is not None
    expected = {"workspace": done.workspace.manifest_id, "transcript": done.transcript.manifest_id}
    query = "select workspace_manifest as workspace, transcript_manifest as transcript, latest_job_id as job from sessions"
    assert await look(records, query) == [{**expected, "job": "one"}]
    assert await value(records, "select expires_at > now() from sessions")
    second = await opened(records, "two", session_id="session-1")
    await records.commit_collection(collection(second, await lease_of(records, second), session="session-1"))
    assert await look(records, query) == [{**expected, "job": "two"}]


async def test_a_session_moves_on_with_what_an_earlier_attempt_saved(records: PostgresRecords) -> None:
    """Where the last attempt saved nothing, job and session have the files of the one before it."""
    await session(records)
    first = await opened(records, session_id="session-1")
    files, words = tree(entry("a")), tree(entry("talk"))
    await note(records, files, words)
    await records.commit_collection(
        collection(first, await lease_of(records, first), workspace=files, transcript=words, ending=None, session="session-1")
    )
    assert await value(records, "select latest_job_id is null from sessions")
    second = await opened(records, number=2, session_id="session-1")
    await records.commit_collection(collection(second, await lease_of(records, second), session="session-1"))
    (row,) = await look(
        records,
        "select j.output_manifest as output, s.workspace_manifest as workspace, j.transcript_manifest as said, "
        "s.transcript_manifest as spoken from jobs j, sessions s",
    )
    assert row["output"] == row["workspace"] != row["said"] == row["spoken"]
    assert None not in row.values()


async def test_a_session_of_another_tenant_is_not_moved(records: PostgresRecords) -> None:
    """Whatever a job says about its session, it moves its own tenant's only."""
    await session(records, tenant="other")
    opening = await opened(records)
    await records.commit_collection(collection(opening, await lease_of(records, opening), session="session-1"))
    assert await value(records, "select latest_job_id is null from sessions")


async def test_the_end_of_a_session_withdraws_what_never_ran(records: PostgresRecords) -> None:
    """Waiting jobs are cancelled as withdrawn; one that runs or has ended stays; twice is fine and the first word holds."""
    await session(records)
    for job, status in (("waits", "queued"), ("accepted", "accepted"), ("runs", "running"), ("done", "succeeded"), ("other", "queued")):
        row = "insert into jobs (id, tenant, session_id, request, status) values (:id, 'default', 'session-1', '{}', :status)"
        await write(records, row, id=job, status=status)
    await records.end_session("session-1", SessionState.CLOSED, ["waits", "accepted", "runs", "done", "unknown"])
    await records.end_session("session-1", SessionState.EXPIRED, ["waits"])
    await records.end_session("unknown", SessionState.CLOSED, [])
    assert await look(records, "select id, status, verdict ->> 'code' as code from jobs order by id") == [
        {"id": "accepted", "status": "cancelled", "code": "withdrawn"},
        {"id": "done", "status": "succeeded", "code": None},
        {"id": "other", "status": "queued", "code": None},
        {"id": "runs", "status": "running", "code": None},
        {"id": "waits", "status": "cancelled", "code": "withdrawn"},
    ]
    assert await look(records, "select state, ended_at is not null as ended from sessions") == [{"state": "closed", "ended": True}]
    verdict = await value(records, "select verdict from jobs where id = 'waits'")
    assert Verdict.model_validate(verdict).code is VerdictCode.WITHDRAWN


# --- late endings -----------------------------------------------------------------------------------------------------------------


async def test_a_job_without_a_row_gets_one_at_its_end(records: PostgresRecords) -> None:
    """A job that was cancelled before its first step is found by whoever asks for it later."""
    assert await records.end_job("job-1", request(labels={"a": "b"}), CANCELLED) == CANCELLED
    (row,) = await look(records, "select status, prompt, labels, tenant, finished_at is not null as finished from jobs")
    assert row == {"status": "cancelled", "prompt": "count the files", "labels": {"a": "b"}, "tenant": "default", "finished": True}
    assert await records.end_job("job-1", request(), SUCCESS) == CANCELLED
    assert await value(records, "select count(*) from transitions") == 1


async def test_a_late_end_keeps_what_was_saved(records: PostgresRecords) -> None:
    """Files, conversation and events of earlier attempts are the job's result, the session goes on from them, and attempts are ended."""
    await session(records)
    first = await opened(records, session_id="session-1")
    cursor = await records.take_lease(first.attempt_id)
    await records.append_events(cursor, [EventLine(0, b"{}\n", "system", None)], {})
    files, words = tree(entry("a")), tree(entry("talk"))
    await note(records, files, words)
    saved = await records.commit_collection(
        collection(first, await lease_of(records, first), workspace=files, transcript=words, ending=None, session="session-1")
    )
    assert saved.workspace is not None
    second = await opened(records, number=2, session_id="session-1")
    ending = Ending(status=JobStatus.FAILED, verdict=Verdict(code=VerdictCode.INFRASTRUCTURE, message="no\x00sandbox"))
    assert await records.end_job("job-1", request(session_id="session-1"), ending) == ending
    (job,) = await look(records, "select status, events, output_manifest as files, transcript_manifest is not null as words from jobs")
    assert job == {"status": "failed", "events": 1, "files": saved.workspace.manifest_id, "words": True}
    assert await look(records, "select workspace_manifest as files, latest_job_id as job from sessions") == [
        {"files": saved.workspace.manifest_id, "job": "job-1"}
    ]
    assert await value(records, "select bool_and(ended_at is not null) from attempts")
    with pytest.raises(LeaseLost):
        await records.commit_collection(collection(second, second.lease, session="session-1"))


async def test_the_ending_that_holds_is_returned(records: PostgresRecords) -> None:
    """Ten endings at once: one is written, and everybody is told which."""
    await opened(records)
    endings = [
        Ending(status=status, verdict=Verdict(code=code, message=str(n)))
        for n, (status, code) in enumerate([(JobStatus.CANCELLED, VerdictCode.CANCELLED), (JobStatus.FAILED, VerdictCode.ORPHANED)] * 5)
    ]
    told = await asyncio.gather(*(records.end_job("job-1", request(), ending) for ending in endings))
    assert len({ending.model_dump_json() for ending in told}) == 1
    assert await value(records, "select verdict ->> 'message' from jobs") == told[0].verdict.message
    assert await value(records, "select count(*) from transitions where subject = 'jobs'") == 2


def test_trees_of_the_helpers_are_named_by_their_digest() -> None:
    """The digests in these tests are the product's own."""
    assert tree(entry("a")) == Tree(Manifest(entries=(entry("a"),)), digest(Manifest(entries=(entry("a"),))))
