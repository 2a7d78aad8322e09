"""The floor: a workflow of four activities that do nothing."""

from datetime import timedelta

from temporalio import activity, workflow

QUEUE = "bare"


@activity.defn
async def nothing(number: int) -> int:
    """Give back what was given."""
    return number


@workflow.defn
class Bare:
    """As many steps as a job has, and nothing in them."""

    @workflow.run
    async def run(self, steps: int) -> int:
        """One after the other."""
        total = 0
        for number in range(steps):
            total += await workflow.execute_activity(nothing, number, start_to_close_timeout=timedelta(seconds=30))
        return total
