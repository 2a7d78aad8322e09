"""What a person sees: plain lines in which no word of an agent acts, and nothing but text where nobody looks."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dogwatch.agent.display import escape, shorten
from dogwatch.agent.progress import Progress
from dogwatch.contracts.agent import EventView
from dogwatch.contracts.job import JobView
from dogwatch.contracts.session import SessionView
from dogwatch.contracts.workspace import FileView

_TEXT_LINES = 40
_MARKS = {"added": "+", "modified": "~", "deleted": "-", "unchanged": " "}


class Screen:
    """Standard output for results, standard error for everything else."""

    def __init__(self, *, json: bool = False) -> None:
        """With `json` standard output has JSON only, one value a line."""
        self.json = json
        self.out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def say(self, words: str) -> None:
        """A line for people; escaped."""
        if not self.json:
            self.out.print(Text(escape(words, multiline=True)))

    def complain(self, words: str) -> None:
        """A line on standard error; escaped."""
        self.err.print(Text(escape(words, multiline=True)))

    def value(self, model: BaseModel) -> None:
        """A contract as JSON."""
        self.out.file.write(model.model_dump_json() + "\n")
        self.out.file.flush()

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """A table for people, tab-separated lines without a heading for pipes; escaped."""
        if not self.out.is_terminal:
            self.out.file.writelines("\t".join(map(escape, row)) + "\n" for row in rows)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(escape(cell)) for cell in row))
        self.out.print(table)


class Watcher:
    """Shows a job's events as they come: what the agent says and does, and on a terminal one line that moves."""

    def __init__(self, screen: Screen) -> None:
        """Shows on `screen`; use it in a `with` block."""
        self._screen = screen
        self._progress = Progress()
        self._status = screen.err.status(Text("waiting for the agent")) if screen.err.is_terminal and not screen.json else None

    def __enter__(self) -> "Watcher":
        """Begin to show the moving line."""
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()

    def see(self, event: EventView) -> None:
        """Show one event."""
        self._progress.add(event.type, event.subtype, event.data)
        for line in lines_of(event):
            self._screen.say(line)
        if self._status is not None:
            done = self._progress
            cost = f" · ${done.usage.cost_usd:.4f}" if done.usage.cost_usd else ""
            self._status.update(Text(shorten(f"{done.turns} turns{cost} · {done.last}", 160)))


def lines_of(event: EventView) -> list[str]:
    """An event in lines for people; most events have none."""
    data = event.data or {}
    if event.type == "system" and event.subtype == "init":
        return [f"attempt {event.attempt}: {data.get('model')}, Claude Code {data.get('claude_code_version')}"]
    if event.type == "system" and event.subtype == "api_retry":
        return ["! the model's API does not answer; the agent tries again"]
    message = data.get("message")
    blocks = message.get("content") if isinstance(message, dict) else None
    if event.type not in ("assistant", "user") or not isinstance(blocks, list):
        return []
    found = (_block(block) for block in blocks if isinstance(block, dict))
    return [line for line in found if line is not None]


def _block(block: Mapping[str, object]) -> str | None:
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        lines = str(block["text"]).strip().split("\n")
        return "\n".join(lines[:_TEXT_LINES] + (["…"] if len(lines) > _TEXT_LINES else []))
    if kind == "tool_use":
        arguments = block.get("input")
        words = next((value for value in arguments.values() if isinstance(value, str)), "") if isinstance(arguments, dict) else ""
        return f"→ {block.get('name')} {shorten(escape(words[:400]), 120)}".rstrip()
    if kind == "tool_result" and block.get("is_error"):
        return f"✗ {shorten(escape(str(block.get('content'))[:400]), 160)}"
    return None


def summary(job: JobView, files: Iterable[FileView], where: str) -> list[str]:
    """How a job ended, in lines."""
    verdict = job.verdict.code if job.verdict else ""
    lines = [f"{job.status} ({verdict})" if verdict else f"{job.status}"]
    if job.error:
        lines.append(f"  {job.error}")
    lines += [f"  {_MARKS[file.change]} {file.path}" + (f"  ({file.reason})" if file.reason else "") for file in files]
    usage, spent = job.usage, "at least " if job.usage.estimated else ""
    lines.append(f"  {spent}${usage.cost_usd:.4f}, {usage.turns} turns, {len(job.attempts)} attempts, {_took(job)}")
    lines.append(f"  job {job.job_id}" + (f" in session {job.session_id}" if job.session_id else ""))
    return [*lines, f"  {where}"]


def file_row(file: FileView) -> tuple[str, ...]:
    """A file as a row of a table: change, size, path."""
    return (
        _MARKS[file.change],
        str(file.size_bytes) if file.kind == "file" else file.kind,
        file.path + (f" -> {file.target}" if file.target else ""),
    )


def job_row(job: JobView) -> tuple[str, ...]:
    """A job as a row of a table."""
    return job.job_id, job.status, clock(job.created_at), f"${job.usage.cost_usd:.4f}", shorten(escape(job.prompt[:200]), 60)


def session_lines(session: SessionView) -> list[str]:
    """A session in lines."""
    files = f"{session.workspace.files} files, {session.workspace.bytes} bytes" if session.workspace else "no files"
    return [f"session {session.session_id} is {session.state}, ends {clock(session.expires_at)} unless something happens", f"  {files}"]


def clock(moment: datetime | None) -> str:
    """A time in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _took(job: JobView) -> str:
    if job.started_at is None or job.finished_at is None:
        return "not run"
    return f"{(job.finished_at - job.started_at).total_seconds():.0f} s"
