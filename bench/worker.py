"""The worker processes that are measured: `python -m bench.worker bare | null | local CALLS`."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from bench.bare import QUEUE, Bare, nothing
from bench.clock import Clock
from bench.null_sandbox import NullSandboxes
from dogwatch.contracts.sandbox import Provider
from dogwatch.ports import Sandboxes
from dogwatch.settings import Settings, load
from dogwatch.store.engine import Database
from dogwatch.store.records import PostgresRecords
from worker.connection import connect_temporal
from worker.log import configure_logging
from worker.process import stop_event, touch
from worker.runner import strict_runner
from worker.sandbox import local_sandboxes
from worker.wiring import make_worker, open_blobs, steps


async def run(kind: str, calls: Path) -> int:
    """Work until SIGTERM, then write down all calls that were timed."""
    settings = load()
    configure_logging(settings)
    stop, clock = stop_event(), Clock()
    client = await connect_temporal()
    async with _bare(client, settings) if kind == "bare" else _product(kind, client, settings, clock):
        if settings.ready_file is not None:
            touch(settings.ready_file)
        await stop.wait()
    calls.write_text(json.dumps(clock.as_json()))
    return 0


def _bare(client: Client, settings: Settings) -> Worker:
    """The product's settings, for workflows with nothing in them."""
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Bare],
        activities=[nothing],
        workflow_runner=strict_runner(),
        max_concurrent_activities=settings.max_concurrent_jobs,
        max_heartbeat_throttle_interval=timedelta(seconds=10),
        graceful_shutdown_timeout=timedelta(0),
    )


@asynccontextmanager
async def _product(kind: str, client: Client, settings: Settings, clock: Clock) -> AsyncIterator[None]:
    """The product's own worker. Only with real sandboxes are its calls timed: timing costs what is to be measured."""
    db = Database(settings.database_url.get_secret_value())
    try:
        records, blobs, sandboxes = await PostgresRecords.connect(db), open_blobs(settings), _sandboxes(kind, settings)
        if kind == "local":
            records, blobs = clock.around(records, "records"), clock.around(blobs, "blobs")
            sandboxes = clock.around(sandboxes, "sandboxes")
        async with make_worker(client, steps(settings, client, records, blobs, {Provider.LOCAL: sandboxes}), settings):
            yield
    finally:
        await db.close()


def _sandboxes(kind: str, settings: Settings) -> Sandboxes:
    return local_sandboxes(settings) if kind == "local" else NullSandboxes()


if __name__ == "__main__":
    code = asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
    sys.stderr.flush()
    os._exit(code)  # as the product's own processes end
