"""Which workflows live, by asking Temporal."""

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from dogwatch.errors import TemporalUnavailable


class TemporalOwners:
    """The make of the port `Owners` that asks the server."""

    def __init__(self, client: Client) -> None:
        """Asks through `client`."""
        self._client = client

    async def lives(self, workflow_id: str) -> bool:
        """Whether the workflow's latest run is open. Raises TemporalUnavailable where the server does not say."""
        try:
            described = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise TemporalUnavailable(f"Temporal does not say whether {workflow_id} lives: {error}") from error
        return described.status is WorkflowExecutionStatus.RUNNING
