"""Every way a run can end has one verdict, a message and a remedy."""

from typing import Any, Literal

import pytest

from dogwatch.agent.progress import Progress
from dogwatch.agent.status import ExitFacts
from dogwatch.agent.stream import classify
from dogwatch.agent.verdict import decide
from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.contracts.steps import StopReason
from tests.hostile import init, line, result, say


def after(*lines: bytes) -> Progress:
    """The progress after these lines."""
    progress = Progress()
    for one in lines:
        progress.add(*classify(one))
    return progress


def api_error(status: int | None, text: str = "API Error: trouble", **more: Any) -> Progress:
    """A run that the API ended."""
    return after(init(), result(is_error=True, text=text, cost=0, api_error_status=status, **more))


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        (401, VerdictCode.AUTHENTICATION_FAILED, False),
        (403, VerdictCode.AUTHENTICATION_FAILED, False),
        (400, VerdictCode.API_REJECTED, False),
        (404, VerdictCode.API_REJECTED, False),
        (413, VerdictCode.API_REJECTED, False),
        (422, VerdictCode.API_REJECTED, False),
        (408, VerdictCode.API_OVERLOADED, True),
        (429, VerdictCode.API_OVERLOADED, True),
        (500, VerdictCode.API_OVERLOADED, True),
        (503, VerdictCode.API_OVERLOADED, True),
        (529, VerdictCode.API_OVERLOADED, True),
        (None, VerdictCode.API_UNREACHABLE, True),
    ],
)
def test_errors_of_the_api_by_status(status: int | None, code: VerdictCode, transient: bool) -> None:
    """They come as subtype success: only is_error tells."""
    verdict = decide(api_error(status), ExitFacts(1, "exited"))
    assert (verdict.code, verdict.transient, verdict.api_status) == (code, transient, status)
    assert verdict.remedy


def test_errors_of_the_api_without_a_status() -> None:
    """A refused connection may work later, a missing login not, and what is unknown is not repeated at a cost."""
    refused = api_error(None, "Connection refused", api_error="connection_failed")
    assert decide(refused, ExitFacts(1, "exited")).code == VerdictCode.API_UNREACHABLE
    assert decide(api_error(None, "Not logged in · Please run /login"), ExitFacts(1, "exited")).code == VerdictCode.AUTHENTICATION_FAILED
    assert decide(api_error(None, "What?"), ExitFacts(1, "exited")).code == VerdictCode.EXECUTION_ERROR


RESULTS = {
    "max turns": (result("error_max_turns", True, errors=["Reached maximum number of turns (1)"]), 1, VerdictCode.MAX_TURNS),
    "budget": (result("error_max_budget_usd", True), 1, VerdictCode.BUDGET_EXCEEDED),
    "schema": (result("error_max_structured_output_retries", True), 1, VerdictCode.STRUCTURED_OUTPUT_FAILED),
    "internal": (result("error_during_execution", True), 1, VerdictCode.EXECUTION_ERROR),
    "internal, rc 0": (result("error_during_execution", True), 0, VerdictCode.EXECUTION_ERROR),
    "refusal": (result(stop_reason="refusal"), 0, VerdictCode.REFUSED),
    "refusal as error": (result(is_error=True, stop_reason="refusal"), 1, VerdictCode.REFUSED),
    "hook": (result(text="", terminal_reason="hook_stopped", stop_reason="tool_use"), 0, VerdictCode.HOOK_STOPPED),
    "half a reply": (result(cost=0, stop_reason=None), 0, VerdictCode.API_UNREACHABLE),
    "good but rc 1": (result(), 1, VerdictCode.EXECUTION_ERROR),
    "good but killed": (result(), 137, VerdictCode.AGENT_KILLED),
    "good": (result(stop_reason="end_turn"), 0, VerdictCode.SUCCESS),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str) -> None:
    """Success needs the result, every field of it and exit code 0."""
    event, rc, code = RESULTS[name]
    verdict = decide(after(init(), say("hello"), event), ExitFacts(rc, "exited"))
    assert (verdict.code, verdict.exit_code) == (code, rc)


def test_a_local_command_asks_no_model_and_is_fine() -> None:
    """It has no stop reason and costs nothing either, as half a reply does, but there is no reply."""
    usage = after(init(), result(text="Total cost: 0", cost=0, stop_reason=None))
    assert decide(usage, ExitFacts(0, "exited")).code == VerdictCode.SUCCESS


@pytest.mark.parametrize(
    ("lines", "rc", "stderr", "code", "transient"),
    [
        ([], 1, "error: unknown option '--x'", VerdictCode.BAD_INVOCATION, False),
        ([], 127, "", VerdictCode.BAD_INVOCATION, False),
        ([b"noise\n"], 1, "error: no", VerdictCode.BAD_INVOCATION, False),
        ([], 1, "", VerdictCode.NO_RESULT, True),
        ([], 0, "warning", VerdictCode.NO_RESULT, True),
        ([init()], 1, "permission tool is missing", VerdictCode.NO_RESULT, True),
        ([init(), say("x")], 0, "", VerdictCode.NO_RESULT, True),
        ([init()], 137, "", VerdictCode.AGENT_KILLED, True),
        ([init()], 143, "", VerdictCode.AGENT_KILLED, True),
        ([], 134, "aborted", VerdictCode.AGENT_KILLED, True),
    ],
)
def test_ends_without_a_result(lines: list[bytes], rc: int, stderr: str, code: VerdictCode, transient: bool) -> None:
    """An invocation that cannot work is not repeated; anything else may end differently."""
    verdict = decide(after(*lines), ExitFacts(rc, "exited"), stderr_tail=stderr)
    assert (verdict.code, verdict.transient) == (code, transient)
    assert stderr in verdict.message or code == VerdictCode.AGENT_KILLED


Ended = Literal["deadline", "output_limit", "stopped", "hung_after_result", "not_started", "supervisor_lost"]


@pytest.mark.parametrize(
    ("reason", "stop_reason", "code", "transient"),
    [
        ("deadline", None, VerdictCode.DEADLINE, False),
        ("output_limit", None, VerdictCode.OUTPUT_LIMIT, False),
        ("stopped", StopReason.CANCEL, VerdictCode.CANCELLED, False),
        ("stopped", StopReason.DEADLINE, VerdictCode.DEADLINE, False),
        ("stopped", StopReason.BUDGET, VerdictCode.BUDGET_EXCEEDED, False),
        ("stopped", None, VerdictCode.AGENT_KILLED, True),
        ("not_started", StopReason.CANCEL, VerdictCode.CANCELLED, False),
        ("hung_after_result", None, VerdictCode.HUNG_AFTER_RESULT, True),
        ("supervisor_lost", None, VerdictCode.SUPERVISOR_LOST, True),
        ("supervisor_lost", StopReason.CANCEL, VerdictCode.SUPERVISOR_LOST, True),
    ],
)
def test_runs_that_we_ended(reason: Ended, stop_reason: StopReason | None, code: VerdictCode, transient: bool) -> None:
    """A kill of ours is never called a killed agent."""
    verdict = decide(after(init(), say("x")), ExitFacts(143, reason), stop_reason=stop_reason)
    assert (verdict.code, verdict.transient) == (code, transient)


@pytest.mark.parametrize("reason", ["deadline", "stopped", "hung_after_result"])
def test_a_result_before_our_end_counts(reason: Ended) -> None:
    """What the run came to is its result, good or bad; the message tells of the end, and the workflow decides about the job."""
    good = decide(after(init(), result()), ExitFacts(143, reason), stop_reason=StopReason.CANCEL)
    assert good.code == VerdictCode.SUCCESS
    assert "result)" in good.message or "ended)" in good.message
    bad = decide(after(init(), result("error_max_turns", True)), ExitFacts(143, reason), stop_reason=StopReason.CANCEL)
    assert bad.code == VerdictCode.MAX_TURNS


def test_a_result_followed_by_more_work_does_not_count_when_cut() -> None:
    """Some versions go on with another turn after a result."""
    progress = after(init(), result(), init(), say("more"))
    assert decide(progress, ExitFacts(143, "deadline")).code == VerdictCode.DEADLINE
    assert decide(progress, ExitFacts(137, "exited")).code == VerdictCode.AGENT_KILLED
    assert decide(progress, ExitFacts(0, "exited")).code == VerdictCode.SUCCESS


@pytest.mark.parametrize(
    ("lost", "code", "transient"),
    [
        ("sandbox", VerdictCode.SANDBOX_LOST, True),
        ("supervisor", VerdictCode.SUPERVISOR_LOST, True),
        ("tampered", VerdictCode.SPOOL_TAMPERED, False),
    ],
)
def test_what_is_lost_is_never_a_success(lost: Literal["sandbox", "supervisor", "tampered"], code: VerdictCode, transient: bool) -> None:
    """Not even after a good result: files or exit are unknown."""
    verdict = decide(after(init(), result()), None, lost=lost)
    assert (verdict.code, verdict.transient) == (code, transient)


def test_messages_are_fit_to_be_shown() -> None:
    """They are capped, escaped and storable, whatever the agent wrote."""
    nasty = "\x1b]0;title\x07\x00\ud800\u202e" + "x" * 5000
    told: list[Verdict] = [
        decide(after(), ExitFacts(1, "exited"), stderr_tail=nasty),
        decide(after(init(), line(type="result", subtype=nasty[:20], session_id="s-1", errors=[nasty])), ExitFacts(1, "exited")),
        decide(api_error(400, nasty), ExitFacts(1, "exited")),
    ]
    for verdict in told:
        assert verdict.message.isprintable()
        assert len(verdict.message) <= 1000
        verdict.model_dump_json().encode()
