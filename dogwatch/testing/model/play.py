"""One loaded script being played: which step is next, which errors are used up, who waits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from dogwatch.testing.model.gate import WAIT_LIMIT, Gate
from dogwatch.testing.model.journal import Journal
from dogwatch.testing.model.prompt import Prompt
from dogwatch.testing.model.script import Failure, Script, Step
from dogwatch.testing.model.workspace import PLACEHOLDER, fill, working_directory


class RefusedError(Exception):
    """The request is answered with an API error."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Play:
    """The state of a script between its loading and the next: nothing of it outlives `load`."""

    def __init__(self, script: Script, log: Path | None) -> None:
        self.journal = Journal(log)
        self.gate = Gate()
        self._script = script
        self._lock = Lock()
        self._asked: Counter[str] = Counter()
        self._failed: Counter[tuple[str, int]] = Counter()

    def step(self, prompt: Prompt) -> Step:
        """The step that answers a request, placeholders filled, its error gone if that is used up; or RefusedError."""
        conversation = self._script.conversation(prompt.first)
        if conversation is None:
            raise RefusedError(Failure.of(400, f"no conversation of the script matches the prompt {prompt.first!r:.200}"))
        with self._lock:
            index = self._asked[prompt.conversation] if conversation.by_count else prompt.assistant_messages
            self._asked[prompt.conversation] += 1
            step = conversation.step(index, prompt.model)
            if step.failure and step.failure.times is not None:
                self._failed[prompt.conversation, index] += 1
                if self._failed[prompt.conversation, index] > step.failure.times:
                    step = replace(step, failure=None)
        filled: Step = fill(step, lambda: _directory(prompt))
        return filled

    def hold(self, step: Step, gone: Callable[[], bool]) -> None:
        """Wait as long as the step says; ConnectionAbortedError if the asker is gone, RefusedError if in vain."""
        if step.wait_for is not None:
            passage = self.gate.wait(step.wait_for, gone)
            if passage == "gone":
                raise ConnectionAbortedError
            if passage != "released":
                why = f"in {WAIT_LIMIT:.0f} s" if passage == "expired" else "before the script ended"
                raise RefusedError(Failure.of(500, f"nobody released {step.wait_for!r} {why}"))
        self.gate.pause(step.delay)

    def stats(self) -> dict[str, Any]:
        """The journal's statistics and the number of held-back replies by name."""
        return {**self.journal.stats(), "waiting": self.gate.waiting()}


def _directory(prompt: Prompt) -> str:
    found = working_directory(prompt.body)
    if found is None:
        raise RefusedError(Failure.of(400, f"the script says {PLACEHOLDER}, but the request names no working directory"))
    return found
