"""The bench: it runs to its end and writes its figures; what they say is for people to judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHIN_S = 300


@pytest.mark.cli
@pytest.mark.slow
def test_the_short_bench_runs_to_its_end(tmp_path: Path) -> None:
    """Every figure is there, and a goal that is missed is no failure."""
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--output", str(results)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(results.read_text())
    figures = {row["what"]: row for row in measured["rows"]}
    assert figures["history events of a job"]["figures"] == {"bare": 29, "job": 29}
    assert all(row["figure"] for row in figures.values())
    assert {row["verdict"] for row in figures.values()} <= {"", "ok", "MISSED"}
    assert any(what.startswith("worker CPU") for what in figures)
    assert any(what.startswith("added to a scripted job") for what in figures)
    assert measured["load_before"] >= 0
