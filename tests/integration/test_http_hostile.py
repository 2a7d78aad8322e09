"""The hostile inputs through the real HTTP door: exact status and code, nothing stored, nothing started."""

import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import hostile
from tests.door import Door, open_door


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own."""
    async with open_door(database_url, temporal_server, tmp_path) as opened:
        yield opened


def job(**more: Any) -> dict[str, Any]:
    """A submission with something in it."""
    return {"prompt": "hello"} | more


def with_paths(paths: list[str], *, members: Sequence[str] = (), portable: bool = False) -> dict[str, Any]:
    """A submission that uploads files of these names."""
    upload: dict[str, Any] = {"files": [{"path": path, "content": "x"} for path in paths], "portable": portable}
    if members:
        archive = hostile.tar(*(hostile.m(name, b"x") for name in members))
        upload["archives"] = [{"data_base64": base64.b64encode(archive).decode()}]
    return job(upload=upload)


def values(case: hostile.Case) -> list[Any]:
    """The values of a case, to be tried one by one."""
    value = hostile.load(case, MARK="/nonexistent/mark")
    return list(value["each"]) if isinstance(value, dict) and "each" in value else [value]


def expected(case: hostile.Case) -> tuple[int, str] | None:
    """Status and code by the case's right answer; None where it is kept."""
    answer = case["right_answer"]
    found = re.search(r"REJECT (\d+) (\w+)", answer) or re.search(r"refused (\d+) (\w+)", answer)
    return (int(found[1]), found[2]) if found else None


def submissions() -> Iterator[Any]:
    """Every value of groups A, B, H and I as the body of a submission."""
    for case in hostile.cases("A") + hostile.cases("H"):
        for number, value in enumerate(values(case)):
            body = with_paths([value]) if case["id"].startswith("A") else job(prompt=value)
            yield pytest.param(body, expected(case), id=f"{case['id']}-{number}")
    for case in hostile.cases("B"):
        value, portable = hostile.load(case), "portable" in case["right_answer"]
        body = with_paths(value["paths"], members=value.get("archive_members", []), portable=portable)
        yield pytest.param(body, expected(case), id=case["id"])
    for case in hostile.cases("I"):
        value = hostile.load(case)
        for number, one in enumerate(value.get("each", [value.get("value")])):
            yield pytest.param(with_option(value["field"], one), expected(case), id=f"{case['id']}-{number}")


def with_option(field: str, value: Any) -> dict[str, Any]:
    """A submission with one option."""
    if field == "timeout_s":
        return job(timeout_s=float(value))
    return job(options={field: {value: "x"} if field == "env" else value})


@pytest.mark.parametrize(("body", "answer"), [*submissions()])
async def test_a_hostile_submission_gets_its_exact_answer(door: Door, body: dict[str, Any], answer: tuple[int, str] | None) -> None:
    """Refused with the code of its kind and no trace, or kept byte for byte."""
    told = await door.http.post("/v1/jobs", content=json.dumps(body))
    if answer is None:
        assert told.status_code == 202, told.text
        return
    problem = told.json()
    assert (told.status_code, problem["code"]) == answer, problem
    assert told.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:dogwatch:error:{answer[1]}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["remedy"]
    for table in ("jobs", "sessions", "manifests", "manifest_entries", "blobs"):
        assert await door.count(table) == 0, table
    assert not list(Path(str(door.deps.blobs._directory)).rglob("*.*"))  # type: ignore[attr-defined]
    assert await door.workflows() == []


async def test_paths_that_only_look_special_are_kept_literally(door: Door) -> None:
    """A tilde, a look-alike of two dots and a zero-width joiner are bytes of a name; listings show them escaped."""
    kept = [hostile.case(case_id)["input"] for case_id in ("A-26", "A-32", "A-33")] + ["%2e%2e", "-rf", "$HOME", "café", "cafe\u0301"]
    assert (await door.http.post("/v1/jobs", json=with_paths(kept))).status_code == 202
    async with door.db.begin() as connection:
        rows = await connection.exec_driver_sql("select path from manifest_entries where kind = 'file'")
        assert {bytes(row.path) for row in rows} == {path.encode() for path in kept}
    opened = (await door.http.post("/v1/sessions", json={"upload": with_paths(kept)["upload"]})).json()
    assert "a\\u200db.txt" in [file["path"] for file in opened["input_files"]]


async def test_a_slash_command_passes_when_it_is_wanted(door: Door) -> None:
    """The policy flag lets the CLI's own commands through."""
    body = job(prompt=hostile.case("H-11")["input"], options={"allow_slash_commands": True})
    assert (await door.http.post("/v1/jobs", json=body)).status_code == 202


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/sessions"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"a","timeout_s":10,"timeout_s":999999}',
        b'{"prompt":"a","timeout_s":Infinity,"options":{"max_cost_usd":NaN}}',
        b"",
        b"   ",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"prompt":"a"}{}',
        b"\xef\xbb\xbf{}x",
        b'{"prompt":"\xff"}',
        b'{"prompt":"a","unknown":1}',
        b'{"\\ud800":1}',
        b'{"prompt":"a","labels":{"\\ud800":"b"}}',
        b'{"prompt":"a","labels":{"a":"\\udfff"}}',
        b'{"prompt":"a","timeout_s":1e400}',
        b'{"prompt":"a","timeout_s":-Infinity}',
        b'{"prompt":"a","max_attempts":' + b"9" * 5000 + b"}",
        b'{"prompt":"a","upload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
    ],
    ids=range(21),
)
async def test_what_is_no_proper_json_is_refused(door: Door, path: str, body: bytes) -> None:
    """Repeated keys, NaN, infinity, deep nests, broken text and unknown fields are 422, never 500."""
    told = await door.http.post(path, content=body)
    assert told.status_code == 422, told.text
    assert told.json()["code"] in ("invalid_request", "range")
    assert (await door.count("jobs"), await door.count("sessions")) == (0, 0)


async def test_brackets_in_strings_are_no_nesting(door: Door) -> None:
    """Only real nesting counts."""
    assert (await door.http.post("/v1/jobs", json=job(labels={"a": '["{' * 50, "b": "\\" * 150}))).status_code == 202


async def test_text_that_databases_refuse_is_no_error_of_ours(door: Door) -> None:
    """U+0000 in free text is stored as a replacement, and the job goes on."""
    answer = await door.http.post("/v1/jobs", json=job(labels={"a\0": "b\0"}))
    assert answer.status_code == 202
    assert answer.json()["labels"] == {"a\ufffd": "b\ufffd"}


@pytest.mark.parametrize("wanted", ["/v1/jobs/1", "/v1/jobs/00000000-0000-0000-0000-000000000000", "/v1/sessions/ses_000000"])
async def test_guessed_ids_are_not_found(door: Door, wanted: str) -> None:
    """404 with the same body for every id that is not ours."""
    answer = await door.http.get(wanted)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("wanted", ["..%2f..%2fetc", "a%00b", "%ff", "x" * 65, "a b", "%0d%0aX: y"])
@pytest.mark.parametrize("below", ["", "/files", "/events", "/files/a"])
async def test_odd_ids_are_refused(door: Door, wanted: str, below: str) -> None:
    """Path characters, control characters and over-long ids end as 404 or 422."""
    answer = await door.http.get(f"/v1/jobs/{wanted}{below}")
    assert answer.status_code in (404, 422)


async def test_unknown_addresses_and_methods_are_problems_too(door: Door) -> None:
    """Everything that goes wrong has the same form."""
    missing, method = await door.http.get("/nowhere"), await door.http.delete("/v1/jobs")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
    assert method.headers["content-type"] == "application/problem+json"
    described = (await door.http.get("/v1/openapi.json")).json()
    assert {"JobSubmission", "JobView", "Problem", "SessionRequest"} <= set(described["components"]["schemas"])
