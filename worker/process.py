"""A worker process: connect, poll, and on SIGTERM let go of everything without ending any agent."""

import asyncio
import signal
from pathlib import Path

import structlog

from dogwatch.settings import Settings
from worker.connection import connect_temporal
from worker.schedules import cleanup_input, ensure_schedules
from worker.wiring import make_worker, wire

log = structlog.get_logger()


async def run_worker(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; returns the exit code. Raises TemporalUnavailable, DatabaseUnavailable at the start."""
    stop = stop_event()
    client = await connect_temporal()
    async with wire(settings, client) as hands:
        await ensure_schedules(client, cleanup_input(settings))
        async with make_worker(client, hands, settings):
            if settings.ready_file is not None:
                touch(settings.ready_file)
            log.info("worker polls", identity=client.service_client.config.identity)
            await stop.wait()
            log.info("worker detaches: running agents work on")
    return 0


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def touch(path: Path) -> None:
    """Make the file by which whoever started this process knows that it is ready."""
    path.touch()
