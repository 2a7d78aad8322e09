"""Files at the HTTP door: lists with changes, exact bytes under any name, ranges, archives."""

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from dogwatch.client.http import HttpClient
from dogwatch.contracts.workspace import EntryKind
from dogwatch.errors import BlobCorrupt, NotFound
from dogwatch.workspace.tree import entry
from tests.door import Door, open_door

NAMES = [
    b'a"; filename="evil.exe',
    b"a\r\nSet-Cookie: x=1",
    "中文 🦀.txt".encode(),
    b"a;b,c=.txt",
    b"..%2f..%2fx",
    b"not\xffutf8\xfe",
    b"with?query#and fragment",
    b"deep/er/x.html",
    b"100%",
    b" ",
    b"\xe2\x80\xae" + b"gnp.exe",
]


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own."""
    async with open_door(database_url, temporal_server, tmp_path) as opened:
        yield opened


async def left(door: Door, files: dict[bytes, bytes], **how: object) -> str:
    """A job that started with three files and has left these; its id."""
    given = [{"path": path, "content": "old"} for path in ("same", "old", "gone/x")]
    job_id = (await door.http.post("/v1/jobs", json={"prompt": "x", "upload": {"files": given}})).json()["job_id"]
    await (await door.begin(job_id)).end(files, **how)  # type: ignore[arg-type]
    return str(job_id)


async def test_files_are_listed_with_their_changes(door: Door) -> None:
    """Added, modified, deleted and unchanged, by path; pages cover each entry once."""
    link = entry(b"link", EntryKind.SYMLINK, mode=0o777, target="/etc/\x1bpasswd")
    pipe = entry(b"pipe", EntryKind.SKIPPED, mode=0, reason="special_file")
    job_id = await left(door, {b"same": b"old", b"old": b"new", b"added": b"", b".git/config": b"x"}, extra=[link, pipe])
    url = f"/v1/jobs/{job_id}/files"
    files = (await door.http.get(url)).json()["files"]
    assert [(file["path"], file["change"]) for file in files] == [
        (".git/config", "added"),
        ("added", "added"),
        ("gone", "deleted"),
        ("gone/x", "deleted"),
        ("link", "added"),
        ("old", "modified"),
        ("pipe", "added"),
        ("same", "unchanged"),
    ]
    by_path = {file["path"]: file for file in files}
    assert by_path["link"]["target"] == "/etc/\\x1bpasswd"
    assert by_path["link"]["download_url"] is None
    assert by_path["pipe"]["reason"] == "special_file"
    assert by_path[".git/config"]["repo_config"]
    assert by_path["gone/x"]["download_url"] is None
    paged, after = [], None
    while True:
        page = (await door.http.get(url, params={"limit": 3, "changed": True} | ({"after": after} if after else {}))).json()
        paged += page["files"]
        if (after := page["next"]) is None:
            break
    assert paged == [file for file in files if file["change"] != "unchanged"]
    assert (await door.http.get(url, params={"after": "%"})).status_code == 422


async def test_what_could_not_be_seen_is_not_gone(door: Door) -> None:
    """A file below a directory that was skipped may well be there still."""
    job_id = await left(door, {b"same": b"old", b"old": b"old"}, extra=[entry(b"gone", EntryKind.SKIPPED, mode=0, reason="unreadable")])
    files = (await door.http.get(f"/v1/jobs/{job_id}/files", params={"changed": True})).json()["files"]
    assert [(file["path"], file["change"]) for file in files] == [("gone", "modified")]


async def test_any_name_is_served_exactly_and_harmlessly(door: Door) -> None:
    """The address has the exact bytes of a name; the header's name cannot be broken; nothing is shown inline."""
    job_id = await left(door, {name: b"bytes of " + name for name in NAMES})
    async with HttpClient(door.url) as client:
        listed = [file async for file in client.files(job_id, changed=True) if file.change == "added"]
        assert len(listed) == len(NAMES)
        got = {b"".join([chunk async for chunk in client.download(file)]) for file in listed}
        assert got == {b"bytes of " + name for name in NAMES}
        assert b"".join([chunk async for chunk in client.fetch(job_id, NAMES[5])]) == b"bytes of " + NAMES[5]
        with pytest.raises(NotFound):
            await anext(client.fetch(job_id, b"not\xffutf8"))
    assert all(file.path.isprintable() for file in listed)
    for name in NAMES:
        answer = await door.http.get(f"/v1/jobs/{job_id}/files/{quote(name)}")
        assert answer.status_code == 200
        last = name.rpartition(b"/")[2].decode("utf-8", "replace")
        assert answer.headers["content-disposition"].startswith('attachment; filename="')
        assert answer.headers["content-disposition"].endswith(f"; filename*=UTF-8''{quote(last, safe='')}")
        assert answer.headers["content-disposition"].count('"') == 2
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert "no-store" in answer.headers["cache-control"]
        assert int(answer.headers["content-length"]) == len(answer.content)


async def test_one_range_is_served(door: Door) -> None:
    """A download can be resumed; a range outside the file is told as such."""
    job_id = await left(door, {b"digits": b"0123456789", b"empty": b""})
    url = f"/v1/jobs/{job_id}/files/digits"
    etag = (await door.http.get(url)).headers["etag"]
    for asked, expected in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=0-99", b"0123456789")):
        answer = await door.http.get(url, headers={"Range": asked, "If-Range": etag})
        assert (answer.status_code, answer.content) == (206, expected)
        start = b"0123456789".index(expected[:1])
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/10"
    for asked in ("bytes=10-", "bytes=-0", "bytes=99-100"):
        answer = await door.http.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    for headers in ({"Range": "bytes=0-1,3-4"}, {"Range": "lines=1-2"}, {"Range": "bytes=5-2"}, {"Range": "bytes=1-2", "If-Range": '"x"'}):
        assert (await door.http.get(url, headers=headers)).status_code == 200
    empty = await door.http.get(f"/v1/jobs/{job_id}/files/empty")
    assert (empty.status_code, empty.content) == (200, b"")
    assert (await door.http.get(f"/v1/jobs/{job_id}/files/empty", headers={"Range": "bytes=0-"})).status_code == 416


async def test_what_is_no_file_is_not_found(door: Door) -> None:
    """Links are never followed; a job that has not ended has left nothing."""
    link = entry(b"link", EntryKind.SYMLINK, mode=0o777, target="/etc/passwd")
    job_id = await left(door, {b"a": b"1"}, extra=[link])
    for name in ("link", "old", "nothing", "..%2fa", "a%2fb", "%00"):
        answer = await door.http.get(f"/v1/jobs/{job_id}/files/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), name
    fresh = (await door.http.post("/v1/jobs", json={"prompt": "x"})).json()["job_id"]
    assert (await door.http.get(f"/v1/jobs/{fresh}/files")).json() == {"manifest_id": None, "complete": True, "files": [], "next": None}
    for below in ("files/a", "archive", "transcript"):
        assert (await door.http.get(f"/v1/jobs/{fresh}/{below}")).status_code == 404


async def test_everything_comes_as_an_archive(door: Door) -> None:
    """All entries that were kept, as tar reads them."""
    link = entry(b"link", EntryKind.SYMLINK, mode=0o777, target="/etc/passwd")
    big = bytes(range(256)) * 20_000
    job_id = await left(door, {b"a": b"1", b"d/big": big}, extra=[link], transcript=b'{"type":"user"}\n')
    async with HttpClient(door.url) as client:
        packed = b"".join([chunk async for chunk in client.archive(job_id)])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["a", "d/big", "link"]
        found = archive.extractfile("d/big")
        assert found is not None
        assert found.read() == big
    transcript = await door.http.get(f"/v1/jobs/{job_id}/transcript")
    assert (transcript.status_code, transcript.content) == (200, b'{"type":"user"}\n')
    assert 'filename="b.jsonl"' in transcript.headers["content-disposition"]


async def test_missing_and_changed_bytes_are_told(door: Door) -> None:
    """A blob that is gone is a problem before the first byte; one that was altered is noticed at the end."""
    job_id = await left(door, {b"gone": b"bytes", b"altered": b"right"})
    blobs = Path(str(door.deps.blobs._directory))  # type: ignore[attr-defined]
    found = {path.read_bytes(): path for path in blobs.rglob("*") if path.is_file()}
    found[b"bytes"].unlink()
    found[b"right"].write_bytes(b"wrong")
    answer = await door.http.get(f"/v1/jobs/{job_id}/files/gone")
    assert (answer.status_code, answer.json()["code"]) == (500, "blob_missing")
    async with HttpClient(door.url) as client:
        altered = [file async for file in client.files(job_id) if file.path == "altered"]
        with pytest.raises(BlobCorrupt):
            _ = [chunk async for chunk in client.download(altered[0])]
