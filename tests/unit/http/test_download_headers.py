"""Ranges and names of downloads, whatever a caller or an agent comes up with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.errors import RangeNotSatisfiable
from dogwatch.http.download import byte_range, disposition


@given(st.binary(max_size=300))
def test_no_name_breaks_the_header(name: bytes) -> None:
    """Whatever the bytes, the header is one line of printable ASCII with exactly two parameters."""
    header = disposition(name)
    assert re.fullmatch(r"attachment; filename=\"[A-Za-z0-9._ -]*\"; filename\*=UTF-8''[A-Za-z0-9._~%-]*", header)


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d{0,25}-\d{0,25}", fullmatch=True), st.integers(0, 2**40))
def test_a_range_lies_inside_the_file(asked: str, size: int) -> None:
    """A range header is ignored, refused, or names at least one byte that exists."""
    try:
        found = byte_range(asked, size)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, None), ("bytes=0-0", (0, 1)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=-99", (0, 10)), ("bytes=-", None)],
)
def test_ranges_mean_what_the_standard_says(asked: str | None, expected: tuple[int, int] | None) -> None:
    """First and last byte inclusive, or the last so many."""
    assert byte_range(asked, 10) == expected
