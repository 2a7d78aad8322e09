"""Limits of a sandbox: per process by the kernel's resource limits, and over all its processes by cgroups where we are root."""

import errno
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from dogwatch.contracts.sandbox import Resources

_LOG = structlog.get_logger(__name__)
_MIB: Final = 1 << 20
_CGROUPS: Final = Path("/sys/fs/cgroup")
_CLI_DATA_MIB: Final = 1024
"""With less RLIMIT_DATA the CLI (2.1.329) aborts at start; with this it runs and takes what it finds as the size of its heap."""
OWN_PROCESSES: Final = 64
"""Processes that our own commands may have beyond the agent's, so that a sandbox full of processes can still be stopped and collected."""
_KEEPER_THREADS: Final = 256
_OPEN_FILES: Final = 65_536
_END_S: Final = 10.0


def process_limits(resources: Resources, *, own: bool, memory_held: bool) -> list[tuple[int, int]]:
    """Limits (number, value) for setrlimit. `own` marks a command of ours; `memory_held` says that a cgroup limits memory.

    Since Linux 5.14 processes are counted per user namespace, so RLIMIT_NPROC counts those of one sandbox. Without a cgroup memory
    is limited per process only, by RLIMIT_DATA, and never below what the CLI needs.
    """
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, resources.disk_mib * _MIB),
    ]
    if not memory_held:
        limits.append((resource.RLIMIT_DATA, max(resources.memory_mib, _CLI_DATA_MIB) * _MIB))
    return [*limits, (resource.RLIMIT_NPROC, resources.processes + (OWN_PROCESSES if own else 0))]


def hold_memory(groups: Sequence[Path]) -> bool:
    """Whether these cgroups limit the memory of all processes together."""
    return any(_is_unified(group) or group.parent.name == "memory" for group in groups)


def cgroups_of(sandbox_id: str) -> tuple[Path, ...]:
    """The cgroups that a sandbox should have here; none without root, whose privilege they are."""
    if os.geteuid() != 0:
        return ()
    if (_CGROUPS / "cgroup.controllers").exists():
        return (_CGROUPS / f"dogwatch-{sandbox_id}",)
    return tuple(_CGROUPS / part / f"dogwatch-{sandbox_id}" for part in ("pids", "memory") if (_CGROUPS / part / "tasks").exists())


def make_cgroups(groups: Sequence[Path], resources: Resources) -> tuple[Path, ...]:
    """Make them with their limits; returns those that could be made and logs the others."""
    made = []
    for group in groups:
        try:
            _make(group, resources)
            made.append(group)
        except OSError as error:
            remove_cgroups([group])
            _LOG.warning("cgroup_missing", group=str(group), reason=str(error), effect="memory and processes are limited per process only")
    return tuple(made)


def remove_cgroups(groups: Sequence[Path]) -> None:
    """Remove cgroups whose processes have ended or are about to; gone is fine."""
    deadline = time.monotonic() + _END_S
    for group in groups:
        while True:
            try:
                group.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _make(group: Path, resources: Resources) -> None:
    unified = _is_unified(group)
    if unified:
        (group.parent / "cgroup.subtree_control").write_text("+memory +pids")
    group.mkdir(exist_ok=True)
    memory, processes = str(resources.memory_mib * _MIB), str(resources.processes + OWN_PROCESSES + _KEEPER_THREADS)
    if unified or group.parent.name == "pids":
        (group / "pids.max").write_text(processes)
    if unified:
        (group / "memory.max").write_text(memory)
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
    elif group.parent.name == "memory":
        (group / "memory.limit_in_bytes").write_text(memory)


def _is_unified(group: Path) -> bool:
    return group.parent == _CGROUPS
