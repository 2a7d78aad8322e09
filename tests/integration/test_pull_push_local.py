"""Files into and out of the sandboxes of this machine, as the activities move them."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from dogwatch.contracts.sandbox import SandboxSpec
from dogwatch.contracts.workspace import Entry, Manifest
from dogwatch.ports import Sandbox
from dogwatch.workspace.blobs import ObstoreBlobs
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.export import export
from dogwatch.workspace.manifest import changes, digest
from dogwatch.workspace.pull import pull
from dogwatch.workspace.push import push
from tests.conformance.local import local_sandboxes
from tests.conformance.sandboxes import new_name

MAKE = r"""
set -e
mkdir -p a/b/c closed empty
printf one > 'a/new
line'
printf two > "$(printf 'a/\377\376')"
printf three > ./-rf
head -c 2500000 /dev/urandom > a/b/c/big
chmod 755 -- -rf
ln -s /etc/passwd link
ln a/b/c/big twin
mkfifo pipe
printf x > closed/in
printf x > secret
chmod 000 closed secret
"""


@pytest.fixture(params=[pytest.param("bubblewrap", marks=pytest.mark.bwrap), "processes"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A running sandbox of each make."""
    async with local_sandboxes(request.param) as (provider, _):
        yield await provider.create(SandboxSpec(), name=new_name(), tags={}, lifetime=timedelta(minutes=5))


class Store:
    """A blob store, and pulls into it."""

    def __init__(self, base: Path) -> None:
        (base / "scratch").mkdir()
        self.scratch = base / "scratch"
        self.blobs = ObstoreBlobs(str(base / "blobs"))

    async def pull(self, sandbox: Sandbox) -> Manifest:
        """The sandbox's workspace."""
        return await pull(sandbox, sandbox.workspace, Deposit(self.blobs, self._note, self.scratch))

    async def _note(self, blobs: Mapping[str, int]) -> Sequence[str]:
        return list(blobs)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path)


async def test_what_the_agent_leaves_comes_out_and_goes_in_again(sandbox: Sandbox, store: Store, tmp_path: Path) -> None:
    """Odd names, links, modes and big files arrive; the rest is named; what was kept can be pushed and exported."""
    done = await sandbox.exec(["sh", "-c", MAKE], cwd=sandbox.workspace)
    assert done.exit_code == 0, done.stderr
    manifest = await store.pull(sandbox)
    assert manifest.complete, manifest.limit
    rows: dict[str, Entry] = {row.path: row for row in manifest.entries}
    seen_by_root = sandbox.isolation == "processes" and (await sandbox.exec(["id", "-u"])).stdout == b"0\n"
    hidden = {} if seen_by_root else {"closed": "unreadable", "secret": "unreadable"}
    assert {path: row.reason for path, row in rows.items() if row.reason} == {"pipe": "special_file", **hidden}
    assert {"a/new\nline", "a/\udcff\udcfe", "-rf", "empty", "link", "twin", "a/b/c/big"} <= rows.keys()
    assert rows["twin"].sha256 == rows["a/b/c/big"].sha256
    assert (rows["-rf"].mode, rows["link"].target) == (0o755, "/etc/passwd")

    emptied = await sandbox.exec(["sh", "-c", "chmod 755 closed && rm -rf -- * && ls -A"], cwd=sandbox.workspace)
    assert (emptied.exit_code, emptied.stdout) == (0, b"")
    kept = Manifest(entries=tuple(row for row in manifest.entries if not row.reason))
    await push(sandbox, kept, store.blobs, sandbox.workspace)
    again = await store.pull(sandbox)
    assert digest(again) == digest(kept)
    assert changes(kept, again).model_dump() == {"added": 0, "modified": 0, "deleted": 0, "skipped": 0}

    await export(kept, store.blobs, tmp_path / "out")
    assert (tmp_path / "out" / "link").readlink() == Path("/etc/passwd")
    assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/out/a/\xff\xfe")).read_bytes() == b"two"  # the name is bytes
