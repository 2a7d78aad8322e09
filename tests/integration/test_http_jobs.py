"""Jobs at the HTTP door: accepted once, with a row and a workflow, shown and listed."""

import asyncio
import base64
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from temporalio.client import WorkflowExecutionStatus

from dogwatch import names
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import JobRequest, JobStatus
from dogwatch.contracts.sandbox import Provider
from dogwatch.http.deps import Limits
from tests.door import Door, open_door

HELLO = {"prompt": "say hello", "options": {"model": "claude-haiku-4-5"}}


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own."""
    async with open_door(database_url, temporal_server, tmp_path) as opened:
        yield opened


def upload(**files: str) -> dict[str, Any]:
    """Text files as an upload."""
    return {"files": [{"path": path, "content": content} for path, content in files.items()]}


async def test_a_job_is_accepted_with_a_row_and_a_workflow(door: Door) -> None:
    """202 means that a row says queued and that Temporal has the workflow, with names that people can read."""
    body = HELLO | {"upload": upload(a="1", b="2"), "labels": {"who": "**me**"}}
    answer = await door.http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['job_id']}"
    assert (job["status"], job["prompt"], job["attempts"]) == ("queued", "say hello", [])
    assert job["workflow_id"] == f"job/{job['job_id']}"
    described = await door.temporal.get_workflow_handle(job["workflow_id"]).describe()
    assert (described.workflow_type, described.status) == ("Job", WorkflowExecutionStatus.RUNNING)
    assert await described.static_summary() == "say hello"
    assert "- label who: me" in (await described.static_details() or "")
    assert [(pair.key.name, pair.value) for pair in described.typed_search_attributes] == [("DogwatchTenant", "default")]
    assert await door.count("manifest_entries") == 2
    assert (await door.http.get(answer.headers["Location"])).json() == job


async def test_the_workflow_gets_references_only(door: Door) -> None:
    """Neither files nor a long prompt enter the history; both are stored, the prompt byte for byte."""
    prompt = "begin " + "é\r\n" * 2000
    job = (await door.http.post("/v1/jobs", json={"prompt": prompt, "upload": upload(a="secret words")})).json()
    history = await door.temporal.get_workflow_handle(job["workflow_id"]).fetch_history()
    assert "secret words" not in history.to_json()
    request = JobRequest.model_validate(await door.value("select request from jobs"))
    assert request.task.prompt is None
    assert request.workspace.kind == "manifest"
    sha256 = hashlib.sha256(prompt.encode()).hexdigest()
    assert request.task.prompt_sha256 == sha256
    assert await door.deps.blobs.get(sha256) == prompt.encode()
    assert job["prompt"] == prompt[:500]


async def test_an_archive_may_be_uploaded(door: Door) -> None:
    """A tar archive becomes manifest rows, links included."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("empty"))
    body = HELLO | {"upload": {"archives": [{"data_base64": base64.b64encode(packed.getvalue()).decode()}]}}
    assert (await door.http.post("/v1/jobs", json=body)).status_code == 202
    assert await door.value("select convert_from(target, 'UTF8') from manifest_entries where kind = 'symlink'") == "/etc/passwd"


async def test_the_same_key_and_request_is_the_same_job(door: Door) -> None:
    """A client that does not know whether its request arrived may send it again: nothing runs twice."""
    headers, body = {"Idempotency-Key": "once"}, HELLO | {"upload": upload(a="1")}
    first = await door.http.post("/v1/jobs", json=body, headers=headers)
    again = await door.http.post("/v1/jobs", json=dict(reversed(body.items())), headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert await door.count("jobs") == 1
    other = await door.http.post("/v1/jobs", json=body | {"prompt": "say goodbye"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    files = await door.http.post("/v1/jobs", json=body | {"upload": upload(a="2")}, headers=headers)
    assert (files.status_code, files.json()["code"]) == (409, "idempotency_conflict")
    assert await door.count("jobs") == 1


async def test_ten_requests_at_once_with_one_key_are_one_job(door: Door) -> None:
    """Whoever comes first writes the row; the others find it."""
    answers = await asyncio.gather(*(door.http.post("/v1/jobs", json=HELLO, headers={"Idempotency-Key": "k"}) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert await door.value("select count(*) || max(status) from jobs") == "1queued"
    assert (await door.http.post("/v1/jobs", json=HELLO)).json()["job_id"] != answers[0].json()["job_id"]


async def test_a_job_that_started_unseen_is_found_by_its_key(door: Door) -> None:
    """A start whose answer was lost leaves a row without a key, made by the job's own first step: the repeated request adopts it."""
    headers = {"Idempotency-Key": "lost"}
    job_id = names.new_id(door.deps.doors.deployment, "default", "", "lost")
    request = JobRequest.model_validate({"task": HELLO})
    await door.deps.temporal.start_job(request, job_id)
    await door.records.open_attempt(job_id, 1, request, Provider.LOCAL)
    answer = await door.http.post("/v1/jobs", json=HELLO, headers=headers)
    assert (answer.status_code, answer.json()["job_id"], answer.json()["status"]) == (202, job_id, "running")
    assert (await door.http.post("/v1/jobs", json=HELLO | {"prompt": "x"}, headers=headers)).status_code == 409


async def test_limits_of_the_deployment_hold(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """What is too much is refused with the limit's code, and nothing is stored."""
    limits = Limits(max_upload_files=2, max_upload_bytes=10, max_timeout_s=60)
    async with open_door(database_url, temporal_server, tmp_path, limits=limits) as door:
        for more, expected in (
            ({"timeout_s": 61}, (422, "range")),
            ({"upload": upload(a="1", b="2", c="3")}, (413, "too_many_files")),
            ({"upload": upload(a="12345678901")}, (413, "upload_too_large")),
            ({"labels": {"x": "y" * 300}}, (422, "invalid_request")),
        ):
            answer = await door.http.post("/v1/jobs", json=HELLO | {"timeout_s": 60} | more)
            assert (answer.status_code, answer.json()["code"]) == expected
        huge = await door.http.post("/v1/jobs", content=b" " * (limits.max_body_bytes + 1))
        assert (huge.status_code, huge.json()["code"]) == (413, "upload_too_large")
        assert (await door.count("jobs"), await door.count("manifests"), await door.count("blobs")) == (0, 0, 0)
        exactly = await door.http.post("/v1/jobs", json=HELLO | {"timeout_s": 60, "upload": upload(a="1234567890")})
        assert exactly.status_code == 202


async def test_a_body_that_never_ends_is_given_up(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """A slow client holds its own connection only, and not for long."""

    async with open_door(database_url, temporal_server, tmp_path, limits=Limits(body_timeout_s=0.2)) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.http.base_url.port)
        writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive" in answer


async def test_workspaces_by_reference_must_exist(door: Door) -> None:
    """A job may start from a stored manifest or another job's files, of the same tenant only."""
    first = (await door.http.post("/v1/jobs", json=HELLO | {"upload": upload(a="1")})).json()
    manifest_id = await door.value("select input_manifest from jobs")
    for workspace in ({"kind": "job", "job_id": first["job_id"]}, {"kind": "manifest", "manifest_id": manifest_id}, {"kind": "empty"}):
        assert (await door.http.post("/v1/jobs", json=HELLO | {"workspace": workspace})).status_code == 202
    for workspace, expected in (
        ({"kind": "job", "job_id": "unknown"}, (404, "not_found")),
        ({"kind": "manifest", "manifest_id": "un\0known"}, (404, "not_found")),
        ({"kind": "session"}, (422, "session_missing")),
        ({"kind": "files", "files": [{"path": "a"}]}, (422, "inline_files_refused")),
    ):
        answer = await door.http.post("/v1/jobs", json=HELLO | {"workspace": workspace})
        assert (answer.status_code, answer.json()["code"]) == expected
    both = await door.http.post("/v1/jobs", json=HELLO | {"workspace": {"kind": "empty"}, "upload": {}})
    assert both.json()["code"] == "two_workspaces"


async def test_jobs_are_listed_a_page_at_a_time(door: Door) -> None:
    """Newest first, each once, also while new ones come."""
    made = [(await door.http.post("/v1/jobs", json=HELLO | {"prompt": f"job {n}"})).json()["job_id"] for n in range(5)]
    first = (await door.http.get("/v1/jobs", params={"limit": 2})).json()
    await door.http.post("/v1/jobs", json=HELLO)
    second = (await door.http.get("/v1/jobs", params={"limit": 2, "after": first["next"]})).json()
    third = (await door.http.get("/v1/jobs", params={"limit": 2, "after": second["next"]})).json()
    listed = [job["job_id"] for page in (first, second, third) for job in page["jobs"]]
    assert listed == made[::-1]
    assert third["next"] is None
    assert (await door.http.get("/v1/jobs", params={"status": "running"})).json() == {"jobs": [], "next": None}
    assert (await door.http.get("/v1/jobs", params={"session_id": "none"})).json()["jobs"] == []
    for wrong in ({"after": "%%"}, {"after": "AAAA"}, {"status": "odd"}, {"limit": 0}, {"session_id": "a/b"}, {"session_id": "\0"}):
        assert (await door.http.get("/v1/jobs", params=wrong)).status_code == 422


async def test_a_job_shows_its_attempts_and_how_it_ended(door: Door) -> None:
    """One address tells what a person wants to know: status, attempts, cost, words, files, and what went wrong."""
    job_id = (await door.http.post("/v1/jobs", json=HELLO | {"upload": upload(a="1")})).json()["job_id"]
    writing = await door.begin(job_id)
    await writing.say(b'{"type":"system","subtype":"init"}\n')
    running = (await door.http.get(f"/v1/jobs/{job_id}")).json()
    assert (running["status"], running["events"], running["output_files"], running["error"]) == ("running", 1, None, None)
    assert [(attempt["number"], attempt["state"], attempt["cli_version"]) for attempt in running["attempts"]] == [(1, "running", "2.1.0")]
    await writing.end({b"a": b"2"}, status=JobStatus.FAILED, code=VerdictCode.MAX_TURNS, cost_usd=0.25)
    ended = (await door.http.get(f"/v1/jobs/{job_id}")).json()
    assert (ended["status"], ended["error"], ended["usage"]["cost_usd"], ended["text"]) == ("failed", "as told", 0.25, "done")
    assert [(file["path"], file["change"], file["size_bytes"]) for file in ended["output_files"]] == [("a", "modified", 1)]
    assert ended["finished_at"]


async def test_a_job_is_cancelled_once(door: Door) -> None:
    """Cancelling asks the workflow; a job that has ended stays as it is."""
    async with door.working():
        job_id = (await door.http.post("/v1/jobs", json=HELLO)).json()["job_id"]
        answer = await door.http.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 202
        assert (await door.deps.temporal.job(job_id).result()).status is JobStatus.CANCELLED
    writing = await door.begin(job_id)
    await writing.end(status=JobStatus.CANCELLED, code=VerdictCode.CANCELLED)
    assert (await door.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    assert (await door.http.post("/v1/jobs/unknown/cancel")).status_code == 404


async def test_other_tenants_things_are_not_found(door: Door, database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """For every verb, a foreign id gets the same answer as one that never existed."""
    job_id = (await door.http.post("/v1/jobs", json=HELLO | {"upload": upload(a="1")})).json()["job_id"]
    await (await door.begin(job_id)).end({b"a": b"2"}, transcript=b"{}\n")
    async with open_door(database_url, temporal_server, tmp_path, tenant="other") as other:
        for method, path in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("GET", "/files"),
            ("GET", "/files/a"),
            ("GET", "/archive"),
            ("GET", "/transcript"),
            ("GET", "/events"),
        ):
            foreign = await other.http.request(method, f"/v1/jobs/{job_id}{path}")
            unknown = await other.http.request(method, f"/v1/jobs/never{path}")
            assert (foreign.status_code, foreign.text) == (404, unknown.text), path
        assert (await other.http.get("/v1/jobs")).json()["jobs"] == []
        body = HELLO | {"workspace": {"kind": "job", "job_id": job_id}}
        assert (await other.http.post("/v1/jobs", json=body)).status_code == 404
