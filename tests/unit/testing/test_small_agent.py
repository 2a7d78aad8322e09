"""The small agent: the stream of the CLI, the plan in its prompt, the ledger of its executions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

AGENT = Path(__file__).parents[3] / "dogwatch" / "testing" / "agent.py"
TIMEOUT = 60
FLAGS = ["-p", "--output-format", "stream-json", "--verbose", "--strict-mcp-config", "--max-turns", "4"]


def start(prompt: object, where: Path, *flags: str, attempt: str = "a1") -> subprocess.Popen[str]:
    """Run the agent as a sandbox does: isolated interpreter, prompt from a file, output to a file."""
    source = where / "prompt.txt"
    source.write_text(prompt if isinstance(prompt, str) else json.dumps(prompt))
    environment = {"PATH": os.environ["PATH"], "DOGWATCH_ATTEMPT": attempt}
    command = [sys.executable, "-I", "-S", str(AGENT), *FLAGS, *flags]
    with source.open() as stdin, (where / "out.jsonl").open("w") as stdout:
        return subprocess.Popen(command, cwd=where, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True)


def run(prompt: object, where: Path, *flags: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, events and stderr of a run that ends by itself."""
    with start(prompt, where, *flags) as agent:
        try:
            _, errors = agent.communicate(timeout=TIMEOUT)
        finally:
            agent.kill()
    return agent.returncode, lines_of(where / "out.jsonl"), errors


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def await_lines(path: Path, count: int) -> None:
    """Block until the file has that many lines."""
    deadline = time.monotonic() + TIMEOUT
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, f"{path} has less than {count} lines"
        time.sleep(0.02)


def test_any_text_is_answered_like_the_cli_does(tmp_path: Path) -> None:
    """Init with the given session id, one assistant event, a result that says success."""
    code, (init, said, result), errors = run("- do it, please", tmp_path, "--session-id", "abc")
    assert (code, errors) == (0, "")
    assert (init["type"], init["subtype"], init["cwd"], init["session_id"]) == ("system", "init", str(tmp_path), "abc")
    assert (said["type"], said["message"]["role"], said["message"]["content"][0]["type"]) == ("assistant", "assistant", "text")
    assert (result["type"], result["subtype"], result["is_error"]) == ("result", "success", False)
    assert (result["num_turns"], result["session_id"], result["total_cost_usd"] > 0) == (1, "abc", True)


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        (["--resume", "old"], "old"),
        (["--resume", "/x/old.jsonl"], "old"),
        (["--resume", "old", "--fork-session", "--session-id", "new"], "new"),
        (["--resume", "old", "--fork-session"], None),
        ([], None),
    ],
    ids=["resume", "resume a path", "fork with an id", "fork", "neither"],
)
def test_the_session_id_is_the_one_the_flags_ask_for(tmp_path: Path, flags: list[str], known: str | None) -> None:
    """A resumed session keeps its id, a fork and a run without flags get a fresh one."""
    ids = {event["session_id"] for event in run("hi", tmp_path, *flags)[1]}
    assert len(ids) == 1
    assert ids == {known} if known else ids.isdisjoint({"old", "/x/old.jsonl"})


def test_a_plan_says_what_happens(tmp_path: Path) -> None:
    """Files, number of lines, result, exit code, and both ends of the execution in the ledger."""
    ledger = tmp_path / "ledger.jsonl"
    plan = {
        "lines": 3,
        "seconds": 0.03,
        "write": {"deep/a.txt": "hi\n", "b.txt": ""},
        "exit": 7,
        "result": {"is_error": True, "result": "API Error: 529", "api_error_status": 529},
        "ledger": str(ledger),
    }
    code, events, _ = run(plan, tmp_path)
    assert code == 7
    assert [event["type"] for event in events] == ["system", *["assistant"] * 3, "result"]
    assert (events[-1]["is_error"], events[-1]["api_error_status"], events[-1]["num_turns"]) == (True, 529, 3)
    assert (tmp_path / "deep/a.txt").read_text() == "hi\n"
    assert (tmp_path / "b.txt").read_text() == ""
    begun, ended = lines_of(ledger)
    assert (begun["what"], ended["what"], ended["exit"]) == ("start", "end", 7)
    assert begun["pid"] == ended["pid"]
    assert begun["attempt"] == ended["attempt"] == "a1"
    assert begun["t"] <= ended["t"]


def test_a_result_that_is_an_error_ends_with_exit_code_1(tmp_path: Path) -> None:
    """As the CLI does; without a result event the exit code is the plan's."""
    assert run({"result": {"is_error": True}}, tmp_path)[0] == 1
    code, events, _ = run({"result": None}, tmp_path)
    assert (code, events[-1]["type"]) == (0, "assistant")


def test_output_can_be_filled(tmp_path: Path) -> None:
    """At least the wanted number of bytes, in whole events."""
    code, events, _ = run({"fill_bytes": 150_000, "lines": 0}, tmp_path)
    assert code == 0
    assert sum(len(e["message"]["content"][0]["text"]) for e in events if e["type"] == "assistant") == 150_000


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ({"sekonds": 1}, "unknown key 'sekonds'"),
        ({"lines": "3"}, "lines: expected int, got '3'"),
        ({"exit": True}, "exit: expected int, got True"),
        (" \n", "no prompt"),
    ],
    ids=["unknown key", "wrong type", "no number", "empty"],
)
def test_a_prompt_that_cannot_be_meant_is_refused(tmp_path: Path, prompt: object, reason: str) -> None:
    """Exit code 1 and nothing on stdout, so that a typo in a plan does not pass for a success."""
    code, events, errors = run(prompt, tmp_path)
    assert (code, events) == (1, [])
    assert reason in errors


def test_sigterm_ends_it_without_a_result(tmp_path: Path) -> None:
    """Exit code 143, files already written stay, the ledger has both ends."""
    ledger = tmp_path / "ledger.jsonl"
    with start({"lines": 2, "seconds": 600, "write": {"a": "x\n"}, "ledger": str(ledger)}, tmp_path) as agent:
        try:
            await_lines(tmp_path / "a", 1)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(TIMEOUT) == 143
        finally:
            agent.kill()
    assert [event["type"] for event in lines_of(tmp_path / "out.jsonl")] == ["system"]
    assert [(line["what"], line.get("exit")) for line in lines_of(ledger)] == [("start", None), ("end", 143)]


def test_it_can_hang_after_its_result_and_ignore_sigterm(tmp_path: Path) -> None:
    """Only SIGKILL ends it then, and the ledger shows a start without an end."""
    ledger = tmp_path / "ledger.jsonl"
    with start({"hang_after_result": True, "ignore_term": True, "ledger": str(ledger)}, tmp_path) as agent:
        try:
            await_lines(tmp_path / "out.jsonl", 3)
            agent.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                agent.wait(0.5)
        finally:
            agent.kill()
        assert agent.wait(TIMEOUT) == -signal.SIGKILL
    assert lines_of(tmp_path / "out.jsonl")[-1]["type"] == "result"
    assert [line["what"] for line in lines_of(ledger)] == ["start"]


def test_a_child_survives_it_with_the_marker_in_its_environment(tmp_path: Path) -> None:
    """As the CLI's own Bash children: another session, the same environment; the ledger knows its pid."""
    ledger = tmp_path / "ledger.jsonl"
    assert run({"spawn_child": True, "ledger": str(ledger)}, tmp_path)[0] == 0
    begun, spawned, ended = lines_of(ledger)
    child = psutil.Process(spawned["pid"])
    try:
        assert (spawned["what"], ended["what"]) == ("child", "end")
        assert child.environ()["DOGWATCH_ATTEMPT"] == "a1"
        assert os.getsid(child.pid) == child.pid != begun["pid"]
    finally:
        child.kill()


def test_several_agents_share_a_ledger(tmp_path: Path) -> None:
    """Lines of concurrent executions do not mix, and each carries its attempt."""
    ledger, places = tmp_path / "ledger.jsonl", [tmp_path / str(number) for number in range(8)]
    for place in places:
        place.mkdir()
    agents = [start({"ledger": str(ledger)}, place, attempt=place.name) for place in places]
    for agent in agents:
        with agent:
            try:
                assert agent.wait(TIMEOUT) == 0
            finally:
                agent.kill()
    ends = sorted((line["attempt"], line["what"]) for line in lines_of(ledger))
    assert ends == sorted((place.name, what) for place in places for what in ("start", "end"))
