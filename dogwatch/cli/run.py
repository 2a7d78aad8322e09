"""`dogwatch run`: a directory and a prompt in, a verdict and changed files out."""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dogwatch.cli import outcome
from dogwatch.cli.place import Place
from dogwatch.cli.pull import packed_digests, pull
from dogwatch.cli.session import request_of
from dogwatch.cli.show import Screen, Watcher, summary
from dogwatch.client.http import HttpClient
from dogwatch.contracts.job import JobSubmission, JobView
from dogwatch.contracts.sandbox import Network
from dogwatch.errors import DogwatchError, invalid_request
from dogwatch.workspace.directory import pack


@dataclass(frozen=True)
class Run:
    """What the person asked for."""

    directory: Path
    prompt: str
    model: str | None
    timeout_s: float
    max_turns: int | None
    max_cost_usd: float | None
    network: Network
    session_id: str | None
    keep: bool
    pull: bool

    def submission(self) -> JobSubmission:
        """The request. Raises InvalidRequest."""
        options = {"model": self.model, "max_turns": self.max_turns, "max_cost_usd": self.max_cost_usd}
        body = {
            "prompt": self.prompt,
            "options": {name: value for name, value in options.items() if value is not None},
            "timeout_s": self.timeout_s,
            "sandbox": {"network": self.network},
        }
        try:
            return JobSubmission.model_validate(body)
        except ValidationError as error:
            raise invalid_request(error) from None


async def run_job(place: Place, screen: Screen, wanted: Run) -> int:
    """Open a session, submit, follow, report; returns the exit code."""
    submission = wanted.submission()
    packed = await asyncio.to_thread(pack, wanted.directory)
    async with place.client() as client:
        session_id = wanted.session_id or await _open(client, packed)
        own = wanted.session_id is None and not wanted.keep
        try:
            job = await client.submit(submission, session_id=session_id, idempotency_key=secrets.token_hex(16))
        except DogwatchError:
            await _close(client, session_id if own else None)
            raise
        screen.say(f"job {job.job_id}  {place.workflow(job.workflow_id)}")
        job = await _follow_or_say_how(client, screen, job.job_id)
        await report(place, client, screen, job)
        if wanted.pull:
            await _pull(client, screen, job, wanted.directory, packed)
        await _close(client, session_id if own else None)
        return outcome.of_job(job)


async def _close(client: HttpClient, session_id: str | None) -> None:
    if session_id is not None:
        with suppress(DogwatchError):  # it ends by itself
            await client.close_session(session_id)


async def _open(client: HttpClient, packed: bytes) -> str:
    return (await client.open_session(request_of(packed), idempotency_key=secrets.token_hex(16))).session_id


async def _follow_or_say_how(client: HttpClient, screen: Screen, job_id: str) -> JobView:
    try:
        return await follow(client, screen, job_id)
    except (asyncio.CancelledError, DogwatchError):
        screen.complain(f"The job goes on. `dogwatch watch {job_id}` shows it, `dogwatch job cancel {job_id}` ends it.")
        raise


async def follow(client: HttpClient, screen: Screen, job_id: str) -> JobView:
    """Show a job's events until it has ended; the job as it is then."""
    with Watcher(screen) as watcher:
        async for event in client.events(job_id):
            watcher.see(event)
    return await client.job(job_id)


async def report(place: Place, client: HttpClient, screen: Screen, job: JobView) -> None:
    """Say how a job ended, with every change."""
    if screen.json:
        screen.value(job)
        return
    changed = [file async for file in client.files(job.job_id, changed=True) if file.kind != "directory"]
    for line in summary(job, changed, place.workflow(job.workflow_id)):
        screen.say(line)


async def _pull(client: HttpClient, screen: Screen, job: JobView, directory: Path, packed: bytes) -> None:
    done = await pull(client, client.files(job.job_id, changed=True), directory, packed_digests(packed))
    screen.say(f"  wrote {len(done.written)} files, removed {len(done.removed)}")
    for path, reason in done.kept:
        screen.complain(f"  not written: {path}: {reason}")
