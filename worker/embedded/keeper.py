"""Keeping one child alive: started again, with growing pauses, whenever it ends by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from worker.embedded.process import Child

log = structlog.get_logger()

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A child that ran this long has recovered: the next pause is the first one again."""


@asynccontextmanager
async def kept(child: Child, restarted: Callable[[], None]) -> AsyncIterator[None]:
    """Start `child`, keep it running for the length of the block, then stop it.

    `restarted` is called after every further start. Raises ServerDidNotStart if the first start fails: only a child
    that ran once is worth starting again.
    """
    began = time.monotonic()
    await child.start()
    try:
        log.info("ready", child=child.command.name, pid=child.pid, seconds=round(time.monotonic() - began, 2))
        keeper = asyncio.create_task(_keep(child, restarted))
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
    finally:
        await child.stop()
        log.info("stopped", child=child.command.name)


async def _keep(child: Child, restarted: Callable[[], None]) -> None:
    pause = FIRST_PAUSE_S
    while True:
        since = time.monotonic()
        code = await child.wait()
        pause = FIRST_PAUSE_S if time.monotonic() - since > STEADY_AFTER_S else pause
        log.warning("ended", child=child.command.name, code=code, log=str(child.command.log), again_in_s=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
        try:
            await child.start()
        except Exception as error:  # whatever it is, trying again is all a keeper can do
            log.error("did not start again", child=child.command.name, error=str(error))
        else:
            log.info("ready again", child=child.command.name, pid=child.pid)
            restarted()
