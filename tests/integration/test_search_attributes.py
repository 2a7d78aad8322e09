"""The search attributes: a namespace that lacks them gets them once, and what cannot be added is said."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from dogwatch import names
from dogwatch.client import Client as Door
from dogwatch.contracts.agent import AgentTask
from dogwatch.contracts.job import JobRequest
from dogwatch.errors import SearchAttributeMissing, SettingsInvalid
from tests import servers
from worker.embedded.port import free_port
from worker.embedded.temporal import TemporalServer, find_temporal
from worker.search_attribute import ensure_search_attributes

DEADLINE_S = 120


@pytest_asyncio.fixture
async def bare(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a new server that knows no search attributes of ours."""
    binary = find_temporal()
    assert binary
    server = TemporalServer(binary=binary, state_dir=tmp_path, log=tmp_path / "temporal.log", port=free_port())
    async with servers.running(server.child()):
        yield server.address


async def test_the_verb_schedules_readies_a_namespace(bare: str, database_url: str, tmp_path: Path) -> None:
    """On a new cluster one command is enough: a job with both attributes starts, is found by them, and the cleanup is scheduled."""
    environment = {"TEMPORAL_ADDRESS": bare, "DOGWATCH_DATABASE_URL": database_url, "DOGWATCH_STATE_DIR": str(tmp_path)}
    for _ in range(2):  # twice is fine
        verb = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", "schedules"), cwd=servers.PROJECT, env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(verb.communicate(), DEADLINE_S)
        assert verb.returncode == 0, said.decode()
    door = await Door.connect(bare)
    job = await door.start_job(JobRequest(task=AgentTask(prompt="wait"), session_id="s1", tenant="t1"))
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while [found.job_id async for found in door.find_jobs(tenant="t1", session_id="s1")] != [job.job_id]:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.2)
    described = await door.temporal.get_schedule_handle(names.CLEANUP_SCHEDULE).describe()
    assert described.schedule.state.paused is False


async def test_only_what_is_missing_is_added(bare: str) -> None:
    """A later release that wants one more attribute adds that one."""
    client = await Client.connect(bare)
    assert await ensure_search_attributes(client, {"First": "Keyword"}) == ("First",)
    assert await ensure_search_attributes(client, {"First": "Keyword", "Second": "KeywordList"}) == ("Second",)
    assert await ensure_search_attributes(client, {"First": "Keyword", "Second": "KeywordList"}) == ()


async def test_two_at_once_are_fine(bare: str) -> None:
    """Two releases that come up together both succeed."""
    client = await Client.connect(bare)
    await asyncio.gather(*(ensure_search_attributes(client, names.SEARCH_ATTRIBUTES) for _ in range(4)))
    assert await ensure_search_attributes(client, names.SEARCH_ATTRIBUTES) == ()


async def test_another_type_is_refused(bare: str) -> None:
    """The server would take the addition and keep the old type, and every start would fail later: it is said now."""
    client = await Client.connect(bare)
    await ensure_search_attributes(client, {"DogwatchTenant": "Int"})
    with pytest.raises(SearchAttributeMissing, match=r"DogwatchTenant \(Keyword\) under another type"):
        await ensure_search_attributes(client, names.SEARCH_ATTRIBUTES)


async def test_a_namespace_that_is_not_there_is_named(bare: str) -> None:
    """A wrong TEMPORAL_NAMESPACE is told apart from a server that does not answer."""
    client = await Client.connect(bare, namespace="nosuch")
    with pytest.raises(SettingsInvalid, match="nosuch"):
        await ensure_search_attributes(client, names.SEARCH_ATTRIBUTES)


async def test_a_server_that_lets_nobody_add_them_is_said(time_skipping: WorkflowEnvironment) -> None:
    """Where they are not ours to add, the error names each with its type, for whoever may."""
    with pytest.raises(SearchAttributeMissing, match=r"DogwatchTenant \(Keyword\), DogwatchSession \(Keyword\), and this connection"):
        await ensure_search_attributes(time_skipping.client, names.SEARCH_ATTRIBUTES)
