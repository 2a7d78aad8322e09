"""What importing the client costs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ("httpx", "sqlalchemy", "psycopg", "fastapi", "obstore", "pydantic_settings", "structlog", "typer", "rich")


@pytest.mark.parametrize("module", ["dogwatch.client", "dogwatch.client.http"])
def test_importing_the_client_loads_neither_http_nor_database(module: str) -> None:
    """A service pays for temporalio and pydantic; httpx is loaded when an HttpClient is made."""
    told = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_command_line_needs_no_database() -> None:
    """`dogwatch` runs where only the extra `cli` is installed."""
    told = "import sys, dogwatch.cli; print([name for name in ('sqlalchemy', 'psycopg', 'fastapi', 'obstore') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
