"""The hostile-input corpus: cases by group, and the words their recipes are written in."""

import gzip
import itertools
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "data" / "hostile"
BLOCK = 512
END = bytes(2 * BLOCK)
LIMIT = 1 << 20
"""The size of a file that a test sets as the product's limit before it loads a case about volume."""

Case = dict[str, Any]


def cases(group: str) -> list[Case]:
    """All cases of a group, by its letter. A case has `id`, `surface`, `why`, `right_answer`, and either `input` or `build`."""
    return [json.loads(text) for text in (CASES / f"{group}.jsonl").read_text().splitlines()]


def case(case_id: str) -> Case:
    """The case of that id."""
    return next(found for found in cases(case_id[0]) if found["id"] == case_id)


def load(case: Case, **placeholders: str) -> Any:
    """The value of a case, with `{NAME}` replaced by the placeholder of that name.

    `input` is the value; under a key `each` stand several that are tried one by one. `build` is Python that uses the functions below and
    leaves in `out`: bytes or text (a payload), a list of bytes (chunks or archives in order), an iterator of bytes (large or endless, so
    read it lazily), a function that makes a tree below a directory, or a dict (a request).
    """
    if "input" in case:
        return _fill(case["input"], placeholders)
    scope = dict(globals())
    exec(compile(_fill(case["build"], placeholders), case["id"], "exec"), scope)
    return scope["out"]


def _fill(value: Any, placeholders: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in placeholders.items():
            value = value.replace("{" + name + "}", text)
    elif isinstance(value, list):
        return [_fill(item, placeholders) for item in value]
    elif isinstance(value, dict):
        return {_fill(key, placeholders): _fill(item, placeholders) for key, item in value.items()}
    return value


# --- the agent's stream -----------------------------------------------------------------------------------------------------------


def line(**event: object) -> bytes:
    """An event with its line end."""
    return json.dumps(event).encode() + b"\n"


def init(session: str = "s-1") -> bytes:
    """The event that begins a session."""
    return line(type="system", subtype="init", session_id=session, tools=["Bash", "Read", "Edit", "Write"], model="m")


def say(text: str, session: str = "s-1") -> bytes:
    """A text of the agent."""
    return line(type="assistant", session_id=session, message={"id": "msg_1", "content": [{"type": "text", "text": text}]})


def result(
    subtype: str = "success", is_error: bool = False, text: str = "done", cost: float = 0.01, session: str = "s-1", **more: object
) -> bytes:
    """The event that ends a run."""
    told = {"subtype": subtype, "is_error": is_error, "result": text, "total_cost_usd": cost, "num_turns": 1, "session_id": session}
    return line(type="result", **told, **more)


# --- archives ---------------------------------------------------------------------------------------------------------------------


def b(value: str | bytes) -> bytes:
    """Text as bytes; escaped bytes come back as they were."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def num(value: int, width: int = 12) -> bytes:
    """A number field of a tar header: octal digits where they suffice, else base-256 as GNU writes it."""
    digits = width - 1
    if 0 <= value < 8**digits:
        return f"{value:0{digits}o}".encode() + b"\0"
    marked = value + 256**width if value < 0 else value | 0x80 << 8 * digits
    return marked.to_bytes(width, "big")


def hdr(
    name: str | bytes,
    size: int = 0,
    t: str = "0",
    link: str | bytes = "",
    mode: int = 0o644,
    size_field: bytes | None = None,
    chksum: bytes | None = None,
    major: int = 0,
    minor: int = 0,
    magic: bytes = b"ustar\x0000",
    extra: bytes = b"",
) -> bytes:
    """One header block, right or wrong: `size_field` and `chksum` stand in for what would be computed."""
    owner = num(0, 8)
    length = num(size) if size_field is None else size_field
    before = b(name)[:100].ljust(100, b"\0") + num(mode, 8) + owner + owner + length.ljust(12, b"\0")[:12] + num(0)
    after = b(t)[:1] + b(link)[:100].ljust(100, b"\0") + magic + bytes(64) + num(major, 8) + num(minor, 8) + extra
    whole = (before + b" " * 8 + after).ljust(BLOCK, b"\0")[:BLOCK]
    checksum = f"{sum(whole):06o}\0 ".encode() if chksum is None else chksum
    return whole[:148] + checksum + whole[156:]


def pad(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def record(key: str | bytes, value: str | bytes) -> bytes:
    """A record of an extended header; its length counts its own digits."""
    body = b" " + b(key) + b"=" + b(value) + b"\n"
    length = next(n for n in itertools.count(len(body) + 1) if n == len(body) + len(str(n)))
    return str(length).encode() + body


def pax(records: Mapping[str, str] | bytes, g: bool = False) -> bytes:
    """An extended header, or with `g` a global one, of records or of a raw body."""
    body = records if isinstance(records, bytes) else b"".join(record(key, value) for key, value in records.items())
    return hdr("PaxHeaders/x", len(body), "g" if g else "x") + pad(body)


def longname(name: str | bytes, t: str = "L") -> bytes:
    """A long name as GNU writes it, or with `K` a long link."""
    body = b(name) + b"\0"
    return hdr("././@LongLink", len(body), t) + pad(body)


def m(name: str | bytes, data: bytes = b"", t: str = "0", link: str | bytes = "", **fields: Any) -> bytes:
    """A member; a name or link that does not fit gets an extended header."""
    too_long = [record(key, value) for key, value in (("path", name), ("linkpath", link)) if len(b(value)) > 100]
    size = len(data) if t in ("0", "\0", "7", "Z", "") else 0
    return (pax(b"".join(too_long)) if too_long else b"") + hdr(name, size, t, link, **fields) + pad(data)


def tar(*parts: bytes) -> bytes:
    """An archive with its end blocks."""
    return b"".join(parts) + END


def gz(data: bytes) -> bytes:
    """Compressed, the same every time."""
    return gzip.compress(data, mtime=0)


def gz_repeat(head: bytes, block: bytes, n: int) -> Iterator[bytes]:
    """Compressed `head` and n times `block`: gzip members may follow each other, so the block is compressed once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = packer.compress(block) + packer.flush()
    return itertools.chain([gz(head)], itertools.repeat(member, n), [gz(END)])


def drip(data: bytes, per_second: float) -> Iterable[bytes]:
    """Byte by byte, slowly."""
    for at in range(len(data)):
        time.sleep(1 / per_second)
        yield data[at : at + 1]


# --- trees ------------------------------------------------------------------------------------------------------------------------


def put(root: Path, rel: str, text: str, mode: int = 0o644) -> None:
    """A file below a directory."""
    path = root / rel
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def bare_git(root: Path, config: str = "") -> None:
    """The least that git takes for a work tree, without running git: a changed file and a `.git` of our own making."""
    for directory in ("objects", "refs/heads", "hooks"):
        (root / ".git" / directory).mkdir(parents=True, exist_ok=True)
    put(root, ".git/HEAD", "ref: refs/heads/main\n")
    put(root, ".git/config", "[core]\n\trepositoryformatversion = 0\n\tbare = false\n" + config)
    put(root, "f", "changed\n")
