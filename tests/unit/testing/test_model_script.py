"""The script format: what it accepts, and how clearly it refuses the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from dogwatch.testing.model import ScriptError
from dogwatch.testing.model.parse import load_script, parse_script
from dogwatch.testing.model.workspace import fill, working_directory


def block_types(step: dict[str, Any]) -> list[str]:
    """The kinds of the blocks a step is played as."""
    script = parse_script({"turns": [step]})
    return [block["type"] for block in script.conversations[0].turns[0].blocks]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([], "script: expected an object, got []"),
        ({"turn": []}, "script: unknown key 'turn' (did you mean 'turns'?)"),
        ({"turns": {}}, "script.turns: expected a list, got {}"),
        ({"turns": ["hi"]}, "turns[0]: expected an object, got 'hi'"),
        ({"turns": [{"text": 1}]}, "turns[0].text: expected a string, got 1"),
        ({"turns": [{}, {"tol": "Write"}]}, "turns[1]: unknown key 'tol' (did you mean 'tool'?)"),
        ({"turns": [{"tool": "Write"}]}, "turns[0]: 'tool' and 'input' go together"),
        ({"turns": [{"delay": -1}]}, "turns[0].delay: expected seconds from 0 to 86400, got -1"),
        ({"turns": [{"stall": float("nan")}]}, "turns[0].stall: expected seconds from 0 to 86400, got nan"),
        ({"turns": [{"drop": 1}]}, "turns[0].drop: expected true or false, got 1"),
        (
            {"turns": [{"usage": {"input_tokens": True}}]},
            "turns[0].usage.input_tokens: expected a whole number, got True",
        ),
        ({"turns": [{"blocks": []}]}, "turns[0].blocks: expected at least one block"),
        ({"turns": [{"blocks": [{"type": "text"}]}]}, "turns[0].blocks[0]: a text block needs 'text'"),
        ({"turns": [{"error": {}}]}, "turns[0].error: needs 'status', 400 to 599"),
        ({"turns": [{"error": {"status": 200}}]}, "turns[0].error.status: expected 400 to 599, got 200"),
        ({"turns": [{"error": {"status": 429, "times": 0}}]}, "turns[0].error.times: expected 1 to"),
        ({"default": {"nope": 1}}, "default: unknown key 'nope' (known: "),
        ({"by": "magic"}, "script.by: expected 'assistant_messages' or 'count', got 'magic'"),
        ({"models": {"m": []}}, "script.models.m: expected an object, got []"),
        ({"conversations": [{"turns": []}]}, "conversations[0]: needs 'match'"),
        ({"conversations": [{"match": "a", "turns": [{"x": 1}]}]}, "conversations[0].turns[0]: unknown key 'x'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_bad_script_is_refused_with_the_place_and_the_reason(script: object, message: str) -> None:
    """The message starts with where it is wrong, and says what was expected there."""
    with pytest.raises(ScriptError) as refused:
        parse_script(script)
    assert str(refused.value).startswith(message)


def test_a_file_that_is_no_json_is_refused_by_name_and_line(tmp_path: Path) -> None:
    """The message names the file and the position in it."""
    path = tmp_path / "script.json"
    path.write_text('{\n "turns": [}')
    with pytest.raises(ScriptError, match=r"script\.json: Expecting value: line 2 column 12"):
        load_script(path)


def test_text_thinking_and_tool_together_become_blocks_in_the_order_of_the_model() -> None:
    """Thinking comes first and the tool call last, as the API sends them; an empty step says ok."""
    assert block_types({"tool": "Bash", "input": {}, "text": "t", "thinking": "h"}) == ["thinking", "text", "tool_use"]
    assert block_types({}) == ["text"]


def test_conversations_are_tried_in_order_and_the_script_itself_plays_the_rest() -> None:
    """The first match wins; without turns or a default of its own the script plays nothing else."""
    listed = [{"match": "apple"}, {"match": "app"}]
    alone = parse_script({"conversations": listed})
    with_rest = parse_script({"conversations": listed, "default": {"text": "rest"}})
    assert alone.conversation("an apple") is alone.conversations[0]
    assert alone.conversation("an app") is alone.conversations[1]
    assert alone.conversation("a pear") is None
    assert with_rest.conversation("a pear") is with_rest.conversations[2]


def test_a_step_is_found_by_index_base_and_model() -> None:
    """Base subtracts history, a model's own step beats the turns, the default follows the last turn."""
    script = parse_script(
        {
            "turns": [{"model": "0"}, {"model": "1"}],
            "base": 2,
            "default": {"model": "d"},
            "models": {"m": {"model": "m"}},
        }
    )
    steps = script.conversations[0]
    assert [steps.step(i, "other").model for i in range(5)] == ["0", "0", "0", "1", "d"]
    assert steps.step(0, "m").model == "m"


def reminder(text: str) -> dict[str, Any]:
    """A block as the CLI adds it to a user message."""
    return {"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"}


def environment(path: str) -> str:
    """The CLI's description of where it runs."""
    return f"# Environment\nYou run in: \n - Primary working directory: {path}\n - Is a git repository: false"


def update(path: str, before: str) -> str:
    """What the CLI adds after a resume elsewhere."""
    return f"# Environment update\n - Primary working directory: {path} (was {before})"


@pytest.mark.parametrize(
    ("messages", "directory"),
    [
        ([{"role": "user", "content": [reminder(environment("/w/a b")), {"type": "text", "text": "do"}]}], "/w/a b"),
        ([{"role": "user", "content": "do"}, {"role": "system", "content": environment("/w")}], "/w"),
        ([{"role": "user", "content": [reminder(environment("/a")), reminder(update("/b", "/a"))]}], "/b"),
        ([{"role": "user", "content": [reminder(environment("/w (was x)"))]}], "/w (was x)"),
        ([{"role": "user", "content": [reminder(environment("/a&lt;b&gt;&#10;c&d"))]}], "/a<b>\nc&d"),
        ([{"role": "user", "content": "the words\n - Primary working directory: /evil"}], None),
    ],
    ids=["user reminder", "system message", "resumed elsewhere", "odd name", "escaped name", "user's own words"],
)
def test_the_working_directory_is_read_where_the_cli_names_it(messages: list[Any], directory: str | None) -> None:
    """All notations of the CLI are understood, and a user's words are not mistaken for one."""
    assert working_directory({"system": [{"text": "you are"}], "messages": messages}) == directory


def test_bare_mode_names_the_working_directory_in_the_system_prompt() -> None:
    """With --bare the line stands in the system prompt and is the current one."""
    messages = [{"role": "user", "content": [reminder(environment("/old"))]}]
    assert working_directory({"system": [{"text": "CWD: /new\nDate: today"}], "messages": messages}) == "/new"


def test_the_placeholder_is_filled_in_every_string_of_a_step() -> None:
    """Tool input at any depth, text, raw bodies and error messages; the directory is looked for only if needed."""
    given = {
        "turns": [
            {"tool": "Write", "input": {"file_path": "{workspace}/a", "deep": [{"x": "{workspace}"}], "n": 1}},
            {
                "raw": "in {workspace}",
                "error": {"status": 500, "message": "at {workspace}", "headers": {"x": "{workspace}"}},
            },
        ]
    }
    write, raw = (fill(step, lambda: "/w") for step in parse_script(given).conversations[0].turns)
    assert write.blocks[0]["input"] == {"file_path": "/w/a", "deep": [{"x": "/w"}], "n": 1}
    assert (raw.raw, raw.failure.message, raw.failure.headers) == ("in /w", "at /w", {"x": "/w"})

    def never() -> str:
        raise AssertionError("there is no placeholder")

    plain = parse_script({"turns": [{"text": "a {braced} word"}]}).conversations[0].turns[0]
    assert fill(plain, never) == plain


def test_the_example_of_a_whole_script_loads(tmp_path: Path) -> None:
    """Every key of the format at once."""
    step = {
        "blocks": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "name": "Read", "input": {}}],
        "usage": {"input_tokens": 3},
        "stop_reason": "max_tokens",
        "model": "m",
        "chunk": 2,
        "delay": 0.5,
        "chunk_delay": 1,
        "stall": 2,
        "drop": True,
        "wait_for": "go",
        "raw": "x",
        "ctype": "text/plain",
        "error": {
            "status": 529,
            "type": "overloaded_error",
            "message": "m",
            "headers": {"retry-after": "1"},
            "times": 2,
        },
    }
    body = {"turns": [step], "default": step, "by": "count", "base": 1, "models": {"m": step}}
    path = tmp_path / "script.json"
    path.write_text(json.dumps({**body, "conversations": [{"match": "x", **body}]}))
    script = load_script(path)
    played = script.conversations[0].turns[0]
    assert len(script.conversations) == 2
    assert played == script.conversations[1].default
    assert played.failure is not None
    assert (played.failure.status, played.failure.times, played.wait_for, played.chunk) == (529, 2, "go", 2)
