"""What a manifest means: equal trees have equal digests, and the differences are what a person would say."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.contracts.workspace import Changes, Entry, EntryKind, Manifest
from dogwatch.workspace.diff import MAX_BYTES, unified_diff
from dogwatch.workspace.manifest import changes, compare, digest


def file(path: str, text: str = "", mode: int = 0o644) -> Entry:
    """A file's entry."""
    return Entry(path=path, kind=EntryKind.FILE, mode=mode, size=len(text), sha256=hashlib.sha256(text.encode()).hexdigest())


def skipped(path: str, reason: str = "changed") -> Entry:
    """A skipped entry."""
    return Entry(path=path, kind=EntryKind.SKIPPED, mode=0, reason=reason)


def link(path: str, target: str) -> Entry:
    """A link's entry."""
    return Entry(path=path, kind=EntryKind.SYMLINK, mode=0o777, target=target)


def folder(path: str) -> Entry:
    """A directory's entry."""
    return Entry(path=path, kind=EntryKind.DIRECTORY, mode=0o755)


def tree(*entries: Entry, complete: bool = True) -> Manifest:
    """A manifest of these entries."""
    return Manifest(entries=entries, complete=complete)


def test_the_digest_is_the_documented_layout() -> None:
    """Anybody can compute it from the description."""
    manifest = tree(file("b", "x"), link("a\udcff", "t"), skipped("s", "special_file"), folder("d"))
    sha = hashlib.sha256(b"x").hexdigest().encode()
    fields = [
        (b"a\xff", b"symlink", b"777", b"t"),
        (b"b", b"file", b"644", sha),
        (b"d", b"directory", b"755", b""),
        (b"s", b"skipped", b"0", b"special_file"),
    ]
    layout = b"dogwatch-manifest-1\n" + b"".join(b"%d:%b," % (len(text), text) for row in fields for text in row)
    assert digest(manifest) == hashlib.sha256(layout).hexdigest()


def test_equal_trees_have_equal_digests() -> None:
    """Order of entries and flags mean nothing; every fact of the tree does."""
    entries = [file("a", "1"), file("b", "2"), link("c", "a"), folder("d")]
    first = digest(tree(*entries))
    random.Random(1).shuffle(entries)
    assert digest(tree(*entries)) == first
    assert digest(tree(*(row.model_copy(update={"repo_config": True, "reason": None}) for row in entries))) == first
    others = [
        tree(*entries[:-1]),
        tree(*(row.model_copy(update={"mode": 0o600}) for row in entries)),
        tree(*(row.model_copy(update={"path": row.path + "x"}) for row in entries)),
        tree(file("a", "2"), file("b", "1"), link("c", "a"), folder("d")),
        tree(file("a", "1"), file("b", "2"), link("c", "b"), folder("d")),
    ]
    assert len({first, *map(digest, others)}) == len(others) + 1


def test_compare_says_what_happened_to_each_path() -> None:
    """Bytes, mode, kind and target count; the order is that of the paths' bytes."""
    before = tree(file("same"), file("bytes", "1"), file("mode"), file("kind"), link("target", "a"), file("gone"), file("a-b"))
    after = tree(
        file("same"), file("bytes", "2"), file("mode", mode=0o755), link("kind", "x"), link("target", "b"), file("new"), file("a/b")
    )
    assert dict(compare(before, after)) == {
        "same": "unchanged",
        "bytes": "modified",
        "mode": "modified",
        "kind": "modified",
        "target": "modified",
        "gone": "deleted",
        "a-b": "deleted",
        "a/b": "added",
        "new": "added",
    }
    assert [path for path, _ in compare(before, after)][:2] == ["a-b", "a/b"]
    assert changes(before, after) == Changes(added=2, modified=4, deleted=2)


def test_what_could_not_be_seen_is_not_deleted() -> None:
    """Neither below a directory that could not be read, nor beyond the limit that ended the reading, nor where a file was skipped."""
    before = tree(folder("d"), file("d/a"), file("d/e/b"), file("z"), file("f"))
    assert changes(before, tree(skipped("d", "unreadable"), skipped("f"))) == Changes(deleted=1, skipped=2)
    assert changes(before, tree(folder("d"), complete=False)) == Changes()
    assert changes(tree(skipped("s")), tree()) == Changes()


@given(st.lists(st.sampled_from(["a", "b", "c/d"]), unique=True), st.lists(st.sampled_from(["a", "b", "c/d"]), unique=True))
def test_every_path_is_said_once(old: list[str], new: list[str]) -> None:
    """Over any two trees, each path of either appears exactly once."""
    found = compare(tree(*map(file, old)), tree(*map(file, new)))
    assert sorted(path for path, _ in found) == sorted({*old, *new})


def test_a_diff_is_one_that_patch_understands() -> None:
    """Added, removed and changed files, and files without a newline at the end."""
    assert (
        unified_diff(b"1\n2\n3\n", b"1\n2\nthree", "f")
        == "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n 1\n 2\n-3\n+three\n\\ No newline at end of file\n"
    )
    assert unified_diff(None, b"a\n", "f") == "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+a\n"
    assert unified_diff(b"a\r\n", None, "f") == "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\r\n"
    assert unified_diff(b"a\n", b"a\n", "f") == ""


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\n", b"x" * (MAX_BYTES + 1), b"\n".join(b"%d" % at for at in range(9000))])
def test_what_is_no_text_or_too_big_has_no_diff(data: bytes) -> None:
    """Nobody waits for a comparison whose time grows with the square of the lines."""
    assert unified_diff(b"1\n" * 1000, data, "f") is None
