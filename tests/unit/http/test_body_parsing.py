"""Bodies of requests as contracts: refused with a code, or exactly what was sent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.contracts.job import JobSubmission
from dogwatch.errors import InvalidRequest
from dogwatch.http.body import MAX_DEPTH, parse


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_nothing_but_a_contract_or_a_refusal(body: bytes) -> None:
    """No bytes raise anything but a typed refusal."""
    with pytest.raises(InvalidRequest):
        parse(body, JobSubmission)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip()))
def test_a_prompt_arrives_as_it_was_sent(prompt: str) -> None:
    """Byte for byte, in either spelling of JSON."""
    for ascii_only in (True, False):
        body = json.dumps({"prompt": "x" + prompt}, ensure_ascii=ascii_only).encode()
        assert parse(body, JobSubmission).prompt == "x" + prompt


def test_nesting_is_counted_outside_of_strings() -> None:
    """The limit is about arrays and objects, also behind quotes that are escaped."""
    deep = b'{"prompt":' + b"[" * MAX_DEPTH + b'"\\"' + b"[" * 99 + b'\\\\"' + b"]" * MAX_DEPTH + b"}"
    with pytest.raises(InvalidRequest, match="nests deeper"):
        parse(deep, JobSubmission)
    shallow = b'{"prompt":"\\"' + b"[{" * 500 + b'\\\\"}'
    assert parse(shallow, JobSubmission).prompt == '"' + "[{" * 500 + "\\"


def test_a_repeated_key_is_named() -> None:
    """Two values for one key are two readings of one request."""
    with pytest.raises(InvalidRequest, match="'prompt' is there twice"):
        parse(b'{"prompt":"a","prompt":"b"}', JobSubmission)
