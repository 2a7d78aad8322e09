"""What goes into jsonb and text columns: an agent's words, made storable."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.contracts.agent import Usage, Verdict, VerdictCode
from dogwatch.store.engine import encode, plain

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        ("", ""),
        ("plain ü 🐕 \u202e \x7f \x1b", "plain ü 🐕 \u202e \x7f \x1b"),
        ("a\x00b", "a\ufffdb"),
        ("\ud800 \udfff \udcff", "? ? ?"),
    ],
)
def test_only_what_postgres_refuses_is_replaced(words: str, stored: str) -> None:
    """U+0000 and lone surrogates are replaced; everything else stays as it is."""
    assert plain(words) == stored
    assert json.loads(encode({"words": words})) == {"words": stored}


@given(ANY_TEXT)
def test_plain_text_is_storable_and_stays_so(words: str) -> None:
    """Any text becomes UTF-8 without NUL, of the same length, and a second time changes nothing."""
    stored = plain(words)
    assert b"\x00" not in stored.encode()
    assert len(stored) == len(words)
    assert plain(stored) == stored


@given(st.dictionaries(ANY_TEXT, JSON))
def test_any_json_becomes_strict_json(value: dict[str, object]) -> None:
    """Whatever Python's parser lets through comes out as JSON that Postgres takes: no NaN, no infinity, no NUL, no surrogates."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    encoded = encode(value)
    assert "\\u0000" not in json.dumps(json.loads(encoded, parse_constant=refuse))
    assert json.dumps(json.loads(encoded), ensure_ascii=False).encode()


def test_numbers_that_json_lacks_become_null() -> None:
    """NaN and the infinities are the agent's claims about nothing."""
    assert json.loads(encode({"a": [math.nan, math.inf, -math.inf, 1.5, 10**400]})) == {"a": [None, None, None, 1.5, 10**400]}


def test_contracts_are_read_back_equal() -> None:
    """A verdict and a usage come back as they were."""
    verdict = Verdict(code=VerdictCode.API_REJECTED, message="no", api_status=400)
    assert Verdict.model_validate(json.loads(encode(verdict))) == verdict
    usage = Usage(output_tokens=3, cost_usd=0.1, estimated=True)
    assert Usage.model_validate(json.loads(encode(usage))) == usage
