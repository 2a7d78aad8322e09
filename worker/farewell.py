"""When a local stack stops for good: its sandboxes end with it, and say so; its jobs go on in new attempts at the next start."""

from datetime import timedelta

import structlog

from dogwatch.contracts.sandbox import Provider
from dogwatch.sandbox.local.place import default_root, remove_root
from dogwatch.settings import Settings
from dogwatch.store.engine import Database
from dogwatch.store.records import PostgresRecords
from worker.sandbox import local_sandboxes

log = structlog.get_logger()


async def run_farewell(settings: Settings) -> int:
    """End every local sandbox of this deployment and settle its row."""
    db = Database(settings.database_url.get_secret_value())
    try:
        records = await PostgresRecords.connect(db)
        provider = local_sandboxes(settings)
        running = [info async for info in provider.list({"deployment": records.deployment})]
        for info in running:
            await provider.terminate(info.sandbox_id)
        for stray in await records.strays(timedelta(0), most=100_000):
            if stray.provider is Provider.LOCAL:
                await records.settle_sandbox(stray.name, "stack_stopped")
        # Made anew at the next start. The copy of the CLI is big, and nobody may ever start again.
        gone = remove_root(settings.sandbox_dir or default_root(settings.state_dir))
        log.info("local sandboxes ended", sandboxes=len(running), directory_removed=gone)
    finally:
        await db.close()
    return 0
