"""The scheduled sweep on real parts: what lost its owner ends, what has one is left alone."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
from temporalio.client import ScheduleOverlapPolicy

from dogwatch.contracts.cleanup import CleanupInput, Swept
from dogwatch.contracts.job import JobStatus
from dogwatch.names import CLEANUP, CLEANUP_SCHEDULE, TASK_QUEUE
from tests.world import World, ask, outcome
from worker.schedules import ensure_schedules

pytestmark = [pytest.mark.cli, pytest.mark.bwrap]

OLD = "update sandboxes set created_at = now() - interval '1 hour' returning name"
ASKED = CleanupInput(sandbox_grace_s=60, blob_grace_s=60)


async def sweep(world: World) -> Swept:
    """One run of the cleanup."""
    swept: Swept = await world.client.execute_workflow(CLEANUP, ASKED, id="cleanup-by-hand", task_queue=TASK_QUEUE, result_type=Swept)
    return swept


async def test_only_sandboxes_without_an_owner_are_swept(world: World) -> None:
    """Two old sandboxes: that of a job whose workflow was terminated ends, that of a running job is never touched."""
    world.model.load({"turns": [{"wait_for": "swept", "text": "Done."}]})
    async with world.working():
        living = await world.start(ask("Work."), "living")
        orphan = await world.start(ask("Work."), "orphan")
        await asyncio.to_thread(world.model.await_waiting, "swept", 2)
        await orphan.terminate("by an operator")
        await world.rows(OLD)
        swept = await sweep(world)
        assert (swept.sandboxes, swept.kept, swept.more) == (1, 1, False)
        assert [info.tags["job"] async for info in world.sandboxes.list({})] == ["living"]
        assert (await world.rows("select state, reason from sandboxes where job_id = 'orphan'"))[0].reason == "swept: no live owner"
        again = await sweep(world)
        assert (again.sandboxes, again.kept) == (0, 1)
        world.model.release("swept")
        assert (await outcome(living)).status is JobStatus.SUCCEEDED
    await world.nothing_is_left()


async def test_a_young_sandbox_is_left_alone(world: World) -> None:
    """A sandbox in the making has no owner yet that anyone could ask: it is too young to be a stray."""
    world.model.load({"turns": [{"wait_for": "young", "text": "Done."}]})
    async with world.working():
        job = await world.start(ask("Work."), "young")
        await asyncio.to_thread(world.model.await_waiting, "young")
        await job.terminate("by an operator")
        swept = await sweep(world)
        assert swept.sandboxes == 0
        assert [info.tags["job"] async for info in world.sandboxes.list({})] == ["young"]
        await world.rows(OLD)
        assert (await sweep(world)).sandboxes == 1


async def test_blobs_that_nothing_names_are_collected(world: World) -> None:
    """An old blob of no manifest goes, bytes and row; one that a manifest names stays."""
    named = await world.store({"kept.txt": "kept"})
    stray = hashlib.sha256(b"stray").hexdigest()
    await world.records.note_blobs({stray: 5})
    await world.blobs.put(stray, b"stray")
    await world.rows("update blobs set last_put_at = now() - interval '1 hour' returning size")
    async with world.working():
        swept = await sweep(world)
    assert swept.blobs == 1
    assert not await world.blobs.has(stray)
    kept = (await world.records.manifest(named.manifest_id)).entries[0].sha256
    assert kept is not None
    assert await world.blobs.get(kept) == b"kept"
    assert len(await world.rows("select 1 from blobs")) == 1


async def test_the_schedule_is_made_once_and_updated(world: World) -> None:
    """Twice the same command: one schedule, which never overlaps and makes up for ten minutes at most."""
    await ensure_schedules(world.client, ASKED)
    await ensure_schedules(world.client, ASKED.model_copy(update={"batch": 7}))
    handle = world.client.get_schedule_handle(CLEANUP_SCHEDULE)
    described = await handle.describe()
    assert described.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert described.schedule.policy.catchup_window == timedelta(minutes=10)
    assert [interval.every for interval in described.schedule.spec.intervals] == [timedelta(minutes=10)]
    await handle.delete()
