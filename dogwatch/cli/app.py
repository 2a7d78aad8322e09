"""The commands, put together."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer

from dogwatch.cli import job, outcome, session
from dogwatch.cli.place import Place, find
from dogwatch.cli.run import Run, run_job
from dogwatch.cli.show import Screen
from dogwatch.contracts.job import DEFAULT_TIMEOUT_S
from dogwatch.contracts.sandbox import Network
from dogwatch.errors import DogwatchError

_HELP = """Durable headless coding-agent jobs.

Exit codes: 0 succeeded, 1 failed, 2 refused, 3 timed out, 4 cancelled, 5 unreachable or broken."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=_HELP)
jobs = typer.Typer(no_args_is_help=True, help="Look after jobs.")
sessions = typer.Typer(no_args_is_help=True, help="Look after sessions.")
app.add_typer(jobs, name="job")
app.add_typer(sessions, name="session")

Url = Annotated[str | None, typer.Option(help="Address of the HTTP door; otherwise DOGWATCH_URL, or the stack that runs here.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
JobId = Annotated[str, typer.Argument(metavar="JOB")]
SessionId = Annotated[str, typer.Argument(metavar="SESSION")]


def main() -> None:
    """The entry point; ends the process with the command's exit code."""
    app(prog_name="dogwatch")


@app.command()
def run(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The workspace to start with.")],
    prompt: Annotated[str, typer.Argument(help="What the agent shall do; - reads it from standard input.")],
    model: Annotated[str | None, typer.Option(help="Full model id.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds the agent may work.")] = DEFAULT_TIMEOUT_S,
    max_turns: Annotated[int | None, typer.Option(help="Most turns of one attempt.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dollar cap over all attempts.")] = None,
    network: Annotated[Network, typer.Option(help="What the agent can reach.")] = Network.MODEL,
    session_id: Annotated[str | None, typer.Option("--session", help="Run in this session, on its files; DIRECTORY is not sent.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the session open, for further jobs.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Write what the job changed back into DIRECTORY.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a job on a directory and show it until it has ended."""
    words = sys.stdin.read() if prompt == "-" else prompt
    wanted = Run(directory, words, model, timeout, max_turns, max_cost, network, session_id, keep=keep, pull=pull)
    screen = Screen(json=as_json)
    _end(run_job(_place(url), screen, wanted), screen)


@app.command()
def watch(job_id: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show a job until it has ended; its past first."""
    screen = Screen(json=as_json)
    _end(job.watch(_place(url), screen, job_id), screen)


@app.command()
def files(
    job_id: JobId,
    everything: Annotated[bool, typer.Option("--all", help="Also the files that did not change.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the files a job left, with how they changed."""
    screen = Screen(json=as_json)
    _end(job.files(_place(url), screen, job_id, changed=not everything), screen)


@jobs.command("show")
def job_show(job_id: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show a job."""
    screen = Screen(json=as_json)
    _end(job.show(_place(url), screen, job_id), screen)


@jobs.command("cancel")
def job_cancel(job_id: JobId, url: Url = None, as_json: Json = False) -> None:
    """Ask a job to end; what its agent has done by then is kept."""
    screen = Screen(json=as_json)
    _end(job.cancel(_place(url), screen, job_id), screen)


@jobs.command("list")
def job_list(
    session_id: Annotated[str | None, typer.Option("--session")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    screen = Screen(json=as_json)
    _end(job.list_jobs(_place(url), screen, session_id, limit), screen)


@sessions.command("open")
def session_open(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The workspace to start with.")],
    ttl: Annotated[float | None, typer.Option(help="Seconds to live after the last job.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Open a session with the files of a directory."""
    screen = Screen(json=as_json)
    _end(session.open_session(_place(url), screen, directory, ttl), screen)


@sessions.command("show")
def session_show(session_id: SessionId, url: Url = None, as_json: Json = False) -> None:
    """Show a session and its jobs."""
    screen = Screen(json=as_json)
    _end(session.show(_place(url), screen, session_id), screen)


@sessions.command("close")
def session_close(
    session_id: SessionId,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the running job too; otherwise it finishes.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Close a session: no further jobs, waiting ones are withdrawn."""
    screen = Screen(json=as_json)
    _end(session.close(_place(url), screen, session_id, cancel=cancel), screen)


def _place(url: str | None) -> Place:
    return find(url, Path.cwd())


def _end(command: Coroutine[object, object, int], screen: Screen) -> None:
    """Run a command and leave with its exit code."""
    try:
        code = asyncio.run(command)
    except DogwatchError as error:
        screen.complain(str(error))
        code = outcome.of_error(error)
    except KeyboardInterrupt:
        code = outcome.INTERRUPTED
    raise typer.Exit(code)
