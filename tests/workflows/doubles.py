"""Doubles of all steps on a real worker: they record what they are asked and do what a test's script says."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from dogwatch import errors, names
from dogwatch.contracts.agent import Usage, Verdict, VerdictCode
from dogwatch.contracts.cleanup import CleanupInput, Swept
from dogwatch.contracts.job import Ending, JobStatus
from dogwatch.contracts.sandbox import Provider, SandboxRef
from dogwatch.contracts.steps import (
    AttemptOutcome,
    AttemptRef,
    Collected,
    CollectInput,
    EndSession,
    Prepared,
    PrepareInput,
    Released,
    ReleaseInput,
    StopInput,
    Stopped,
)
from dogwatch.contracts.workspace import ManifestRef

WITHIN_S = 20.0
"""No wait of a test is longer; each is over as soon as what it waits for has happened."""
BEAT_S = 0.02

Behaviour = Callable[[Any], Awaitable[Any]]
"""What a double does instead of succeeding; a result of None stands for the double's usual one."""
Step = Any


@dataclass
class Call:
    """One execution of a step."""

    name: str
    step: Step
    retry: int
    """Execution of the same activity, from 1."""
    ended: str = ""
    """`done`, `failed` or `cancelled`; empty while it runs."""


def answer(result: object) -> Behaviour:
    """Succeed with this result."""

    async def behave(_: Step) -> object:
        return result

    return behave


def fail(code: str, *, retryable: bool = False, delay: float = 0.0) -> Behaviour:
    """Fail as `activities/boundary.py` lets a typed error out."""

    async def behave(_: Step) -> object:
        await asyncio.sleep(delay)
        known = errors.ERRORS.get(code)
        raise ApplicationError(str(known("no good")) if known else "no good", type=code, non_retryable=not retryable)

    return behave


@dataclass
class Gate:
    """A step that is held, with a beating heart, until the test lets it go or its workflow cancels it."""

    result: object = None
    error: str | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    deaf: bool = False
    """Go on beating after a cancel, as a step does that has to finish what it is in the middle of."""

    async def __call__(self, _: Step) -> object:
        """Hold."""
        self.entered.set()
        while not self.opened.is_set():
            if activity.is_worker_shutdown():
                raise asyncio.CancelledError  # a test that failed must not wait for it
            activity.heartbeat()
            try:
                await asyncio.wait_for(self.opened.wait(), BEAT_S)
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        if self.error is not None:
            raise ApplicationError(self.error, type=self.error, non_retryable=True)
        return self.result

    async def wait(self) -> None:
        """Until the step is in."""
        async with asyncio.timeout(WITHIN_S):
            await self.entered.wait()

    def open(self) -> None:
        """Let it go."""
        self.opened.set()


def outcome(code: VerdictCode = VerdictCode.SUCCESS, *, transient: bool = False, cost: float = 0.5, text: str = "done") -> AttemptOutcome:
    """How an attempt's run ended."""
    verdict = Verdict(code=code, transient=transient, message=f"it came to {code}", remedy="Do something about it.")
    return AttemptOutcome(verdict=verdict, usage=Usage(cost_usd=cost, turns=1), text=text)


def transient(code: VerdictCode = VerdictCode.NO_RESULT, *, cost: float = 0.5) -> Behaviour:
    """A run that could come out differently."""
    return answer(outcome(code, transient=True, cost=cost))


class Hands:
    """All steps. Without a script each succeeds; the first ending that a step is given becomes the job's row, as in Postgres."""

    def __init__(self) -> None:
        """Nothing is scripted."""
        self.calls: list[Call] = []
        self.rows: dict[str, Ending] = {}
        self.spent: dict[str, list[Usage]] = defaultdict(list)
        self.released: dict[str, int] = defaultdict(int)
        self.sandboxes: dict[str, list[str]] = defaultdict(list)
        self.stop_opens: list[Gate] = []
        self._lost: set[int] = set()
        self._scripts: dict[str, list[Behaviour]] = defaultdict(list)

    def on(self, name: str, *behaviours: Behaviour) -> None:
        """Let the next executions of a step behave so, one after the other; after them it succeeds again."""
        self._scripts[name].extend(behaviours)

    def gate(self, name: str, result: object = None, *, error: str | None = None, deaf: bool = False) -> Gate:
        """Hold the next execution of a step."""
        gate = Gate(result, error, deaf=deaf)
        self.on(name, gate)
        return gate

    def lose_workspace_of(self, attempt: int) -> None:
        """Let this attempt's collection find no sandbox any more."""
        self._lost.add(attempt)

    def end_row(self, job_id: str, status: JobStatus, verdict: Verdict) -> None:
        """Somebody else ends the job's row."""
        self.rows[job_id] = Ending(status=status, verdict=verdict)

    def agent_until_stopped(self) -> Gate:
        """Hold the run until `stop_agent` ends the agent: then it tells of a cancelled run, as the real step does."""
        gate = self.gate(names.RUN_AGENT, outcome(VerdictCode.CANCELLED, text="half"), deaf=True)
        self.stop_opens.append(gate)
        return gate

    def ran(self) -> list[str]:
        """Which steps ran, one letter of time after the other; retries of an activity count once."""
        return [call.name for call in self.calls if call.retry == 1]

    def steps(self, name: str) -> list[Step]:
        """What the executions of one step were asked."""
        return [call.step for call in self.calls if call.name == name]

    def running(self) -> list[Call]:
        """Steps that have not ended."""
        return [call for call in self.calls if not call.ended]

    def all(self) -> Sequence[Callable[..., Any]]:
        """For the worker."""
        return [
            self.prepare_sandbox,
            self.run_agent,
            self.stop_agent,
            self.collect_results,
            self.release_sandbox,
            self.end_session,
            self.sweep,
        ]

    async def _play(self, name: str, step: Step) -> Any:
        call = Call(name, step, activity.info().attempt)
        self.calls.append(call)
        script = self._scripts[name]
        try:
            result = await script.pop(0)(step) if script else None
        except asyncio.CancelledError:
            call.ended = "cancelled"
            raise
        except ApplicationError:
            call.ended = "failed"
            raise
        call.ended = "done"
        return result

    @activity.defn(name=names.PREPARE_SANDBOX)
    async def prepare_sandbox(self, step: PrepareInput) -> Prepared:
        """A sandbox per attempt."""
        name = f"sb-{step.job_id[:20]}-{step.attempt}"
        if name not in self.sandboxes[step.job_id]:
            self.sandboxes[step.job_id].append(name)
        result: Prepared | None = await self._play(names.PREPARE_SANDBOX, step)
        ref = SandboxRef(provider=Provider.LOCAL, sandbox_id=f"id-{name}", name=name, workspace="/workspace")
        return result or Prepared(sandbox=ref, conversation="new" if step.attempt == 1 else "resumed")

    @activity.defn(name=names.RUN_AGENT)
    async def run_agent(self, step: AttemptRef) -> AttemptOutcome:
        """An agent that succeeds at once."""
        result: AttemptOutcome | None = await self._play(names.RUN_AGENT, step)
        return result or outcome()

    @activity.defn(name=names.STOP_AGENT)
    async def stop_agent(self, step: StopInput) -> Stopped:
        """Ends the agent that waits for it."""
        result: Stopped | None = await self._play(names.STOP_AGENT, step)
        for gate in self.stop_opens:
            gate.open()
        return result or Stopped(found="running")

    @activity.defn(name=names.COLLECT_RESULTS)
    async def collect_results(self, step: CollectInput) -> Collected:
        """Commits usage and, with one, the ending."""
        result: Collected | None = await self._play(names.COLLECT_RESULTS, step)
        self.spent[step.job_id].append(step.usage)
        if step.ending is not None:
            self.rows.setdefault(step.job_id, step.ending)
        total = Usage()
        for usage in self.spent[step.job_id]:
            total = total.plus(usage)
        kept = step.attempt not in self._lost
        ref = ManifestRef(manifest_id=f"m-{step.attempt}", digest="0" * 64, files=1, bytes=1) if kept else None
        return result or Collected(workspace=ref, transcript=ref, usage=total, attempt_usage=step.usage, events=7, attempts=step.attempt)

    @activity.defn(name=names.RELEASE_SANDBOX)
    async def release_sandbox(self, step: ReleaseInput) -> Released:
        """Ends the job's sandboxes and writes the ending where no row holds one."""
        result: Released | None = await self._play(names.RELEASE_SANDBOX, step)
        ended = len(self.sandboxes[step.job_id])
        self.sandboxes[step.job_id].clear()
        self.released[step.job_id] += ended
        if step.ending is not None:
            self.rows.setdefault(step.job_id, step.ending)
        return result or Released(sandboxes=ended, ending=self.rows[step.job_id] if step.ending is not None else None)

    @activity.defn(name=names.END_SESSION)
    async def end_session(self, step: EndSession) -> None:
        """Only recorded."""
        await self._play(names.END_SESSION, step)

    @activity.defn(name=names.SWEEP)
    async def sweep(self, step: CleanupInput) -> Swept:
        """Finds nothing."""
        result: Swept | None = await self._play(names.SWEEP, step)
        return result or Swept()
