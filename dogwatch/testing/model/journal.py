"""What was asked and how it ended: the log file, the list for tests, the statistics."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from dogwatch.testing.model.prompt import Prompt

Outcome = Literal["answered", "error", "raw", "cut", "disconnected", "other"]
Entry = dict[str, Any]
_SECRET_HEADERS = {"x-api-key", "authorization", "proxy-authorization", "cookie"}


def entry_of(method: str, path: str, headers: Mapping[str, str]) -> Entry:
    """The record of a request; credentials appear as "sha256:..." of the header's value."""
    shown = {k: f"sha256:{sha256(v.encode()).hexdigest()}" if k in _SECRET_HEADERS else v for k, v in headers.items()}
    return {"t": time.time(), "method": method, "path": path, "headers": shown, "outcome": None, "status": None}


def describe(prompt: Prompt) -> Entry:
    """What a record says about a request to the model."""
    body = prompt.body
    messages = body.get("messages", [])
    return {
        "conversation": prompt.conversation,
        "prompt": prompt.first[:200],
        "assistant_messages": prompt.assistant_messages,
        "session": prompt.session,
        "agent": prompt.agent,
        "fingerprint": prompt.fingerprint,
        "repeated": False,
        "model": body.get("model"),
        "stream": prompt.stream,
        "max_tokens": body.get("max_tokens"),
        "output_config": body.get("output_config"),
        "roles": [message.get("role") for message in messages],
        "tools": [tool.get("name") for tool in body.get("tools", [])],
        "last": json.dumps(messages[-1:])[-1500:],
    }


class Journal:
    """All requests since the script was loaded; one JSON line each in the log file, written when its end is known."""

    def __init__(self, log: Path | None) -> None:
        self._lock = Lock()
        self._entries: list[Entry] = []
        self._answered: set[str] = set()
        self._log = log

    def open(self, entry: Entry) -> None:
        """Record a request that has arrived."""
        with self._lock:
            self._entries.append(entry)
            self._mark_repeated(entry)

    def settle(self, entry: Entry, outcome: Outcome, status: int) -> None:
        """Record how a request ends; only the first call for an entry counts."""
        with self._lock:
            if entry["outcome"] is not None:
                return
            self._mark_repeated(entry)
            entry.update(outcome=outcome, status=status, seconds=round(time.time() - entry["t"], 4))
            if outcome == "answered":
                self._answered.add(entry["fingerprint"])
            if self._log:
                with self._log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")

    def _mark_repeated(self, entry: Entry) -> None:
        if entry.get("fingerprint") in self._answered:
            entry["repeated"] = True

    def entries(self) -> list[Entry]:
        """A snapshot of all records, in the order of arrival."""
        with self._lock:
            return [dict(entry) for entry in self._entries]

    def stats(self) -> dict[str, Any]:
        """Counts over the requests for a reply, in all and per first user prompt."""
        asked = [entry for entry in self.entries() if "conversation" in entry]
        conversations: dict[str, dict[str, Any]] = {}
        for entry in asked:
            fresh = {"prompt": entry["prompt"], "requests": 0, "answered": 0, "assistant_messages": 0, "sessions": []}
            one = conversations.setdefault(entry["conversation"], fresh)
            one["requests"] += 1
            one["answered"] += entry["outcome"] == "answered"
            one["assistant_messages"] = max(one["assistant_messages"], entry["assistant_messages"])
            if entry["session"] not in one["sessions"]:
                one["sessions"].append(entry["session"])
        return {
            "requests": len(asked),
            "outcomes": dict(Counter(entry["outcome"] or "open" for entry in asked)),
            "conversations": conversations,
            "repeated_prompts": sum(entry["repeated"] for entry in asked),
        }
