"""Text of an agent made safe to show and to store."""

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, direction marks and zero-width characters, surrogates, line separators: what moves a cursor or hides text."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class _Escapes(dict[int, str]):
    """A translation table that fills itself."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char) in _HIDDEN:
            shown = _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        else:
            shown = char
        self[code] = shown
        return shown


_ESCAPES = _Escapes()
_LINES = _Escapes({ord("\n"): "\n", ord("\t"): "\t"})
_STORABLE = {0: "\\x00"} | dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


def escape(text: str, *, multiline: bool = False) -> str:
    """Text for a terminal or a log: every character that is no visible one is shown as its escape, so nothing the agent wrote can rewrite a
    line, change its direction or reach the clipboard. Line feeds and tabs pass with `multiline`."""
    return text.translate(_LINES if multiline else _ESCAPES)


def shorten(text: str, limit: int) -> str:
    """The beginning of a text, at most `limit` characters, ending with an ellipsis where something is left out."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def storable(text: str) -> str:
    """Text as Postgres and JSON take it: U+0000 as an escape, lone surrogates replaced."""
    return text.translate(_STORABLE)
