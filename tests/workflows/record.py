"""Record the histories that later releases have to replay: `python -m tests.workflows.record [scenario ...]`."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter

from tests import servers
from tests.workflows.doubles import WITHIN_S
from tests.workflows.scenarios import SCENARIOS, Scenario
from tests.workflows.stage import Stage, stage

HISTORIES = Path(__file__).parent / "histories"


async def play(scenario: Scenario, played: Stage) -> list[WorkflowHistory]:
    """The histories of all runs of a scenario's workflow, once it has closed."""
    handle = await scenario(played)
    with suppress(WorkflowFailureError):
        async with asyncio.timeout(WITHIN_S):
            await handle.result()
    run_id, histories = handle.first_execution_run_id, []
    while run_id:
        history = await played.client.get_workflow_handle(handle.id, run_id=run_id).fetch_history()
        histories.append(history)
        run_id = history.events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return histories


async def record(wanted: Sequence[str]) -> None:
    """Play the named scenarios, or all, on a server of their own and keep their histories."""
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        async with servers.running_temporal(Path(directory)) as server:
            client = await Client.connect(server.address, data_converter=pydantic_data_converter, identity="recorder")
            for name in wanted or SCENARIOS:
                async with stage(client) as played:
                    for number, history in enumerate(await play(SCENARIOS[name], played), 1):
                        (HISTORIES / f"{name}.{number}.json").write_text(without_traces(history.to_json()) + "\n")


def without_traces(stored: str) -> str:
    """A history without the stacks of its failures, which tell where the recorder's files lie and nothing that a replay needs."""

    def scrub(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "stackTrace"}

    return json.dumps(json.loads(stored, object_hook=scrub), indent=1)


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
