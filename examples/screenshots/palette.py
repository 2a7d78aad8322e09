"""A screenshot as a PNG with at most 256 colours: a third of its size, and nobody sees a difference."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = 256


def with_palette(png: bytes) -> bytes:
    """The same picture with its most frequent colours; each other colour becomes the nearest of them.

    Takes what Chromium writes: 8 bits per channel, red, green and blue, with or without alpha, not interlaced.
    """
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", _chunk(png, b"IHDR"))
    if depth != 8 or kind not in (2, 6) or interlaced:
        raise ValueError("not a picture as Chromium writes them")
    pixels = list(_pixels(zlib.decompress(_chunk(png, b"IDAT")), width, 3 if kind == 2 else 4))
    counted = Counter(pixels)
    palette = [colour for colour, _ in counted.most_common(_COLOURS)]
    places = {colour: place for place, colour in enumerate(palette)}
    for colour in counted.keys() - places.keys():
        places[colour] = min(range(len(palette)), key=lambda place: _distance(palette[place], colour))
    indices = bytes(places[pixel] for pixel in pixels)
    rows = b"".join(b"\0" + indices[row * width : (row + 1) * width] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_framed(name, data) for name, data in chunks)


def _chunk(png: bytes, wanted: bytes) -> bytes:
    """The content of all chunks of one name."""
    found, at = b"", len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == wanted:
            found += png[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def _pixels(data: bytes, width: int, channels: int) -> Iterator[bytes]:
    """The colours of all pixels, each row's filter undone."""
    stride = width * channels
    above = bytearray(stride)
    for start in range(0, len(data), stride + 1):
        row = bytearray(data[start + 1 : start + 1 + stride])
        _unfilter(data[start], row, above, channels)
        yield from (bytes(row[at : at + 3]) for at in range(0, stride, channels))
        above = row


def _unfilter(kind: int, row: bytearray, above: bytearray, back: int) -> None:
    for at in range(len(row)):
        left, up = (row[at - back] if at >= back else 0), above[at]
        if kind == 1:
            row[at] = (row[at] + left) & 255
        elif kind == 2:
            row[at] = (row[at] + up) & 255
        elif kind == 3:
            row[at] = (row[at] + (left + up) // 2) & 255
        elif kind == 4:
            row[at] = (row[at] + _paeth(left, up, above[at - back] if at >= back else 0)) & 255


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _framed(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
