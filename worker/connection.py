"""The connection to Temporal: from the same variables and files as the `temporal` command line."""

from temporalio.client import Client as TemporalClient

from dogwatch.client import Client
from worker.converter import for_worker


async def connect_temporal() -> TemporalClient:
    """A worker's client of the configured server, localhost:7233 where nothing is configured. Raises TemporalUnavailable."""
    return for_worker((await Client.connect()).temporal)
