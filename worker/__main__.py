"""The processes of dogwatch: `python -m worker up | run | http | migrate | schedules | farewell`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from dogwatch.errors import DogwatchError
from dogwatch.settings import Settings, load
from worker.log import configure_logging


def main() -> int:
    """Run one verb; an error that a person can mend is one line with its code and remedy."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="everything in one command: Postgres, Temporal with its UI, worker, HTTP door")
    for port in ("http", "temporal", "temporal-ui", "postgres"):
        up.add_argument(f"--{port}-port", type=int, help="0 takes a free one")
    up.add_argument("--no-ui", action="store_true", help="leave the Temporal UI out")
    verbs.add_parser("run", help="a worker: polls Temporal until it is told to stop; running agents work on without it")
    verbs.add_parser("http", help="the HTTP door")
    verbs.add_parser("migrate", help="bring the database to this release")
    verbs.add_parser("schedules", help="have the Temporal namespace know the search attributes and the schedules")
    verbs.add_parser("farewell", help="end all local sandboxes of this deployment; jobs go on in new attempts")
    arguments = parser.parse_args()
    try:
        settings = load()
        configure_logging(settings)
        return _VERBS[arguments.verb](settings, arguments)
    except DogwatchError as error:
        sys.stderr.write(f"dogwatch: {error}\n")
        return 1


def _up(settings: Settings, arguments: argparse.Namespace) -> int:
    from worker.embedded.up import run_stack
    from worker.stack import stack_options

    ports = {name: getattr(arguments, name) for name in ("http_port", "temporal_port", "temporal_ui_port", "postgres_port")}
    chosen = settings.model_copy(update={name: port for name, port in ports.items() if port is not None})
    return asyncio.run(run_stack(stack_options(chosen, os.environ, ui=not arguments.no_ui)))


def _run(settings: Settings, _: argparse.Namespace) -> int:
    from worker.process import run_worker

    return _to_the_end(run_worker(settings))


def _http(settings: Settings, _: argparse.Namespace) -> int:
    from worker.door import run_door

    return _to_the_end(run_door(settings))


def _migrate(settings: Settings, _: argparse.Namespace) -> int:
    from migrations.run import migrate

    migrate(settings.database_url.get_secret_value(), Path(__file__).resolve().parents[1])
    return 0


def _schedules(settings: Settings, _: argparse.Namespace) -> int:
    from worker.schedules import run_schedules

    return _to_the_end(run_schedules(settings))


def _farewell(settings: Settings, _: argparse.Namespace) -> int:
    from worker.farewell import run_farewell

    return _to_the_end(run_farewell(settings))


def _to_the_end(running: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(running)


_VERBS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "up": _up,
    "run": _run,
    "http": _http,
    "migrate": _migrate,
    "schedules": _schedules,
    "farewell": _farewell,
}

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's native threads can abort a process that is already exiting (measured: 1 to 3 of 12 to 24): leave at once instead.
    os._exit(code)
