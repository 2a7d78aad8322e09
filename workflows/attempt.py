"""One execution of the agent, as the state of a job's workflow keeps it."""

from dataclasses import dataclass, field

from dogwatch.contracts.agent import Usage, Verdict
from dogwatch.contracts.sandbox import SandboxRef


@dataclass
class Attempt:
    """What is known of an attempt. Its own module, shared with the worker: making a dataclass anew costs each workflow a millisecond."""

    number: int
    sandbox: SandboxRef | None = None
    verdict: Verdict | None = None
    """How it ended."""
    usage: Usage = field(default_factory=Usage)
    text: str = ""
    """The agent's last words."""
    decision: str = ""
    """What followed from it, in words."""
