"""The rows of a pull: structure attacks end as data, last member wins, one bad entry costs one row."""

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest
from dogwatch.workspace.reader import Decoder, Member, ReadLimits
from dogwatch.workspace.tree import Tree
from tests.archives import archive, member, pax


def rows(*archives: bytes) -> dict[str, Entry]:
    """The rows of one pull of these archives, one read after the other."""
    tree = Tree()
    for data in archives:
        for event in Decoder(ReadLimits()).feed(data):
            if isinstance(event, Member):
                tree.add(event, "0" * 64 if event.kind == "file" else None)
    manifest = tree.manifest()
    assert list(manifest.entries) == sorted(manifest.entries, key=lambda row: row.path.encode("utf-8", "surrogateescape"))
    assert Manifest.model_validate(manifest.model_dump()) == manifest, "rows are made without validation and must pass it"
    return {row.path: row for row in manifest.entries}


def said(found: dict[str, Entry]) -> dict[str, str]:
    """Each row in a word: its reason, or its link's target, or its kind."""
    return {path: row.reason or row.target or row.kind.value for path, row in found.items()}


OK = member(b"ok", b"fine")


def test_names_that_lead_out_are_skipped() -> None:
    """No spelling of a way out becomes a path; the entry after each is an ordinary row."""
    long = b"n" * 200 + b"/"
    found = rows(
        archive(
            member(b"../new/../dest/f", b"x"),
            member(b"a/../../b", b"x"),
            member(b"/etc/x", b"x"),
            member(b"a//b", b"x"),
            member(b"a/./b", b"x"),
            member(b"././c", b"x"),
            member(b"", b"x"),
            member(b".", b"iamafile"),
            member(b"..", kind=b"5"),
            pax({b"path": b"nul\0l"}) + member(b"x", b"x"),
            member(b"d/" * 10_000 + b"f", b"x"),
            member(b"d/" * 128 + b"f", b"x"),
            member(long * 20 + b"x" * 77, b"x"),
            member(b"y" * 256, b"x"),
            OK,
        )
    )
    assert found.pop("ok").kind is EntryKind.FILE
    reasons = [row.reason for row in found.values()]
    assert {row.kind for row in found.values()} == {EntryKind.SKIPPED}
    assert sorted(set(map(str, reasons))) == [
        "bad_name",
        "path_absolute",
        "path_too_deep",
        "path_too_long",
        "path_traversal",
        "root_replaced",
    ]
    assert reasons.count("path_traversal") == 3
    assert reasons.count("bad_name") == 5


def test_names_of_exactly_the_limits_are_kept() -> None:
    """255 bytes a component, 4,096 bytes a path, 128 levels."""
    names = ["é".encode() * 127 + b"x", (b"d" * 200 + b"/") * 20 + b"f" * 76, b"d/" * 127 + b"f"]
    assert set(said(rows(archive(*(member(name) for name in names)))).values()) == {"file"}


def test_what_lies_below_a_link_or_a_file_is_skipped() -> None:
    """The last member of a name decides, also over what was put below it before."""
    assert said(
        rows(
            archive(
                member(b"d/", kind=b"5"),
                member(b"d/a", b"1"),
                member(b"d", kind=b"2", link=b"/etc"),
                member(b"d/hostname", b"x"),
                member(b"t/", kind=b"2", link=b".."),
                member(b"t/outside", b"x"),
                member(b"x", b"1"),
                member(b"x/", kind=b"5"),
                member(b"x/in", b"2"),
                member(b"x", kind=b"2", link=b"/etc/passwd"),
                member(b"p", kind=b"6"),
                member(b"p/q/r", b"x"),
                OK,
            )
        )
    ) == {
        "d": "duplicate_name",
        "d/a": "parent_not_a_directory",
        "d/hostname": "parent_not_a_directory",
        "t": "..",
        "t/outside": "parent_not_a_directory",
        "x": "duplicate_name",
        "x/in": "parent_not_a_directory",
        "p": "special_file",
        "p/q/r": "parent_not_a_directory",
        "ok": "file",
    }


def test_a_name_given_twice_is_flagged_and_the_last_one_wins() -> None:
    """A directory may be named again and again: that is how archives are made."""
    found = rows(archive(member(b"a", b"1"), member(b"a", b"22"), member(b"d", kind=b"5"), member(b"d/", kind=b"5", mode=0o700)))
    assert (found["a"].size, found["a"].reason) == (2, "duplicate_name")
    assert (found["d"].mode, found["d"].reason) == (0o700, None)


def test_links_are_data() -> None:
    """Loops, chains and targets anywhere are kept as text; nothing is resolved."""
    chain = [member(b"l%d" % at, kind=b"2", link=b"l%d" % (at + 1)) for at in range(41)]
    found = said(
        rows(archive(*chain, member(b"l41", b"end"), member(b"loop", kind=b"2", link=b"loop"), member(b"out", kind=b"2", link=b"/etc")))
    )
    assert found["l40"] == "l41"
    assert (found["loop"], found["out"]) == ("loop", "/etc")
    no_target = rows(archive(member(b"a", kind=b"2"), member(b"b", kind=b"2", link=b"x" * 5000)))
    assert said(no_target) == {"a": "bad_link", "b": "bad_link"}


def test_hard_links_are_the_row_they_name() -> None:
    """A hard link to a file has its digest, one to a link is the same link, one to anything else is skipped: no disk is asked."""
    found = rows(
        archive(
            member(b"f", b"1", mode=0o755),
            member(b"h", kind=b"1", link=b"./f"),
            member(b"s", kind=b"2", link=b"/etc/hostname"),
            member(b"hs", kind=b"1", link=b"s"),
            member(b"etc", kind=b"1", link=b"/etc/passwd"),
            member(b"later", kind=b"1", link=b"z"),
            member(b"z", b"2"),
        )
    )
    assert said(found) == {
        "f": "file",
        "h": "file",
        "s": "/etc/hostname",
        "hs": "/etc/hostname",
        "etc": "hardlink",
        "later": "hardlink",
        "z": "file",
    }
    assert (found["h"].sha256, found["h"].mode, found["h"].size) == (found["f"].sha256, 0o755, 1)


def test_undecodable_names_are_byte_exact() -> None:
    """Bytes that are no UTF-8 survive as surrogate escapes; nothing is normalised."""
    names = [b"\xff\xfe.txt", "café".encode(), "cafe\u0301".encode(), b"new\nline", b"\xed\xa0\x80"]
    found = rows(archive(*map(member, names)))
    assert {path.encode("utf-8", "surrogateescape") for path in found} == set(names)


def test_configuration_is_flagged() -> None:
    """What tools act on is told apart, whatever its case."""
    found = rows(archive(*map(member, [b".Claude/Settings.json", b".mcp.json", b"a/.git", b"sub/CLAUDE.md", b"src/main.py"])))
    assert [path for path, row in sorted(found.items()) if not row.repo_config] == ["src/main.py"]
