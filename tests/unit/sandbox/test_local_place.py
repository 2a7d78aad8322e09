"""Where local sandboxes lie, and when they are refused."""

import os
from pathlib import Path

import pytest

from dogwatch.contracts.sandbox import Network, Resources
from dogwatch.errors import IsolationMissing, SandboxRefused
from dogwatch.sandbox.local.limits import process_limits
from dogwatch.sandbox.local.place import default_root, prepare_root, remove_root
from dogwatch.sandbox.local.provider import LocalSandboxes

AGENT = Path("/bin/true")


def test_default_root(tmp_path: Path) -> None:
    """Beside the state, or for root where another account can go; the same for the same state directory."""
    root = default_root(tmp_path / "state")
    assert root == default_root(tmp_path / "x" / ".." / "state")
    assert root != default_root(tmp_path / "other")
    assert root.is_relative_to("/var/lib/dogwatch" if os.geteuid() == 0 else tmp_path)


def test_a_root_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """A link that somebody put in the way leads nowhere."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(SandboxRefused):
        prepare_root(tmp_path / "link", None)


def test_a_real_model_needs_isolation(tmp_path: Path) -> None:
    """Plain processes serve the scripted model only, unless somebody allows more by name."""
    plain = LocalSandboxes(tmp_path, agent_binary=AGENT, isolation="processes")
    plain.check(Network.MODEL, real_model=False)
    with pytest.raises(IsolationMissing, match="DOGWATCH_ALLOW_UNISOLATED"):
        plain.check(Network.MODEL, real_model=True)
    allowed = LocalSandboxes(tmp_path, agent_binary=AGENT, isolation="processes", allow_unisolated=True)
    allowed.check(Network.MODEL, real_model=True)


@pytest.mark.bwrap
def test_bubblewrap_serves_a_real_model(tmp_path: Path) -> None:
    """Where bubblewrap works it is chosen."""
    root = tmp_path if os.geteuid() else default_root(tmp_path)
    try:
        LocalSandboxes(root, agent_binary=AGENT).check(Network.MODEL, real_model=True)
    finally:
        if root != tmp_path:
            root.rmdir()


def test_memory_per_process_leaves_room_for_the_cli() -> None:
    """Without a cgroup a small limit is raised to what the CLI needs to start; with one there is no limit per process."""
    small = Resources(memory_mib=128)
    assert (2, 1024 << 20) in process_limits(small, own=False, memory_held=False)
    assert 2 not in dict(process_limits(small, own=False, memory_held=True))


def test_a_root_without_sandboxes_is_removed_whole(tmp_path: Path) -> None:
    """What is kept there for later goes too; a root in which a sandbox is left stays as it is."""
    root = tmp_path / "root"
    (root / ".cli" / "one").mkdir(parents=True)
    (root / ".cli" / "one" / "claude").write_text("binary")
    (root / "a-sandbox").mkdir()
    assert not remove_root(root)
    assert (root / ".cli" / "one" / "claude").exists()
    (root / "a-sandbox").rmdir()
    assert remove_root(root)
    assert not root.exists()
    assert remove_root(root)
