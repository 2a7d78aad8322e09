"""`make demo`: the whole stack starts, two jobs run in one session, their results are shown and checked, everything stops."""

import asyncio
import os
import shutil
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from dogwatch.errors import DogwatchError
from examples.demo.check import Finding, check_results, no_process_is_left
from examples.demo.model import ModelChoice, choose_model
from examples.demo.stage import demo_options, quiet_logs
from examples.demo.story import play
from examples.demo.telling import Teller
from worker.embedded.stack import Stack, running_stack

PROJECT = Path(__file__).resolve().parents[2]


async def demo(tell: Teller) -> int:
    """Play the demo; returns the exit code. Raises DogwatchError for what a person can mend."""
    began = time.monotonic()
    async with AsyncExitStack() as closing:
        model = await closing.enter_async_context(choose_model(os.environ))
        tell.headline(f"Model: {model.description}")
        if shutil.which("bwrap") is None:
            tell.problem("NO ISOLATION: bubblewrap is not installed, the agent works in plain processes (apt-get install bubblewrap)")
        options = demo_options(PROJECT / ".dogwatch" / "demo", model, os.environ)
        async with running_stack(options) as stack:
            tell.note(f"stack is up after {time.monotonic() - began:.1f} s: {stack.http_url}, Temporal UI {stack.temporal.ui_url}")
            findings = await show(stack, model, tell)
            tell.headline(f"Look around: {stack.temporal.ui_url}/namespaces/default/workflows")
            if sys.stdin.isatty():
                tell.note("everything runs until you press Enter (the demo's work is done)")
                await asyncio.to_thread(sys.stdin.readline)
        findings.append(no_process_is_left(stack))
    for finding in findings:
        tell.finding(finding)
    tell.note(f"{time.monotonic() - began:.1f} s in all")
    return 0 if all(finding.good for finding in findings) else 1


async def show(stack: Stack, model: ModelChoice, tell: Teller) -> list[Finding]:
    """The two jobs, then what the results are worth."""
    jobs = await play(stack, PROJECT / "examples" / "workspace", tell)
    return await check_results(stack, model, jobs)


def main() -> int:
    """Run the demo and say in one line what is wrong when something is."""
    tell = Teller()
    quiet_logs(PROJECT / ".dogwatch" / "demo")
    try:
        return asyncio.run(demo(tell))
    except DogwatchError as error:
        tell.problem(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's native threads can abort a process that is already exiting
