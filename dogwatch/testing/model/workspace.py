"""Where the CLI says the agent works, and `{workspace}` in a step replaced by it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

PLACEHOLDER = "{workspace}"
_BARE = re.compile(r"^CWD: (.*)$", re.MULTILINE)
_LINE = re.compile(r"^ - Primary working directory: (.*)$", re.MULTILINE)
_ESCAPED = re.compile(r"&(?:(lt|gt)|#(\d+));")


def texts(content: object) -> Iterator[str]:
    """The texts of a message's content or of a system prompt, which is one string or a list of blocks."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (b["text"] for b in content if isinstance(b, dict) and isinstance(b.get("text"), str))


def working_directory(body: Mapping[str, Any]) -> str | None:
    """The agent's working directory as the request names it, or None.

    Claude Code 2.1.329 names it in `messages`, not in `system`: a block that begins "# Environment", as a
    <system-reminder> of the first user message or as a message of role "system", depending on the model. After
    `--resume` elsewhere a block "# Environment update" adds "NEW (was OLD)", so the last one holds. With `--bare` it
    is the line "CWD: ..." of the system prompt. Angle brackets and control characters come as character references.
    """
    for text in texts(body.get("system")):
        if bare := _BARE.search(text):
            return bare[1]
    found: str | None = None
    for message in body.get("messages", []):
        for text in texts(message.get("content")):
            if text.removeprefix("<system-reminder>\n").startswith("# Environment") and (line := _LINE.search(text)):
                found = line[1].removesuffix(f" (was {found})")
    return found and _ESCAPED.sub(lambda m: {"lt": "<", "gt": ">"}.get(m[1]) or chr(int(m[2])), found)


def fill(value: Any, directory: Callable[[], str]) -> Any:
    """A copy of a step, or of JSON, with the placeholder replaced; asks for the directory only where it is needed."""
    if isinstance(value, str):
        return value.replace(PLACEHOLDER, directory()) if PLACEHOLDER in value else value
    if isinstance(value, Mapping):
        return {key: fill(item, directory) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(fill(item, directory) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: fill(getattr(value, f.name), directory) for f in fields(value)})
    return value
