"""The client that a service holds, against a real Temporal server."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from dogwatch.client import Client
from dogwatch.contracts.agent import AgentTask, Usage, Verdict, VerdictCode
from dogwatch.contracts.job import JobRequest, JobResult, JobStatus
from dogwatch.contracts.session import SessionInput, SessionState
from dogwatch.contracts.steps import EndSession
from dogwatch.errors import NotFound, SessionClosing, TemporalUnavailable
from dogwatch.names import END_SESSION, new_id
from tests.door import TELL, JobStandIn
from worker.embedded.port import free_port
from workflows.session import Session

REQUEST = JobRequest(task=AgentTask(prompt="say **hello**\nnow"))


@activity.defn(name=END_SESSION)
async def end_session(end: EndSession) -> None:
    """No rows here."""


@pytest_asyncio.fixture
async def client(temporal_client: TemporalClient) -> AsyncIterator[Client]:
    """A client with a worker that plays jobs and runs real sessions."""
    queue = f"client-{secrets.token_hex(6)}"
    worker = Worker(
        temporal_client,
        task_queue=queue,
        workflows=[JobStandIn, Session],
        activities=[end_session],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        yield Client(temporal_client, task_queue=queue, deadline_s=30)


async def tell(client: Client, job_id: str, status: JobStatus, code: VerdictCode) -> JobResult:
    """Let a stand-in job end."""
    result = JobResult(job_id=job_id, status=status, verdict=Verdict(code=code), usage=Usage(cost_usd=0.5), events=7)
    await client.temporal.get_workflow_handle(f"job/{job_id}").signal(TELL, result)
    return result


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus.SUCCEEDED, VerdictCode.SUCCESS),
        (JobStatus.FAILED, VerdictCode.MAX_TURNS),
        (JobStatus.TIMED_OUT, VerdictCode.DEADLINE),
    ],
)
async def test_a_result_tells_how_a_job_ended(client: Client, status: JobStatus, code: VerdictCode) -> None:
    """Success or failure, the result is the same typed value, with what the job has cost."""
    job = await client.start_job(REQUEST)
    told = await tell(client, job.job_id, status, code)
    assert await job.result() == told
    assert await client.job(job.job_id).result() == told


async def test_a_cancelled_job_has_a_result_too(client: Client) -> None:
    """A job that has ended stays as it is when it is cancelled; one that never was is told."""
    job = await client.start_job(REQUEST)
    await job.cancel()
    result = await job.result()
    assert (result.status, result.verdict.code) == (JobStatus.CANCELLED, VerdictCode.CANCELLED)
    await job.cancel()
    assert await job.result() == result
    for asked in (client.job("never").cancel(), client.job("never").result()):
        with pytest.raises(NotFound):
            await asked


async def test_a_terminated_job_is_orphaned(client: Client) -> None:
    """What an operator does to a workflow is no crash of the service that waits."""
    job = await client.start_job(REQUEST)
    waiting = asyncio.create_task(job.result())
    await client.temporal.get_workflow_handle(job.workflow_id).terminate()
    assert (await waiting).verdict.code is VerdictCode.ORPHANED


async def test_the_same_id_is_the_same_job(client: Client) -> None:
    """While it runs and after it has ended: nothing runs twice."""
    job_id = new_id()
    await asyncio.gather(*(client.start_job(REQUEST, job_id) for _ in range(5)))
    await tell(client, job_id, JobStatus.SUCCEEDED, VerdictCode.SUCCESS)
    first = await client.job(job_id).result()
    again = await client.start_job(REQUEST, job_id)
    assert await again.result() == first
    described = await client.temporal.get_workflow_handle(f"job/{job_id}").describe()
    assert await described.static_summary() == "say hello now"


async def test_jobs_are_found_by_tenant(client: Client) -> None:
    """The search attributes set at the start find a tenant's jobs and nobody else's."""
    tenant = f"t-{secrets.token_hex(6)}"
    started = {(await client.start_job(REQUEST.model_copy(update={"tenant": tenant}))).job_id for _ in range(3)}
    async with asyncio.timeout(60):
        while {job.job_id async for job in client.find_jobs(tenant=tenant)} != started:
            await asyncio.sleep(0.2)
    assert [job async for job in client.find_jobs(tenant=tenant, session_id="none")] == []
    assert [job async for job in client.find_jobs(tenant="' or 1=1 --")] == []


async def test_a_session_runs_jobs_and_refuses_them_when_closing(client: Client) -> None:
    """The session's own refusals arrive as typed errors."""
    session = await client.open_session(SessionInput(session_id=new_id()))
    job = await session.submit(REQUEST)
    await session.submit(REQUEST, job.job_id)
    async with asyncio.timeout(60):
        while True:
            try:
                await tell(client, job.job_id, JobStatus.SUCCEEDED, VerdictCode.SUCCESS)
                break
            except RPCError:  # the session has not started it yet
                await asyncio.sleep(0.05)
        assert (await job.result()).status is JobStatus.SUCCEEDED
    waiting = await session.submit(REQUEST)
    end = await session.extend(100)
    assert end == await session.extend(1)
    await session.close()
    with pytest.raises(SessionClosing):
        await session.submit(REQUEST)
    await client.session(session.session_id).close(cancel=True)
    result = await session.result()
    assert (result.state, result.jobs) == (SessionState.CLOSED, 2)
    assert (await waiting.result()).status is JobStatus.CANCELLED
    with pytest.raises(NotFound):
        await session.submit(REQUEST)


async def test_an_absent_server_is_a_typed_error() -> None:
    """Connecting to nobody, or using a lazy client of nobody, ends in time."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(TemporalUnavailable):
        await Client.connect(address, deadline_s=3)
    lazy = await Client.connect(address, lazy=True, deadline_s=3)
    for asked in (lazy.check(), lazy.start_job(REQUEST), lazy.job("x").cancel()):
        with pytest.raises(TemporalUnavailable):
            await asked
