"""The typed doors for services: jobs and sessions through Temporal, with temporalio and pydantic and nothing else."""

from dogwatch.client.handle import JobHandle, SessionHandle
from dogwatch.client.temporal import Client

__all__ = ["Client", "JobHandle", "SessionHandle"]
