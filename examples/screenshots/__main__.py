"""Runs six jobs with the scripted model on a stack of its own, and takes their pages into docs/images/ (or the directory given)."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dogwatch.client import Client
from dogwatch.client.http import HttpClient
from dogwatch.contracts.agent import AgentOptions, AgentTask
from dogwatch.contracts.job import JobRequest, JobStatus
from dogwatch.errors import DogwatchError
from examples.demo.model import ModelChoice, scripted_model
from examples.demo.stage import demo_options, quiet_logs
from examples.screenshots.browser import Browser, running_browser
from examples.screenshots.page import OF_THE_ENDED, WHILE_IT_RUNS, Page
from examples.screenshots.palette import with_palette
from worker.embedded.stack import Stack, running_stack

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "docs" / "images"
WIDTH = 1440
WITHIN_S = 180.0
JOBS = {
    "haiku": JobRequest(task=AgentTask(prompt="Write a haiku about night watches to haiku.txt")),
    "issues": JobRequest(task=AgentTask(prompt="Summarise the open issues in ISSUES.md")),
    "port": JobRequest(task=AgentTask(prompt="Port the parser to Rust"), timeout_s=8),
    "translation": JobRequest(task=AgentTask(prompt="Translate the comments into French")),
    "tidy": JobRequest(task=AgentTask(prompt="Tidy up", options=AgentOptions(max_cost_usd=2))),
    "primes": JobRequest(task=AgentTask(prompt="Tabulate the primes below ten, and check the table")),
}
ENDINGS = {
    "haiku": JobStatus.SUCCEEDED,
    "issues": JobStatus.FAILED,
    "port": JobStatus.TIMED_OUT,
    "translation": JobStatus.CANCELLED,
    "tidy": JobStatus.SUCCEEDED,
}


async def main(into: Path) -> None:
    """Make all pictures. Raises DogwatchError where a job ends otherwise than it should, or a page lacks what the document says."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dogwatch-screenshots-") as place:
        quiet_logs(Path(place))
        async with scripted_model(HERE / "script.json") as url, running_browser() as browser:
            model = ModelChoice("scripted", scripted=True, environment={"DOGWATCH_MODEL_URL": url, "DOGWATCH_SCRIPTED_MODEL": "true"})
            options = replace(demo_options(Path(place), model, os.environ), http_port=0, temporal_port=0, temporal_ui_port=0)
            async with running_stack(options) as stack:
                await _take_all(stack, browser, into)


async def _take_all(stack: Stack, browser: Browser, into: Path) -> None:
    ui = str(stack.temporal.ui_url)
    client = await Client.connect(stack.temporal.address)
    for job_id, request in JOBS.items():
        await client.start_job(request, job_id)
    async with HttpClient(stack.http_url) as door, asyncio.timeout(WITHIN_S):
        await _until_events(door, "translation", 4)
        await client.job("translation").cancel()
        await _until_events(door, "primes", 9)
    await _take(WHILE_IT_RUNS, ui, browser, into)
    async with asyncio.timeout(WITHIN_S):
        for job_id, wanted in ENDINGS.items():
            result = await client.job(job_id).result()
            if result.status is not wanted:
                raise DogwatchError(f"job {job_id} should be {wanted}: {result.status}, {result.verdict}")
    await _take(OF_THE_ENDED, ui, browser, into)


async def _until_events(door: HttpClient, job_id: str, number: int) -> None:
    """Wait until the agent has said that much."""
    while True:
        try:
            if (await door.job(job_id)).events >= number:
                return
        except DogwatchError as error:
            if error.code != "not_found":  # a job that was started through Temporal has a row once a worker has seen it
                raise
        await asyncio.sleep(0.5)


async def _take(pages: Iterable[Page], ui: str, browser: Browser, into: Path) -> None:
    for page in pages:
        await browser.show(page.url(ui), page.expected, WIDTH, page.height, (page.tab,) if page.tab else ())
        picture = await asyncio.to_thread(with_palette, await browser.picture())
        (into / page.file).write_bytes(picture)
        print(f"{page.file:<26} {len(picture):>7,} B  {page.workflow or 'the list'}")


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
        code = 0
    except DogwatchError as failed:
        print(f"dogwatch: {failed}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's native threads can abort a process that is already exiting
