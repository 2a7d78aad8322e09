"""Uploads: every bad name and every collision has its code, and nothing is stored before all of it is right."""

import base64
import io
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dogwatch.contracts.workspace import EntryKind, Upload
from dogwatch.errors import (
    ERRORS,
    ArchiveCorrupt,
    ArchiveTruncated,
    InvalidRequest,
    PathCollision,
    PathDuplicate,
    PathNotUtf8,
    TooManyFiles,
    UploadTooLarge,
    invalid_request,
)
from dogwatch.workspace.upload import Received, receive
from tests import hostile
from tests.archives import archive, header, member, padded, pax


def submit(paths: Sequence[str] = (), archives: Sequence[bytes] = (), *, portable: bool = False, **limits: int) -> Received:
    """What a door does with a request: the contract first, the archives after."""
    body: dict[str, Any] = {
        "files": [{"path": path, "content": "x"} for path in paths],
        "archives": [{"data_base64": base64.b64encode(data)} for data in archives],
        "portable": portable,
    }
    try:
        upload = Upload.model_validate(body)
    except ValidationError as refused:
        raise invalid_request(refused) from None
    return receive(upload, **limits)


def by_file(path: str) -> Received:
    """The name as that of a single file."""
    return submit([path])


def by_archive(path: str) -> Received:
    """The name as that of an archive's member."""
    return submit(archives=[archive(pax({b"path": path.encode("utf-8", "surrogatepass")}) + member(b"x", b"x"))])


@pytest.mark.parametrize("case", hostile.cases("A"), ids=lambda case: case["id"])
def test_corpus_of_names(case: dict[str, Any]) -> None:
    """Each hostile name gets the answer that is written beside it."""
    path, answer = hostile.load(case), case["right_answer"].split()
    if answer[0] == "KEEP":
        assert [row.path for row in submit([path]).manifest.entries if row.kind is EntryKind.FILE] == [path]
    else:
        with pytest.raises(ERRORS[answer[2].rstrip(";,")]):
            submit([path])


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("case", hostile.cases("B"), ids=lambda case: case["id"])
def test_corpus_of_collisions(case: dict[str, Any], portable: bool) -> None:
    """Each hostile pair gets the answer that is written beside it, and a refusal names both."""
    given_, answer = hostile.load(case), case["right_answer"]
    archives = [archive(*(member(name.encode(), b"y") for name in given_["archive_members"]))] if "archive_members" in given_ else []
    code = answer.split()[2].rstrip(";,")
    if "in portable mode" in answer and not portable:
        assert sorted(row.path for row in submit(given_["paths"], archives).manifest.entries) == sorted(given_["paths"])
        return
    with pytest.raises(ERRORS[code]) as refused:
        submit(given_["paths"], archives, portable=portable)
    named = ["'files'"[1:-1], "archive 1"] if archives else [ascii(path)[1:-1] for path in given_["paths"]]
    assert all(name in refused.value.message for name in named)


REFUSED = {
    "path_empty": [""],
    "path_absolute": ["/", "/etc/passwd", "//x", "/../x"],
    "path_traversal": ["..", "../", "a/../b", "a/b/../../..", "./.."],
    "path_not_canonical": ["./a", "a/", "a//b", "a/.", "a/./b", "./"],
    "path_control_char": [
        *("\0", "a\0b", "a\tb", "a\rb", "\x1b[2J", "a\x7f", "a\x80b", "a\x85b", "a\x9bb"),
        *(f"a{chr(code)}b" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C, 0x2028, 0x2029)),
    ],
    "path_backslash": ["a\\b", "\\", "C:\\x", "\\\\host\\share"],
    "path_not_utf8": ["a\udc80b", "\udfff", "dir/\ud83d"],
    "path_too_long": ["é" * 128, "x/" + "y" * 256, "a/" * 128 + "f", ("d" * 200 + "/") * 20 + "f" * 77, "日" * 86],
}
KEPT = [
    *("~", "~root/x", "-rf", "--help", "$HOME", "${IFS}", "`id`", "%2e%2e/x", "a%00b", "...", "..a", "a..", ". .", " ", "a b ", "a.", "*"),
    *(
        "C:",
        "C:/x",
        "con",
        "nul.txt",
        "aux",
        "a:b",
        "con/x",
        "\u2024\u2024/x",
        "\uff0e\uff0e/x",
        "\ufeffa",
        "a\u200bb",
        "\u00ad",
        "é" * 127,
    ),
    *("a/" * 127 + "f", ("d" * 200 + "/") * 20 + "f" * 76, "日" * 85, "\U0001f600", "e\u0301", "\u0130"),
]


@pytest.mark.parametrize("submitted", [by_file, by_archive])
@pytest.mark.parametrize(
    ("code", "path"), [(code, path) for code, paths in REFUSED.items() for path in paths], ids=lambda value: ascii(value)[:40]
)
def test_other_bad_names_get_their_code(submitted: Callable[[str], Received], code: str, path: str) -> None:
    """The rule holds for the class, in single files and inside archives alike."""
    if submitted is by_archive and path in ("a/", "./a", "./", "../"):  # how every producer spells a directory, or the root's children
        return
    if submitted is by_archive and path in ("", "\0"):  # no name at all
        code = "path_empty" if not path else code
    with pytest.raises(ERRORS[code]) as refused:
        submitted(path)
    assert refused.value.code == code
    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("submitted", [by_file, by_archive])
@pytest.mark.parametrize("path", KEPT, ids=lambda value: ascii(value)[:40])
def test_names_that_only_look_special_are_kept(submitted: Callable[[str], Received], path: str) -> None:
    """Nothing is expanded, folded or normalised."""
    assert [row.path for row in submitted(path).manifest.entries if row.kind is EntryKind.FILE] == [path]


@pytest.mark.parametrize(
    "path", ["con", "CON.txt", "x/nul", "aux .h", "COM1", "lpt¹", "conin$", "C:/x", "a:b", "a.", "a ", "a?", 'a"b', "<a>", "a|b", "a*"]
)
def test_portable_mode_refuses_what_another_system_cannot_hold(path: str) -> None:
    """Device names, their extensions, trailing dots and spaces, reserved characters: in files and in archives."""
    data = archive(member(path.encode(), b"x"))
    for files, archives in (([path], []), ([], [data])):
        with pytest.raises(ERRORS["path_not_portable"]):
            submit(files, archives, portable=True)
        assert submit(files, archives).manifest.files == 1


@given(st.text(max_size=40))
def test_a_name_is_kept_exactly_or_refused(path: str) -> None:
    """There is no third way, whatever the text."""
    try:
        kept = [row.path for row in submit([path]).manifest.entries if row.kind is EntryKind.FILE]
    except InvalidRequest as refused:
        kept = [path] if refused.code.startswith("path_") else []
    assert kept == [path]


@pytest.mark.parametrize(
    ("files", "members", "error"),
    [
        (["a"], [member(b"a/b", b"x")], PathCollision),
        (["a/b"], [member(b"a", b"x")], PathCollision),
        (["a/b"], [member(b"a", kind=b"2", link=b"/etc")], PathCollision),
        (["a"], [member(b"a/", kind=b"5")], PathCollision),
        (["a"], [member(b"a/b/", kind=b"5")], PathCollision),
        (["x"], [member(b"./x", b"x")], PathDuplicate),
        ([], [member(b"x", b"1"), member(b"x", b"2")], PathDuplicate),
        ([], [member(b"x", b"1"), member(b"x/", kind=b"5")], PathCollision),
        ([], [member(b"x", b"1"), member(b"h", kind=b"1", link=b"x"), member(b"h", b"2")], PathDuplicate),
    ],
)
def test_files_and_archives_may_not_claim_one_name(files: list[str], members: list[bytes], error: type[InvalidRequest]) -> None:
    """The refusal says where both came from."""
    with pytest.raises(error) as refused:
        submit(files, [archive(*members)])
    assert "archive 1" in refused.value.message
    assert not files or "files" in refused.value.message


def test_two_archives_may_share_directories_only() -> None:
    """A directory named twice is one directory; a file named twice is a refusal that names both archives."""
    one, two = archive(member(b"d/", kind=b"5"), member(b"d/a", b"1")), archive(member(b"d/", kind=b"5"), member(b"d/b", b"2"))
    assert [row.path for row in submit(archives=[one, two]).manifest.entries] == ["d", "d/a", "d/b"]
    with pytest.raises(PathDuplicate, match="in archive 1 and in archive 3"):
        submit(archives=[one, two, one])


def test_portable_mode_looks_over_files_and_archives() -> None:
    """Names that differ by case or normal form collide, also as directories."""
    for first, second in (("README", "readme"), ("straße", "STRASSE"), ("é", "e\u0301"), ("Src/a", "src/b"), ("a/x", "A")):
        with pytest.raises(PathCollision):
            submit([first], [archive(member(second.encode(), b"x"))], portable=True)
        assert submit([first], [archive(member(second.encode(), b"x"))]).manifest.files == 2


def test_limits_count_files_and_archives_together() -> None:
    """Exactly the limit is accepted."""
    data = archive(member(b"d/", kind=b"5"), member(b"d/b", b"12"))
    assert submit(["a"], [data], max_files=2, max_bytes=3).manifest.size == 3
    with pytest.raises(TooManyFiles):
        submit(["a"], [data], max_files=1)
    with pytest.raises(UploadTooLarge):
        submit(["a"], [data], max_bytes=2)
    with pytest.raises(UploadTooLarge):
        submit([], [archive(header(b"a", 1 << 40) + padded(b"x"))])


def test_damaged_archives_are_refused_whole() -> None:
    """A cut, a broken header, or anything behind the end mark refuses the upload and names the archive."""
    good = archive(member(b"a", b"x"))
    with pytest.raises(ArchiveTruncated, match="archive 2"):
        submit(archives=[archive(), good[:-1]])
    with pytest.raises(ArchiveCorrupt, match="archive 1"):
        submit(archives=[good + good])
    with pytest.raises(ArchiveCorrupt):
        submit(archives=[good.replace(b"a", b"b", 1)])
    with pytest.raises(ArchiveCorrupt):
        submit(archives=[archive(member(b"a", b"x", kind=b"Z"))])
    with pytest.raises(ArchiveCorrupt):
        submit(archives=[archive(member(b"a", kind=b"1", link=b"gone"))])
    with pytest.raises(PathNotUtf8):
        submit(archives=[archive(member(b"\xff", b"x"))])


def test_an_honest_archive_becomes_its_tree() -> None:
    """Modes, links and hard links arrive; parents that the archive does not name are there; special files are said to be left out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, link in (
            ("bin/run", tarfile.REGTYPE, ""),
            ("bin/again", tarfile.LNKTYPE, "bin/run"),
            ("up", tarfile.SYMTYPE, ".."),
            ("p", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o755
            tar.addfile(info)
    received = submit(["bin/config/x"], [out.getvalue()])
    assert [(row.path, row.kind.value, row.mode) for row in received.manifest.entries] == [
        ("bin", "directory", 0o755),
        ("bin/again", "file", 0o755),
        ("bin/config", "directory", 0o755),
        ("bin/config/x", "file", 0o644),
        ("bin/run", "file", 0o755),
        ("p", "skipped", 0),
        ("up", "symlink", 0o777),
    ]
    assert {row.sha256 for row in received.manifest.entries if row.sha256} == set(received.blobs)
