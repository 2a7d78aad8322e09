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

    @workflow.init
    def __init__(self, request: CleanupInput) -> None:
        """Nothing is swept yet."""
        self.total = Swept()

    @workflow.run
    async def run(self, request: CleanupInput) -> Swept:
        """One batch after the other."""
        for _ in range(request.batches):
            swept = await order(Sweep.sweep, request, policies.SWEEP, "sandboxes without an owner, blobs without a name")
            self.total = self.total.plus(swept)
            self._show()
            if not swept.more:
                break
        return self.total

    def _show(self) -> None:
        done = self.total
        workflow.set_current_details(
            f"{done.sandboxes} sandboxes ended, {done.kept} kept, {done.untagged} untagged, {done.blobs} blobs removed"
        )
