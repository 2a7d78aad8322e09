"""What an agent wrote cannot act on the screen it is shown on."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.agent.display import escape, shorten, storable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é中🦀", "plain é中🦀"),
        ("\x1b[2J\x1b]52;c;AAAA\x07", "\\x1b[2J\\x1b]52;c;AAAA\\x07"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("safe\rEVIL\b", "safe\\rEVIL\\x08"),
        ("a\u202eb\u2066c\u200b\ufeff", "a\\u202eb\\u2066c\\u200b\\ufeff"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\U000e0041\ud800\x00", "\\U000e0041\\ud800\\x00"),
        ("one\n\ttwo", "one\\n\\ttwo"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """Controls, direction marks, zero-width characters and line separators are shown."""
    assert escape(text) == shown


def test_lines_may_stay_lines() -> None:
    """A longer text keeps its line feeds and tabs, and nothing else."""
    assert escape("one\n\ttwo\r\x1b", multiline=True) == "one\n\ttwo\\r\\x1b"


@given(st.text(st.characters()))
def test_nothing_hidden_passes(text: str) -> None:
    """Whatever comes in, only visible characters and spaces come out."""
    assert not {unicodedata.category(char) for char in escape(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    escape(text).encode()
    stored = storable(text)
    assert "\x00" not in stored
    stored.encode()


def test_shortening() -> None:
    """The limit includes the ellipsis."""
    assert (shorten("abcdef", 6), shorten("abcdef", 5)) == ("abcdef", "abcd…")
