"""Manifest to archive to manifest, and through a directory on disk: nothing is lost, nothing is read twice, little is held."""

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogwatch.contracts.workspace import EntryKind, Manifest, Upload
from dogwatch.errors import BlobCorrupt, BlobMissing, InvalidRequest, PathCollision, StorageUnavailable, TooManyFiles, UploadTooLarge
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import SMALL, Deposit
from dogwatch.workspace.directory import pack
from dogwatch.workspace.export import export
from dogwatch.workspace.ingest import ingest
from dogwatch.workspace.manifest import digest
from dogwatch.workspace.reader import ReadLimits
from dogwatch.workspace.tree import Tree, entry
from dogwatch.workspace.upload import receive
from dogwatch.workspace.writer import write_archive
from tests.archives import archive, chunked, member


class Store:
    """A real blob store, and a ledger that says which blobs it knows."""

    def __init__(self, base: Path) -> None:
        self.scratch = base / "scratch"
        self.scratch.mkdir(parents=True)
        self.blobs = ObstoreBlobs(str(base / "blobs"))
        self.known: dict[str, int] = {}
        self.announced: list[int] = []

    async def note(self, blobs: Mapping[str, int]) -> Sequence[str]:
        """As `Records.note_blobs`."""
        self.announced.append(len(blobs))
        missing = [sha256 for sha256 in blobs if sha256 not in self.known]
        self.known |= blobs
        return missing

    async def read(self, data: bytes, limits: ReadLimits | None = None) -> Manifest:
        """An archive into the store."""
        tree, deposit = Tree(), Deposit(self.blobs, self.note, self.scratch)
        fault = await ingest(chunked(data, 50_000), tree, deposit, limits or ReadLimits())
        await deposit.flush()
        assert list(self.scratch.iterdir()) == []
        return tree.manifest(fault)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


async def written(manifest: Manifest, store: Store) -> bytes:
    """The archive of a manifest, whole."""
    return b"".join([chunk async for chunk in write_archive(manifest, store.blobs)])


parts = st.binary(min_size=1, max_size=12).filter(lambda part: part not in (b".", b"..") and b"/" not in part and b"\0" not in part)
names = st.lists(parts | st.just(b"long" * 60), min_size=1, max_size=3).map(b"/".join)
contents = st.binary(max_size=1500)
nodes = st.tuples(st.just("file"), contents, st.integers(0, 0o7777)) | st.tuples(
    st.just("link"), st.binary(min_size=1, max_size=300), st.just(0o777)
)
trees = st.dictionaries(names, nodes | st.tuples(st.just("directory"), st.just(b""), st.integers(0, 0o7777)), max_size=8)


@given(trees)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_an_archive_of_a_manifest_reads_as_that_manifest(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[bytes, tuple[str, bytes, int]]
) -> None:
    """Decoding what was encoded gives the same entries, whatever the names, modes and bytes."""
    store = Store(tmp_path_factory.mktemp("store"))
    rows = []
    for name, (kind, data, mode) in sorted(drawn.items()):
        if any(name.startswith(other + b"/") for other, (what, *_) in drawn.items() if what != "directory"):
            continue
        if kind == "file":
            sha256 = hashlib.sha256(data).hexdigest()
            await store.blobs.put(sha256, data)
            rows.append(entry(name, EntryKind.FILE, mode=mode, size=len(data), sha256=sha256))
        elif kind == "link":
            target = data.replace(b"\0", b"0")
            rows.append(entry(name, EntryKind.SYMLINK, mode=mode, target=target.decode("utf-8", "surrogateescape")))
        else:
            rows.append(entry(name, EntryKind.DIRECTORY, mode=mode))
    manifest = Manifest(entries=tuple(rows))
    data = await written(manifest, store)
    assert data == await written(manifest, store)
    assert await store.read(data) == manifest


@given(st.dictionaries(names, contents | st.none(), max_size=8))
@settings(max_examples=40, deadline=None)
async def test_a_random_tree_on_disk_arrives_through_gnu_tar_and_through_pack(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[bytes, bytes | None]
) -> None:
    """What a walk over the disk sees is what the reader gives, by either producer; export makes the tree again."""
    base = tmp_path_factory.mktemp("random")
    store, root = Store(base / "store"), os.fsencode(base / "tree")
    os.mkdir(root)  # noqa: PTH102 - names are bytes here
    for name, content in drawn.items():
        path = os.path.join(root, name)  # noqa: PTH118
        try:
            if content is None:
                os.makedirs(path)  # noqa: PTH103
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                with open(path, "xb") as file:  # noqa: PTH123
                    file.write(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    truth = walked(root)
    done = subprocess.run(["tar", "-c", "--format=gnu", "-C", root, "."], capture_output=True, check=True)
    manifest = await store.read(done.stdout)
    assert {row.path.encode("utf-8", "surrogateescape"): row.sha256 for row in manifest.entries} == truth
    packed = await store.read(pack(base / "tree", max_files=100))
    assert digest(packed) == digest(manifest)
    await export(manifest, store.blobs, base / "again")
    assert walked(os.fsencode(base / "again")) == truth


def walked(root: bytes) -> dict[bytes, str | None]:
    """Every path below a directory with the digest of its bytes, by the standard library's own walk."""
    found: dict[bytes, str | None] = {}
    for directory, folders, files in os.walk(root):
        for name in folders:
            found[os.path.relpath(os.path.join(directory, name), root)] = None  # noqa: PTH118
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:  # noqa: PTH118, PTH123
                found[os.path.relpath(os.path.join(directory, name), root)] = hashlib.file_digest(file, "sha256").hexdigest()  # noqa: PTH118
    return found


async def test_small_and_big_files_are_stored_and_asked_for_once(store: Store) -> None:
    """Bytes on both sides of the line between memory and disk arrive; what the ledger knows is not put again."""
    datas = {b"empty": b"", b"small": b"s" * SMALL, b"big": b"b" * (SMALL + 1), b"same": b"b" * (SMALL + 1)}
    data = archive(*(member(name, content) for name, content in sorted(datas.items())))
    manifest = await store.read(data)
    for row in manifest.entries:
        assert await store.blobs.get(row.sha256 or "") == datas[row.path.encode()]
    sha256 = manifest.entries[0].sha256 or ""
    await store.blobs.delete(sha256)
    await store.read(data)
    assert not await store.blobs.has(sha256), "known to the ledger, so not put again"


async def test_announcements_come_in_batches(store: Store) -> None:
    """A thousand files take a few announcements, not a thousand."""
    manifest = await store.read(archive(*(member(b"f%04d" % at, b"%d" % at) for at in range(1000))))
    assert manifest.files == 1000
    assert sum(store.announced) == 1000
    assert len(store.announced) <= 4
    for row in manifest.entries:
        assert await store.blobs.has(row.sha256 or "")


async def test_rows_before_a_fault_stay(store: Store) -> None:
    """A cut archive leaves what was whole before the cut, with its bytes, and says why it ends; the cut file leaves nothing."""
    data = archive(member(b"first", b"1"), member(b"second", b"x" * (SMALL + 5000)))
    for cut, kept in ((len(data) - 1, ["first", "second"]), (SMALL // 2, ["first"])):
        manifest = await store.read(data[:cut])
        assert (manifest.complete, manifest.limit) == (False, "archive_truncated")
        assert [row.path for row in manifest.entries] == kept
        assert await store.blobs.get(manifest.entries[0].sha256 or "") == b"1"


async def test_a_failing_store_is_not_a_fault_of_the_archive(tmp_path: Path) -> None:
    """Where bytes cannot be stored, the pull fails with the store's own error and leaves no temporary file."""
    store = Store(tmp_path / "store")
    store.scratch.rmdir()
    with pytest.raises(StorageUnavailable):
        await ingest(
            chunked(archive(member(b"big", b"x" * (SMALL + 1)))), Tree(), Deposit(store.blobs, store.note, store.scratch), ReadLimits()
        )


async def test_a_manifest_whose_bytes_are_gone_cannot_be_written(store: Store) -> None:
    """A missing blob ends the stream with its error, small or big; so does a size that is not the blob's."""
    manifest = await store.read(archive(member(b"a", b"1"), member(b"b", b"x" * (SMALL + 1))))
    wrong = manifest.entries[0].model_copy(update={"size": 2})
    with pytest.raises(BlobCorrupt):
        await written(Manifest(entries=(wrong,)), store)
    for row in manifest.entries:
        await store.blobs.delete(row.sha256 or "")
        with pytest.raises(BlobMissing):
            await written(Manifest(entries=(row,)), store)


async def test_export_follows_no_link(store: Store, tmp_path: Path) -> None:
    """A manifest that was made to lead out writes nothing outside, whatever order its entries are in."""
    outside = tmp_path / "outside"
    outside.mkdir()
    manifest = await store.read(archive(member(b"x", b"1")))
    sha256 = manifest.entries[0].sha256
    escape = [
        entry(b"l", EntryKind.SYMLINK, mode=0o777, target=str(outside)),
        entry(b"l/new", EntryKind.FILE, mode=0o644, size=1, sha256=sha256),
    ]
    for number, rows in enumerate((escape, [entry(b"../outside/x", EntryKind.FILE, mode=0o644, size=1, sha256=sha256)], escape[:1] * 2)):
        with pytest.raises(InvalidRequest):
            await export(Manifest(entries=tuple(rows)), store.blobs, tmp_path / f"out{number}")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "out0" / "l").readlink() == outside


async def test_export_keeps_modes_and_needs_an_empty_directory(store: Store, tmp_path: Path) -> None:
    """Permissions arrive without set-user-id; a directory that forbids writing is filled first; skipped entries are left out."""
    data = archive(
        member(b"ro/", kind=b"5", mode=0o555),
        member(b"ro-", b"-"),
        member(b"ro/f", b"1", mode=0o4755),
        member(b"p", kind=b"6"),
        member(b"a/b/c", b"2"),
    )
    manifest = await store.read(data)
    await export(manifest, store.blobs, tmp_path / "out")
    modes = {str(path.relative_to(tmp_path / "out")): path.stat().st_mode & 0o7777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"ro": 0o555, "ro-": 0o644, "ro/f": 0o755, "a": 0o700, "a/b": 0o700, "a/b/c": 0o644}
    with pytest.raises(PathCollision):
        await export(manifest, store.blobs, tmp_path / "out")


async def test_pack_leaves_out_what_is_no_file_and_follows_nothing(tmp_path: Path) -> None:
    """Links stay links, sockets and FIFOs stay behind, limits hold, and the same tree gives the same bytes."""
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "run").write_text("x")
    (root / "d" / "run").chmod(0o755)
    (root / "etc").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    packed = pack(root)
    (root / "d" / "run").touch()
    assert pack(root) == packed
    received = receive(Upload.model_validate({"archives": [{"data_base64": base64.b64encode(packed)}]}))
    assert [(row.path, row.kind.value, row.mode, row.target) for row in received.manifest.entries] == [
        ("d", "directory", (root / "d").stat().st_mode & 0o777, None),
        ("d/run", "file", 0o755, None),
        ("etc", "symlink", 0o777, "/etc"),
    ]
    with pytest.raises(TooManyFiles):
        pack(root, max_files=1)
    with pytest.raises(UploadTooLarge):
        pack(root, max_bytes=0)
    with pytest.raises(InvalidRequest):
        pack(root / "gone")


def test_packing_a_directory_needs_no_vendor() -> None:
    """The command line client packs uploads without the blob store's library."""
    code = "import sys, dogwatch.workspace.directory; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


MEASURE = """
import asyncio, json, resource, sys
from pathlib import Path
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.ingest import ingest
from dogwatch.workspace.reader import ReadLimits
from dogwatch.workspace.tree import Tree
from tests.archives import END, header

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
async def note(blobs): return list(blobs)
async def big(size):
    yield header(b"big", size)
    for _ in range(size // 65536): yield b"x" * 65536
    yield END
async def many(count):
    for at in range(count): yield b"".join(header(b"d%07d/" % (at * 100 + n), kind=b"5") for n in range(100))
async def long(count):
    for at in range(count):
        name = ((b"n" * 199 + b"/") * 20 + b"%08d" % at).ljust(4085, b"x")
        yield header(b"p", 4096, kind=b"x") + b"4096 path=" + name + b"\\n" + header(b"f")
async def main(scratch):
    blobs = ObstoreBlobs(str(scratch / "blobs"))
    for source, limits in ((big(300 << 20), ReadLimits()), (many(10_000), ReadLimits()), (long(25_000), ReadLimits())):
        tree = Tree()
        deposit = Deposit(blobs, note, scratch)
        if not growth: await ingest(big(1 << 21), tree, deposit, limits)  # once, to load what is loaded lazily
        before = peak()
        fault = await ingest(source, tree, deposit, limits)
        manifest = tree.manifest(fault)
        growth.append((fault, len(manifest.entries), peak() - before))
growth = []
asyncio.run(main(Path(sys.argv[1])))
print(json.dumps(growth))
"""


def test_memory_stays_flat(tmp_path: Path) -> None:
    """One file of 300 MiB, a million directories, names of 100 MB: none takes 64 MiB more."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    big, many, long = json.loads(done.stdout)
    assert big[:2] == [None, 1]
    assert many[:2] == ["entries", ReadLimits().entries]
    assert long[0] == "name_bytes"
    assert max(big[2], many[2], long[2]) < 64, done.stdout


async def test_a_cancelled_read_leaves_nothing_behind(store: Store) -> None:
    """Cancelling in the middle of a big file closes the source and removes the temporary file."""
    reached = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        data = archive(member(b"big", b"x" * (4 * SMALL)))
        yield data[: 3 * SMALL]
        reached.set()
        await asyncio.Event().wait()

    reading = asyncio.ensure_future(ingest(stuck(), Tree(), Deposit(store.blobs, store.note, store.scratch), ReadLimits()))
    await asyncio.wait_for(reached.wait(), 30)
    assert len(list(store.scratch.iterdir())) == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert list(store.scratch.iterdir()) == []
