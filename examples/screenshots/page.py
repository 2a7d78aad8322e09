"""What is photographed: an address of the Temporal UI, where to click, and the words that must be there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """One picture."""

    file: str
    """Its name in docs/images/."""
    workflow: str = ""
    """The job's workflow id; empty for the list of workflows."""
    tab: str | None = None
    """The tab that is opened, by the beginning of its label."""
    expected: tuple[str, ...] = ()
    """What the page says; docs/temporal-ui.md relies on it, so nothing is taken before it is there."""
    height: int = 940

    def url(self, ui: str) -> str:
        """Where the page is in a UI at that address."""
        return f"{ui}/namespaces/default/workflows/{self.workflow.replace('/', '%2F')}"


WHILE_IT_RUNS = (
    Page("running.png", "job/primes", expected=("RUNNING", "run_agent", "attempt 1: follow the agent")),
    Page("progress.png", "job/primes", "Pending Activities", ("run_agent", '"phase": "following"', '"turns": 3', "sleep 110"), 580),
    Page("details.png", "job/primes", "User Metadata", ("Tabulate the primes", "running", "agent's deadline", "attempt 1 in dw-"), 720),
)

OF_THE_ENDED = (
    Page("list.png", expected=("1 RUNNING", "2 COMPLETED", "2 FAILED", "1 CANCELED", "job/haiku", "job/tidy"), height=560),
    Page(
        "succeeded.png",
        "job/haiku",
        expected=(
            "COMPLETED",
            "Event History\n29",
            '"code": "success"',
            "prepare_sandbox",
            "run_agent",
            "collect_results",
            "release_sandbox",
        ),
    ),
    Page("failed.png", "job/issues", expected=("FAILED", "Credit balance is too low", "Correct what the message names", "release_sandbox")),
    Page(
        "timed-out.png",
        "job/port",
        expected=("FAILED", "the agent did not finish in time", "Raise timeout_s", "stop_agent", "collect_results"),
    ),
    Page("cancelled.png", "job/translation", expected=("CANCELED", "stop_agent", "collect_results", "release_sandbox")),
    Page(
        "two-attempts.png",
        "job/tidy",
        expected=("COMPLETED", "attempt 2 follows api_overloaded after 10 s", "attempt 2: follow"),
        height=1060,
    ),
    Page(
        "two-attempts-details.png", "job/tidy", "User Metadata", ("succeeded", "attempt 1", "api_overloaded", "attempt 2", "success"), 760
    ),
)
