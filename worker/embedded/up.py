"""The command `up`: the stack runs until somebody stops it, and says where everything is."""

import asyncio
import contextlib
import os
import signal
import time

from rich.console import Console

from worker.embedded.option import StackOptions
from worker.embedded.stack import Stack, running_stack


async def run_stack(options: StackOptions) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP, stop it and return 0. Raises what `running_stack` raises."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A hang-up that is ignored was ignored by nohup, on purpose.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    asked, serving = asyncio.create_task(stop.wait()), asyncio.create_task(_serve(options))
    await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    return 0


async def _serve(options: StackOptions) -> None:
    began = time.monotonic()
    async with running_stack(options) as stack:
        _announce(stack, time.monotonic() - began)
        await asyncio.Event().wait()


def _announce(stack: Stack, seconds: float) -> None:
    places = {
        "HTTP door": stack.http_url,
        "Temporal UI": stack.temporal.ui_url or "none",
        "Temporal": stack.temporal.address,
        "Postgres": stack.database_place,
        "State": stack.state_dir,
        "Logs": stack.logs,
    }
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"dogwatch is up after {seconds:.1f} s (process {os.getpid()}). Ctrl-C stops everything.")
    for name, place in places.items():
        console.print(f"  {name:<12} {place}", markup=False)
