"""Runs tests again as a user without rights, from inside a run as root."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
NOBODY = 65_534
_TIMEOUT_S = 900.0


async def pytest_as_nobody(*paths: str) -> "subprocess.CompletedProcess[str]":
    """A pytest run of these files as the user 65534, without groups and capabilities. Needs root.

    The interpreter and the checkout may lie where only root may go: the run gets a view of the file system, which ends with it, in which
    the way there is open.
    """
    base = Path(tempfile.mkdtemp(prefix="dogwatch-nobody-"))
    os.chown(base, NOBODY, NOBODY)
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={base}/pytest", *paths]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _opening(base), "sh", *drop, *test]
    environment = {"PATH": os.environ["PATH"], "HOME": str(base), "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=PROJECT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(base)
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, output.decode())


def _opening(base: Path) -> str:
    """A script that opens the way to what lies behind closed directories, and then becomes its arguments."""
    closed: dict[Path, list[Path]] = {}
    for needed in {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), PROJECT}:
        for parent in reversed(needed.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(parent, []).append(needed)
                break
    lines = []
    for number, (top, behind) in enumerate(closed.items()):
        for index, needed in enumerate(behind):
            kept = base / f"{number}.{index}"
            lines += [f"mkdir '{kept}'", f"mount --bind '{needed}' '{kept}'"]
        lines.append(f"mount -t tmpfs -o mode=755 open '{top}'")
        for index, needed in enumerate(behind):
            lines += [f"mkdir -p '{needed}'", f"mount --move '{base / f'{number}.{index}'}' '{needed}'"]
    return "\n".join([*lines, f"cd '{PROJECT}'", 'exec "$@"'])
