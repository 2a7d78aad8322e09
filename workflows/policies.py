"""Every timeout and every retry of dogwatch, in one table."""

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

from dogwatch.contracts.agent import VerdictCode

SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
WAIT: Final = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED

# A worker's death is noticed within the heartbeat timeout; each beat costs a request: 20 to 60 s is the compromise.
# Retries of an activity are about our infrastructure only and attach to what is there; another execution of the agent is an attempt.

PREPARE: Final = ActivityConfig(
    start_to_close_timeout=10 * MINUTE,
    heartbeat_timeout=20 * SECOND,
    retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=30 * SECOND, maximum_attempts=5),
    cancellation_type=WAIT,
)
COLLECT: Final = ActivityConfig(
    start_to_close_timeout=10 * MINUTE,
    heartbeat_timeout=30 * SECOND,
    retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=30 * SECOND, maximum_attempts=10),
    cancellation_type=WAIT,
)
STOP: Final = ActivityConfig(
    start_to_close_timeout=2 * MINUTE,
    schedule_to_close_timeout=10 * MINUTE,
    heartbeat_timeout=20 * SECOND,
    retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=10 * SECOND),
    cancellation_type=WAIT,
)
RELEASE: Final = ActivityConfig(
    start_to_close_timeout=2 * MINUTE,
    schedule_to_close_timeout=60 * MINUTE,
    heartbeat_timeout=20 * SECOND,
    retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=30 * SECOND),
    cancellation_type=WAIT,
)
END_SESSION: Final = ActivityConfig(
    start_to_close_timeout=MINUTE,
    schedule_to_close_timeout=60 * MINUTE,
    heartbeat_timeout=20 * SECOND,
    retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=30 * SECOND),
    cancellation_type=WAIT,
)
SWEEP: Final = ActivityConfig(
    start_to_close_timeout=9 * MINUTE,
    heartbeat_timeout=30 * SECOND,
    retry_policy=RetryPolicy(initial_interval=5 * SECOND, maximum_attempts=3),
    cancellation_type=WAIT,
)

RUN_SLACK: Final = timedelta(seconds=60)
"""What following may take beyond the agent's own time: the supervisor's grace, the last lines, one crash of a worker."""


def run(run_s: float) -> ActivityConfig:
    """Following the agent for `run_s` seconds: the total is bounded, since each attachment after a crash begins a start-to-close anew."""
    return ActivityConfig(
        schedule_to_close_timeout=timedelta(seconds=run_s) + RUN_SLACK,
        heartbeat_timeout=MINUTE,
        retry_policy=RetryPolicy(initial_interval=SECOND, maximum_interval=10 * SECOND),
        cancellation_type=WAIT,
    )


def backoff(number: int, code: VerdictCode) -> timedelta:
    """The wait before the attempt after attempt `number`: long where the model's API has too much to do, short where we lost something."""
    first = 10 if code in (VerdictCode.API_OVERLOADED, VerdictCode.API_UNREACHABLE) else 1
    return timedelta(seconds=min(120, first * 2 ** (number - 1)))


SESSION_SEEN: Final = 200
"""Job ids a session remembers over continue-as-new, by which it knows a repeated submission."""
SESSION_BYTES: Final = 1 << 20
"""Most bytes of the jobs that wait: carried over continue-as-new, they have to fit into one input of 2 MiB."""
CLEANUP_EVERY: Final = timedelta(minutes=10)
CLEANUP_CATCHUP: Final = timedelta(minutes=10)
"""The server's default would make up for a year of missed sweeps."""
