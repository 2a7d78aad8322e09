"""Group G of the corpus: whatever the agent writes, the bytes are kept and the verdict is not fooled."""

from typing import Any

import pytest

from dogwatch.agent.progress import Progress
from dogwatch.agent.status import ExitFacts
from dogwatch.agent.stream import LineSplitter, read_event
from dogwatch.agent.verdict import decide
from dogwatch.contracts.agent import VerdictCode
from dogwatch.ports import EventLine
from tests.hostile import Case, case, cases, init, line, load, result, say

CHUNKED = [one for one in cases("G") if "build" in one]


def follow(chunks: list[bytes]) -> tuple[list[tuple[EventLine, dict[str, Any] | None]], Progress]:
    """All events of an output in chunks, and the progress after them."""
    splitter, progress = LineSplitter(), Progress()
    lines = [one for chunk in chunks for one in splitter.feed(chunk)] + splitter.finish()
    events = [read_event(one) for one in lines]
    for event, data in events:
        progress.add(event.type, event.subtype, data)
    return events, progress


@pytest.mark.parametrize("hostile", CHUNKED, ids=lambda one: one["id"])
def test_bytes_are_kept_and_the_result_is_found(hostile: Case) -> None:
    """Joined, the events are the agent's file; the parser goes on to the result."""
    chunks = load(hostile)
    events, progress = follow(chunks)
    assert b"".join(event.raw for event, _ in events) == b"".join(chunks)
    assert progress.result is not None
    assert decide(progress, ExitFacts(0, "exited")).code == VerdictCode.SUCCESS
    assert [event for event, _ in events] == [event for event, _ in follow([b"".join(chunks)])[0]]


def test_characters_split_between_chunks_stay_whole() -> None:
    """No replacement character appears."""
    events, _ = follow(load(case("G-04")))
    content = events[0][1]
    assert content is not None
    assert content["text"] == "\U0001f980é中" * 50


def test_events_of_lines_with_carriage_returns_are_read_once_each() -> None:
    """CRLF is a line end like any other."""
    events, _ = follow(load(case("G-07")))
    assert [event.type for event, _ in events] == ["system", "assistant", "result"]


def test_no_result_is_never_success() -> None:
    """Exit code 0 says nothing."""
    told = load(case("G-13"))
    _, progress = follow([text.encode() + b"\n" for text in told["stdout_lines"]])
    verdict = decide(progress, ExitFacts(told["exit_code"], "exited"))
    assert (verdict.code, verdict.transient) == (VerdictCode.NO_RESULT, True)


def test_error_output_is_no_event() -> None:
    """A result written there is text."""
    told = load(case("G-14"))
    out = [text.encode() for stream, text in told["interleave"] if stream == "stdout"]
    err = "".join(text for stream, text in told["interleave"] if stream == "stderr")
    _, progress = follow(out)
    assert decide(progress, ExitFacts(told["exit_code"], "exited"), stderr_tail=err).code == VerdictCode.MAX_TURNS


def test_a_closed_output_is_not_an_end() -> None:
    """The exit decides: a process that goes on in silence is ended at the deadline."""
    told = load(case("G-16"))
    _, progress = follow([text.encode() + b"\n" for text in told["stdout_lines"]])
    assert decide(progress, ExitFacts(143, "deadline")).code == VerdictCode.DEADLINE


GOOD, BAD = result(), result("error_max_turns", True)


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        ([init(), BAD, GOOD], VerdictCode.SUCCESS),
        ([init(), GOOD, BAD], VerdictCode.MAX_TURNS),
        ([init(), BAD, result(session="s-2")], VerdictCode.MAX_TURNS),
        ([init(), result(session="s-2")], VerdictCode.NO_RESULT),
        ([result(session="s-2"), init()], VerdictCode.NO_RESULT),
        ([result(session="s-2"), init(), BAD], VerdictCode.MAX_TURNS),
        ([GOOD, init()], VerdictCode.SUCCESS),
        ([init(), BAD, init("s-2"), result(session="s-2")], VerdictCode.MAX_TURNS),
        ([init(), BAD, result(parent_tool_use_id="toolu_1")], VerdictCode.MAX_TURNS),
        ([init(), line(type="result", subtype="success", is_error=False)], VerdictCode.NO_RESULT),
        ([init(), BAD, say(GOOD.decode())], VerdictCode.MAX_TURNS),
        (
            [init(), BAD, line(type="user", session_id="s-1", message={"content": [{"type": "result", "is_error": False}]})],
            VerdictCode.MAX_TURNS,
        ),
        ([init(), BAD, b'prefix {"type":"result"}\n', b'{"type":"result","subtype":"success","is_error":false'], VerdictCode.MAX_TURNS),
        ([GOOD], VerdictCode.SUCCESS),
        ([init(), result(is_error=0)], VerdictCode.EXECUTION_ERROR),  # type: ignore[arg-type]
        ([init(), line(type="result", subtype="success", session_id="s-1")], VerdictCode.EXECUTION_ERROR),
    ],
)
def test_only_the_sessions_last_result_counts(chunks: list[bytes], code: VerdictCode) -> None:
    """Forged, nested and quoted results change nothing."""
    _, progress = follow(chunks)
    assert decide(progress, ExitFacts(0, "exited")).code == code


def test_claims_of_cost_are_kept_sane() -> None:
    """Negative, absurd and mistyped figures cannot lower or blow up a bill."""
    models = {"m": {"inputTokens": -5, "outputTokens": 10**30, "costUSD": -1}, "n": {"inputTokens": True, "costUSD": "free"}, "o": 7}
    _, progress = follow([init(), result(cost=-3, modelUsage=models)])
    usage = progress.usage
    assert (usage.input_tokens, usage.cost_usd) == (1, 0)
    assert usage.output_tokens == 10**12
    _, progress = follow([init(), result(cost=1e300)])
    assert progress.usage.cost_usd == 1e6
