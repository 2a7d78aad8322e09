"""The real Claude Code CLI against the scripted model: what the other tests rely on, shown once end to end."""

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dogwatch.testing.model import ScriptedModel

pytestmark = pytest.mark.cli
TIMEOUT = 180
FLAGS = [
    *("-p", "--output-format", "stream-json", "--verbose", "--model", "claude-haiku-4-5"),
    *("--permission-mode", "bypassPermissions", "--setting-sources", "user", "--strict-mcp-config"),
    *("--max-turns", "40", "--max-budget-usd", "2"),
]
EDIT = {
    "turns": [
        {"text": "I write it.", "tool": "Write", "input": {"file_path": "{workspace}/calc.py", "content": "a - b\n"}},
        {"tool": "Read", "input": {"file_path": "{workspace}/calc.py"}},
        {"tool": "Edit", "input": {"file_path": "{workspace}/calc.py", "old_string": "a - b", "new_string": "a + b"}},
        {"text": "Edited in {workspace}."},
        {"tool": "Write", "input": {"file_path": "{workspace}/more.txt", "content": "more\n"}},
        {"text": "More done."},
    ]
}


@pytest.fixture(scope="module")
def cli() -> str:
    """The CLI that the wheel claude-agent-sdk carries; its package is not imported."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "_bundled" / "claude")


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A server that a test loads its script into."""
    with ScriptedModel() as served:
        yield served


@dataclass
class Place:
    """A sandbox of the poor: a workspace and a home of their own."""

    cli: str
    url: str
    base: Path
    workspace: Path = field(init=False)

    def __post_init__(self) -> None:
        self.workspace = self.base / "work space"
        for path in (self.workspace, self.base / "home"):
            path.mkdir(parents=True)

    def start(self, prompt: str, *flags: str) -> subprocess.Popen[bytes]:
        """Run the CLI as a job does: prompt from a file on stdin, output to a file, nothing inherited."""
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.base / "home"),
            "CLAUDE_CONFIG_DIR": str(self.base / "home/.claude"),
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "sk-ant-none",
            "IS_SANDBOX": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_MAX_RETRIES": "2",
        }
        (self.base / "prompt").write_text(prompt)
        with (
            (self.base / "prompt").open("rb") as stdin,
            (self.base / "out.jsonl").open("wb") as stdout,
            (self.base / "err.txt").open("wb") as stderr,
        ):
            command = [self.cli, *FLAGS, *flags]
            return subprocess.Popen(command, cwd=self.workspace, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)

    def run(self, prompt: str, *flags: str) -> tuple[int, dict[str, Any]]:
        """Exit code and last result event of a run that ends by itself."""
        with self.start(prompt, *flags) as agent:
            try:
                code = agent.wait(TIMEOUT)
            finally:
                agent.kill()
        return code, self.events("result")[-1]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type or subtype on stdout."""
        events = [json.loads(line) for line in (self.base / "out.jsonl").read_text().splitlines()]
        return [event for event in events if kind in (event["type"], event.get("subtype"))]


@pytest.fixture
def place(cli: str, model: ScriptedModel, tmp_path: Path) -> Place:
    """A fresh place whose CLI talks to the model."""
    return Place(cli, model.url, tmp_path / "place")


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "claude-opus-5-5"])
def test_one_script_edits_files_in_any_workspace(place: Place, model: ScriptedModel, name: str) -> None:
    """The placeholder is the CLI's working directory, in both places where it names it, and the edit is on disk."""
    model.load(EDIT)
    code, result = place.run("- write and fix calc.py\n", "--session-id", str(uuid4()), "--model", name)
    assert (code, result["subtype"], result["is_error"], result["num_turns"]) == (0, "success", False, 4)
    assert result["result"] == f"Edited in {place.workspace}."
    assert (place.workspace / "calc.py").read_text() == "a + b\n"
    stats = model.stats()
    assert stats["conversations"][sha256(b"- write and fix calc.py\n").hexdigest()]["answered"] == 4
    assert (stats["requests"], stats["repeated_prompts"]) == (4, 0)


def test_a_resumed_conversation_goes_on_in_the_same_script(place: Place, model: ScriptedModel, cli: str) -> None:
    """Step by history: another process, home and workspace, given the transcript, gets the next turn and no old one."""
    model.load(EDIT)
    session = str(uuid4())
    assert place.run("write calc.py", "--session-id", session)[0] == 0
    transcript = next((place.base / "home").glob(f".claude/projects/*/{session}.jsonl"))
    moved = Place(cli, model.url, place.base / "moved")
    code, result = moved.run("go on", "--resume", str(transcript), "--fork-session")
    assert (code, result["result"]) == (0, "More done.")
    assert result["session_id"] != session
    assert (moved.workspace / "more.txt").read_text() == "more\n"
    (conversation,) = model.stats()["conversations"].values()
    assert conversation["prompt"] == "write calc.py"
    assert conversation["sessions"] == [session, result["session_id"]]
    assert (conversation["answered"], model.stats()["repeated_prompts"]) == (6, 0)


def test_an_overloaded_api_is_retried_and_then_given_up(place: Place, model: ScriptedModel) -> None:
    """Two retries as configured: enough for two errors, not for a third; no refused prompt counts as paid for."""
    overloaded = {"status": 529, "type": "overloaded_error", "message": "Overloaded"}
    model.load({"turns": [{"text": "at last", "error": {**overloaded, "times": 2}}]})
    code, result = place.run("try")
    assert (code, result["is_error"], result["result"]) == (0, False, "at last")
    assert [event["error_status"] for event in place.events("api_retry")] == [529, 529]
    assert model.stats()["outcomes"] == {"error": 2, "answered": 1}

    model.load({"default": {"error": overloaded}})
    code, result = place.run("try again")
    assert (code, result["is_error"], result["api_error_status"]) == (1, True, 529)
    assert (model.stats()["outcomes"], model.stats()["repeated_prompts"]) == ({"error": 3}, 0)


def test_a_reply_is_held_back_until_the_test_releases_it(place: Place, model: ScriptedModel) -> None:
    """The CLI waits in the middle of its work for as long as the test needs, and then goes on."""
    write = {"tool": "Write", "input": {"file_path": "{workspace}/half.txt", "content": "half\n"}}
    model.load({"turns": [write, {"text": "whole", "wait_for": "checked"}]})
    with place.start("half, then whole") as agent:
        try:
            model.await_waiting("checked", timeout=TIMEOUT)
            assert (place.workspace / "half.txt").read_text() == "half\n"
            assert model.stats()["waiting"] == {"checked": 1}
            assert place.events("result") == []
            model.release("checked")
            assert agent.wait(TIMEOUT) == 0
        finally:
            agent.kill()
    assert place.events("result")[-1]["result"] == "whole"
    assert model.stats()["repeated_prompts"] == 0


def test_a_reply_that_breaks_off_is_asked_again(place: Place, model: ScriptedModel) -> None:
    """A dropped stream is an error of the network to the CLI; the broken reply counts as cut, not as answered."""
    model.load({"by": "count", "turns": [{"text": "one half", "drop": True}, {"text": "whole"}]})
    code, result = place.run("say it")
    assert (code, result["subtype"], result["is_error"]) == (0, "success", False)
    assert result["result"].endswith("whole")
    assert model.stats()["outcomes"] == {"cut": 1, "answered": 1}


def test_a_prompt_nobody_planned_for_ends_the_job_with_the_reason(place: Place, model: ScriptedModel) -> None:
    """The CLI asks again with fewer beta features, without waiting, and then shows the model's sentence."""
    model.load({"conversations": [{"match": "apples", "turns": []}]})
    code, result = place.run("count nuts")
    assert (code, result["is_error"], result["api_error_status"]) == (1, True, 400)
    assert "no conversation of the script matches" in result["result"]
    assert place.events("api_retry") == []
    assert set(model.stats()["outcomes"]) == {"error"}


@pytest.mark.parametrize("name", ["a<b>&c", "line\nbreak", "x (was y)"])
def test_odd_names_of_workspaces_are_understood(place: Place, model: ScriptedModel, name: str) -> None:
    """The CLI writes some characters as references; the placeholder is the real name."""
    model.load({"turns": [{"text": "{workspace}"}]})
    place.workspace /= name
    place.workspace.mkdir()
    assert place.run("where are you?")[1]["result"] == str(place.workspace)


def test_bare_mode_names_its_workspace_elsewhere(place: Place, model: ScriptedModel) -> None:
    """With the small system prompt, too, one script fits any sandbox."""
    model.load({"turns": [{"text": "{workspace}"}]})
    assert place.run("where are you?", "--bare")[1]["result"] == str(place.workspace)
