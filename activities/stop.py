"""Stop: end the agent inside its living sandbox, so that what it did can still be collected."""

from collections.abc import Mapping

from temporalio import activity

from activities.boundary import boundary
from dogwatch import names
from dogwatch.agent.supervisor import Supervisor
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import StopInput, Stopped
from dogwatch.errors import SandboxLost
from dogwatch.ports import Records, Sandboxes


class Stop:
    """Step of the workflow `Job`, on cancel, deadline and budget only."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Records) -> None:
        """`sandboxes` by make."""
        self.sandboxes, self.records = sandboxes, records

    @activity.defn(name=names.STOP_AGENT)
    @boundary
    async def stop_agent(self, step: StopInput) -> Stopped:
        """End every process of the job's agent, never its sandbox. The row says so first: an agent not launched by then never is."""
        live = await self.records.request_stop(step.job_id, step.reason)
        if live is None:
            return Stopped(found="no_sandbox")
        try:
            provider = self.sandboxes[live.provider]
            sandbox = await provider.attach(live.sandbox_id) if live.sandbox_id else await provider.find(live.sandbox_name)
            if sandbox is None:
                return Stopped(found="no_sandbox")
            return await Supervisor(sandbox, live.attempt_id).stop(step.reason, step.grace_s)
        except SandboxLost:
            return Stopped(found="no_sandbox")
