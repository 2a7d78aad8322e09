"""The pages that are written from the code say what the code says."""

from pathlib import Path

import pytest

from docs.generate import PAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_written_page_is_what_the_code_says(name: str) -> None:
    """After a change of the code: `python -m docs.generate`."""
    assert (DOCS / name).read_text() == PAGES[name]()
