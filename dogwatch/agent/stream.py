"""The agent's output as events: every byte belongs to exactly one, and no byte can break the parser."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dogwatch.ports import EventLine

MAX_LINE = 16 << 20
"""Bytes of one event. A longer line becomes several events of type `oversize`; real ones reached 6 MB."""
MAX_TYPE = 64
UNPARSED = "unparsed"
OVERSIZE = "oversize"


@dataclass(frozen=True)
class Line:
    """A line with its end, the partial last line of a finished run, or one piece of a line over the limit."""

    offset: int
    """Where it begins in the output."""
    raw: bytes
    oversize: bool = False


class LineSplitter:
    """Cuts the output into lines, whatever chunks it arrives in. `offset` and `tail` say where an earlier reader left off: the first byte
    after the last stored line, and that line, which shows whether it was a piece of one over the limit."""

    def __init__(self, offset: int = 0, tail: bytes = b"", *, max_line: int = MAX_LINE) -> None:
        self._offset = offset
        self._inside = bool(tail) and not tail.endswith(b"\n")
        self._max_line = max_line
        self._held = bytearray()
        self._searched = 0

    @property
    def position(self) -> int:
        """Offset of the next byte to feed."""
        return self._offset + len(self._held)

    def feed(self, data: bytes) -> list[Line]:
        """The lines that these bytes complete."""
        self._held += data
        return list(self._complete())

    def finish(self) -> list[Line]:
        """What follows the last line end, once nothing more comes."""
        return [self._cut(len(self._held), oversize=self._inside)] if self._held else []

    def _complete(self) -> Iterator[Line]:
        while True:
            end = self._held.find(b"\n", self._searched) + 1
            if 0 < end <= self._max_line:
                oversize, self._inside = self._inside, False
                yield self._cut(end, oversize=oversize)
            elif len(self._held) >= self._max_line:
                self._inside = True
                yield self._cut(self._max_line, oversize=True)
            else:
                self._searched = len(self._held)
                return

    def _cut(self, length: int, *, oversize: bool) -> Line:
        line = Line(self._offset, bytes(self._held[:length]), oversize)
        del self._held[:length]
        self._offset += length
        self._searched = 0
        return line


def classify(line: bytes) -> tuple[str, str | None, dict[str, Any] | None]:
    """Type, subtype and content of a line; never raises.

    A line that is no JSON object, and an object whose type is no short printable text, is of type `unparsed`. Undecodable bytes and lone
    surrogates in the content are replaced; of a repeated key the last value counts, as in the CLI's own parser.
    """
    data = _object(line)
    if data is None:
        return UNPARSED, None, None
    kind = _label(data.get("type"))
    return (UNPARSED, None, data) if kind is None else (kind, _label(data.get("subtype")), data)


def read_event(line: Line) -> tuple[EventLine, dict[str, Any] | None]:
    """A line as it is stored, and its content."""
    if line.oversize:
        return EventLine(line.offset, line.raw, OVERSIZE, None), None
    kind, subtype, data = classify(line.raw)
    return EventLine(line.offset, line.raw, kind, subtype), data


def _object(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8", "replace")
    try:
        data = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:
            data = _without_surrogates(data)
    except (ValueError, RecursionError):  # ValueError: no JSON, NaN, Infinity, a number of thousands of digits
        return None
    return data if isinstance(data, dict) else None


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def _without_surrogates(value: Any) -> Any:
    """Lone surrogates can be written in JSON and nowhere else: not into UTF-8, not into a database, not into an answer."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _label(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TYPE and value.isprintable() else None
