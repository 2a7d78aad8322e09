"""The last step of a session: its row, and the rows of jobs that never ran."""

from temporalio import activity

from activities.boundary import boundary
from dogwatch import names
from dogwatch.contracts.session import SessionState
from dogwatch.contracts.steps import EndSession
from dogwatch.ports import Records


class Sessions:
    """Steps of the workflow `Session`."""

    def __init__(self, records: Records) -> None:
        """Writes through `records`."""
        self.records = records

    @activity.defn(name=names.END_SESSION)
    @boundary
    async def end_session(self, end: EndSession) -> None:
        """Say on the rows how the session ended and which jobs were withdrawn. Twice is fine."""
        await self.records.end_session(end.session_id, SessionState(end.state), end.withdrawn)
