"""Release: end the job's sandboxes, found by attempt, and write the ending where nothing else has."""

import asyncio
from collections.abc import Mapping

from temporalio import activity

from activities.boundary import boundary
from dogwatch import names
from dogwatch.contracts.job import Ending
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import Released, ReleaseInput
from dogwatch.errors import ProviderUnknown
from dogwatch.ports import Records, Sandboxes


class Release:
    """Step of the workflow `Job`, the only one that terminates a sandbox."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Records) -> None:
        """`sandboxes` by make."""
        self.sandboxes, self.records = sandboxes, records

    @activity.defn(name=names.RELEASE_SANDBOX)
    @boundary
    async def release_sandbox(self, step: ReleaseInput) -> Released:
        """End every sandbox of the job that is not settled, also one that a half-done preparation left. Gone is fine, twice is fine."""
        ended = 0
        gone: dict[str, str] = {}
        for live in await self.records.unreleased(step.job_id):
            provider = self.sandboxes.get(live.provider)
            if provider is None:
                raise ProviderUnknown(f"this worker has no sandbox provider {live.provider}, but job {step.job_id} has a sandbox there")
            by_id = live.sandbox_id is not None and await provider.terminate(live.sandbox_id)
            by_name = live.sandbox_id is None and await provider.terminate_named(live.sandbox_name)
            ended += by_id or by_name
            gone[live.sandbox_name] = "released" if by_id or by_name else "found gone"
        # Side by side: one row is the ledger's, the other the job's, and neither waits for the other's answer.
        settling = [self.records.settle_sandbox(name, reason) for name, reason in gone.items()]
        ending, *_ = await asyncio.gather(self._end(step), *settling)
        await self.records.announce(step.job_id)
        return Released(sandboxes=ended, ending=ending)

    async def _end(self, step: ReleaseInput) -> Ending | None:
        return await self.records.end_job(step.job_id, step.request, step.ending) if step.ending is not None else None
