"""The agent without dogwatch: the same program, arguments, environment and files, run straight from here."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.script import FILES, PROMPT
from dogwatch.agent.command import AgentRun, arguments, environment, new_session_id
from dogwatch.contracts.agent import AgentOptions

WITHIN_S = 120.0
"""No run of the scripted agent takes longer."""


async def run_directly(binary: Path, model_url: str, options: AgentOptions) -> float:
    """Seconds of one run of the agent's CLI in a fresh home and workspace. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(prefix="dogwatch-bench-direct-") as directory:
        workspace = Path(directory, "workspace")
        for made in (workspace, Path(directory, "home")):
            made.mkdir()
        for name, content in FILES.items():
            (workspace / name).write_text(content)
        run = AgentRun(
            options=options,
            command=str(binary),
            directory=directory,
            prompt=PROMPT,
            session_id=new_session_id(),
            budget_usd=options.max_cost_usd,
            model_key="scripted-model-needs-no-key",
            model_url=model_url,
        )
        since = time.perf_counter()
        code = await _run(run, workspace, Path(directory, "out.jsonl"))
        seconds = time.perf_counter() - since
        if code or "Hello" not in (workspace / "greet.sh").read_text():
            raise RuntimeError(f"the agent exited with {code}")
    return seconds


async def _run(run: AgentRun, workspace: Path, output: Path) -> int:
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *arguments(run),
            stdin=asyncio.subprocess.PIPE,
            stdout=out,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=workspace,
            env={"PATH": os.environ["PATH"], **environment(run)},
        )
    async with ended(process), asyncio.timeout(WITHIN_S):
        await process.communicate(run.prompt.encode())
    assert process.returncode is not None
    return process.returncode


@asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """See to it that a process does not outlive the block."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
