"""The script: which step the model plays when, as typed data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Block = Mapping[str, Any]
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An API error to answer; `times` per conversation and step, for ever where it is None."""

    status: int
    type: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None

    @classmethod
    def of(cls, status: int, message: str) -> "Failure":
        """The error the API would answer with this status."""
        return cls(status, _ERROR_TYPES.get(status, "api_error"), message)


@dataclass(frozen=True, slots=True)
class Step:
    """One reply of the model; all durations in seconds. As JSON:

    {"text": "..."} | {"tool": "Write", "input": {...}} | {"thinking": "..."} (any of them together), or
    {"blocks": [content block, ...]}, and any of
    - usage {"input_tokens": N, ...}, stop_reason, model, chunk CHARACTERS per text delta
    - delay SECONDS before the reply, chunk_delay SECONDS per event, stall SECONDS before the end, which then never
      comes, drop true (cut after the first block), wait_for NAME (held until POST /__release {"name": NAME})
    - raw "body" (and ctype), sent as it is with status 200
    - error {"status": 529, "type": "overloaded_error", "message": "...", "headers": {...}, "times": N}

    `{workspace}` in any string becomes the agent's working directory.
    """

    blocks: tuple[Block, ...] = ({"type": "text", "text": "done"},)
    usage: Mapping[str, int] = field(default_factory=dict)
    stop_reason: str | None = None
    model: str | None = None
    chunk: int | None = None
    delay: float = 0.0
    chunk_delay: float = 0.0
    stall: float = 0.0
    drop: bool = False
    wait_for: str | None = None
    raw: str | None = None
    content_type: str = "text/event-stream"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The steps for every conversation whose first user prompt contains `match`."""

    match: str = ""
    turns: tuple[Step, ...] = ()
    default: Step = Step()
    by_count: bool = False
    base: int = 0
    models: Mapping[str, Step] = field(default_factory=dict)

    def step(self, index: int, model: str) -> Step:
        """The step at an index, unless the requested model has one of its own."""
        place = max(0, index - self.base)
        return self.models.get(model) or (self.turns[place] if place < len(self.turns) else self.default)


@dataclass(frozen=True, slots=True)
class Script:
    """All conversations in the order they are tried. As JSON:

    {"turns": [STEP, ...], "default": STEP, "by": "count", "base": N, "models": {model: STEP},
     "conversations": [{"match": "substring of the first user prompt", "turns": [...], ...}, ...]}

    The step index is the number of assistant messages already in the request, so restarts of the CLI and `--resume` go
    on where they were; with "by": "count" it is the number of requests so far with the same first user prompt. "base"
    subtracts earlier history, "models" picks the step by requested model, "default" follows the last turn.
    The first conversation that matches plays. It takes the same keys as the script itself, which plays the rest; with
    conversations and neither "turns" nor "default" of its own, an unmatched prompt is an API error.
    """

    conversations: tuple[Conversation, ...] = (Conversation(),)

    def conversation(self, prompt: str) -> Conversation | None:
        """The first conversation that matches the first user prompt."""
        return next((c for c in self.conversations if c.match in prompt), None)
