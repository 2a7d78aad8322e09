"""What can be chosen about an embedded stack."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.embedded.port import WantedPort

PROJECT = Path(__file__).resolve().parents[2]
"""Where `python -m worker` finds its code, whatever directory the stack is started from."""


def _worker(verb: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "worker", verb)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The argument lists of the stack's own programs.

    `migrate` runs to its end before the others start. `worker` is ready once it has created the file that
    DOGWATCH_READY_FILE names, `http` once `GET /v1/health` on DOGWATCH_HTTP_PORT answers 200. `farewell` runs to its
    end when the stack stops, after worker and door have ended and while the servers still run.
    """

    migrate: tuple[str, ...] = _worker("migrate")
    worker: tuple[str, ...] = _worker("run")
    http: tuple[str, ...] = _worker("http")
    farewell: tuple[str, ...] | None = None
    cwd: Path = PROJECT


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """An embedded stack. A port of 0 is any free one; `temporal_ui_port=None` leaves the UI out.

    `env` is what its programs find in their environment, besides the addresses that the stack adds. With `database_url`
    that Postgres is used and none is started. `durable=False` is for tests only.
    """

    state_dir: Path
    http_port: int = 8484
    temporal_port: int = 7233
    temporal_ui_port: int | None = 8233
    postgres_port: int = 0
    search_attributes: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    database_url: str | None = None
    postgres_binaries: Path | None = None
    temporal_binary: Path | None = None
    durable: bool = True
    programs: Programs = field(default_factory=Programs)

    def wanted_ports(self) -> dict[str, WantedPort]:
        """The ports of the stack by name, each with the setting that changes it."""
        ports = {
            "temporal": WantedPort(self.temporal_port, "Temporal", "DOGWATCH_TEMPORAL_PORT (--temporal-port)"),
            "http": WantedPort(self.http_port, "the HTTP door", "DOGWATCH_HTTP_PORT (--http-port)"),
        }
        if self.database_url is None:
            ports["postgres"] = WantedPort(self.postgres_port, "Postgres", "DOGWATCH_POSTGRES_PORT (--postgres-port)")
        if self.temporal_ui_port is not None:
            ports["temporal_ui"] = WantedPort(self.temporal_ui_port, "the Temporal UI", "DOGWATCH_TEMPORAL_UI_PORT (--temporal-ui-port)")
        return ports
