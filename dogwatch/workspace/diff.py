"""What changed inside one text file."""

import difflib

MAX_BYTES = 1 << 20
"""Bigger files are not compared line by line."""
_MAX_PAIRS = 4_000_000
"""Most pairs of lines that may be compared: aligning takes time with their product."""


def unified_diff(before: bytes | None, after: bytes | None, path: str) -> str | None:
    """The change from `before` to `after` (None where there was no file) as a unified diff; empty where nothing changed.

    None where a side is not UTF-8 text, holds a NUL, or is too big to compare. The text is the sandbox's: whoever shows it escapes
    its control characters.
    """
    if before == after:
        return ""
    old, new = _lines(before or b""), _lines(after or b"")
    if old is None or new is None or len(old) * len(new) > _MAX_PAIRS:
        return None
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if after is None else f"b/{path}")
    return "".join(
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in difflib.unified_diff(old, new, *names)
    )


def _lines(data: bytes) -> list[str] | None:
    if len(data) > MAX_BYTES or b"\0" in data:
        return None
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
