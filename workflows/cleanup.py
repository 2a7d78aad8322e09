"""The scheduled sweep: sandboxes without a live owner, blobs that nothing names."""

from typing import Self

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sweep import Sweep
    from dogwatch import errors, names
    from dogwatch.contracts.cleanup import CleanupInput, Swept
    from workflows import policies
    from workflows.refusal import expect_one
    from workflows.shield import order


@workflow.defn(name=names.CLEANUP, failure_exception_types=[errors.DogwatchError])
class Cleanup:
    """Sweeps in bounded batches until nothing is left to do, or until this run has done its share; the next firing goes on."""

    def __new__(cls, *arguments: object) -> Self:
        """Before `run` could fail on them."""
        expect_one(CleanupInput, arguments)
        return super().__new__(cls)

    @workflow.run
    async def run(self, request: CleanupInput) -> Swept:
        """One batch after the other."""
        total = Swept()
        for _ in range(request.batches):
            swept = await order(Sweep.sweep, request, policies.SWEEP, "sandboxes without an owner, blobs without a name")
            total = total.plus(swept)
            workflow.set_current_details(
                f"{total.sandboxes} sandboxes ended, {total.kept} kept, {total.untagged} untagged, {total.blobs} blobs removed"
            )
            if not swept.more:
                break
        return total
