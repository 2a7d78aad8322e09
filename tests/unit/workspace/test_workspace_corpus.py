"""The hostile archives of the corpus: each ends as rows, a limit or a fault, as it says beside it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dogwatch.contracts.workspace import EntryKind, Manifest
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.export import export
from dogwatch.workspace.ingest import ingest
from dogwatch.workspace.reader import ReadLimits
from dogwatch.workspace.tree import Tree
from tests import hostile

Answer = tuple[str | None, dict[str, str]]
"""What ended the reading, and each row in a word: its reason, its link's target, or its kind."""

OK = {"ok": "file"}
FIRST = {"first": "file"}
ANSWERS: dict[str, Answer] = {
    "D-05": (None, {"a": "directory", "../new_outside/../dest/f": "path_traversal", **OK}),
    "D-08": (
        None,
        {
            "a/t/dummy": "file",
            "b": "directory",
            "c": "duplicate_name",
            "c/esc": "parent_not_a_directory",
            "boom": "../../outside_dir",
            "boom/outside_new": "parent_not_a_directory",
        },
    ),
    "D-09": (None, {"t": "..", "t/outside_new": "parent_not_a_directory"}),
    "D-12": (None, {"a": "b", "b": "a", **OK}),
    "D-13": (None, {**{f"l{at}": f"l{at + 1}" for at in range(41)}, "l41": "file"}),
    "D-18": (None, {"s": "/etc/hostname", "h": "/etc/hostname", **OK}),
    "D-20": (None, {".": "root_replaced", **OK}),
    "D-21": (None, {"x": "duplicate_name", "x/in": "parent_not_a_directory", **OK}),
    "D-22": (None, {"d": "duplicate_name", "d/a": "parent_not_a_directory", "d/hostname": "parent_not_a_directory", **OK}),
    "D-23": (None, {"c": "special_file", **OK}),
    "D-25": (None, {"p": "special_file", **OK}),
    "D-26": (None, {"cont": "file", "unk": "unknown_type", "sock": "unknown_type", **OK}),
    "E-08": ("archive_corrupt", {}),
    "E-09": ("archive_corrupt", OK),
    "E-10": ("total_bytes", {"a": "file_too_big"}),
    "E-11": ("archive_corrupt", FIRST),
    "E-12": ("archive_corrupt", FIRST),
    "E-13": ("archive_truncated", FIRST),
    "E-14": ("archive_truncated", FIRST),
    "E-17": (None, {"\udcff\udcfe.txt": "file", **OK}),
    "E-18": ("archive_corrupt", {}),
    "F-07": (None, {"big": "sparse_unsupported", **OK}),
    "F-11": (None, {"big": "file_too_big", **OK}),
    "F-13": ("pull_timeout", {}),
    "F-14": (None, {}),
}


class Reading:
    """Archives into a store, with a directory beside it that nothing may touch."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "outside").mkdir()
        (base / "scratch").mkdir()
        self.blobs = ObstoreBlobs(str(base / "blobs"))
        self.exports = 0

    async def read(self, value: Any, limits: ReadLimits) -> Manifest:
        """The manifest of one archive, which is exported as well, with everything else unchanged."""
        tree, deposit = Tree(), Deposit(self.blobs, _all, self.base / "scratch")
        fault = await ingest(_chunks(value), tree, deposit, limits)
        await deposit.flush()
        manifest = tree.manifest(fault)
        if len(manifest.entries) < 1000:
            self.exports += 1
            await export(manifest, self.blobs, self.base / "outside" / f"out{self.exports}")
        assert sorted(path.name for path in self.base.iterdir()) == ["blobs", "outside", "scratch"]
        assert len(list((self.base / "outside").iterdir())) == self.exports
        assert list((self.base / "scratch").iterdir()) == []
        return manifest


async def _all(blobs: Mapping[str, int]) -> Sequence[str]:
    return list(blobs)


async def _chunks(value: Any) -> AsyncIterator[bytes]:
    if isinstance(value, bytes):
        yield value
        return
    source = iter(value)
    while (chunk := await asyncio.to_thread(next, source, None)) is not None:
        yield chunk


def said(manifest: Manifest) -> dict[str, str]:
    """Each row in a word."""
    return {row.path: row.reason or row.target or row.kind.value for row in manifest.entries}


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """An empty store."""
    return Reading(tmp_path)


@pytest.mark.parametrize("case_id", ANSWERS)
async def test_each_hostile_archive_has_its_answer(reading: Reading, case_id: str) -> None:
    """Rows as they must be, nothing written elsewhere, and no waiting: none takes longer than its deadline."""
    case = hostile.case(case_id)
    limits = ReadLimits(file_bytes=hostile.LIMIT if case_id == "F-11" else 1 << 40, seconds=2.0 if case_id == "F-13" else 60.0)
    started = time.monotonic()
    manifest = await reading.read(hostile.load(case), limits)
    assert time.monotonic() - started < 60
    assert (manifest.limit, said(manifest)) == ANSWERS[case_id]
    assert manifest.complete is (manifest.limit is None)


async def test_two_pulls_share_nothing(reading: Reading) -> None:
    """A link of the first pull has no meaning for the second."""
    first, second = hostile.load(hostile.case("D-11"))
    assert said(await reading.read(first, ReadLimits())) == {"cur": "/etc"}
    assert said(await reading.read(second, ReadLimits())) == {"cur/new": "file"}


async def test_an_archive_inside_an_archive_is_bytes(reading: Reading) -> None:
    """Only the outer layer is decoded, and only where it is a plain archive."""
    inner = hostile.load(hostile.case("F-02"))
    assert (await reading.read(inner, ReadLimits())).limit in ("archive_corrupt", "archive_truncated")
    manifest = await reading.read(hostile.tar(hostile.m("inner.tar.gz", inner)), ReadLimits())
    assert (manifest.entries[0].size, manifest.complete) == (len(inner), True)


@pytest.mark.parametrize(("case_id", "limit"), [("F-05", "entries"), ("F-10", "name_bytes")])
async def test_volume_ends_at_a_limit(reading: Reading, case_id: str, limit: str) -> None:
    """A partial manifest that names the limit; what came before it is kept."""
    manifest = await reading.read(hostile.load(hostile.case(case_id)), ReadLimits(entries=5000, name_bytes=4 << 20))
    assert (manifest.complete, manifest.limit) == (False, limit)
    assert 500 < len(manifest.entries) <= 5000


async def test_ten_thousand_levels_are_one_row(reading: Reading) -> None:
    """No recursion: too deep is a reason like any other, and its text is cut."""
    manifest = await reading.read(hostile.load(hostile.case("F-06")), ReadLimits())
    assert [row.reason for row in manifest.entries] == ["path_too_deep", None]
    assert len(manifest.entries[0].path) <= 4096


@pytest.mark.parametrize("case", hostile.cases("C"), ids=lambda case: case["id"])
async def test_configuration_is_data_with_a_flag(reading: Reading, case: hostile.Case) -> None:
    """What tools might act on arrives byte for byte and is flagged."""
    value = hostile.load(case)
    path, content = value["path"], value["content"].encode()
    [row] = (await reading.read(hostile.tar(hostile.m(path, content)), ReadLimits())).entries
    assert (row.path, row.kind, row.repo_config) == (path, EntryKind.FILE, True)
    assert await reading.blobs.get(row.sha256 or "") == content
