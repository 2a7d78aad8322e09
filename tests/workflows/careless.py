"""A workflow that imports a library without a decision to share it with the worker."""

import structlog
from temporalio import workflow


@workflow.defn
class Careless:
    """Would load the library anew for each run."""

    @workflow.run
    async def run(self) -> None:
        """Uses it."""
        structlog.get_logger()
