"""The wheel: it holds dogwatch and nothing else, and works with temporalio and pydantic alone."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
BASE = ["temporalio", "pydantic"]
BUILD_DEADLINE = 120
IMPORT_DEADLINE = 60

# Runs without site-packages: sees the standard library, the wheel and the base dependencies.
CONSUMER = """
import importlib.util, json, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import dogwatch
from dogwatch.client import Client
print(json.dumps({
    "home": dogwatch.__file__,
    "version": dogwatch.__version__,
    "client": Client.__module__,
    "importable": [name for name in sys.argv[3:] if importlib.util.find_spec(name)],
    "imported": [name for name in sys.argv[3:] if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the installed hatchling in this environment: nothing is fetched."""
    into = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl")
    return built


def dependencies(name: str, seen: set[str]) -> Iterator[Distribution]:
    """An installed distribution and all it requires here, each once, without extras nobody asked for."""
    if name in seen:
        return
    seen.add(name)
    found = distribution(name)
    yield found
    for requirement in map(Requirement, found.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from dependencies(re.sub(r"[-_.]+", "-", requirement.name).lower(), seen)


def expose(distributions: Iterator[Distribution], into: Path) -> None:
    """Link what these distributions install, and nothing else, into a directory that can stand on sys.path."""
    for installed in distributions:
        for top in {file.parts[0] for file in installed.files or [] if file.parts[0] != ".."}:
            link = into / top
            if not link.exists():
                link.symlink_to(Path(str(installed.locate_file(top))))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Workshops, tests and migrations stay in the checkout; scripts and the typing marker travel with the package."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    files = {name for name in packed if not name.split("/")[0].endswith(".dist-info")}
    house = ROOT / "dogwatch"
    expected = {
        str(path.relative_to(ROOT))
        for path in house.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    }
    assert files == expected
    assert "dogwatch/py.typed" in files
    assert [name for name in files if name.endswith(".sh")], "the supervisor script is missing"
    assert [name for name in packed if name.endswith("/licenses/LICENSE")]


def test_base_dependencies_are_two(wheel: Path) -> None:
    """Whoever installs dogwatch without extras gets temporalio, pydantic and what these bring."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    required = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    base = [requirement.name for requirement in required if "extra" not in str(requirement.marker)]
    assert sorted(base) == sorted(BASE)


def test_client_works_from_the_wheel_with_base_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    """A service that starts jobs needs no extra: the client imports where modal and sqlalchemy do not exist."""
    unpacked, site = tmp_path / "wheel", tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    seen: set[str] = set()
    for name in BASE:
        expose(dependencies(name, seen), site)
    absent = ["modal", "sqlalchemy", "psycopg", "httpx", "fastapi", "typer", "obstore"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CONSUMER, str(unpacked), str(site), *absent],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=IMPORT_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    consumer = json.loads(done.stdout)
    assert consumer["home"] == str(unpacked / "dogwatch" / "__init__.py")
    assert consumer["version"] in wheel.name
    assert consumer["client"].startswith("dogwatch.client")
    assert consumer["importable"] == []
    assert consumer["imported"] == []
