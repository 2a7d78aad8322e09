"""What was measured, as a table for people and as JSON for programs."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """What a figure ought to be, and whether it is."""

    words: str
    met: bool


@dataclass(frozen=True)
class Row:
    """One figure. Without a goal it is there to be seen."""

    what: str
    figure: str
    goal: Goal | None = None
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers behind it, for the file."""

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, or nothing where there is no goal."""
        return "" if self.goal is None else "ok" if self.goal.met else "MISSED"


def at_most(value: float, most: float | None, unit: str) -> Goal | None:
    """The goal of an upper bound, if there is one."""
    return None if most is None else Goal(f"≤ {most:g}{unit}", value <= most)


def exactly(value: int, wanted: int) -> Goal:
    """The goal of one number."""
    return Goal(f"= {wanted}", value == wanted)


def shown(value: float) -> str:
    """A number with as many digits as mean something here."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def show(rows: Sequence[Row], *, title: str, footer: str) -> None:
    """Print the table."""
    table = Table(title=title, caption=footer, title_justify="left", caption_justify="left")
    table.add_column("measured")
    table.add_column("goal", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("of which", overflow="fold")
    for row in rows:
        style = "bold red" if row.verdict == "MISSED" else None
        table.add_row(row.what, row.goal.words if row.goal else "", row.figure, row.verdict, row.detail, style=style)
    console = Console()
    console.print(table)


def save(rows: Sequence[Row], path: Path, **about: object) -> None:
    """Write everything to a JSON file."""
    machine = {"python": platform.python_version(), "temporalio": version("temporalio"), "kernel": platform.release()}
    measured = [{**asdict(row), "verdict": row.verdict} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "machine": machine, "rows": measured}, indent=2) + "\n")
