"""What a namespace needs before dogwatch can work in it, schedules and search attributes: one idempotent command."""

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from dogwatch import names
from dogwatch.contracts.cleanup import CleanupInput
from dogwatch.settings import Settings
from worker.connection import connect_temporal
from worker.search_attribute import ensure_search_attributes
from workflows import policies

log = structlog.get_logger()


async def ensure_schedules(client: Client, cleanup: CleanupInput) -> None:
    """Bring the server's schedules to what this release wants, whether they exist or not."""
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            names.CLEANUP,
            cleanup,
            id=names.CLEANUP_SCHEDULE,
            task_queue=names.TASK_QUEUE,
            static_summary="sandboxes without an owner, blobs without a name",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=policies.CLEANUP_EVERY)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=policies.CLEANUP_CATCHUP),
        state=ScheduleState(note="dogwatch: ends what lost its owner"),
    )
    try:
        await client.create_schedule(names.CLEANUP_SCHEDULE, wanted)
    except ScheduleAlreadyRunningError:

        def update(_: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(schedule=wanted)

        await client.get_schedule_handle(names.CLEANUP_SCHEDULE).update(update)


async def run_schedules(settings: Settings) -> int:
    """The verb `schedules`. Raises SearchAttributeMissing, SettingsInvalid, TemporalUnavailable."""
    client = await connect_temporal()
    added = await ensure_search_attributes(client, names.SEARCH_ATTRIBUTES)
    await ensure_schedules(client, cleanup_input(settings))
    log.info("the namespace is ready", namespace=client.namespace, search_attributes_added=list(added))
    return 0


def cleanup_input(settings: Settings) -> CleanupInput:
    """What the scheduled cleanup is asked."""
    return CleanupInput(blob_grace_s=settings.blob_grace_s)
