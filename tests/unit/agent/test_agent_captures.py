"""What the real CLI wrote in two versions, and what we make of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from dogwatch.agent.progress import Progress
from dogwatch.agent.status import ExitFacts
from dogwatch.agent.stream import LineSplitter, read_event
from dogwatch.agent.verdict import decide
from dogwatch.contracts.agent import VerdictCode
from dogwatch.contracts.steps import StopReason

CAPTURES = Path(__file__).parents[2] / "data" / "captures"
VERSIONS = ["2.1.197", "2.1.329"]
ENDINGS = {
    # name: (verdict, transient, input tokens, output tokens, turns, cost by version)
    "success_edit": (VerdictCode.SUCCESS, False, 6000, 400, 5, (0.008, 0.008)),
    "resume": (VerdictCode.SUCCESS, False, 1200, 80, 1, (0.0016, 0.0016)),
    "max_turns": (VerdictCode.MAX_TURNS, False, 1200, 80, 1, (0.008, 0.0064)),
    "budget": (VerdictCode.BUDGET_EXCEEDED, False, 1200, 80, 1, (0.008, 0.0064)),
    "api_401": (VerdictCode.AUTHENTICATION_FAILED, False, 0, 0, 0, (0, 0)),
    "api_529": (VerdictCode.API_OVERLOADED, True, 0, 0, 0, (0, 0)),
    "permission_denied": (VerdictCode.SUCCESS, False, 6000, 400, 5, (0.008, 0.008)),
    "killed_sigterm": (VerdictCode.AGENT_KILLED, True, 1000, 1, 1, (0, 0)),
}


def read(data: bytes) -> Progress:
    """The progress after a whole output."""
    splitter, progress = LineSplitter(), Progress()
    for line in [*splitter.feed(data), *splitter.finish()]:
        event, content = read_event(line)
        progress.add(event.type, event.subtype, content)
    return progress


def captured(version: str, name: str) -> tuple[bytes, dict[str, Any]]:
    """An output and what was noted of its run."""
    index = json.loads((CAPTURES / version / "index.json").read_text())
    return (CAPTURES / version / f"{name}.jsonl").read_bytes(), index[name]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ENDINGS)
def test_verdict_usage_and_cost(version: str, name: str) -> None:
    """Each ending has its verdict; usage is what this run used, also where the CLI counts over a resumed conversation."""
    data, noted = captured(version, name)
    progress = read(data)
    code, transient, read_tokens, written, turns, costs = ENDINGS[name]
    verdict = decide(progress, ExitFacts(noted["exit_code"], "exited"), stderr_tail=noted["stderr"])
    assert (verdict.code, verdict.transient, verdict.exit_code) == (code, transient, noted["exit_code"])
    assert verdict.message
    assert bool(verdict.remedy) == (code != VerdictCode.SUCCESS)
    usage = progress.usage
    assert (usage.input_tokens, usage.output_tokens, usage.turns) == (read_tokens, written, turns)
    assert usage.cost_usd == pytest.approx(costs[VERSIONS.index(version)])
    assert usage.estimated == (name == "killed_sigterm")
    assert progress.events == noted["events"]
    assert progress.cli_version == version


@pytest.mark.parametrize("version", VERSIONS)
def test_what_people_see(version: str) -> None:
    """Words, denials and API trouble are told in a line."""
    done = read(captured(version, "success_edit")[0])
    assert done.text == "add() returns the sum now."
    assert done.last == "ended: add() returns the sum now."
    denied = read(captured(version, "permission_denied")[0])
    assert decide(denied, ExitFacts(0, "exited")).message == "the agent finished; 2 tool calls were denied"
    overloaded = read(captured(version, "api_529")[0])
    assert (overloaded.retries, overloaded.api_status) == (2, 529)
    assert decide(overloaded, ExitFacts(1, "exited")).api_status == 529
    killed = read(captured(version, "killed_sigterm")[0])
    assert killed.last.startswith("Bash: touch started; python3")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (StopReason.CANCEL, VerdictCode.CANCELLED),
        (StopReason.DEADLINE, VerdictCode.DEADLINE),
        (StopReason.BUDGET, VerdictCode.BUDGET_EXCEEDED),
    ],
)
def test_our_own_stop_is_not_a_killed_agent(version: str, reason: StopReason, code: VerdictCode) -> None:
    """The exit code is the same; who asked for it decides."""
    progress = read(captured(version, "killed_sigterm")[0])
    verdict = decide(progress, ExitFacts(143, "stopped"), stop_reason=reason)
    assert (verdict.code, verdict.transient) == (code, False)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ENDINGS)
def test_another_worker_goes_on_with_the_stored_state(version: str, name: str) -> None:
    """Stored as JSON after any event and read back, the state ends the same."""
    data, _ = captured(version, name)
    expected, lines = read(data), LineSplitter().feed(data)
    for cut in range(len(lines) + 1):
        progress = read(b"".join(line.raw for line in lines[:cut]))
        progress = Progress.from_json(json.loads(json.dumps(progress.to_json())))
        for line in lines[cut:]:
            event, content = read_event(line)
            progress.add(event.type, event.subtype, content)
        assert progress == expected
