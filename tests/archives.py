"""Archives built byte by byte, so that a test can write what no honest producer would."""

from collections.abc import AsyncIterator

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX, GNU = b"ustar\x0000", b"ustar  \0"


def number(value: int, width: int) -> bytes:
    """A number field: octal digits where they fit, GNU's base-256 for what is bigger or negative."""
    if 0 <= value < 8 ** (width - 1):
        return f"{value:0{width - 1}o}".encode() + b"\0"
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width - 1, "big")


def header(
    name: bytes,
    size: int = 0,
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    mode: int = 0o644,
    magic: bytes = POSIX,
    prefix: bytes = b"",
    fields: dict[int, bytes] | None = None,
    checksum: bytes | None = None,
) -> bytes:
    """One header; `fields` overwrites bytes at offsets before the checksum is made, `checksum` overwrites that."""
    block = bytearray(BLOCK)
    parts = {0: name[:100], 100: number(mode, 8), 108: number(0, 8), 116: number(0, 8), 124: number(size, 12), 136: number(0, 12)}
    parts |= {148: b" " * 8, 156: kind, 157: link[:100], 257: magic, 345: prefix}
    for offset, value in (parts | (fields or {})).items():
        block[offset : offset + len(value)] = value
    block[148:156] = checksum if checksum is not None else f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = b"", *, kind: bytes = b"0", link: bytes = b"", mode: int = 0o644) -> bytes:
    """A header and its data; a name that does not fit gets a pax header of its own."""
    long = {key: value for key, value in ((b"path", name), (b"linkpath", link)) if len(value) > 100}
    return (pax(long) if long else b"") + header(name, len(data), kind=kind, link=link, mode=mode) + padded(data)


def pax(records: dict[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """An extended header of records, or of a raw body."""
    body = records if isinstance(records, bytes) else b"".join(record(key, value) for key, value in records.items())
    return header(b"pax", len(body), kind=kind) + padded(body)


def record(key: bytes, value: bytes) -> bytes:
    """One pax record, whose length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def gnu_long(text: bytes, kind: bytes = b"L") -> bytes:
    """GNU's header for a long name (L) or link target (K)."""
    return header(b"././@LongLink", len(text) + 1, kind=kind, magic=GNU) + padded(text + b"\0")


def archive(*members: bytes) -> bytes:
    """Members and the end mark."""
    return b"".join(members) + END


async def chunked(data: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    """The data as a stream."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
