"""What is known of a run so far: a fold over its events that is stored with the cursor, so that another worker goes on with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from dogwatch.agent.display import escape, shorten, storable
from dogwatch.agent.result import MAX_TEXT, RunResult, Spent, read_result, read_spent
from dogwatch.agent.stream import OVERSIZE, UNPARSED
from dogwatch.contracts.agent import Usage

_RECENT = 32
"""Messages whose usage may still be repeated: sub-agents interleave, but no event refers far back."""
_TELLING = ("command", "file_path", "path", "pattern", "url", "query", "description", "prompt")
"""The argument of a tool that says most about a call."""


@dataclass
class Progress:
    """The state of a run. Everything in it is the agent's own claim, cleaned and capped."""

    session_id: str | None = None
    """The CLI's session, from its first init event."""
    cli_version: str | None = None
    model: str | None = None
    events: int = 0
    """Events of the CLI; lines that are no such events are not counted."""
    turns: int = 0
    """Replies of the model, without those of sub-agents."""
    retries: int = 0
    """Calls of the model's API that the CLI repeated."""
    api_status: int | None = None
    """HTTP status behind the last of them."""
    api_error: str | None = None
    words: str = ""
    """The agent's last text."""
    last: str = ""
    """The last thing it did, in a line for people."""
    seen: Spent = field(default_factory=Spent)
    """Tokens of messages that are complete."""
    recent: dict[str, Spent] = field(default_factory=dict)
    """Tokens of the latest messages: each event of a message repeats its usage, and the last one counts."""
    reported: Spent = field(default_factory=Spent)
    """Tokens and dollars by the result events."""
    result: RunResult | None = None
    """The last result of the session."""
    result_session: str | None = None
    settled: bool = False
    """Nothing but bookkeeping came after that result."""

    def add(self, kind: str, subtype: str | None, data: Mapping[str, Any] | None) -> None:
        """Take in the next event, as `classify` returns it."""
        if data is None or kind in (UNPARSED, OVERSIZE):
            return
        self.events += 1
        if kind == "system":
            self._system(subtype, data)
        elif kind == "assistant":
            self._assistant(data)
        elif kind == "user":
            self.settled = False
        elif kind == "result":
            self._result(data)

    @property
    def usage(self) -> Usage:
        """What the run used. Without a result these are lower bounds: a message's event carries the tokens at its start, and no cost."""
        spent = self.reported if self.result else self.seen
        if not self.result:
            for one in self.recent.values():
                spent = spent.plus(one)
        return Usage(**vars(spent), turns=self.turns, estimated=self.result is None)

    @property
    def text(self) -> str:
        """The agent's last words, up to 2,000 characters."""
        return (self.result.text if self.result else "") or self.words

    def to_json(self) -> dict[str, object]:
        """The state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> "Progress":
        """The state that `to_json` gave; an empty mapping is a run of which nothing was read yet."""
        return _STORED.validate_python(dict(stored))

    def _system(self, subtype: str | None, data: Mapping[str, Any]) -> None:
        if subtype == "init":
            self.settled = False
            if self.session_id is None:
                self._begin(data)
        elif subtype == "api_retry":
            self.retries += 1
            status = data.get("error_status")
            self.api_status = status if isinstance(status, int) and 100 <= status <= 599 else None
            self.api_error = _short(data.get("error"))
            self.last = f"waiting for the model's API ({self.api_status or self.api_error or 'no answer'})"

    def _begin(self, data: Mapping[str, Any]) -> None:
        self.session_id = _short(data.get("session_id"))
        self.cli_version, self.model = _short(data.get("claude_code_version")), _short(data.get("model"))
        if self.session_id is not None and self.result_session != self.session_id:
            self.result, self.result_session, self.reported = None, None, Spent()

    def _assistant(self, data: Mapping[str, Any]) -> None:
        message = data.get("message")
        if not isinstance(message, dict):
            return
        nested = data.get("parent_tool_use_id") is not None
        if message.get("model") != "<synthetic>":  # the CLI's own words about an API error
            self._count(message, nested=nested)
        if not nested:
            self.settled = False
            blocks = message.get("content")
            for block in blocks if isinstance(blocks, list) else []:
                if isinstance(block, dict):
                    self._block(block)

    def _count(self, message: Mapping[str, Any], *, nested: bool) -> None:
        message_id = _short(message.get("id"))
        if message_id is None:
            return
        if message_id not in self.recent and not nested:
            self.turns += 1
        self.recent[message_id] = Spent.of_message(message.get("usage"))
        if len(self.recent) > _RECENT:
            self.seen = self.seen.plus(self.recent.pop(next(iter(self.recent))))

    def _block(self, block: Mapping[str, Any]) -> None:
        text = block.get("text")
        if block.get("type") == "text" and isinstance(text, str) and text.strip():
            self.words = shorten(storable(text), MAX_TEXT)
            self.last = _line(text.strip())
        elif block.get("type") == "tool_use":
            self.last = _line(f"{block.get('name')}: {_argument(block.get('input'))}")

    def _result(self, data: Mapping[str, Any]) -> None:
        session = _short(data.get("session_id"))
        foreign = self.session_id is not None and session != self.session_id
        if foreign or data.get("parent_tool_use_id") is not None:
            return
        spent, since_last = read_spent(data)
        self.reported = self.reported.plus(spent) if since_last else spent
        self.result, self.result_session, self.settled = read_result(data, turns=self.turns), session, True
        self.last = _line(f"ended: {self.result.text or self.result.error or self.result.subtype}")


_STORED = TypeAdapter(Progress)


def _short(value: object) -> str | None:
    return shorten(escape(value), 128) if isinstance(value, str) and value else None


def _line(text: str) -> str:
    return shorten(escape(shorten(text, 200)), 200)


def _argument(arguments: object) -> str:
    if not isinstance(arguments, dict):
        return ""
    telling = (arguments.get(name) for name in _TELLING)
    return next((value for value in (*telling, *arguments.values()) if isinstance(value, str)), "")
