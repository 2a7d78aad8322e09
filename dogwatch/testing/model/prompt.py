"""One request to the Messages API, reduced to what chooses its step and what recognises it again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from dogwatch.testing.model.workspace import texts


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request for a reply: `conversation` is the sha256 of its first user prompt.

    `fingerprint` is equal for two requests that ask the same thing: same CLI session, same agent (sub-agents share the
    session), same messages. A restarted CLI sends the same history in another notation, which makes no difference.
    """

    body: Mapping[str, Any]
    first: str
    session: str | None
    agent: str | None
    conversation: str
    assistant_messages: int
    fingerprint: str

    @property
    def model(self) -> str:
        """The requested model id."""
        return str(self.body.get("model"))

    @property
    def stream(self) -> bool:
        """Whether the reply is to be a stream of events."""
        return bool(self.body.get("stream"))


def read_prompt(body: Mapping[str, Any], headers: Mapping[str, str]) -> Prompt:
    """Read a request's body and its headers (with lower-case names)."""
    messages = body.get("messages", [])
    first = _first_prompt(messages)
    session, agent = headers.get("x-claude-code-session-id"), headers.get("x-claude-code-agent-id")
    replies = sum(message.get("role") == "assistant" for message in messages)
    asked = json.dumps([session, agent, replies, [_plain(message) for message in messages]], sort_keys=True)
    return Prompt(
        body=body,
        first=first,
        session=session,
        agent=agent,
        conversation=_hash(first),
        assistant_messages=replies,
        fingerprint=_hash(asked),
    )


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _first_prompt(messages: list[Mapping[str, Any]]) -> str:
    """The first user message without the reminders the CLI puts before the user's words."""
    for message in messages:
        if message.get("role") == "user":
            found = list(texts(message.get("content")))
            return "\n".join(t for t in found if not t.startswith("<system-reminder>")) or "".join(found[-1:])
    return ""


def _plain(message: Mapping[str, Any]) -> object:
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return message.get("role"), [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]
