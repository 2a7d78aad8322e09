"""Which model plays in the demo: the real one with a key, the scripted one without."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dogwatch.errors import IsolationMissing, ServerDidNotStart

SCRIPT = Path(__file__).with_name("model_script.json")
_START_WITHIN_S = 30.0


@dataclass(frozen=True)
class ModelChoice:
    """The model and what the stack's programs must know of it."""

    description: str
    """For the person who watches."""
    scripted: bool
    """Whether the answers are known beforehand, so that results can be checked to the byte."""
    environment: dict[str, str] = field(default_factory=dict)
    """Settings of the worker."""


@asynccontextmanager
async def choose_model(environment: Mapping[str, str]) -> AsyncIterator[ModelChoice]:
    """The real model where there is a key, else the scripted one, which runs for the length of the block.

    Raises IsolationMissing for a key without bubblewrap: a real model works in real isolation only.
    """
    if environment.get("ANTHROPIC_API_KEY"):
        if shutil.which("bwrap") is None and environment.get("DOGWATCH_ALLOW_UNISOLATED") != "true":
            raise IsolationMissing
        yield ModelChoice("the real one (ANTHROPIC_API_KEY is set)", scripted=False)
        return
    async with scripted_model(SCRIPT) as url:
        settings = {"DOGWATCH_MODEL_URL": url, "DOGWATCH_SCRIPTED_MODEL": "true"}
        yield ModelChoice(
            f"scripted, on this machine at {url} (set ANTHROPIC_API_KEY for the real one)", scripted=True, environment=settings
        )


@asynccontextmanager
async def scripted_model(script: Path) -> AsyncIterator[str]:
    """The address of a model that plays this script, for the length of the block. Raises ServerDidNotStart."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dogwatch.testing.model", "--script", str(script)), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield await _address(process)
    finally:
        process.terminate()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_WITHIN_S):
            return str(json.loads(await process.stdout.readline())["ANTHROPIC_BASE_URL"])
    except (TimeoutError, ValueError) as error:
        raise ServerDidNotStart("the scripted model did not start") from error
