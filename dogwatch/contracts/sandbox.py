"""Where an attempt runs: what a sandbox is asked to be, and the reference by which any process finds it again."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from dogwatch.contracts.base import Contract


class Provider(StrEnum):
    """The makes of a sandbox."""

    LOCAL = "local"
    MODAL = "modal"


class Network(StrEnum):
    """What an agent can reach from its sandbox."""

    MODEL = "model"
    NONE = "none"
    OPEN = "open"


class Resources(Contract):
    """The limits of one sandbox. A provider enforces what its platform can and says what it cannot."""

    cpu: Annotated[float, Field(gt=0, le=64)] = 1.0
    """CPU cores reserved."""
    memory_mib: Annotated[int, Field(ge=128, le=1_048_576)] = 4096
    """Memory limit in MiB, over all processes of the sandbox."""
    disk_mib: Annotated[int, Field(ge=16, le=1_048_576)] = 8192
    """Largest file an agent may write, and size of its temporary directory, in MiB."""
    processes: Annotated[int, Field(ge=16, le=65_536)] = 512
    """Most processes and threads at one time."""


class SandboxSpec(Contract):
    """What a sandbox is asked to be. Equal specifications may share a warm sandbox."""

    provider: Provider | None = None
    """Make of the sandbox; None takes the deployment's default."""
    image: Annotated[str, Field(max_length=200)] | None = None
    """Image to start from, for providers that have images; None is the default agent image."""
    network: Network = Network.MODEL
    """`model` reaches the model's endpoint and nothing else, `none` nothing, `open` everything."""
    resources: Resources = Resources()
    """Limits of the sandbox."""


class SandboxRef(Contract):
    """How any process finds a running sandbox again. Small enough for a workflow's history."""

    provider: Provider
    """Make of the sandbox."""
    sandbox_id: Annotated[str, Field(max_length=200)]
    """The provider's id of the sandbox."""
    name: Annotated[str, Field(max_length=64)]
    """Deterministic name made of deployment, job and attempt; unique among the provider's running sandboxes."""
    workspace: Annotated[str, Field(max_length=4096)]
    """Absolute path of the workspace as the agent sees it."""
