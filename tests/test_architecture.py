"""The house: every module has its caption, the light rooms stay light, and the sizes are printed for the reader."""

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ["dogwatch", "workflows", "activities", "worker", "migrations"]
EVERYTHING = [*PRODUCT, "examples", "bench", "tests"]
HEAVY = ["modal", "sqlalchemy", "alembic", "psycopg", "obstore", "httpx", "fastapi", "pydantic_settings"]
IMPORT_DEADLINE = 60

# Imports a room with all its modules and tells which of the heavy libraries came along.
WEIGH = """
import importlib, json, pkgutil, sys
name, *heavy = sys.argv[1:]
room = importlib.import_module(name)
if name != "dogwatch":  # the house as a whole has heavy rooms; its front door must not open them
    for module in pkgutil.walk_packages(getattr(room, "__path__", []), name + "."):
        importlib.import_module(module.name)
print(json.dumps([library for library in heavy if library in sys.modules]))
"""


def modules_of(room: str) -> list[Path]:
    """All modules of a directory of the checkout."""
    return sorted((ROOT / room).rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a module belongs to, as people say it: `dogwatch/store`, `worker`, `tests/unit`."""
    parts = path.relative_to(ROOT).parts
    if parts[0] not in ("dogwatch", "tests") or len(parts) == 2:
        return parts[0]
    return "/".join(parts[:2])


@pytest.mark.parametrize("root", EVERYTHING)
def test_every_module_has_a_caption_of_one_line(root: str) -> None:
    """The first thing a reader meets in a file is one line that says what the file owns."""
    captions = {path: ast.get_docstring(ast.parse(path.read_text())) for path in modules_of(root)}
    assert captions, f"{root}/ holds no modules"
    wrong = [str(path.relative_to(ROOT)) for path, caption in captions.items() if not caption or "\n" in caption]
    assert wrong == []


@pytest.mark.parametrize("name", ["dogwatch", "dogwatch.contracts", "dogwatch.client", "activities", "workflows"])
def test_light_rooms_leave_heavy_libraries_alone(name: str) -> None:
    """Importing a door for services, or what a workflow sees, loads no vendor, database or HTTP library."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WEIGH, name, *HEAVY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=IMPORT_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_sizes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees how large each room is and which file outgrew its caption; no line count is a failure."""
    rooms: dict[str, dict[str, int]] = {}
    for path in [path for root in EVERYTHING for path in modules_of(root)]:
        rooms.setdefault(room_of(path), {})[path.name] = len(path.read_text().splitlines())
    with capsys.disabled():
        print(f"\n{'room':<24}{'files':>6}{'lines':>7}{'median':>8}  longest")
        for room, lines in sorted(rooms.items()):
            longest = max(lines, key=lambda name: lines[name])
            median = round(statistics.median(lines.values()))
            print(f"{room:<24}{len(lines):>6}{sum(lines.values()):>7}{median:>8}  {lines[longest]} {longest}")
    assert set(PRODUCT) <= {room.split("/")[0] for room in rooms}
