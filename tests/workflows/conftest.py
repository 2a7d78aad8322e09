"""Fixtures for workflows: a stage on the server whose clock jumps, and one on the real server."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from tests.workflows.stage import Stage, stage


@pytest_asyncio.fixture
async def skipping(time_skipping: WorkflowEnvironment) -> AsyncIterator[Stage]:
    """A worker with doubled steps, on a server whose clock jumps over timers while a result is awaited."""
    async with stage(time_skipping.client) as played:
        yield played


@pytest_asyncio.fixture
async def real(temporal_client: Client) -> AsyncIterator[Stage]:
    """A worker with doubled steps, on the real server."""
    async with stage(temporal_client) as played:
        yield played


@pytest.fixture(autouse=True)
def no_failed_activation(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A workflow task that fails is tried again for ever and seen by nobody: here it fails the test."""
    yield
    wedges = [
        record.getMessage().splitlines()[0]
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.name.startswith("temporalio") and record.levelno >= logging.WARNING and "activity" not in record.getMessage().lower()
    ]
    assert not wedges, wedges
