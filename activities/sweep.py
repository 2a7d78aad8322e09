"""The sweep: from the provider's list and from our rows, the owner looked up again right before each end."""

from collections.abc import Mapping
from datetime import timedelta

import structlog
from temporalio import activity

from activities.boundary import boundary
from dogwatch import names
from dogwatch.contracts.cleanup import CleanupInput, Swept
from dogwatch.contracts.sandbox import Provider
from dogwatch.ports import Blobs, Janitor, Owners, Sandboxes, Stray

log = structlog.get_logger()


class Sweep:
    """Step of the workflow `Cleanup`."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Janitor, blobs: Blobs, owners: Owners) -> None:
        """`owners` knows which workflows live."""
        self.sandboxes, self.records, self.blobs, self.owners = sandboxes, records, blobs, owners

    @activity.defn(name=names.SWEEP)
    @boundary
    async def sweep(self, request: CleanupInput) -> Swept:
        """End strays and remove unnamed blobs, one bounded batch of each."""
        grace = timedelta(seconds=request.sandbox_grace_s)
        strays = await self.records.strays(grace, request.batch)
        ended = 0
        for stray in strays:
            ended += await self._end(stray, grace)
        unknown_ended, untagged = await self._sweep_providers(grace)
        doomed = await self.records.mark_deleting(timedelta(seconds=request.blob_grace_s), request.batch)
        for sha256 in doomed:
            await self.blobs.delete(sha256)
        await self.records.forget_blobs(doomed)
        more = len(doomed) == request.batch or (ended > 0 and len(strays) == request.batch)
        return Swept(sandboxes=ended + unknown_ended, kept=len(strays) - ended, untagged=untagged, blobs=len(doomed), more=more)

    async def _sweep_providers(self, grace: timedelta) -> tuple[int, int]:
        """Running sandboxes that carry our tag: those whose row is settled or missing are strays too."""
        ended = untagged = 0
        for provider in self.sandboxes.values():
            async for info in provider.list({}):
                if info.tags.get("deployment") != self.records.deployment:
                    untagged += 1
                    continue
                stray = await self.records.stray(info.name)
                if stray is None and info.tags.get("job"):
                    stray = Stray(info.name, provider.provider, info.tags["job"], info.sandbox_id, info.created_at, settled=True)
                if stray is not None and stray.settled:
                    ended += await self._end(stray, grace)
        return ended, untagged

    async def _end(self, stray: Stray, grace: timedelta) -> int:
        """End one sandbox unless its owner lives or it is young; both looked up again, right before."""
        if await self.owners.lives(names.job_workflow_id(stray.job_id)) or not await self.records.older_than(stray, grace):
            return 0
        provider = self.sandboxes.get(stray.provider)
        if provider is None:
            return 0
        if stray.sandbox_id is not None:
            was_running = await provider.terminate(stray.sandbox_id)
        else:
            was_running = await provider.terminate_named(stray.name)
        reason = "swept: no live owner" if was_running else "swept: found gone"
        await self.records.settle_sandbox(stray.name, reason)
        log.info("sandbox swept", sandbox=stray.name, job=stray.job_id, was_running=was_running)
        return 1
