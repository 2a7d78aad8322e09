"""Measure dogwatch and write bench/results.json. A missed goal is a figure to look at, never a failure."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bench import floor, whole
from bench.machine import load
from bench.report import Row, save, show
from bench.servers import serving

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Parse the arguments, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="so little of everything that only its running to the end means something")
    parser.add_argument("--only", choices=("floor", "whole"), help="one half: a job without an agent, or with one")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    before, since = load(), time.monotonic()
    rows = asyncio.run(_measure(options.only, quick=options.quick))
    after, seconds = load(), round(time.monotonic() - since)
    footer = f"load average {before} before and {after} after, {os.cpu_count()} CPUs, {seconds} s"
    show(rows, title="dogwatch, quick: too little for a verdict" if options.quick else "dogwatch", footer=footer)
    save(rows, options.output, quick=options.quick, seconds=seconds, load_before=before, load_after=after)


async def _measure(only: str | None, *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dogwatch-bench-") as directory:
        async with serving(Path(directory)) as servers:
            if only != "whole":
                rows += await floor.measure(servers, floor.QUICK if quick else floor.FULL)
            if only != "floor":
                rows += await whole.measure(servers, whole.QUICK if quick else whole.FULL)
    return rows


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the Temporal SDK's threads can abort a process that is already exiting
