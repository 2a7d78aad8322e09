"""Run: attach to the agent, follow it to its end, say what it came to; then on to activities/collect.py."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from temporalio import activity

from activities.boundary import boundary, pulse
from activities.follow import Follower
from dogwatch import names
from dogwatch.agent.supervisor import Supervisor
from dogwatch.agent.verdict import decide
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import AttemptOutcome, AttemptRef, RunPhase, RunProgress
from dogwatch.errors import SandboxLost
from dogwatch.ports import Blobs, Records, Sandboxes

LAST_LINES_S = 15.0
"""How long a cancelled step goes on to store the last lines of the agent that its workflow has ended."""


class Run:
    """Step of the workflow `Job`."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Records, blobs: Blobs) -> None:
        """`sandboxes` by make."""
        self.sandboxes, self.records, self.blobs = sandboxes, records, blobs

    @activity.defn(name=names.RUN_AGENT)
    @boundary
    async def run_agent(self, attempt: AttemptRef) -> AttemptOutcome:
        """Follow the agent from where the last follower stood. Whatever the agent comes to is a result; only our own trouble is an error.

        A worker that shuts down, an operator's pause and a lost heartbeat only detach: the agent works on, and the next execution attaches.
        """
        following = asyncio.create_task(self._follow(attempt))
        try:
            return await asyncio.shield(following)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if details is not None and details.cancel_requested:  # the workflow has ended the agent before it asked
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_LINES_S):
                        return await asyncio.shield(following)
            raise
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def _follow(self, attempt: AttemptRef) -> AttemptOutcome:
        follower = Follower(attempt.job_id, names.attempt_id(attempt.job_id, attempt.attempt), self.records, self.blobs)
        pulse().progress = lambda: self._progress(follower)
        stderr = ""
        try:
            sandbox = await self.sandboxes[attempt.sandbox.provider].attach(attempt.sandbox.sandbox_id)
            supervisor = Supervisor(sandbox, follower.attempt_id)
            await follower.follow(supervisor)
            if follower.lost != "sandbox" and follower.status is not None and follower.status.err_size:
                stderr = await supervisor.stderr_tail()
        except SandboxLost:
            await follower.take()
            follower.lost = "sandbox"
        cursor, status = follower.cursor, follower.status
        verdict = decide(
            follower.progress,
            status.exit if status is not None else None,
            stderr_tail=stderr,
            stop_reason=cursor.stop_requested if cursor is not None else None,
            lost=follower.lost,
        )
        return AttemptOutcome(
            verdict=verdict,
            usage=follower.progress.usage,
            text=follower.progress.text,
            events=cursor.next_seq - 1 if cursor is not None else 0,
        )

    def _progress(self, follower: Follower) -> RunProgress:
        usage, cursor = follower.progress.usage, follower.cursor
        return RunProgress(
            phase=RunPhase.ATTACHING if cursor is None else RunPhase.FOLLOWING,
            events=cursor.next_seq - 1 if cursor is not None else 0,
            turns=usage.turns,
            cost_usd=usage.cost_usd,
            last=follower.progress.last[:200],
        )
