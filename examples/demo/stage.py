"""The demo's own stack: a state directory of its own, and other ports where the usual ones are taken."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from dogwatch.settings import Settings
from examples.demo.model import ModelChoice
from worker.embedded.option import StackOptions
from worker.stack import stack_options


def demo_options(state_dir: Path, model: ModelChoice, environment: Mapping[str, str]) -> StackOptions:
    """The stack of `make up`, beside one that may already run."""
    # The environment's own servers are not the demo's: it must neither fill them nor depend on them.
    inherited = {name: value for name, value in environment.items() if not name.startswith(("DOGWATCH_", "TEMPORAL_"))}
    settings = Settings.model_construct(state_dir=state_dir)
    settings = settings.model_copy(
        update={name: _free_or_any(getattr(settings, name)) for name in ("http_port", "temporal_port", "temporal_ui_port")}
    )
    return replace(stack_options(settings, inherited), env={**inherited, **model.environment})


def quiet_logs(state_dir: Path) -> None:
    """Put the supervisor's own log lines into a file: the terminal tells a story."""
    logs = state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=logs / "demo.log", level=logging.INFO, force=True)
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger)


def _free_or_any(port: int) -> int:
    with socket.socket() as probe:
        return 0 if probe.connect_ex(("127.0.0.1", port)) == 0 else port
