"""Today's workflow code takes the same decisions as the code that recorded a history, and as itself without a cache."""

import json
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer

from tests.workflows.record import HISTORIES, play
from tests.workflows.scenarios import SCENARIOS
from tests.workflows.stage import WORKFLOWS, assert_no_task_failed, stage
from worker.converter import WORKER_CONVERTER
from worker.runner import strict_runner

RECORDED = sorted(HISTORIES.glob("*.json"))


async def replay(history: WorkflowHistory) -> None:
    """Raises where the code does otherwise than the history."""
    replayer = Replayer(workflows=WORKFLOWS, data_converter=WORKER_CONVERTER, workflow_runner=strict_runner())
    await replayer.replay_workflow(history)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    """A running job survives a new release. Where this fails, the change needs `workflow.patched` or a new workflow version."""
    stored = json.loads(path.read_text())
    workflow_id = stored["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    await replay(WorkflowHistory.from_json(workflow_id, stored))


def test_every_path_is_recorded() -> None:
    """`python -m tests.workflows.record <scenario>` records a new one; the old files stay."""
    assert {path.name.partition(".")[0] for path in RECORDED} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_path_without_the_cache(temporal_client: Client, name: str) -> None:
    """Every workflow task replays the run from its beginning, as after the death of a worker; the result replays once more."""
    async with stage(temporal_client, max_cached_workflows=0) as played:
        histories = await play(SCENARIOS[name], played)
    for history in histories:
        assert_no_task_failed(history)
        await replay(history)
