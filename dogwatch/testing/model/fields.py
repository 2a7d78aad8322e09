"""Reading one JSON object strictly: right types, no unknown keys, errors that say where."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, overload

T = TypeVar("T")
LONGEST_WAIT = 24 * 3600.0
_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
}


class ScriptError(ValueError):
    """The script is not usable; the message names the place in it and what was expected there."""


def is_a(value: object, kind: type) -> bool:
    """Whether a JSON value has the kind; true and false are no numbers, a whole number may stand for a fraction."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


class Fields:
    """One JSON object under a place name; every known key is taken once, `close` refuses what is left."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise ScriptError(f"{place}: expected an object, got {value!r:.60}")
        self.place = place
        self.raw: Mapping[str, Any] = value
        self._values = dict(value)
        self._known: list[str] = []

    @overload
    def take(self, key: str, kind: type[T]) -> T | None: ...
    @overload
    def take(self, key: str, kind: type[T], default: T) -> T: ...
    def take(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value of a key, or the default where the key is absent; ScriptError on another type."""
        self._known.append(key)
        if key not in self._values:
            return default
        value = self._values.pop(key)
        if not is_a(value, kind):
            raise ScriptError(f"{self.place}.{key}: expected {_NAMES[kind]}, got {value!r:.60}")
        return value  # type: ignore[no-any-return]

    def seconds(self, key: str) -> float:
        """A duration in seconds, 0 where the key is absent; ScriptError outside 0 to one day."""
        value = self.take(key, float, 0.0)
        if not 0 <= value <= LONGEST_WAIT:
            raise ScriptError(f"{self.place}.{key}: expected seconds from 0 to {LONGEST_WAIT:.0f}, got {value}")
        return float(value)

    def whole(self, key: str, default: int | None, least: int, most: int) -> int | None:
        """A whole number within bounds, or the default where the key is absent."""
        value = self.take(key, int)
        if value is None:
            return default
        if not least <= value <= most:
            raise ScriptError(f"{self.place}.{key}: expected {least} to {most}, got {value}")
        return value

    def mapping(self, key: str, kind: type[T]) -> Mapping[str, T]:
        """An object whose values all have one kind, empty where the key is absent."""
        values = self.take(key, dict, {})
        for name, value in values.items():
            if not is_a(value, kind):
                raise ScriptError(f"{self.place}.{key}.{name}: expected {_NAMES[kind]}, got {value!r:.60}")
        return values

    def close(self) -> None:
        """Refuse keys nobody took, with the nearest known one."""
        for key in self._values:
            near = get_close_matches(key, self._known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(self._known))}"
            raise ScriptError(f"{self.place}: unknown key {key!r} ({hint})")
