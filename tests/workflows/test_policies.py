"""The one table of timeouts and retries: nothing waits for ever, nothing long goes unheard, nothing paid is repeated without bound."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from temporalio.workflow import ActivityCancellationType, ActivityConfig

from dogwatch import names
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.job import MAX_REQUEST_BYTES, JobRequest
from dogwatch.contracts.session import MAX_QUEUED_JOBS
from workflows import policies

SHORT = timedelta(seconds=10)
TABLE: Mapping[str, ActivityConfig] = {
    names.PREPARE_SANDBOX: policies.PREPARE,
    names.RUN_AGENT: policies.run(600),
    names.COLLECT_RESULTS: policies.COLLECT,
    names.STOP_AGENT: policies.STOP,
    names.RELEASE_SANDBOX: policies.RELEASE,
    names.END_SESSION: policies.END_SESSION,
    names.SWEEP: policies.SWEEP,
}
every_step = pytest.mark.parametrize("policy", TABLE.values(), ids=TABLE.keys())


def retries(policy: ActivityConfig) -> Any:
    """The retry policy, which every step states."""
    assert policy["retry_policy"] is not None
    return policy["retry_policy"]


def test_every_policy_of_the_module_is_in_this_table() -> None:
    """A new policy joins the rules below."""
    named = {name for name, value in vars(policies).items() if isinstance(value, dict) and not name.startswith("_")}
    assert named == {"PREPARE", "COLLECT", "STOP", "RELEASE", "END_SESSION", "SWEEP"}


@every_step
def test_one_execution_is_bounded(policy: ActivityConfig) -> None:
    """By itself, or by the bound of all executions together."""
    assert policy.get("start_to_close_timeout") or policy.get("schedule_to_close_timeout")


@every_step
def test_a_step_over_a_few_seconds_beats(policy: ActivityConfig) -> None:
    """Without a heartbeat timeout a worker's death is noticed at the end only, and a cancel never."""
    bound = policy.get("start_to_close_timeout") or policy.get("schedule_to_close_timeout")
    assert bound is not None
    heartbeat = policy.get("heartbeat_timeout")
    if bound > SHORT:
        assert heartbeat is not None
        assert timedelta(seconds=10) <= heartbeat <= timedelta(seconds=60)
        assert heartbeat < bound


@every_step
def test_retries_end(policy: ActivityConfig) -> None:
    """After a number of executions, or when the time for all of them is over."""
    assert retries(policy).maximum_attempts > 0 or policy.get("schedule_to_close_timeout")


@every_step
def test_retries_wait_no_longer_than_half_a_minute(policy: ActivityConfig) -> None:
    """The server's default would let the pauses grow to a hundred times the first."""
    pauses = retries(policy)
    longest = pauses.maximum_interval or pauses.initial_interval * pauses.backoff_coefficient ** max(0, pauses.maximum_attempts - 2)
    assert longest <= timedelta(seconds=30)


@every_step
def test_a_cancelled_step_is_waited_for(policy: ActivityConfig) -> None:
    """The default closes the workflow while the step still writes."""
    assert policy["cancellation_type"] is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED


@pytest.mark.parametrize("run_s", [1.0, 600.0, 86_400.0])
def test_following_is_bounded_by_the_agents_time_and_a_crash(run_s: float) -> None:
    """Long enough for one death of a worker near the end, which is noticed after a heartbeat timeout at most."""
    policy = policies.run(run_s)
    bound, heartbeat = policy["schedule_to_close_timeout"], policy["heartbeat_timeout"]
    assert bound is not None
    assert heartbeat is not None
    assert bound - timedelta(seconds=run_s) >= heartbeat
    assert bound - timedelta(seconds=run_s) <= timedelta(minutes=5)


def test_the_pause_between_attempts_grows_to_two_minutes() -> None:
    """Ten times as long where the model's API has too much to do."""
    highest = max(item for meta in JobRequest.model_fields["max_attempts"].metadata if (item := getattr(meta, "le", None)))
    seconds = [policies.backoff(number, VerdictCode.NO_RESULT).total_seconds() for number in range(1, highest + 1)]
    assert seconds == [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]
    assert policies.backoff(1, VerdictCode.API_OVERLOADED).total_seconds() == 10
    assert policies.backoff(99, VerdictCode.API_OVERLOADED).total_seconds() == 120


def test_what_a_session_carries_fits_into_one_input() -> None:
    """2 MiB is Temporal's limit: the queue, the ids it remembers and as much again for a codec's overhead."""
    limit = 2 << 20
    carried = policies.SESSION_BYTES + policies.SESSION_SEEN * 70 + MAX_QUEUED_JOBS * 100
    assert carried < limit * 3 // 4
    assert MAX_REQUEST_BYTES < policies.SESSION_BYTES


def test_a_session_remembers_more_jobs_than_may_wait() -> None:
    """A job that waits is never forgotten, so it cannot be queued twice."""
    assert policies.SESSION_SEEN > MAX_QUEUED_JOBS


def test_missed_sweeps_are_not_made_up_for() -> None:
    """The server's default would fire for a year of them."""
    assert policies.CLEANUP_CATCHUP <= policies.CLEANUP_EVERY * 2
