"""What is known while the agent works, and what is added up."""

import pytest

from dogwatch.agent.progress import Progress
from dogwatch.agent.stream import classify
from tests.hostile import init, line, result, say


def after(*lines: bytes) -> Progress:
    """The progress after these lines."""
    progress = Progress()
    for one in lines:
        progress.add(*classify(one))
    return progress


def message(message_id: str, tokens: int, *, parent: str | None = None, model: str = "m") -> bytes:
    """One event of a message."""
    content = {"id": message_id, "model": model, "content": [], "usage": {"input_tokens": tokens, "output_tokens": 1}}
    return line(type="assistant", session_id="s-1", parent_tool_use_id=parent, message=content)


def test_each_message_counts_once() -> None:
    """Its events repeat the usage; the last one holds. Sub-agents cost tokens and take no turns, the CLI's own words neither."""
    progress = after(
        init(),
        message("a", 10),
        message("a", 12),
        message("s", 5, parent="toolu_1"),
        message("b", 20),
        message("c", 7, model="<synthetic>"),
    )
    usage = progress.usage
    assert (usage.input_tokens, usage.output_tokens, usage.turns, usage.estimated) == (37, 3, 2, True)
    assert usage.cost_usd == 0


def test_a_long_run_keeps_a_small_state() -> None:
    """Only the latest messages are held one by one."""
    progress = after(init(), *(message(f"m{number}", 1) for number in range(500)))
    assert progress.usage.turns == progress.usage.input_tokens == 500
    assert len(progress.recent) <= 32


def test_results_since_the_last_one_add_up() -> None:
    """A process may report several results; where it counts on over a resumed conversation only its own part is taken."""

    def part(cost: float) -> dict[str, object]:
        return {"m": {"inputTokens": 10, "outputTokens": 2, "costUSD": cost}}

    first = result(cost=5.0, model_usage_since_last_result=part(0.5), modelUsage=part(5.0))
    second = result(cost=5.25, model_usage_since_last_result=part(0.25), modelUsage=part(5.25))
    usage = after(init(), message("a", 1), first, message("b", 1), second).usage
    assert usage.cost_usd == pytest.approx(0.75)
    assert (usage.input_tokens, usage.output_tokens, usage.turns, usage.estimated) == (20, 4, 2, False)
    assert after(init(), first, second, result(session="s-2", model_usage_since_last_result=part(9))).usage.cost_usd == pytest.approx(0.75)


def test_older_versions_report_the_whole_run_each_time() -> None:
    """There the last result holds all."""
    assert after(init(), result(cost=0.5), result(cost=0.75)).usage.cost_usd == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "text", "text": " Looking\nat \x1b[31mit "}, "Looking\\nat \\x1b[31mit"),
        ({"type": "tool_use", "name": "Bash", "input": {"description": "d", "command": "make\ntest"}}, "Bash: make\\ntest"),
        ({"type": "tool_use", "name": "Read", "input": {"file_path": "/workspace/a", "limit": 3}}, "Read: /workspace/a"),
        ({"type": "tool_use", "name": "mcp__x__y", "input": {"n": 1, "what": "this"}}, "mcp__x__y: this"),
        ({"type": "tool_use", "name": None, "input": None}, "None: "),
        ({"type": "thinking", "thinking": "hm"}, ""),
        ({"type": "text", "text": "é" * 500}, "é" * 199 + "…"),
    ],
)
def test_the_last_thing_done_in_a_line(block: dict[str, object], shown: str) -> None:
    """Escaped, short, and telling."""
    assert after(init(), line(type="assistant", session_id="s-1", message={"id": "a", "content": [block]})).last == shown


def test_the_last_words() -> None:
    """The result's text, else the agent's last one; a sub-agent's words are not the agent's."""
    nested = line(type="assistant", parent_tool_use_id="toolu_1", message={"id": "n", "content": [{"type": "text", "text": "inner"}]})
    assert after(init(), say("outer"), nested).text == "outer"
    assert after(init(), say("outer"), result(text="all done")).text == "all done"
    assert after(init(), say("outer"), result("error_max_turns", True, text="")).text == "outer"
    assert after(init(), say("a\x00" + "x" * 5000)).text.startswith("a\\x00xxx")
