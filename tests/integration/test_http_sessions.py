"""Sessions at the HTTP door, with the real session workflow behind it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest_asyncio
from temporalio.service import RPCError

from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.contracts.job import JobResult, JobStatus
from tests.door import TELL, Door, open_door

HELLO = {"prompt": "say hello"}
FILES = {"upload": {"files": [{"path": "a", "content": "1"}, {"path": "d/b", "content": "2"}]}}


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own, with a worker."""
    async with open_door(database_url, temporal_server, tmp_path) as opened, opened.working():
        yield opened


async def tell(door: Door, job_id: str, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    """Let the stand-in of a job end, once it runs."""
    result = JobResult(job_id=job_id, status=status, verdict=Verdict(code=VerdictCode.SUCCESS))
    handle = door.temporal.get_workflow_handle(f"job/{job_id}")
    async with asyncio.timeout(30):
        while True:
            try:
                return await handle.signal(TELL, result)
            except RPCError:  # its session has not started it yet
                await asyncio.sleep(0.05)


async def test_a_session_opens_with_its_files(door: Door) -> None:
    """201 means a row, a manifest and a workflow; the answer lists what has arrived."""
    answer = await door.http.post("/v1/sessions", json=FILES | {"ttl_s": 100, "labels": {"a": "b"}})
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["state"], view["ttl_s"], view["labels"], view["workspace"]["files"]) == ("open", 100, {"a": "b"}, 2)
    assert [file["path"] for file in view["input_files"]] == ["a", "d", "d/b"]
    lives = datetime.fromisoformat(view["expires_at"]) - datetime.fromisoformat(view["created_at"])
    assert timedelta(seconds=99) < lives < timedelta(seconds=101)
    assert (await door.temporal.get_workflow_handle(view["workflow_id"]).describe()).workflow_type == "Session"
    shown = (await door.http.get(answer.headers["Location"])).json()
    assert shown == view | {"input_files": []}
    assert [one["session_id"] for one in (await door.http.get("/v1/sessions")).json()["sessions"]] == [view["session_id"]]
    assert (await door.http.get("/v1/sessions", params={"state": "closed"})).json()["sessions"] == []


async def test_ten_requests_at_once_with_one_key_open_one_session(door: Door) -> None:
    """The same key and files are the same session; other files are refused."""
    headers = {"Idempotency-Key": "s"}
    answers = await asyncio.gather(*(door.http.post("/v1/sessions", json=FILES, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    other = await door.http.post("/v1/sessions", json={}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert await door.count("sessions") == 1


async def test_a_session_takes_jobs_until_it_is_closed(door: Door) -> None:
    """Jobs run one after the other on the session's files; closing lets the running one finish and refuses new ones."""
    session = f"/v1/sessions/{(await door.http.post('/v1/sessions', json=FILES)).json()['session_id']}"
    jobs = [(await door.http.post(f"{session}/jobs", json=HELLO)).json() for _ in range(2)]
    assert [job["session_id"] for job in jobs] == [session.rpartition("/")[2]] * 2
    listed = (await door.http.get("/v1/jobs", params={"session_id": jobs[0]["session_id"]})).json()["jobs"]
    assert [job["job_id"] for job in listed] == [jobs[1]["job_id"], jobs[0]["job_id"]]
    again = await door.http.post(f"{session}/jobs", json=HELLO, headers={"Idempotency-Key": "k"})
    assert (await door.http.post(f"{session}/jobs", json=HELLO, headers={"Idempotency-Key": "k"})).json() == again.json()

    closing = await door.http.post(f"{session}/close")
    assert (closing.status_code, closing.json()["state"]) == (202, "closing")
    refused = await door.http.post(f"{session}/jobs", json=HELLO)
    assert (refused.status_code, refused.json()["code"]) == (409, "session_closing")
    assert await door.count("jobs") == 3
    await tell(door, jobs[0]["job_id"])
    await door.deps.temporal.session(session.rpartition("/")[2]).result()
    assert (await door.http.get(session)).json()["state"] == "closed"
    withdrawn = (await door.http.get(f"/v1/jobs/{jobs[1]['job_id']}")).json()
    assert (withdrawn["status"], withdrawn["verdict"]["code"]) == ("cancelled", "withdrawn")


async def test_a_closed_session_is_gone(door: Door) -> None:
    """410 for new jobs and extensions; closing again is fine; a job it has had is still found by its key."""
    session = f"/v1/sessions/{(await door.http.post('/v1/sessions', json={})).json()['session_id']}"
    headers = {"Idempotency-Key": "before"}
    known = (await door.http.post(f"{session}/jobs", json=HELLO, headers=headers)).json()
    await tell(door, known["job_id"])
    await door.deps.temporal.job(known["job_id"]).result()
    await door.http.post(f"{session}/close", json={"cancel": True})
    await door.deps.temporal.session(session.rpartition("/")[2]).result()
    for path, body in (("jobs", HELLO), ("extend", {"seconds": 10})):
        answer = await door.http.post(f"{session}/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (410, "session_gone")
    assert (await door.http.post(f"{session}/close")).status_code == 200
    assert await door.count("jobs") == 1
    again = await door.http.post(f"{session}/jobs", json=HELLO, headers=headers)
    assert (again.status_code, again.json()["job_id"]) == (202, known["job_id"])
    assert (await door.http.post("/v1/sessions/unknown/jobs", json=HELLO)).status_code == 404
    assert (await door.http.post("/v1/sessions/unknown/close")).status_code == 404


async def test_a_session_that_ended_unseen_is_gone(door: Door) -> None:
    """Where the row still says open but the workflow is closed, the workflow is right."""
    opened = (await door.http.post("/v1/sessions", json={})).json()
    await door.temporal.get_workflow_handle(opened["workflow_id"]).terminate("as an operator would")
    answer = await door.http.post(f"/v1/sessions/{opened['session_id']}/jobs", json=HELLO)
    assert (answer.status_code, answer.json()["code"]) == (410, "session_gone")
    assert await door.count("jobs") == 0


async def test_an_extension_moves_the_end_and_never_back(door: Door) -> None:
    """The workflow decides; the row follows its answer."""
    opened = (await door.http.post("/v1/sessions", json={"ttl_s": 1000})).json()
    session = f"/v1/sessions/{opened['session_id']}"
    later = (await door.http.post(f"{session}/extend", json={"seconds": 5000})).json()
    assert datetime.fromisoformat(later["expires_at"]) > datetime.fromisoformat(opened["expires_at"]) + timedelta(seconds=3000)
    same = (await door.http.post(f"{session}/extend", json={"seconds": 1})).json()
    assert same["expires_at"] == later["expires_at"] == (await door.http.get(session)).json()["expires_at"]
    for wrong in ({"seconds": 0}, {"seconds": "x"}, {}, {"seconds": 1, "more": 1}, {"seconds": 1e12}):
        assert (await door.http.post(f"{session}/extend", json=wrong)).status_code == 422


async def test_a_session_has_its_own_files_only(door: Door) -> None:
    """A submission to a session brings no files; those of the session are listed, compared with the first ones."""
    session = f"/v1/sessions/{(await door.http.post('/v1/sessions', json=FILES)).json()['session_id']}"
    for more in (FILES, {"workspace": {"kind": "job", "job_id": "x"}}):
        answer = await door.http.post(f"{session}/jobs", json=HELLO | more)
        assert (answer.status_code, answer.json()["code"]) == (422, "two_workspaces")
    job_id = (await door.http.post(f"{session}/jobs", json=HELLO)).json()["job_id"]
    await (await door.begin(job_id)).end({b"a": b"new", b"c": b"3"})
    page = (await door.http.get(f"{session}/files", params={"changed": True})).json()
    marks = {file["path"]: (file["change"], file["download_url"]) for file in page["files"]}
    url = f"/v1/jobs/{job_id}/files"
    assert marks == {
        "a": ("modified", f"{url}/a"),
        "c": ("added", f"{url}/c"),
        "d": ("deleted", None),
        "d/b": ("deleted", None),
    }
    assert (await door.http.get(session)).json()["latest_job_id"] == job_id


async def test_a_job_that_waits_is_withdrawn(door: Door) -> None:
    """Cancelling a job that has not begun takes it out of its session's queue; those around it run."""
    session = f"/v1/sessions/{(await door.http.post('/v1/sessions', json={})).json()['session_id']}"
    first, waiting, last = [(await door.http.post(f"{session}/jobs", json=HELLO)).json()["job_id"] for _ in range(3)]
    answer = await door.http.post(f"/v1/jobs/{waiting}/cancel")
    assert (answer.status_code, answer.json()["status"], answer.json()["verdict"]["code"]) == (200, "cancelled", "withdrawn")
    assert (await door.http.post(f"/v1/jobs/{waiting}/cancel")).status_code == 200
    for job_id in (first, last):
        await tell(door, job_id)
    await door.http.post(f"{session}/close")
    assert (await door.deps.temporal.session(session.rpartition("/")[2]).result()).jobs == 2
    assert (await door.http.get(f"/v1/jobs/{waiting}")).json()["status"] == "cancelled"
