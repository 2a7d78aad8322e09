"""Commands about jobs."""

from dogwatch.cli import outcome
from dogwatch.cli.place import Place
from dogwatch.cli.run import follow, report
from dogwatch.cli.show import Screen, clock, file_row, job_row


async def watch(place: Place, screen: Screen, job_id: str) -> int:
    """Show a job until it has ended; with JSON every event is a line, and the exit code tells how it ended."""
    async with place.client() as client:
        if screen.json:
            async for event in client.events(job_id):
                screen.value(event)
            return outcome.of_job(await client.job(job_id))
        job = await follow(client, screen, job_id)
        await report(place, client, screen, job)
        return outcome.of_job(job)


async def show(place: Place, screen: Screen, job_id: str) -> int:
    """Show a job."""
    async with place.client() as client:
        job = await client.job(job_id)
        if screen.json or job.status.terminal:
            await report(place, client, screen, job)
        else:
            screen.say(f"job {job.job_id} is {job.status} since {clock(job.started_at or job.created_at)}, {job.events} events")
            screen.say(f"  {place.workflow(job.workflow_id)}")
    return outcome.OK


async def cancel(place: Place, screen: Screen, job_id: str) -> int:
    """Ask a job to end."""
    async with place.client() as client:
        job = await client.cancel(job_id)
        if screen.json:
            screen.value(job)
        elif job.status.terminal:
            screen.say(f"job {job.job_id} has ended: {job.status}")
        else:
            screen.say(f"job {job.job_id} is asked to end; `dogwatch watch {job.job_id}` shows when it has")
    return outcome.OK


async def files(place: Place, screen: Screen, job_id: str, *, changed: bool) -> int:
    """List a job's files."""
    async with place.client() as client:
        found = [file async for file in client.files(job_id, changed=changed)]
    if screen.json:
        for file in found:
            screen.value(file)
    else:
        screen.table(("", "size", "path"), map(file_row, found))
    return outcome.OK


async def list_jobs(place: Place, screen: Screen, session_id: str | None, limit: int) -> int:
    """List jobs."""
    async with place.client() as client:
        page = await client.jobs(session_id=session_id, limit=limit)
    if screen.json:
        for job in page.jobs:
            screen.value(job)
    else:
        screen.table(("job", "status", "created", "cost", "prompt"), map(job_row, page.jobs))
    return outcome.OK
