"""The scripted model over HTTP, without a CLI: notations, faults, waits, log and statistics."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dogwatch.testing.model import ScriptedModel, ScriptError

ROOT = Path(__file__).parents[3]
TIMEOUT = 60
SESSION = "x-claude-code-session-id"


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A server without a script."""
    with ScriptedModel() as served:
        yield served


def call(url: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers with lower-case names, body."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def conversation(prompt: str, replies: int = 0, **more: Any) -> dict[str, Any]:
    """The body of a request after that many replies of the model."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    for number in range(replies):
        messages += [{"role": "assistant", "content": f"reply {number}"}, {"role": "user", "content": "go on"}]
    return {"model": "claude-test", "max_tokens": 10, "messages": messages, **more}


def ask(model: ScriptedModel, prompt: str = "do it", replies: int = 0, *, session: str = "s1", **more: object) -> Any:
    """Ask for a whole reply and parse it."""
    body = conversation(prompt, replies, **more)
    return json.loads(call(model.url, "POST", "/v1/messages?beta=true", body, x_claude_code_session_id=session)[2])


def until(holds: Callable[[], bool]) -> None:
    """Look until something holds; the server acts on a closed connection in its own time."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def text_of(message: Any) -> str:
    """The text of a whole reply that is one text block."""
    return str(message["content"][0]["text"])


def stream(model: ScriptedModel) -> list[dict[str, Any]]:
    """Ask for a stream and parse its events."""
    status, headers, data = call(model.url, "POST", "/v1/messages", conversation("do it", stream=True))
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [dict(line.split(": ", 1) for line in part.splitlines()) for part in data.decode().split("\n\n") if part]
    assert [event["event"] for event in events] == [json.loads(event["data"])["type"] for event in events]
    return [json.loads(event["data"]) for event in events]


def test_a_stream_is_the_same_message_in_pieces(model: ScriptedModel) -> None:
    """Blocks are opened empty, filled by deltas and closed; stop reason and usage come with the last events."""
    model.load({"turns": [{"thinking": "hm", "text": "abcde", "tool": "Bash", "input": {"x": [1]}, "chunk": 2}]})
    events = stream(model)
    kinds = [event["type"].removeprefix("content_") for event in events]
    block = ["block_start", "block_delta", "block_stop"]
    thinking, text = [block[0], block[1], block[1], block[2]], [block[0], *[block[1]] * 3, block[2]]
    assert kinds == ["message_start", "ping", *thinking, *text, *block, "message_delta", "message_stop"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas[0] == {"type": "thinking_delta", "thinking": "hm"}
    assert deltas[1]["type"] == "signature_delta"
    assert "".join(delta.get("text", "") for delta in deltas) == "abcde"
    assert json.loads(deltas[-1]["partial_json"]) == {"x": [1]}
    opened = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [o["type"] for o in opened] == ["thinking", "text", "tool_use"]
    assert (opened[2]["name"], opened[2]["input"]) == ("Bash", {})
    assert events[0]["message"]["content"] == []
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {"output_tokens": 100}


def test_a_whole_reply_carries_usage_model_and_stop_reason(model: ScriptedModel) -> None:
    """What the step says stands in the message; what it does not say is usual."""
    model.load({"turns": [{"text": "t", "usage": {"output_tokens": 7}, "stop_reason": "max_tokens", "model": "other"}]})
    message = ask(model)
    assert (message["stop_reason"], message["model"], text_of(message)) == ("max_tokens", "other", "t")
    assert (message["usage"]["output_tokens"], message["usage"]["input_tokens"]) == (7, 1000)
    assert ask(model, replies=1)["model"] == "claude-test"


def test_the_step_follows_from_the_number_of_replies_in_the_request(model: ScriptedModel) -> None:
    """Nothing is remembered between requests: any of them may come first, or twice, or after a restart."""
    model.load({"turns": [{"text": "one"}, {"text": "two"}], "default": {"text": "rest"}})
    assert [text_of(ask(model, replies=i)) for i in (1, 0, 2, 0)] == ["two", "one", "rest", "one"]


def test_steps_by_count_are_counted_per_first_prompt(model: ScriptedModel) -> None:
    """With by count the history does not matter, and another conversation begins at the beginning."""
    model.load({"by": "count", "turns": [{"text": "one"}, {"text": "two"}]})
    assert [text_of(ask(model, p)) for p in ("a", "a", "b", "a")] == ["one", "two", "one", "done"]


def test_one_server_plays_several_jobs(model: ScriptedModel) -> None:
    """Each job is recognised by its first prompt; one that nobody planned for is an error that says so."""
    jobs = [{"match": "apples", "turns": [{"text": "A"}]}, {"match": "pears", "turns": [{"text": "P"}]}]
    model.load({"conversations": jobs})
    assert text_of(ask(model, "count pears")) == "P"
    assert text_of(ask(model, "count apples")) == "A"
    refused = ask(model, "count nuts")
    assert refused["error"]["type"] == "invalid_request_error"
    assert "no conversation of the script matches the prompt 'count nuts'" in refused["error"]["message"]


def test_an_error_is_answered_as_often_as_the_script_says_in_each_conversation(model: ScriptedModel) -> None:
    """Status, type, message and headers are the script's; afterwards the step's own reply comes."""
    error = {"status": 529, "message": "busy", "headers": {"retry-after": "3"}, "times": 2}
    model.load({"turns": [{"text": "at last", "error": error}]})
    status, headers, data = call(model.url, "POST", "/v1/messages", conversation("a"))
    assert (status, headers["retry-after"]) == (529, "3")
    assert json.loads(data)["error"] == {"type": "overloaded_error", "message": "busy"}
    assert ask(model, "a")["type"] == "error"
    assert text_of(ask(model, "a")) == "at last"
    assert ask(model, "b")["type"] == "error"


def test_raw_bodies_are_sent_as_they_are(model: ScriptedModel) -> None:
    """For replies no model would give."""
    model.load({"turns": [{"raw": "<html>", "ctype": "text/html"}]})
    status, headers, data = call(model.url, "POST", "/v1/messages", conversation("do it"))
    assert (status, headers["content-type"], data) == (200, "text/html", b"<html>")


@pytest.mark.parametrize("fault", [{"drop": True}, {"stall": 0.05}], ids=["drop", "stall"])
def test_a_broken_stream_is_broken_for_http_too(model: ScriptedModel, fault: dict[str, object]) -> None:
    """The body ends without its last chunk, so no client takes it for complete; asked without stream, it is whole."""
    model.load({"turns": [{"text": "abcd", **fault}]})
    with pytest.raises((IncompleteRead, RemoteDisconnected)) as broken:
        stream(model)
    partial = broken.value.partial.decode() if isinstance(broken.value, IncompleteRead) else ""
    assert "message_stop" not in partial
    assert text_of(ask(model)) == "abcd"
    assert model.stats()["outcomes"] == {"cut": 1, "answered": 1}


def test_a_reply_waits_until_it_is_released(model: ScriptedModel) -> None:
    """Waiters are visible by name; a release lasts, so a later request does not wait; loading forgets it."""
    script = {"turns": [{"text": "go", "wait_for": "door"}]}
    model.load(script)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, model, prompt) for prompt in ("a", "b")]
        model.await_waiting("door", 2)
        assert json.loads(call(model.url, "GET", "/__stats")[2])["waiting"] == {"door": 2}
        assert not any(future.done() for future in asked)
        released = call(model.url, "POST", "/__release", {"name": "door"})
        assert json.loads(released[2]) == {"ok": True, "waited": 2}
        assert [text_of(future.result(TIMEOUT)) for future in asked] == ["go", "go"]
    assert text_of(ask(model, "c")) == "go"
    model.load(script)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, model, "d")
        model.await_waiting("door")
        model.load({})
        assert "nobody released 'door'" in held.result(TIMEOUT)["error"]["message"]


def test_a_waiter_that_goes_away_is_no_longer_counted(model: ScriptedModel) -> None:
    """A killed CLI leaves no waiter behind, and its request counts as disconnected."""
    model.load({"turns": [{"wait_for": "door"}]})
    netloc = urlsplit(model.url)
    assert netloc.hostname is not None
    body = json.dumps(conversation("a")).encode()
    with socket.create_connection((netloc.hostname, netloc.port or 0), TIMEOUT) as client:
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        model.await_waiting("door")
    until(lambda: model.stats()["waiting"] == {})
    until(lambda: model.stats()["outcomes"] == {"disconnected": 1})
    model.release("door")
    assert ask(model)["type"] == "message"
    assert model.stats()["outcomes"] == {"disconnected": 1, "answered": 1}


def test_closing_the_server_ends_what_still_waits() -> None:
    """A forgotten release does not keep a test from ending."""
    with ThreadPoolExecutor(1) as pool:
        with ScriptedModel({"turns": [{"wait_for": "never"}]}) as model:
            held = pool.submit(ask, model)
            model.await_waiting("never")
        ended = held.exception(TIMEOUT)
        assert isinstance(ended, (OSError, HTTPException)) or held.result()["type"] == "error"


def test_a_placeholder_without_a_working_directory_is_an_api_error(model: ScriptedModel) -> None:
    """The error says what is missing; with the CLI's line in the request the placeholder is filled."""
    model.load({"turns": [{"tool": "Write", "input": {"file_path": "{workspace}/a"}}]})
    assert "names no working directory" in ask(model)["error"]["message"]
    place = "<system-reminder>\n# Environment\n - Primary working directory: /w\n</system-reminder>"
    messages = [{"role": "user", "content": [{"type": "text", "text": place}, {"type": "text", "text": "do it"}]}]
    message = ask(model, messages=messages)
    assert message["content"][0]["input"] == {"file_path": "/w/a"}
    assert model.requests[-1]["prompt"] == "do it"


def test_a_prompt_paid_for_twice_is_counted(model: ScriptedModel) -> None:
    """Same session, same messages, answered before; another notation of the same history makes no difference."""
    model.load({"turns": [{"text": "ok", "error": {"status": 529, "times": 1}}]})
    ask(model)  # refused: nothing is paid for
    ask(model)
    ask(model, replies=1)
    ask(model, session="s2")
    assert model.stats()["repeated_prompts"] == 0
    marked = {"type": "text", "text": "do it", "cache_control": {"type": "ephemeral"}}
    ask(model, messages=[{"role": "user", "content": [marked]}])
    stats = model.stats()
    assert (stats["requests"], stats["repeated_prompts"]) == (5, 1)
    assert stats["outcomes"] == {"error": 1, "answered": 4}
    assert stats["conversations"] == {
        sha256(b"do it").hexdigest(): {
            "prompt": "do it",
            "requests": 5,
            "answered": 4,
            "assistant_messages": 1,
            "sessions": ["s1", "s2"],
        }
    }


def test_two_identical_requests_at_the_same_time_are_one_too_many(model: ScriptedModel) -> None:
    """The second is counted also if it came before the first was answered."""
    model.load({"turns": [{"wait_for": "door"}]})
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, model) for _ in range(2)]
        model.await_waiting("door", 2)
        model.release("door")
        assert [future.result(TIMEOUT)["type"] for future in asked] == ["message", "message"]
    assert model.stats()["repeated_prompts"] == 1


def test_the_log_has_one_line_per_request_and_no_credentials(tmp_path: Path) -> None:
    """Prompts carry conversation, session and number of replies; a credential can be compared by its hash only."""
    log = tmp_path / "log.jsonl"
    with ScriptedModel(log=log) as model:
        call(model.url, "HEAD", "/api/hello")
        call(
            model.url,
            "POST",
            "/v1/messages",
            conversation("do it", 2),
            x_api_key="sk-secret",
            x_claude_code_session_id="s",
        )
        assert model.requests == json.loads(call(model.url, "GET", "/__log")[2])
    assert "sk-secret" not in log.read_text()
    probe, asked = (json.loads(line) for line in log.read_text().splitlines())
    assert (probe["method"], probe["path"], probe["outcome"]) == ("HEAD", "/api/hello", "other")
    assert (asked["conversation"], asked["assistant_messages"]) == (sha256(b"do it").hexdigest(), 2)
    assert (asked["session"], asked["outcome"], asked["status"]) == ("s", "answered", 200)
    assert asked["headers"]["x-api-key"] == f"sha256:{sha256(b'sk-secret').hexdigest()}"
    assert asked["roles"] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/messages", {"model": "m"}, "messages: Input should be a list"),
        ("/v1/messages", {"model": "m", "messages": []}, "at least one message"),
        ("/v1/messages", {"messages": [{}]}, "model: Field required"),
        ("/v1/messages", [1], "expected a JSON object"),
        ("/__script", {"turn": []}, "did you mean 'turns'?"),
        ("/__release", {}, "needs 'name'"),
    ],
)
def test_malformed_requests_are_refused(model: ScriptedModel, path: str, body: object, reason: str) -> None:
    """With status 400 and the reason in the API's own form of an error."""
    status, _, data = call(model.url, "POST", path, body)
    assert (status, json.loads(data)["error"]["type"]) == (400, "invalid_request_error")
    assert reason in json.loads(data)["error"]["message"]


def test_what_else_the_cli_asks_is_answered(model: ScriptedModel) -> None:
    """Start-up probes, token counts and telemetry; they count as no request for a reply."""
    assert call(model.url, "HEAD", "/")[0] == 200
    assert call(model.url, "GET", "/nothing")[0] == 404
    assert call(model.url, "POST", "/api/event_logging/batch", {"events": []})[0] == 200
    counted = call(model.url, "POST", "/v1/messages/count_tokens", conversation("do it"))
    assert json.loads(counted[2])["input_tokens"] > 0
    assert model.stats()["requests"] == 0
    assert len(model.requests) == 4


def test_a_bad_script_is_refused_before_anything_is_served() -> None:
    """In a test's own process as ScriptError."""
    with pytest.raises(ScriptError, match="unknown key"):
        ScriptedModel({"steps": []})


def start(*arguments: str) -> subprocess.Popen[str]:
    """The program, as users start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dogwatch.testing.model", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_program_serves_a_file_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    """One JSON line says where; a reply still held back does not keep it from ending with exit code 0."""
    script, log = tmp_path / "script.json", tmp_path / "log.jsonl"
    script.write_text(json.dumps({"turns": [{"text": "from the file"}, {"wait_for": "never"}]}))
    with start("--script", str(script), "--log", str(log)) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        try:
            url = json.loads(program.stdout.readline())["ANTHROPIC_BASE_URL"]
            answer = call(url, "POST", "/v1/messages", conversation("do it"))
            assert text_of(json.loads(answer[2])) == "from the file"
            held = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
            held.request("POST", "/v1/messages", json.dumps(conversation("do it", 1)))
            until(lambda: json.loads(call(url, "GET", "/__stats")[2])["waiting"] == {"never": 1})
        finally:
            program.send_signal(signal.SIGTERM)
        assert program.wait(TIMEOUT) == 0
        held.close()
        assert program.stderr.read() == ""
    assert [json.loads(line)["outcome"] for line in log.read_text().splitlines()] == ["answered", "error"]


def test_the_program_refuses_a_bad_script(tmp_path: Path) -> None:
    """Exit code 2 and one sentence with file and place."""
    script = tmp_path / "script.json"
    script.write_text('{"turns": [{"tol": "Write"}]}')
    with start("--script", str(script)) as program:
        out, err = program.communicate(timeout=TIMEOUT)
    assert (program.returncode, out) == (2, "")
    assert f"{script}: turns[0]: unknown key 'tol' (did you mean 'tool'?)" in err
