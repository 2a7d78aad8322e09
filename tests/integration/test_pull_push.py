"""Files into and out of a real directory through real find and tar: honest trees arrive whole, hostile ones cost a row each."""

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest
from dogwatch.errors import BlobMissing, CommandFailed
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.manifest import changes, digest
from dogwatch.workspace.pull import pull
from dogwatch.workspace.push import push
from dogwatch.workspace.reader import ReadLimits
from tests.process_sandbox import ProcessSandbox

NOBODY = 65534


class Site:
    """A sandbox's directory, and a store to pull it into."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.root.mkdir()
        self.scratch = base / "scratch"
        self.scratch.mkdir()
        self.blobs = ObstoreBlobs(str(base / "blobs"))
        self.sandbox = ProcessSandbox(str(self.root))

    async def pull(self, limits: ReadLimits | None = None, exclude: Sequence[str] = ()) -> Manifest:
        """What collecting does."""
        manifest = await pull(self.sandbox, str(self.root), Deposit(self.blobs, self._note, self.scratch), limits, exclude)
        assert list(self.scratch.iterdir()) == []
        for row in manifest.entries:
            assert row.kind is not EntryKind.FILE or len(await self.blobs.get(row.sha256 or "")) == row.size
        return manifest

    async def rows(self) -> dict[str, Entry]:
        """The entries of a pull that is complete."""
        manifest = await self.pull()
        assert manifest.complete, manifest.limit
        return {row.path: row for row in manifest.entries}

    async def _note(self, blobs: Mapping[str, int]) -> Sequence[str]:
        return list(blobs)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty directory."""
    return Site(tmp_path)


def grow(root: Path) -> None:
    """A tree with everything that may rightly be in one."""
    (root / "src" / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "locked").mkdir()
    (root / "locked" / "in").write_text("in")
    (root / "locked-").write_text("sorts between the directory and what is in it")
    (root / "src" / "main.py").write_text("print(1)\n")
    (root / "src" / "run").write_text("#!/bin/sh\n")
    (root / "src" / "run").chmod(0o755)
    (root / "src" / "deep" / "er" / "big").write_bytes(os.urandom(3_000_000))
    (root / "link").symlink_to("/etc/passwd")
    (root / "src" / "up").symlink_to("../" + "x" * 200)
    (root / "twin").hardlink_to(root / "src" / "run")
    for name in (
        b"new\nline",
        b"\xff\xfe",
        b"-rf",
        b"--checkpoint-action=exec=true",
        b"[x]*?",
        b"a\\nb",
        b"q\"u'o",
        b"sp ace",
        b"n" * 255,
        "ü".encode(),
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(name)  # noqa: PTH118 - the name is bytes
    (root / "locked").chmod(0o555)


async def test_a_tree_goes_out_and_in_again(site: Site, tmp_path: Path) -> None:
    """Pull, push elsewhere, pull there: the same digest; files are as new as the push, for tools that refuse 1970."""
    grow(site.root)
    manifest = await site.pull()
    assert manifest.complete
    assert {row.kind for row in manifest.entries} == {EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.SYMLINK}
    assert len(manifest.entries) == len(list(site.root.rglob("*")))
    other = tmp_path / "other"
    other.mkdir()
    await push(site.sandbox, manifest, site.blobs, str(other))
    (tmp_path / "root").rename(tmp_path / "before")
    other.rename(tmp_path / "root")
    again = await site.pull()
    assert digest(again) == digest(manifest)
    assert changes(manifest, again).model_dump() == {"added": 0, "modified": 0, "deleted": 0, "skipped": 0}
    assert (site.root / "src" / "main.py").stat().st_mtime > 1_000_000_000
    assert (site.root / "link").readlink() == Path("/etc/passwd")
    assert stat.S_IMODE((site.root / "locked").stat().st_mode) == 0o555


async def test_an_empty_directory(site: Site) -> None:
    """Nothing is a tree too, both ways."""
    manifest = await site.pull()
    assert (manifest.entries, manifest.complete) == ((), True)
    await push(site.sandbox, manifest, site.blobs, str(site.root))
    assert list(site.root.iterdir()) == []


async def test_special_files_are_rows(site: Site) -> None:
    """FIFOs, sockets and devices are named and skipped; nobody waits for them."""
    os.mkfifo(site.root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(site.root / "socket"))
        if os.geteuid() == 0:
            os.mknod(site.root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (site.root / "ok").write_text("fine")
        rows = await site.rows()
    assert rows.pop("ok").kind is EntryKind.FILE
    assert {row.reason for row in rows.values()} == {"special_file"}
    assert len(rows) >= 2


async def test_what_cannot_be_read_is_a_row(site: Site) -> None:
    """A file and a directory without permission are skipped by name; what lies beside them arrives. Nothing counts as deleted."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    for name in ("closed", "listable", "enterable", "open"):
        (site.root / name).mkdir()
        (site.root / name / "f").write_text(name)
    (site.root / "secret").write_text("x")
    (site.root / "dangling").symlink_to("nowhere")
    before = await site.pull()
    for name, mode in (("closed", 0o000), ("listable", 0o744), ("enterable", 0o711), ("secret", 0o000)):
        (site.root / name).chmod(mode)
    for path in (site.root.parent, *site.root.parents):
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o005:
            path.chmod(0o755)
    site.sandbox.uid = NOBODY
    manifest = await site.pull()
    assert manifest.complete
    assert {row.path: row.reason for row in manifest.entries} == {
        "closed": "unreadable",
        "listable": "unreadable",
        "enterable": "unreadable",
        "secret": "unreadable",
        "dangling": None,
        "open": None,
        "open/f": None,
    }
    assert changes(before, manifest).deleted == 0


async def test_a_file_that_never_stands_still_is_skipped(site: Site) -> None:
    """A log that grows all the time is said to have changed; its neighbours arrive, and what is kept matches its digest."""
    stop = asyncio.Event()

    async def scribble() -> None:
        with (site.root / "log").open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"line\n")
                await asyncio.sleep(0)

    (site.root / "calm").write_text("calm")
    scribbling = asyncio.ensure_future(scribble())
    try:
        rows = await site.rows()
    finally:
        stop.set()
        await scribbling
    assert (rows["log"].kind, rows["log"].reason) == (EntryKind.SKIPPED, "changed")
    assert rows["calm"].kind is EntryKind.FILE


class Meddler(ProcessSandbox):
    """A sandbox in which something happens to the files when tar starts for the n-th time."""

    def __init__(self, workspace: str, *meddling: object) -> None:
        super().__init__(workspace)
        self.meddling = list(meddling)
        self.tars = 0

    async def stream(self, argv: Sequence[str], **options: object) -> AsyncIterator[bytes]:
        """The same, after the next piece of meddling."""
        if argv[0] == "tar":
            self.tars += 1
            if self.meddling and callable(act := self.meddling.pop(0)):
                act()
        async for chunk in super().stream(argv, **options):  # type: ignore[arg-type]
            yield chunk


async def test_a_file_that_changed_once_is_read_again(site: Site) -> None:
    """Changed, new, removed and replaced between the scan and the reading: one more reading, and everything is as it is now."""
    for name in ("changed", "removed", "replaced"):
        (site.root / name).write_text("before")

    def meddle() -> None:
        (site.root / "changed").write_text("after!")
        (site.root / "removed").unlink()
        (site.root / "replaced").unlink()
        (site.root / "replaced").mkdir()
        (site.root / "replaced" / "in").write_text("in")
        (site.root / "new").write_text("new")

    site.sandbox = Meddler(str(site.root), meddle)
    rows = await site.rows()
    assert set(rows) == {"changed", "replaced", "replaced/in", "new"}
    assert {row.reason for row in rows.values()} == {None}
    assert rows["replaced"].kind is EntryKind.DIRECTORY
    assert await site.blobs.get(rows["changed"].sha256 or "") == b"after!"
    assert site.sandbox.tars == 2


async def test_what_changes_during_both_readings_is_skipped(site: Site) -> None:
    """Also what appears during the second: it was seen and not kept."""
    (site.root / "f").write_text("0")
    (site.root / "gone").write_text("0")

    def first() -> None:
        (site.root / "f").write_text("11")
        (site.root / "gone").write_text("11")

    def second() -> None:
        (site.root / "f").write_text("222")
        (site.root / "gone").unlink()
        (site.root / "late").write_text("late")

    site.sandbox = Meddler(str(site.root), first, second)
    assert {path: row.reason for path, row in (await site.rows()).items()} == {"f": "changed", "late": "changed"}


async def test_limits_keep_what_came_before_them(site: Site) -> None:
    """A limit gives a partial manifest that names it; a big file costs only itself."""
    for at in range(10):
        (site.root / f"f{at}").write_bytes(b"x" * 100)
    (site.root / "big").write_bytes(b"x" * 1001)
    manifest = await site.pull(ReadLimits(file_bytes=1000))
    assert (manifest.complete, manifest.files) == (True, 10)
    assert manifest.entries[0].reason == "file_too_big"
    manifest = await site.pull(ReadLimits(total_bytes=1201))
    assert (manifest.complete, manifest.limit, manifest.files) == (False, "total_bytes", 3)
    manifest = await site.pull(ReadLimits(entries=5))
    assert (manifest.complete, manifest.limit, len(manifest.entries)) == (False, "entries", 5)
    manifest = await site.pull(ReadLimits(name_bytes=9))
    assert (manifest.complete, manifest.limit) == (False, "name_bytes")
    manifest = await site.pull(ReadLimits(seconds=0.0))
    assert (manifest.complete, manifest.limit) == (False, "pull_timeout")


async def test_excluded_is_a_row_and_not_looked_into(site: Site) -> None:
    """What a pattern names is said to be there; everything else arrives."""
    for directory in ("node_modules", "a/node_modules", "src"):
        (site.root / directory).mkdir(parents=True)
        (site.root / directory / "f").write_text("x")
    manifest = await site.pull(exclude=["node_modules", "*/node_modules"])
    assert {row.path: row.reason for row in manifest.entries} == {
        "a": None,
        "a/node_modules": "excluded",
        "node_modules": "excluded",
        "src": None,
        "src/f": None,
    }


async def test_a_very_deep_tree(site: Site) -> None:
    """Deeper than is kept: the levels that are kept arrive, the one after them says so, and a file deep down breaks nothing."""
    descriptor = os.open(site.root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=descriptor)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    (site.root / "ok").write_text("fine")
    try:
        rows = await site.rows()
    finally:
        await site.sandbox.exec(["rm", "-rf", str(site.root / ("d" * 20))])
    assert rows["ok"].kind is EntryKind.FILE
    assert sum(row.kind is EntryKind.DIRECTORY for row in rows.values()) == 128
    assert [row.reason for row in rows.values() if row.reason] == ["path_too_deep"]


async def test_ten_thousand_files(site: Site) -> None:
    """A tree of many small files arrives whole."""
    for directory in range(100):
        (site.root / f"d{directory}").mkdir()
        for at in range(100):
            (site.root / f"d{directory}" / f"f{at}").write_text(f"{directory}.{at}")
    manifest = await site.pull()
    assert (manifest.complete, manifest.files, len(manifest.entries)) == (True, 10_000, 10_100)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exec cat /dev/zero", "empty"),
        ('/usr/bin/tar "$@" | head -c 1500', "archive_truncated"),
        ("/usr/bin/tar \"$@\" | tr 'u' 'v'", "archive_corrupt"),
        ('/usr/bin/tar "$@"; exit 2', "complete"),
        ('/usr/bin/tar "$@"; exec cat /dev/urandom', "complete"),
        ("exit 3", "failed"),
    ],
)
async def test_a_tar_that_lies(site: Site, tmp_path: Path, script: str, outcome: str) -> None:
    """Whatever the sandbox's tar does, the answer comes soon: rows that match their bytes, a reason, or one error."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "tar").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "tar").chmod(0o755)
    for at in range(5):
        (site.root / f"f{at}").write_bytes(b"data" * 100)
    site.sandbox.path = f"{programs}:/usr/bin:/bin"
    async with asyncio.timeout(60):
        if outcome == "failed":
            with pytest.raises(CommandFailed):
                await site.pull()
            return
        manifest = await site.pull()
    if outcome == "empty":  # a whole archive of nothing: what was listed could not be read
        assert {row.reason for row in manifest.entries} == {"unreadable"}
    elif outcome == "complete":
        assert (manifest.complete, manifest.files) == (True, 5)
    else:
        assert (manifest.complete, manifest.limit) == (False, outcome)
        assert manifest.files < 5


async def test_a_find_that_lies(site: Site, tmp_path: Path) -> None:
    """A listing that is none is refused; so is a missing directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for script in ("echo hello", "head -c 150000 /dev/urandom", r"printf '+\0f\0-1\0x\0s\0p\0'"):
        (programs / "find").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "find").chmod(0o755)
        site.sandbox.path = f"{programs}:/usr/bin:/bin"
        with pytest.raises(CommandFailed):
            await site.pull()
    site.sandbox.path = "/usr/bin:/bin"
    shutil.rmtree(site.root)
    with pytest.raises(CommandFailed):
        await site.pull()


async def test_a_push_that_fails_says_why(site: Site) -> None:
    """A file in the way, a missing directory or a missing blob: an error with its cause."""
    (site.root / "d").mkdir()
    (site.root / "d" / "f").write_text("x")
    manifest = await site.pull()
    with pytest.raises(CommandFailed, match="tar in the sandbox"):
        await push(site.sandbox, manifest, site.blobs, str(site.root / "gone"))
    for row in manifest.entries:
        await site.blobs.delete(row.sha256 or "0" * 64)
    with pytest.raises(BlobMissing):
        await push(site.sandbox, manifest, site.blobs, str(site.root))
