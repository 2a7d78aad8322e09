"""Script files into typed scripts: every mistake is found before the first request, and named."""

import json
from pathlib import Path

from dogwatch.testing.model.fields import Fields, ScriptError
from dogwatch.testing.model.script import Block, Conversation, Failure, Script, Step

_BLOCK_NEEDS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str},
    "tool_use": {"name": str, "input": dict},
}


def load_script(path: Path) -> Script:
    """Read a script file; ScriptError says where it is wrong, OSError that it cannot be read."""
    try:
        return parse_script(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ScriptError(f"{path}: {error}") from error


def parse_script(value: object) -> Script:
    """Validate parsed JSON; raises ScriptError."""
    fields = Fields(value, "script")
    given = fields.take("conversations", list, [])
    listed = [_conversation(Fields(c, f"conversations[{i}]"), matched=True) for i, c in enumerate(given)]
    plays_rest = not listed or not {"turns", "default"}.isdisjoint(fields.raw)
    rest = _conversation(fields, matched=False)
    return Script((*listed, rest) if plays_rest else tuple(listed))


def _conversation(fields: Fields, *, matched: bool) -> Conversation:
    prefix = f"{fields.place}." if matched else ""
    match = fields.take("match", str) if matched else ""
    if match is None:
        raise ScriptError(f"{fields.place}: needs 'match', a substring of the first user prompt")
    turns = fields.take("turns", list, [])
    default = fields.take("default", dict)
    by = fields.take("by", str, "assistant_messages")
    if by not in ("assistant_messages", "count"):
        raise ScriptError(f"{fields.place}.by: expected 'assistant_messages' or 'count', got {by!r}")
    conversation = Conversation(
        match=match,
        turns=tuple(_step(Fields(turn, f"{prefix}turns[{i}]")) for i, turn in enumerate(turns)),
        default=Step() if default is None else _step(Fields(default, f"{prefix}default")),
        by_count=by == "count",
        base=fields.whole("base", 0, 0, 10**6) or 0,
        models={name: _step(Fields(step, f"{prefix}models.{name}")) for name, step in fields.mapping("models", dict).items()},
    )
    fields.close()
    return conversation


def _step(fields: Fields) -> Step:
    raw, error = fields.take("raw", str), fields.take("error", dict)
    step = Step(
        blocks=_blocks(fields),
        usage=fields.mapping("usage", int),
        stop_reason=fields.take("stop_reason", str),
        model=fields.take("model", str),
        chunk=fields.whole("chunk", None, 1, 10**9),
        delay=fields.seconds("delay"),
        chunk_delay=fields.seconds("chunk_delay"),
        stall=fields.seconds("stall"),
        drop=fields.take("drop", bool, False),
        wait_for=fields.take("wait_for", str),
        raw=raw,
        content_type=fields.take("ctype", str, "text/event-stream"),
        failure=None if error is None else _failure(Fields(error, f"{fields.place}.error")),
    )
    fields.close()
    return step


def _blocks(fields: Fields) -> tuple[Block, ...]:
    text, thinking = fields.take("text", str), fields.take("thinking", str)
    tool, arguments = fields.take("tool", str), fields.take("input", dict)
    listed = fields.take("blocks", list)
    if (tool is None) != (arguments is None):
        raise ScriptError(f"{fields.place}: 'tool' and 'input' go together")
    simple: list[Block] = []
    if thinking is not None:
        simple.append({"type": "thinking", "thinking": thinking})
    if text is not None:
        simple.append({"type": "text", "text": text})
    if tool is not None:
        simple.append({"type": "tool_use", "name": tool, "input": arguments})
    if listed is None:
        return tuple(simple) or ({"type": "text", "text": "ok"},)
    if simple or not listed:
        raise ScriptError(f"{fields.place}.blocks: expected at least one block, and no text, tool or thinking beside")
    return tuple(_block(block, f"{fields.place}.blocks[{i}]") for i, block in enumerate(listed))


def _block(value: object, place: str) -> Block:
    fields = Fields(value, place)
    kind = fields.take("type", str)
    if not kind:
        raise ScriptError(f"{place}: needs 'type', such as 'text', 'thinking' or 'tool_use'")
    for key, expected in _BLOCK_NEEDS.get(kind, {}).items():
        if fields.take(key, expected) is None:
            raise ScriptError(f"{place}: a {kind} block needs {key!r}")
    return fields.raw


def _failure(fields: Fields) -> Failure:
    status = fields.whole("status", None, 400, 599)
    if status is None:
        raise ScriptError(f"{fields.place}: needs 'status', 400 to 599")
    usual = Failure.of(status, "the script says so")
    failure = Failure(
        status=status,
        type=fields.take("type", str, usual.type),
        message=fields.take("message", str, usual.message),
        headers=fields.mapping("headers", str),
        times=fields.whole("times", None, 1, 10**9),
    )
    fields.close()
    return failure
