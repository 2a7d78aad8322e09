"""What the demo says: events as they happen, diffs, results; nothing an agent wrote can act on the terminal."""

import json
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from dogwatch.agent.display import escape, shorten
from dogwatch.contracts.agent import EventView
from dogwatch.contracts.job import JobStatus, JobView
from examples.demo.check import Finding

_TELLING = ("command", "file_path", "pattern", "description")


class Teller:
    """Writes to standard output; plain text in a pipe."""

    def __init__(self) -> None:
        """Colours and width are the terminal's own."""
        self._console = Console(highlight=False, soft_wrap=True)

    def headline(self, words: str) -> None:
        """A new chapter."""
        self._console.print()
        self._say(words, "bold")

    def note(self, words: str) -> None:
        """An aside."""
        self._say(f"  {words}", "dim")

    def problem(self, words: str) -> None:
        """Why there is no demo."""
        self._say(f"dogwatch: {words}", "bold red")

    def event(self, event: EventView) -> None:
        """One line of the agent's stream."""
        for kind, words in _told(event):
            self._say(f"  {event.seq:>4}  {kind:<7} {shorten(escape(words), 160)}", "cyan" if kind == "tool" else "")

    def diff(self, diffs: Iterable[str | None]) -> None:
        """What changed, line by line."""
        for diff in diffs:
            for line in (diff or "").splitlines():
                style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
                self._say(f"  {escape(line)}", style)

    def result(self, job: JobView) -> None:
        """Verdict, manifest, cost."""
        good = job.status is JobStatus.SUCCEEDED
        verdict = job.verdict.code if job.verdict else ""
        usage = job.usage
        self._say(
            f"  {job.status} ({verdict}) ${usage.cost_usd:.4f}, {usage.turns} turns, {job.events} events",
            "bold green" if good else "bold red",
        )
        if job.error:
            self._say(f"  {escape(job.error)}", "red")
        for file in job.output_files or ():
            self._say(f"  {file.change:<10} {file.size_bytes:>6} B  {(file.sha256 or '')[:16]:<16}  {escape(file.path)}")

    def finding(self, finding: Finding) -> None:
        """One thing that was checked."""
        self._say(f"  {'ok  ' if finding.good else 'FAIL'}  {finding.what}", "green" if finding.good else "bold red")

    def _say(self, words: str, style: str = "") -> None:
        self._console.print(Text(words, style=style))


def _told(event: EventView) -> Iterable[tuple[str, str]]:
    data = event.data or {}
    if event.type == "system" and event.subtype == "init":
        yield "start", f"Claude Code {data.get('claude_code_version')}, model {data.get('model')}, session {data.get('session_id')}"
    elif event.type == "assistant":
        for block in _blocks(data):
            if block.get("type") == "text":
                yield "says", str(block.get("text"))
            elif block.get("type") == "tool_use":
                arguments = block.get("input")
                found = arguments if isinstance(arguments, dict) else {}
                yield "tool", f"{block.get('name')} {next((found[key] for key in _TELLING if key in found), json.dumps(found))}"
    elif event.type == "user":
        for block in _blocks(data):
            if block.get("type") == "tool_result":
                content = block.get("content")
                yield "result", content if isinstance(content, str) else json.dumps(content)
    elif event.type == "result":
        yield "end", f"{event.subtype} after {data.get('num_turns')} turns"


def _blocks(data: dict[str, object]) -> Iterable[dict[str, object]]:
    message = data.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
