"""The verdict: what a run came to, from everything seen and never from the exit code alone."""

import signal
from typing import Literal

from dogwatch.agent.display import escape, shorten
from dogwatch.agent.progress import Progress
from dogwatch.agent.result import RunResult
from dogwatch.agent.status import ExitFacts
from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.contracts.steps import StopReason

Lost = Literal["sandbox", "supervisor", "tampered"]

_TRANSIENT = {
    VerdictCode.API_OVERLOADED,
    VerdictCode.API_UNREACHABLE,
    VerdictCode.NO_RESULT,
    VerdictCode.AGENT_KILLED,
    VerdictCode.HUNG_AFTER_RESULT,
    VerdictCode.SUPERVISOR_LOST,
    VerdictCode.SANDBOX_LOST,
}
_AGAIN = "Another attempt follows if the job's limits allow it."
_REMEDIES = {
    VerdictCode.MAX_TURNS: "Raise options.max_turns, or go on in the same session: the work done so far is kept.",
    VerdictCode.BUDGET_EXCEEDED: "Raise options.max_cost_usd, or go on in the same session: the work done so far is kept.",
    VerdictCode.STRUCTURED_OUTPUT_FAILED: "Simplify the schema, or say in the prompt what the answer should hold.",
    VerdictCode.REFUSED: "Rephrase the request; the model declined it.",
    VerdictCode.HOOK_STOPPED: "Look at the hook that ended the run.",
    VerdictCode.EXECUTION_ERROR: "Look at the last events and the agent's error output.",
    VerdictCode.AUTHENTICATION_FAILED: "Check the secret that model_credential names and what its key may use.",
    VerdictCode.API_REJECTED: "Correct what the message names: the model id, the size of the conversation or the account's credit.",
    VerdictCode.API_OVERLOADED: _AGAIN,
    VerdictCode.API_UNREACHABLE: f"{_AGAIN} If it lasts, check the sandbox's network and the model's address.",
    VerdictCode.BAD_INVOCATION: "Correct the option that the message names, or the version of the CLI in the image.",
    VerdictCode.NO_RESULT: _AGAIN,
    VerdictCode.AGENT_KILLED: f"{_AGAIN} Signal 9 often means too little memory: raise sandbox.resources.memory_mib.",
    VerdictCode.HUNG_AFTER_RESULT: _AGAIN,
    VerdictCode.OUTPUT_LIMIT: "Ask for less output, or raise DOGWATCH_MAX_OUTPUT_BYTES.",
    VerdictCode.SPOOL_TAMPERED: "The agent changed the record of its own run: look at the last events before you trust its files.",
    VerdictCode.SUPERVISOR_LOST: _AGAIN,
    VerdictCode.SANDBOX_LOST: _AGAIN,
    VerdictCode.DEADLINE: "Raise timeout_s, or go on in the same session: the work done so far is kept.",
}
_SUBTYPES = {
    "error_max_turns": (VerdictCode.MAX_TURNS, "the agent used all its turns"),
    "error_max_budget_usd": (VerdictCode.BUDGET_EXCEEDED, "the agent used all its money"),
    "error_max_structured_output_retries": (VerdictCode.STRUCTURED_OUTPUT_FAILED, "the answer never matched its schema"),
}
_STOPS = {
    StopReason.CANCEL: (VerdictCode.CANCELLED, "the job was cancelled"),
    StopReason.DEADLINE: (VerdictCode.DEADLINE, "the job's time was over"),
    StopReason.BUDGET: (VerdictCode.BUDGET_EXCEEDED, "the job's money was spent"),
}
_ENDED_BY_US = {
    "deadline": "the supervisor ended it at the deadline, after its result",
    "stopped": "it was stopped after its result",
    "hung_after_result": "the CLI hung after its result and was ended",
}


def decide(
    progress: Progress,
    exit_facts: ExitFacts | None,
    *,
    stderr_tail: str = "",
    stop_reason: StopReason | None = None,
    lost: Lost | None = None,
) -> Verdict:
    """What the run itself came to; how the job ends is the workflow's decision.

    A result that was complete before a stop, the deadline or a hang counts as the run's own, so the work of an agent that was only slow to
    leave is not thrown away. Success needs that result, good in every field, and exit code 0 or such an end by us. A run whose sandbox or
    supervisor is lost, or whose output was changed, is never a success: its files or its exit are unknown.
    """
    code, message, result = _came_to(progress, exit_facts, stderr_tail, stop_reason, lost)
    return Verdict(
        code=code,
        transient=code in _TRANSIENT,
        message=shorten(escape(message), 1000),
        remedy=_REMEDIES.get(code, ""),
        api_status=result.api_status if result else progress.api_status,
        exit_code=exit_facts.rc if exit_facts else None,
    )


Finding = tuple[VerdictCode, str, RunResult | None]


def _came_to(
    progress: Progress, exit_facts: ExitFacts | None, stderr_tail: str, stop_reason: StopReason | None, lost: Lost | None
) -> Finding:
    if lost == "tampered":
        return VerdictCode.SPOOL_TAMPERED, "the agent's output is not what it was", None
    if lost == "sandbox":
        return VerdictCode.SANDBOX_LOST, "the sandbox is gone, and the agent with it", None
    if exit_facts is None or lost == "supervisor" or exit_facts.reason == "supervisor_lost":
        return VerdictCode.SUPERVISOR_LOST, "the agent's supervisor died", None
    if progress.result and progress.settled and exit_facts.reason in _ENDED_BY_US:
        code, message = _by_result(progress.result)
        return code, f"{message} ({_ENDED_BY_US[exit_facts.reason]})", progress.result
    if exit_facts.reason == "exited":
        return _exited(progress, exit_facts.rc, stderr_tail)
    return *_ended(exit_facts.reason, stop_reason), None


def _ended(reason: str, stop_reason: StopReason | None) -> tuple[VerdictCode, str]:
    """A run that we ended before it came to anything."""
    if reason == "deadline":
        return VerdictCode.DEADLINE, "the agent did not finish in time"
    if reason == "output_limit":
        return VerdictCode.OUTPUT_LIMIT, "the agent wrote more output than the deployment allows"
    if reason == "hung_after_result":
        return VerdictCode.HUNG_AFTER_RESULT, "the agent stopped writing after a result that is not its own"
    if stop_reason is None:
        return VerdictCode.AGENT_KILLED, "the supervisor was told to end, but by no stop of this job"
    return _STOPS[stop_reason]


def _exited(progress: Progress, rc: int | None, stderr_tail: str) -> Finding:
    result = progress.result
    if result and (rc == 0 or (progress.settled and not result.good)):
        code, message = _by_result(result)
        return code, message, result
    if rc is None or rc > 128:  # 128 + n after signal n
        return VerdictCode.AGENT_KILLED, f"the agent was ended by {_signal(rc)}", None
    said = shorten(stderr_tail.strip()[-500:], 500)
    if result and progress.settled:
        return VerdictCode.EXECUTION_ERROR, f"the agent reported success and exited with {rc}: {said}", result
    if rc in (126, 127) or (rc and said and not progress.events):
        return VerdictCode.BAD_INVOCATION, f"the agent's CLI refused to start (exit code {rc}): {said}", None
    return VerdictCode.NO_RESULT, f"the agent exited with {rc} and without a result. {said}".strip(), None


def _by_result(result: RunResult) -> tuple[VerdictCode, str]:
    if result.subtype in _SUBTYPES:
        code, message = _SUBTYPES[result.subtype]
        return code, f"{message}: {result.error}" if result.error else message
    if result.stop_reason == "refusal":
        return VerdictCode.REFUSED, f"the model declined: {result.text}"
    if result.terminal_reason == "hook_stopped":
        return VerdictCode.HOOK_STOPPED, "a hook ended the run"
    if result.subtype != "success":
        return VerdictCode.EXECUTION_ERROR, f"the agent failed: {result.error or result.text or result.subtype}"
    if result.is_error:
        return _by_api(result), f"the model's API failed: {result.text}"
    if result.broken_off:
        return VerdictCode.API_UNREACHABLE, "the model's reply broke off, and the agent took its half for the whole"
    refused = f"; {result.denials} tool calls were denied" if result.denials else ""
    return VerdictCode.SUCCESS, f"the agent finished{refused}"


def _by_api(result: RunResult) -> VerdictCode:
    status, text = result.api_status, result.text
    if status in (401, 403) or text.startswith("Not logged in"):
        return VerdictCode.AUTHENTICATION_FAILED
    if status is None:
        reached_nothing = result.api_error == "connection_failed" or "API Error" in text
        return VerdictCode.API_UNREACHABLE if reached_nothing else VerdictCode.EXECUTION_ERROR
    later = status in (408, 409, 429) or status >= 500
    return VerdictCode.API_OVERLOADED if later else VerdictCode.API_REJECTED


def _signal(rc: int | None) -> str:
    try:
        return signal.Signals((rc or 0) - 128).name
    except ValueError:
        return f"exit code {rc}"
