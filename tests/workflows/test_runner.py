"""The strict runner: workflow code that reads a clock or imports what nobody decided on is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from tests.workflows.careless import Careless
from tests.workflows.clock import ReadsTheClock
from worker.runner import strict_runner

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = {"modal", "sqlalchemy", "psycopg", "obstore", "fastapi", "alembic"}


async def test_a_clock_is_refused(temporal_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A replay would not see the same time: the call fails and is named."""
    async with Worker(
        temporal_client,
        task_queue="clock",
        workflows=[ReadsTheClock],
        workflow_runner=strict_runner(),
        workflow_failure_exception_types=[Exception],
    ):
        with pytest.raises(WorkflowFailureError) as failed:
            await temporal_client.execute_workflow(ReadsTheClock.run, id="reads-the-clock", task_queue="clock")
    assert "datetime.datetime.now" in str(failed.value.cause)
    caplog.clear()  # the SDK warned, as it should


def test_an_import_without_a_decision_fails_the_worker_at_its_start(temporal_client: Client) -> None:
    """Not the first job at night."""
    with pytest.raises(RuntimeError, match="Careless") as failed:
        Worker(temporal_client, task_queue="careless", workflows=[Careless], workflow_runner=strict_runner())
    assert "structlog was not intentionally passed through" in str(failed.value.__cause__)


def test_workflows_load_no_heavy_library() -> None:
    """A worker's workflows are contracts and arithmetic."""
    code = "import sys, workflows.job, workflows.session, workflows.cleanup; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=60)
    assert not HEAVY & set(loaded.stdout.split())
