"""Cutting and reading the output: every byte in one event, whatever the chunks and the bytes."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.agent.progress import Progress
from dogwatch.agent.stream import MAX_TYPE, OVERSIZE, UNPARSED, Line, LineSplitter, classify, read_event

CAPTURE = (Path(__file__).parents[2] / "data" / "captures" / "2.1.329" / "success_edit.jsonl").read_bytes()


def split(chunks: list[bytes], *, max_line: int = 1 << 20) -> list[Line]:
    """All lines of an output in chunks."""
    splitter = LineSplitter(max_line=max_line)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()


def assert_gapless(lines: list[Line], whole: bytes, start: int = 0) -> None:
    """Each line begins where the one before ended, and joined they are the output."""
    assert b"".join(line.raw for line in lines) == whole
    assert [line.offset for line in lines[:1]] in ([], [start])
    assert all(after.offset == before.offset + len(before.raw) for before, after in pairwise(lines))
    assert all(line.raw for line in lines)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Bytes with many line ends, cut anywhere."""
    whole = b"".join(draw(st.lists(st.sampled_from([b"\n", b"\r\n", b"{}", b"\xff", b"\x00", b'{"type":"x"}', b"y" * 30]), max_size=40)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    return whole, [whole[a:b] for a, b in pairwise([0, *cuts, len(whole)])]


@given(chunked(), st.integers(1, 50))
def test_any_chunking_gives_the_same_gapless_lines(case: tuple[bytes, list[bytes]], max_line: int) -> None:
    """Also where lines are over the limit."""
    whole, chunks = case
    lines = split(chunks, max_line=max_line)
    assert_gapless(lines, whole)
    assert lines == split([whole], max_line=max_line)
    assert all(len(line.raw) <= max_line for line in lines)
    assert all(line.raw.endswith(b"\n") or line.oversize for line in lines[:-1])


@given(chunked(), st.integers(1, 50), st.data())
def test_another_reader_goes_on_after_any_stored_line(case: tuple[bytes, list[bytes]], max_line: int, data: st.DataObject) -> None:
    """Offset and last line are all it needs, also in the middle of a line over the limit."""
    whole, _ = case
    lines = split([whole], max_line=max_line)
    kept = lines[: data.draw(st.integers(0, len(lines)))]
    offset = sum(len(line.raw) for line in kept)
    splitter = LineSplitter(offset, kept[-1].raw if kept else b"", max_line=max_line)
    rest = splitter.feed(whole[offset:])
    assert splitter.position == len(whole)
    assert kept + rest + splitter.finish() == lines


def test_a_real_stream_cut_at_every_byte() -> None:
    """One byte at a time gives the same lines as all at once."""
    lines = split([CAPTURE[at : at + 1] for at in range(len(CAPTURE))])
    assert lines == split([CAPTURE])
    assert_gapless(lines, CAPTURE)


def test_a_line_over_the_limit_becomes_pieces() -> None:
    """No byte is lost, the next line is an ordinary one again."""
    whole = b"x" * 25 + b'\n{"type":"result"}\n'
    lines = split([whole], max_line=20)
    assert [(line.oversize, len(line.raw)) for line in lines] == [(True, 20), (True, 6), (False, 18)]
    assert [read_event(line)[0].type for line in lines] == [OVERSIZE, OVERSIZE, "result"]
    assert_gapless(lines, whole)


def test_a_line_of_many_megabytes_is_one_event() -> None:
    """Real replies reached 6 MB."""
    text = b'{"type":"assistant","text":"' + b"x" * (6 << 20) + b'"}\n'
    splitter = LineSplitter()
    lines = [line for at in range(0, len(text), 1 << 20) for line in splitter.feed(text[at : at + (1 << 20)])]
    assert [(read_event(line)[0].type, len(line.raw)) for line in lines] == [("assistant", len(text))]


@pytest.mark.parametrize(
    ("line", "kind", "subtype"),
    [
        (b'{"type":"result","subtype":"success"}\n', "result", "success"),
        (b'{"type":"result","subtype":"success"}\r\n', "result", "success"),
        (b'  {"subtype":"init","type":"system"}', "system", "init"),
        (b'{"type":"a","type":"b"}\n', "b", None),
        (b'{"type":"assistant","text":"\xff\xfe\xc3\x28"}\n', "assistant", None),
        (b'{"type":"assistant","text":"a\\u0000b"}\n', "assistant", None),
        (b'{"type":"assistant","text":"a\x00b"}\n', UNPARSED, None),
        (b'{"type":"\\ud800"}\n', "\ufffd", None),
        (b"", UNPARSED, None),
        (b"\n", UNPARSED, None),
        (b"\xef\xbb\xbf{}", UNPARSED, None),
        (b"plain text\n", UNPARSED, None),
        (b"[1]\n", UNPARSED, None),
        (b"null\n", UNPARSED, None),
        (b'"type"\n', UNPARSED, None),
        (b'{"type":"result"', UNPARSED, None),
        (b'{"type":"result"} {"type":"result"}\n', UNPARSED, None),
        (b'{"type":"result","cost":NaN}\n', UNPARSED, None),
        (b'{"type":"result","cost":-Infinity}\n', UNPARSED, None),
        (b'{"type":"result","cost":1e999}\n', UNPARSED, None),
        (b'{"type":"result","cost":' + b"9" * 5000 + b"}\n", UNPARSED, None),
        (b'{"type":"result","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", UNPARSED, None),
        (b"[" * 100_000 + b"\n", UNPARSED, None),
        (b'{"type":7}\n', UNPARSED, None),
        (b'{"type":""}\n', UNPARSED, None),
        (b'{"type":["result"]}\n', UNPARSED, None),
        (b'{"type":"re\\u0000sult"}\n', UNPARSED, None),
        (b'{"type":"re\\u202esult"}\n', UNPARSED, None),
        (b'{"type":"' + b"t" * (MAX_TYPE + 1) + b'"}\n', UNPARSED, None),
        (b'{"type":"t","subtype":{"a":1}}\n', "t", None),
        (b'{"type":"t","subtype":"s\\n"}\n', "t", None),
    ],
)
def test_no_line_breaks_the_reader(line: bytes, kind: str, subtype: str | None) -> None:
    """What cannot be read is kept as it is and called so."""
    assert classify(line)[:2] == (kind, subtype)


def test_what_was_read_can_be_written_again() -> None:
    """Lone surrogates, which JSON can name and nothing else can hold, are replaced at every depth; pairs are characters."""
    data = classify(rb'{"type":"t","\uD800":["\udfff",{"a":"\ud83e\udd80 \\ud800"}]}')[2]
    assert data == {"type": "t", "\ufffd": ["\ufffd", {"a": "\U0001f980 \\ud800"}]}
    json.dumps(data, ensure_ascii=False).encode()


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(noise: bytes) -> None:
    """Neither bare nor inside an event."""
    for line in (noise, b'{"type":"assistant","message":' + noise + b"}", b'{"type":"' + noise + b'"}'):
        kind, subtype, data = classify(line)
        Progress().add(kind, subtype, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(
    [
        *("subtype", "is_error", "result", "errors", "usage", "modelUsage", "model_usage_since_last_result", "total_cost_usd"),
        *("api_error_status", "permission_denials", "session_id", "message", "parent_tool_use_id", "error_status", "error", "stop_reason"),
    ]
)


@given(
    st.lists(st.tuples(st.sampled_from(["system", "assistant", "user", "result"]), st.dictionaries(FIELDS, JSON, max_size=6)), max_size=5)
)
def test_wrong_fields_never_break_the_fold(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Every field may be anything; the state stays storable in JSON and Postgres, and the usage valid."""
    progress = Progress()
    for kind, fields in events:
        subtype = fields.get("subtype")
        raw = json.dumps({"type": kind, **fields}).encode()
        _, subtype, data = classify(raw)
        progress.add(kind, subtype, data)
        if kind == "system":
            progress.add(kind, "init", data)
            progress.add(kind, "api_retry", data)
        if kind == "assistant" and data is not None:
            progress.add(
                kind, subtype, {**data, "message": {"id": "m", "content": [data.get("message"), fields], "usage": data.get("usage")}}
            )
    stored = json.dumps(progress.to_json(), allow_nan=False)
    assert "\\u0000" not in stored
    assert "\\ud8" not in stored.replace("\\\\", "")
    assert Progress.from_json(json.loads(stored)) == progress
    assert progress.usage.cost_usd >= 0
    assert len(progress.last) <= 200
    assert len(progress.text) <= 2000
