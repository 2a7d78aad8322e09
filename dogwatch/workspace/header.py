"""One tar header of 512 bytes and the records of an extended one: exact, or refused."""

import re
from dataclasses import dataclass

from dogwatch.errors import ArchiveCorrupt

BLOCK = 512
ZEROS = bytes(BLOCK)
SPARSE = b"S"

_GNU, _POSIX = b"ustar  \0", b"ustar\x0000"
_CHECKSUM = slice(148, 156)
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ")
_DIGITS = re.compile(rb"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says, with names as bytes."""

    type: bytes
    """Type letter; a NUL of old archives is given as `0`."""
    name: bytes
    link: bytes
    """Target of a symbolic link, or name of the member that a hard link stands for."""
    mode: int
    """Permission bits."""
    size: int
    """Bytes of data that follow, before padding."""
    extended: bool
    """Whether old GNU sparse maps follow in blocks of their own."""


def parse_header(block: bytes) -> Header:
    """The header in a block of 512 bytes as GNU tar, bsdtar and Python write it; raises ArchiveCorrupt for anything else."""
    if _number(block[_CHECKSUM], "checksum") != sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "):
        raise ArchiveCorrupt("a header's checksum is wrong")
    magic = block[257:265]
    if magic not in (_GNU, _POSIX):
        raise ArchiveCorrupt("a header is neither GNU's nor POSIX's")
    for field, what in ((block[108:116], "uid"), (block[116:124], "gid"), (block[329:337], "device"), (block[337:345], "device")):
        _number(field, what)
    _number(block[136:148], "time", signed=True)
    name = _text(block[:100])
    if magic == _POSIX and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    return Header(
        type=block[156:157].replace(b"\0", b"0"),
        name=name,
        link=_text(block[157:257]),
        mode=_number(block[100:108], "mode") & 0o7777,
        size=_number(block[124:136], "size", required=True),
        extended=block[156:157] == SPARSE and block[482] != 0,
    )


def parse_records(body: bytes) -> dict[bytes, bytes]:
    """The `length key=value` records of a pax header; raises ArchiveCorrupt."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(body):
        length = _RECORD.match(body, start)
        end = start + int(length[1]) if length else 0
        if length is None or end > len(body) or end <= length.end() or body[end - 1 : end] != b"\n":
            raise ArchiveCorrupt("an extended header is garbled")
        key, equals, value = body[length.end() : end - 1].partition(b"=")
        if not equals or not key:
            raise ArchiveCorrupt("an extended header is garbled")
        records[key] = value
        start = end
    return records


def decimal(value: bytes) -> int:
    """The number in a pax record; raises ArchiveCorrupt."""
    if not _DIGITS.fullmatch(value):
        raise ArchiveCorrupt("an extended header holds a garbled number")
    return int(value)


def padding(size: int) -> int:
    """Zero bytes that follow `size` bytes of data."""
    return -size % BLOCK


def _number(field: bytes, name: str, *, required: bool = False, signed: bool = False) -> int:
    if field[0] == 0x80:  # GNU's base-256, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF and signed:
        return int.from_bytes(field, "big", signed=True)
    digits = _OCTAL.fullmatch(field)
    if digits is None or (required and not digits[1]):
        raise ArchiveCorrupt(f"a header's {name} is garbled")
    return int(digits[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
