"""Durable headless coding-agent jobs: the one importable package, which costs temporalio and pydantic only."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dogwatch.client import Client, JobHandle
    from dogwatch.contracts.agent import AgentTask
    from dogwatch.contracts.job import JobRequest, JobResult

__all__ = ["AgentTask", "Client", "JobHandle", "JobRequest", "JobResult", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "AgentTask": "dogwatch.contracts.agent",
    "Client": "dogwatch.client",
    "JobHandle": "dogwatch.client",
    "JobRequest": "dogwatch.contracts.job",
    "JobResult": "dogwatch.contracts.job",
}


def __getattr__(name: str) -> object:
    """The public names, loaded when first asked for: programs of this package that need none of them start at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
