"""The composition root: settings become adapters, adapters become steps, steps become a worker."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities.collect import Collect
from activities.prepare import Limits, Prepare
from activities.release import Release
from activities.run import Run
from activities.session import Sessions
from activities.stop import Stop
from activities.sweep import Sweep
from dogwatch import names
from dogwatch.contracts.sandbox import Provider
from dogwatch.ports import Blobs, Sandboxes
from dogwatch.settings import Settings
from dogwatch.store.engine import Database
from dogwatch.store.records import PostgresRecords
from dogwatch.workspace.blobs import ObstoreBlobs
from worker.environment import process_environment
from worker.owner import TemporalOwners
from worker.runner import strict_runner
from worker.sandbox import local_sandboxes
from worker.secret import LocalSecrets
from workflows.cleanup import Cleanup
from workflows.job import Job
from workflows.session import Session

WORKFLOWS = (Job, Session, Cleanup)
"""Every workflow type that a worker knows."""


@asynccontextmanager
async def wire(settings: Settings, client: Client) -> AsyncIterator[Sequence[Callable[..., Any]]]:
    """The steps of a worker, over one pool of database connections that is closed at the end. Raises DatabaseUnavailable."""
    db = Database(settings.database_url.get_secret_value())
    try:
        records = await PostgresRecords.connect(db)
        yield steps(settings, client, records, open_blobs(settings), {Provider.LOCAL: local_sandboxes(settings)})
    finally:
        await db.close()


def steps(
    settings: Settings, client: Client, records: PostgresRecords, blobs: Blobs, sandboxes: dict[Provider, Sandboxes]
) -> Sequence[Callable[..., Any]]:
    """All activities with their collaborators."""
    secrets = LocalSecrets(process_environment(), settings.secrets_dir, scripted_model=settings.scripted_model)
    scratch = settings.state_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return [
        Prepare(sandboxes, records, blobs, secrets, limits(settings)).prepare_sandbox,
        Run(sandboxes, records, blobs).run_agent,
        Collect(sandboxes, records, blobs, scratch).collect_results,
        Release(sandboxes, records).release_sandbox,
        Stop(sandboxes, records).stop_agent,
        Sessions(records).end_session,
        Sweep(sandboxes, records, blobs, TemporalOwners(client)).sweep,
    ]


def limits(settings: Settings) -> Limits:
    """What this deployment allows a job."""
    return Limits(
        provider=settings.provider,
        model=settings.model,
        real_model=not settings.scripted_model,
        max_timeout_s=settings.max_timeout_s,
        max_output_bytes=settings.max_output_bytes,
        result_grace_s=settings.result_grace_s,
    )


def open_blobs(settings: Settings) -> Blobs:
    """The blob store: a bucket by URL, or a directory of this machine."""
    return ObstoreBlobs(settings.blob_url or str(Path(settings.state_dir).absolute() / "blobs"))


def make_worker(client: Client, hands: Sequence[Callable[..., Any]], settings: Settings) -> Worker:
    """A worker that detaches at once when it is told to stop: the next one attaches to its agents."""
    return Worker(
        client,
        task_queue=names.TASK_QUEUE,
        workflows=list(WORKFLOWS),
        activities=list(hands),
        workflow_runner=strict_runner(),
        max_concurrent_activities=settings.max_concurrent_jobs,
        max_heartbeat_throttle_interval=timedelta(seconds=10),
        graceful_shutdown_timeout=timedelta(0),
    )
