"""Replies in the two notations of the Messages API: one message, or a stream of events."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from dogwatch.testing.model.script import Block, Failure, Step

Event = tuple[str, dict[str, Any]]
_USAGE = {"input_tokens": 1000, "output_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def new_id(prefix: str) -> str:
    """A fresh id as the API makes them, such as msg_…"""
    return f"{prefix}_{uuid4().hex[:24]}"


def message_of(step: Step, model: str) -> dict[str, Any]:
    """The whole message of a step, for the requested model unless the step names another."""
    content = [_complete(block) for block in step.blocks]
    calls_tool = any(block["type"] == "tool_use" for block in content)
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": step.model or model,
        "content": content,
        "stop_reason": step.stop_reason or ("tool_use" if calls_tool else "end_turn"),
        "stop_sequence": None,
        "usage": {**_USAGE, **step.usage},
    }


def error_of(failure: Failure, request_id: str) -> dict[str, Any]:
    """The body of an API error."""
    return {"type": "error", "error": {"type": failure.type, "message": failure.message}, "request_id": request_id}


def events_of(message: Mapping[str, Any], chunk: int | None) -> Iterator[Event]:
    """The stream of a message; text comes in pieces of `chunk` characters, in two halves without one."""
    opening = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield "message_start", {"message": opening}
    yield "ping", {}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block, chunk)
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"delta": end, "usage": {"output_tokens": message["usage"]["output_tokens"]}}
    yield "message_stop", {}


def frame(event: Event) -> bytes:
    """An event as server-sent event."""
    kind, data = event
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _complete(block: Block) -> dict[str, Any]:
    if block["type"] == "tool_use":
        return {"id": new_id("toolu"), **block}
    if block["type"] == "thinking":
        return {"signature": "scripted", **block}
    return dict(block)


def _block_events(index: int, block: Block, chunk: int | None) -> Iterator[Event]:
    empty, deltas = _taken_apart(block, chunk)
    yield "content_block_start", {"index": index, "content_block": empty}
    for delta in deltas:
        yield "content_block_delta", {"index": index, "delta": delta}
    yield "content_block_stop", {"index": index}


def _taken_apart(block: Block, chunk: int | None) -> tuple[Block, list[dict[str, Any]]]:
    """The block as it is opened, and what fills it; kinds without deltas are opened whole."""
    match block["type"]:
        case "text":
            text = block["text"]
            width = chunk or max(1, len(text) // 2)
            pieces = [text[i : i + width] for i in range(0, len(text), width)]
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
        case "thinking":
            return {**block, "thinking": "", "signature": ""}, [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case "tool_use":
            arguments = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            return {**block, "input": {}}, [arguments]
        case _:
            return block, []
