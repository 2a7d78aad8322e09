"""The strict decoder: what it reads, what it refuses, and that nothing makes it loop, allocate or guess."""

import asyncio
import io
import itertools
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.errors import ArchiveCorrupt, ArchiveTruncated
from dogwatch.workspace.reader import Decoder, LimitReached, Member, ReadLimits, read_archive
from tests.archives import BLOCK, END, GNU, archive, chunked, gnu_long, header, member, number, padded, pax

Read = list[tuple[Member, bytes]]
LIMITS = ReadLimits()


def decode(data: bytes, limits: ReadLimits = LIMITS, chunk: int = 1 << 20) -> tuple[Read, Exception | None]:
    """Everything that was read whole before the fault, and the fault."""
    decoder = Decoder(limits)
    read: Read = []
    try:
        for start in range(0, len(data), chunk):
            for event in decoder.feed(data[start : start + chunk]):
                if isinstance(event, Member):
                    read.append((event, b""))
                else:
                    read[-1] = (read[-1][0], read[-1][1] + event)
        decoder.finish()
    except (ArchiveCorrupt, LimitReached) as fault:
        return [pair for pair in read if len(pair[1]) == pair[0].size], fault
    return read, None


def names(read: Read) -> list[bytes]:
    """The names in order."""
    return [one.name for one, _ in read]


SMALL = archive(
    member(b"d/", kind=b"5", mode=0o755),
    member(b"d/a.txt", b"hello"),
    member(b"n" * 150, b"x" * 600),
    gnu_long(b"g" * 150) + header(b"g" * 100, 1, magic=GNU) + padded(b"y"),
    member(b"link", kind=b"2", link=b"../elsewhere"),
    member(b"hard", kind=b"1", link=b"d/a.txt"),
)


def test_reads_each_kind_of_member() -> None:
    """Files, directories and both kinds of links come with their names, modes, bytes and targets."""
    read, fault = decode(SMALL)
    assert fault is None
    assert [(one.name, one.kind, one.link) for one, _ in read] == [
        (b"d/", "directory", b""),
        (b"d/a.txt", "file", b""),
        (b"n" * 150, "file", b""),
        (b"g" * 150, "file", b""),
        (b"link", "symlink", b"../elsewhere"),
        (b"hard", "hardlink", b"d/a.txt"),
    ]
    assert [data for _, data in read] == [b"", b"hello", b"x" * 600, b"y", b"", b""]
    assert read[0][0].mode == 0o755


@given(st.integers(1, 1500))
@settings(max_examples=60, deadline=None)
def test_chunks_of_any_size_say_the_same(size: int) -> None:
    """Where a chunk ends means nothing."""
    assert decode(SMALL, chunk=size) == decode(SMALL)


def test_cut_at_every_byte() -> None:
    """A cut archive is truncated wherever the cut is; what is whole before it is kept and nothing is made up."""
    whole, _ = decode(SMALL)
    for cut in range(len(SMALL)):
        read, fault = decode(SMALL[:cut])
        assert isinstance(fault, ArchiveTruncated), cut
        assert read == whole[: len(read)]


def test_every_flipped_bit_of_a_header_is_noticed() -> None:
    """The checksum covers each bit of a header: no flip passes, except inside the unused room of the checksum's own field."""
    data = archive(member(b"first", b"1"), member(b"a", b"data"))
    second = 2 * BLOCK
    for position, bit in itertools.product(range(second, second + BLOCK), range(8)):
        broken = bytearray(data)
        broken[position] ^= 1 << bit
        read, fault = decode(bytes(broken))
        if position in (second + 148, second + 154, second + 155) and fault is None:  # a leading zero or the field's end
            continue
        assert isinstance(fault, ArchiveCorrupt), position
        assert names(read) == [b"first"]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_archives_never_surprise(data: st.DataObject) -> None:
    """Whatever is changed, also with a right checksum, the answer is rows or one of our errors, within the limits."""
    blocks = [bytearray(SMALL[at : at + BLOCK]) for at in range(0, len(SMALL), BLOCK)]
    for _ in range(data.draw(st.integers(1, 4))):
        block = blocks[data.draw(st.integers(0, len(blocks) - 1))]
        offset = data.draw(st.integers(0, BLOCK - 1))
        block[offset : offset + 12] = data.draw(st.binary(min_size=1, max_size=12))[: BLOCK - offset]
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
    order = data.draw(st.permutations(range(len(blocks))) | st.just(list(range(len(blocks)))))
    limits = ReadLimits(entries=20, total_bytes=1 << 20)
    read, _ = decode(b"".join(blocks[at] for at in order), limits)
    assert len(read) <= limits.entries
    assert sum(len(content) for _, content in read) <= limits.total_bytes


BAD_NUMBERS = [
    b"12z4567\0    ",
    b"-0000000001\0",
    b"+0000000001\0",
    b"0x000000001\0",
    b"00000000009\0",
    b"1 2        \0",
    b"\0" * 12,
    b"\0001",
    b"\xff" * 12,
]


@pytest.mark.parametrize("field", [*BAD_NUMBERS, number(-1024, 12), number(-512, 12), b"\xc0" + b"\0" * 11, b"\xa0" + b"\0" * 11], ids=repr)
def test_garbled_and_negative_sizes_are_refused(field: bytes) -> None:
    """A size that is no size ends the reading at once; the member before it stays."""
    started = time.monotonic()
    read, fault = decode(member(b"ok") + header(b"a", fields={124: field}) + END)
    assert type(fault) is ArchiveCorrupt
    assert names(read) == [b"ok"]
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("offset", [100, 108, 116, 136, 329, 337])
def test_every_other_number_must_be_one_too(offset: int) -> None:
    """Mode, owner, times and device numbers are checked although nobody needs most of them."""
    read, fault = decode(archive(member(b"ok"), header(b"a", fields={offset: b"12z4"})))
    assert type(fault) is ArchiveCorrupt
    assert names(read) == [b"ok"]


@pytest.mark.parametrize("size", [2**33, 2**63, 2**80])
def test_a_huge_size_allocates_nothing(size: int) -> None:
    """A file bigger than the limit becomes a skipped entry, and the total ends the reading."""
    read, fault = decode(header(b"a", size) + b"x" * BLOCK)
    assert [(one.kind, one.reason) for one, _ in read] == [("skipped", "file_too_big")]
    assert isinstance(fault, LimitReached | ArchiveTruncated)


@pytest.mark.parametrize(
    "checksum",
    [b"000000\0 ", b"\0" * 8, b" " * 8, b"zzzzzz\0 ", b"\x80\0\0\0\0\0\x10\0"],
    ids=["zero", "empty", "blank", "garbled", "binary"],
)
def test_a_wrong_checksum_is_refused(checksum: bytes) -> None:
    """What came before the damaged header stays."""
    read, fault = decode(archive(member(b"first", b"1"), header(b"a", 1, checksum=checksum) + padded(b"x"), member(b"ok")))
    assert type(fault) is ArchiveCorrupt
    assert names(read) == [b"first"]


@pytest.mark.parametrize(
    "body",
    [
        b"1" * 200_000,
        b"9999999 path=x\n",
        b"0 path=x\n",
        b"7 path=\n",
        b"11 path=xyz",
        b"10 nothing\n",
        b"12 =nothing\n",
        b"-5 a=b\n",
        b"6 a=b\n\n",
    ],
    ids=["digits", "too-long", "zero", "short", "no-newline", "no-equals", "no-key", "negative", "rest"],
)
def test_garbled_extended_headers_are_refused_quickly(body: bytes) -> None:
    """No record is guessed, and none takes time that grows with the square of its digits."""
    started = time.monotonic()
    _, fault = decode(archive(pax(body), member(b"a")))
    assert type(fault) is ArchiveCorrupt
    assert time.monotonic() - started < 2


def test_extended_headers_say_names_and_sizes() -> None:
    """Path, link target and size of a pax header win over the header's; anything else in it is passed over."""
    records = {b"path": b"real", b"size": b"5", b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"\xff\n=", b"uname": b"root"}
    read, fault = decode(archive(pax(records) + header(b"other") + padded(b"hello"), pax({b"linkpath": b"far"}) + header(b"l", kind=b"2")))
    assert fault is None
    assert [(one.name, data, one.link) for one, data in read] == [(b"real", b"hello", b""), (b"l", b"", b"far")]


@pytest.mark.parametrize(
    "data",
    [
        gnu_long(b"a") + gnu_long(b"b") + header(b"c", magic=GNU),
        pax({b"path": b"a"}) + pax({b"path": b"b"}) + header(b"c"),
        pax({b"path": b"a"}) + gnu_long(b"b") + header(b"c"),
        gnu_long(b"b") + pax({b"path": b"a"}) + header(b"c"),
        pax({b"path": b"a"}, b"g") + header(b"c"),
        pax({b"GNU.sparse.major": b"1"}, b"g") + header(b"c"),
        pax({b"path": b"a"}),
        gnu_long(b"a", b"K"),
        pax({b"size": b"-1"}) + header(b"c"),
        pax({b"size": b"1" * 30}) + header(b"c"),
        header(b"c", magic=b"\0" * 8),
        header(b"c", magic=b"ustar\x0001"),
        header(b"c", 5, kind=b"2", link=b"x") + padded(b"hello"),
        header(b"c", 5, kind=b"5") + padded(b"hello"),
        header(b"c", 5, kind=b"6") + padded(b"hello"),
        bytes(BLOCK) + member(b"c"),
    ],
)
def test_what_readers_disagree_about_is_refused(data: bytes) -> None:
    """An archive that two readers could take for two different trees is damaged."""
    read, fault = decode(archive(member(b"first"), data))
    assert type(fault) is ArchiveCorrupt
    assert names(read) == [b"first"]


def test_a_global_header_of_comments_is_passed_over() -> None:
    """`git archive` writes the commit into one."""
    read, fault = decode(archive(pax({b"comment": b"0" * 40}, b"g"), member(b"a")))
    assert (names(read), fault) == ([b"a"], None)


def test_unknown_and_sparse_members_are_skipped_with_their_data() -> None:
    """The member after them is found."""
    sparse = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"big", b"GNU.sparse.realsize": b"99999999999"}
    data = archive(
        member(b"cont", b"x", kind=b"7"),
        member(b"unk", b"data", kind=b"Z"),
        pax(sparse) + member(b"GNUSparseFile.0/big", b"1\n0\n1\n".ljust(BLOCK, b"\0") + b"A"),
        header(b"old", 1, kind=b"S", magic=GNU, fields={482: b"\1"}) + b"\0" * 504 + b"\1" + b"\0" * 7 + bytes(BLOCK) + padded(b"x"),
        *(member(b"special", kind=kind) for kind in (b"3", b"4", b"6")),
        member(b"ok", b"fine"),
    )
    read, fault = decode(data)
    assert fault is None
    assert [(one.name, one.reason) for one, _ in read] == [
        (b"cont", None),
        (b"unk", "unknown_type"),
        (b"big", "sparse_unsupported"),
        (b"old", "sparse_unsupported"),
        *[(b"special", "special_file")] * 3,
        (b"ok", None),
    ]


def test_limits_accept_what_they_name_and_nothing_more() -> None:
    """Exactly the limit passes; one more is skipped, or ends the reading with what came before."""
    data = archive(member(b"a", b"12345"), member(b"b", b"12345"))
    assert decode(data, ReadLimits(entries=2, file_bytes=5, total_bytes=10, name_bytes=2))[1] is None
    for limits, expected, count in (
        (ReadLimits(entries=1), "entries", 1),
        (ReadLimits(total_bytes=9), "total_bytes", 1),
        (ReadLimits(name_bytes=1), "name_bytes", 1),
    ):
        read, fault = decode(data, limits)
        assert isinstance(fault, LimitReached)
        assert (fault.limit, len(read)) == (expected, count)
    read, fault = decode(data, ReadLimits(file_bytes=4))
    assert (fault, [one.reason for one, _ in read]) == (None, ["file_too_big"] * 2)
    _, fault = decode(archive(pax({b"path": b"x" * 5000}) + header(b"a")), ReadLimits(header_bytes=5000))
    assert isinstance(fault, LimitReached)
    assert fault.limit == "header_bytes"


async def test_a_drip_ends_at_the_deadline_and_closes_the_source() -> None:
    """The clock runs over the whole stream, not over a chunk."""
    closed = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        try:
            for byte in archive(member(b"a", b"x" * 4096)):
                yield bytes([byte])
                await asyncio.sleep(0.05)
        finally:
            closed.set()

    with pytest.raises(LimitReached, match="pull_timeout"):
        [_ async for _ in read_archive(drip(), ReadLimits(seconds=0.3))]
    assert closed.is_set()


async def test_an_endless_stream_is_left_at_the_end_mark() -> None:
    """Nothing is read beyond the two zero blocks, and the source is closed."""
    served, closed = [0], asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield member(b"a", b"x")
            while True:
                served[0] += 1
                yield b"\0" * 65536
        finally:
            closed.set()

    events = [event async for event in read_archive(endless(), LIMITS)]
    assert len(events) == 2
    assert served[0] == 1
    assert closed.is_set()


async def test_an_empty_stream_is_truncated() -> None:
    """No bytes are no archive."""
    with pytest.raises(ArchiveTruncated):
        [_ async for _ in read_archive(chunked(b""), LIMITS)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with what real trees have: long and odd names, links, modes, empty things."""
    root = tmp_path / "tree"
    (root / "sub" / ("deep" * 20) / ("er" * 40)).mkdir(parents=True)
    (root / "empty dir").mkdir(mode=0o750)
    (root / "empty").touch()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "sub" / ("deep" * 20) / ("er" * 40) / "ü.bin").write_bytes(bytes(range(256)) * 300)
    (root / "dangling").symlink_to("/no/where/" + "far" * 60)
    (root / "up").symlink_to("..")
    (root / "copy").hardlink_to(root / "run.sh")
    (root / "new\nline").write_text("n")
    return root


def expected_of(root: Path) -> Iterator[tuple[bytes, bytes]]:
    """What the disk says: bytes of files, targets of links behind an arrow, a slash for directories."""
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root)).encode()
        yield name, b"->" + str(path.readlink()).encode() if path.is_symlink() else b"/" if path.is_dir() else path.read_bytes()


def as_tree(read: Read) -> dict[bytes, bytes]:
    """The same, as the reader says it."""
    found: dict[bytes, bytes] = {}
    for one, data in read:
        name = one.name.removeprefix(b"./").removesuffix(b"/")
        kinds = {"symlink": b"->" + one.link, "directory": b"/", "file": data}
        found[name] = found[one.link.removeprefix(b"./")] if one.kind == "hardlink" else kinds[one.kind]
    return {name: data for name, data in found.items() if name not in (b"", b".")}


@pytest.mark.parametrize("style", ["gnu", "ustar", "posix", "oldgnu"])
def test_reads_what_gnu_tar_writes(tree: Path, style: str) -> None:
    """Every format of GNU tar that can hold the tree gives the tree."""
    if style == "ustar":
        (tree / "dangling").unlink()  # its target is longer than that format can say
    done = subprocess.run(["tar", "-c", f"--format={style}", "-C", str(tree), "."], capture_output=True, check=True)
    read, fault = decode(done.stdout)
    assert fault is None
    assert as_tree(read) == dict(expected_of(tree))


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_python_writes(tree: Path, style: int) -> None:
    """Both formats of the standard library give the tree."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=style) as out:
        out.add(tree, arcname=".")
    read, fault = decode(written.getvalue())
    assert fault is None
    assert as_tree(read) == dict(expected_of(tree))


def test_old_archives_without_a_magic_are_refused(tree: Path) -> None:
    """The format of 1979 has no mark by which it can be told from noise."""
    done = subprocess.run(["tar", "-c", "--format=v7", "-C", str(tree), "empty"], capture_output=True, check=True)
    assert type(decode(done.stdout)[1]) is ArchiveCorrupt
