"""The command line as a person or a program uses it: a process, against a real door."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import JobStatus
from dogwatch.contracts.workspace import EntryKind
from dogwatch.workspace.tree import entry
from tests.door import Door, Writing, open_door
from tests.hostile import init, line, result, say
from worker.embedded.port import free_port

ROOT = Path(__file__).parents[2]
NASTY = "done\r\x1b[31m \u202ered\u202c \x1b]52;c;eA==\x07 [red]markup[/red] [link=http://x]y[/link]"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> list[Any]:
        """Standard output as JSON values, one a line."""
        return [json.loads(text) for text in self.out.splitlines()]


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own, with a worker."""
    async with open_door(database_url, temporal_server, tmp_path) as opened, opened.working():
        yield opened


async def start(*arguments: str, cwd: Path = ROOT, **env: str) -> asyncio.subprocess.Process:
    """A command as a process, in a small environment."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dogwatch.cli", *arguments),
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "80", **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a command."""
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def dogwatch(*arguments: str, cwd: Path = ROOT, **env: str) -> Ended:
    """Run a command to its end."""
    return await ended(await start(*arguments, cwd=cwd, **env))


async def the_job(door: Door) -> Writing:
    """Begin the job that a command has submitted, as soon as it is there."""
    async with asyncio.timeout(60):
        while not (found := (await door.http.get("/v1/jobs")).json()["jobs"]):
            await asyncio.sleep(0.05)
    return await door.begin(found[0]["job_id"])


async def a_job(door: Door, *, status: JobStatus = JobStatus.SUCCEEDED, code: VerdictCode = VerdictCode.SUCCESS) -> str:
    """A job that has ended so."""
    job_id = (await door.http.post("/v1/jobs", json={"prompt": NASTY})).json()["job_id"]
    writing = await door.begin(job_id)
    await writing.say(init(), say(NASTY), result(text=NASTY))
    await writing.end({b"new\x1b.txt": b"1"}, status=status, code=code, cost_usd=0.0123)
    return str(job_id)


def workspace(directory: Path) -> Path:
    """A directory with some files."""
    work = directory / "work"
    (work / "sub").mkdir(parents=True)
    for name, content in {"same": "same", "edit": "old", "drop": "old", "mine": "old", "sub/deep": "old"}.items():
        (work / name).write_text(content)
    return work


async def test_run_shows_a_job_and_pulls_its_changes(door: Door, tmp_path: Path) -> None:
    """A directory goes in; events, the verdict, the cost and every change come out; --pull writes the changes back."""
    work = workspace(tmp_path)
    process = await start("run", str(work), "make it so", "--pull", "--url", door.url)
    writing = await the_job(door)
    tool = line(
        type="assistant",
        session_id="s-1",
        message={"id": "m2", "content": [{"type": "tool_use", "name": "Bash", "input": {"command": "ls -l"}}]},
    )
    await writing.say(init(), say("hello there"), tool, result())
    (work / "mine").write_text("changed by me meanwhile")
    link = entry(b"link", EntryKind.SYMLINK, mode=0o777, target="/etc/passwd")
    files = {b"same": b"same", b"edit": b"new", b"mine": b"new", b"sub/deep": b"new", b"more/here": b"new", b".git/hooks/pre-push": b"x"}
    await writing.end(files, cost_usd=0.0123, extra=[link])
    told = await ended(process)
    assert told.code == 0, told
    assert "hello there" in told.out
    assert "→ Bash ls -l" in told.out
    assert "succeeded (success)" in told.out
    assert "$0.0123" in told.out
    for change in ("~ edit", "- drop", "+ more/here", "~ sub/deep", "+ link"):
        assert f"\n  {change}" in told.out
    assert f"workflow job/{writing.job_id}" in told.out
    read = {str(path.relative_to(work)): path.read_text() for path in work.rglob("*") if path.is_file() and not path.is_symlink()}
    assert read == {"same": "same", "edit": "new", "mine": "changed by me meanwhile", "sub/deep": "new", "more/here": "new"}
    assert not (work / "link").is_symlink()
    assert "not written: mine: it was changed here meanwhile" in told.err
    assert "not written: .git/hooks/pre-push: tools on this machine might act on it" in told.err
    assert "not written: link: symlink" in told.err
    async with asyncio.timeout(60):
        while (await door.http.get("/v1/sessions")).json()["sessions"][0]["state"] == "open":
            await asyncio.sleep(0.05)


async def test_pull_follows_no_link_out_of_the_directory(door: Door, tmp_path: Path) -> None:
    """A directory that became a link meanwhile leads nowhere."""
    work, outside = workspace(tmp_path), tmp_path / "outside"
    outside.mkdir()
    process = await start("run", str(work), "make it so", "--pull", "--url", door.url)
    writing = await the_job(door)
    (work / "sub" / "deep").unlink()
    (work / "sub").rmdir()
    (work / "sub").symlink_to(outside)
    await writing.end({b"same": b"same", b"edit": b"old", b"drop": b"old", b"mine": b"old", b"sub/deep": b"new", b"sub/more": b"new"})
    told = await ended(process)
    assert told.code == 0, told
    assert list(outside.iterdir()) == []
    assert told.err.count("not written: sub/") == 2


async def test_run_as_json_is_for_programs(door: Door, tmp_path: Path) -> None:
    """Standard output has the job and nothing else; a session can be kept for more jobs."""
    process = await start("run", str(workspace(tmp_path)), "make it so", "--keep", "--json", "--max-turns", "3", "--url", door.url)
    writing = await the_job(door)
    assert writing.request.task.options.max_turns == 3
    await writing.say(init(), say(NASTY))
    await writing.end({b"a": b"1"}, status=JobStatus.TIMED_OUT, code=VerdictCode.DEADLINE)
    told = await ended(process)
    (job,) = told.json()
    assert (told.code, job["status"], job["job_id"]) == (3, "timed_out", writing.job_id)
    session = (await dogwatch("session", "show", job["session_id"], "--json", "--url", door.url)).json()
    assert session[0]["state"] == "open"
    again = await start("run", str(tmp_path), "and again", "--session", job["session_id"], "--json", "--url", door.url)
    async with asyncio.timeout(60):
        while len(jobs := (await door.http.get("/v1/jobs")).json()["jobs"]) < 2:
            await asyncio.sleep(0.05)
    await (await door.begin(jobs[0]["job_id"])).end({b"a": b"2"})
    assert (await ended(again)).json()[0]["session_id"] == job["session_id"]


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        (JobStatus.SUCCEEDED, VerdictCode.SUCCESS, 0),
        (JobStatus.FAILED, VerdictCode.MAX_TURNS, 1),
        (JobStatus.TIMED_OUT, VerdictCode.DEADLINE, 3),
        (JobStatus.CANCELLED, VerdictCode.CANCELLED, 4),
        (JobStatus.FAILED, VerdictCode.SANDBOX_LOST, 5),
    ],
)
async def test_the_exit_code_tells_the_kind_of_verdict(door: Door, status: JobStatus, verdict: VerdictCode, code: int) -> None:
    """A script can tell failed work from a broken system without reading words."""
    job_id = await a_job(door, status=status, code=verdict)
    told = await dogwatch("watch", job_id, "--url", door.url)
    assert told.code == code
    assert f"{status} ({verdict})" in told.out


async def test_nothing_an_agent_says_acts_on_the_terminal(door: Door) -> None:
    """In a pipe there is not one control character, and markup is text; JSON keeps the exact words."""
    job_id = await a_job(door)
    for arguments in (("watch", job_id), ("files", job_id, "--all"), ("job", "show", job_id), ("job", "list")):
        told = await dogwatch(*arguments, "--url", door.url)
        assert told.code == 0, told
        assert all(char.isprintable() or char in "\t\n" for char in told.out + told.err)
    assert (await dogwatch("files", job_id, "--url", door.url)).out == "+\t1\tnew\\x1b.txt\n"
    shown = (await dogwatch("watch", job_id, "--url", door.url)).out
    assert "\\r\\x1b[31m \\u202ered\\u202c" in shown
    assert "[red]markup[/red] [link=http://x]y[/link]" in shown
    events = (await dogwatch("watch", job_id, "--json", "--url", door.url)).json()
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert events[1]["data"]["message"]["content"][0]["text"] == NASTY
    files = (await dogwatch("files", job_id, "--json", "--url", door.url)).json()
    assert [(file["path"], file["change"]) for file in files] == [("new\\x1b.txt", "added")]


async def test_jobs_and_sessions_are_looked_after(door: Door, tmp_path: Path) -> None:
    """Open, show, list, cancel and close, each with an answer for people and one for programs."""
    opened = (await dogwatch("session", "open", str(workspace(tmp_path)), "--ttl", "100", "--json", "--url", door.url)).json()[0]
    assert (opened["ttl_s"], opened["workspace"]["files"]) == (100, 5)
    job_id = (await door.http.post(f"/v1/sessions/{opened['session_id']}/jobs", json={"prompt": "x"})).json()["job_id"]
    listed = (await dogwatch("job", "list", "--session", opened["session_id"], "--json", "--url", door.url)).json()
    assert [job["job_id"] for job in listed] == [job_id]
    assert job_id in (await dogwatch("session", "show", opened["session_id"], "--url", door.url)).out
    assert "is queued" in (await dogwatch("job", "show", job_id, "--url", door.url)).out
    assert "is asked to end" in (await dogwatch("job", "cancel", job_id, "--url", door.url)).out
    closed = (await dogwatch("session", "close", opened["session_id"], "--cancel", "--json", "--url", door.url)).json()[0]
    assert closed["state"] in ("closing", "closed")


async def test_refusals_and_absence_have_codes_of_their_own(door: Door, tmp_path: Path) -> None:
    """2 for what was refused, with the remedy; 5 for a door that is not there."""
    work = workspace(tmp_path)
    nobody = f"http://127.0.0.1:{free_port()}"
    for code, words, arguments in (
        (2, "slash_command", ("run", str(work), "/init", "--url", door.url)),
        (2, "not_found", ("watch", "unknown", "--url", door.url)),
        (2, "bad_model", ("run", str(work), "x", "--model", "not a model", "--url", door.url)),
        (2, "range", ("run", str(work), "x", "--timeout", "0", "--url", door.url)),
        (2, "", ("run", str(work / "nowhere"), "x", "--url", door.url)),
        (5, "door_unreachable", ("run", str(work), "x", "--url", nobody)),
        (5, "door_unreachable", ("job", "list", "--url", nobody)),
    ):
        told = await dogwatch(*arguments)
        assert (told.code, told.out) == (code, ""), told
        assert words in told.err
        assert "Traceback" not in told.err
    assert await door.count("jobs") == 0


async def test_the_door_is_found(door: Door, tmp_path: Path) -> None:
    """By the environment, or by the stack that runs in a directory above; then links lead to its Temporal UI."""
    job_id = await a_job(door)
    assert (await dogwatch("job", "show", job_id, "--json", DOGWATCH_URL=door.url)).code == 0
    state = tmp_path / "project" / ".dogwatch"
    below = tmp_path / "project" / "a" / "b"
    state.mkdir(parents=True)
    below.mkdir(parents=True)
    (state / "stack.json").write_text(json.dumps({"urls": {"http": door.url, "temporal_ui": "http://127.0.0.1:8233"}}))
    told = await dogwatch("job", "show", job_id, cwd=below)
    assert f"http://127.0.0.1:8233/namespaces/default/workflows/job%2F{job_id}" in told.out
    assert (await dogwatch("job", "show", job_id, DOGWATCH_STATE_DIR=str(state))).code == 0
