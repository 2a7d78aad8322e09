"""A workflow that reads the clock."""

from datetime import UTC, datetime

from temporalio import workflow


@workflow.defn
class ReadsTheClock:
    """What no workflow may do."""

    @workflow.run
    async def run(self) -> str:
        """The time of this machine, which a replay would not see again."""
        return datetime.now(UTC).isoformat()
