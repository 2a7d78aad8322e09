"""What the machine brings to a test run: its variables, kept away from the tests, and what it can do."""

import os
import shutil
import subprocess

import pytest

_SCRUBBED_PREFIXES = ("ANTHROPIC_", "CLAUDE", "DOGWATCH_", "MODAL_", "PG", "TEMPORAL_")


def _scrub() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name.startswith(_SCRUBBED_PREFIXES)}
    for name in found:
        del os.environ[name]
    return found


CALLER = _scrub()
"""What the caller's environment said to the product, for live tests to pass on by name; no test finds it in `os.environ`."""


def missing_for_bwrap() -> str | None:
    """Why bubblewrap cannot be used here, or None when it can."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed"
    tried = subprocess.run(
        [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return None if tried.returncode == 0 else f"bubblewrap cannot make a sandbox here: {tried.stderr.strip()}"


def missing_for_live() -> str | None:
    """Why the real model cannot be called here, or None when it can."""
    return None if CALLER.get("ANTHROPIC_API_KEY") else "ANTHROPIC_API_KEY is not set"


def missing_for_live_modal() -> str | None:
    """Why the Modal cloud cannot be used here, or None when it can."""
    known = CALLER.get("MODAL_TOKEN_ID") and CALLER.get("MODAL_TOKEN_SECRET")
    return None if known else "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET are not set"


requires_bwrap = pytest.mark.bwrap
requires_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the account of a process")
