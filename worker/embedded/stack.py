"""The supervisor: the whole stack in order, each child restartable alone, nothing left behind."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx

from worker.embedded.keeper import kept
from worker.embedded.lock import state_lock
from worker.embedded.option import StackOptions
from worker.embedded.port import LOOPBACK, claim_ports
from worker.embedded.postgres import Postgres, find_postgres
from worker.embedded.process import Child, Command, run_once
from worker.embedded.secret import write_private
from worker.embedded.temporal import NAMESPACE, TemporalServer, download_temporal, find_temporal

FILE = "stack.json"
"""Where other commands find a running stack: process ids and addresses, no secret. Gone when it has stopped."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack that runs: where its parts are, and its children by name (postgres, temporal, worker, http)."""

    options: StackOptions
    state_dir: Path
    logs: Path
    postgres: Postgres | None
    temporal: TemporalServer
    http_port: int
    lock: int
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def http_url(self) -> str:
        """Where the HTTP door is."""
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy address of the database, with its password: for environments, never for arguments or logs."""
        return self.options.database_url or (self.postgres.url() if self.postgres else "")

    @property
    def database_place(self) -> str:
        """Where the database is, for people."""
        return self.postgres.address if self.postgres else "as DOGWATCH_DATABASE_URL says"

    @property
    def ready_file(self) -> Path:
        """The file by which the worker says that it polls."""
        return self.state_dir / "worker.ready"

    def environment(self) -> dict[str, str]:
        """The environment of the stack's programs; nothing that points at another Temporal cluster is passed on."""
        foreign = ("TEMPORAL_", "DOGWATCH_READY_FILE")
        inherited = {name: value for name, value in self.options.env.items() if not name.startswith(foreign)}
        return inherited | {
            "DOGWATCH_DATABASE_URL": self.database_url,
            "DOGWATCH_HTTP_PORT": str(self.http_port),
            "DOGWATCH_STATE_DIR": str(self.state_dir),
            "DOGWATCH_TEMPORAL_UI_URL": self.temporal.ui_url or "",
            "TEMPORAL_ADDRESS": self.temporal.address,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "TEMPORAL_NAMESPACE": NAMESPACE,
        }

    def worker(self) -> Child:
        """The worker as a child of ours."""
        ready_file = {"DOGWATCH_READY_FILE": str(self.ready_file)}
        command = self.command("worker", self.options.programs.worker, ready_file)
        return Child(command, ready=self._worker_ready, prepare=self._forget_worker)

    def http(self) -> Child:
        """The HTTP door as a child of ours."""
        return Child(self.command("http", self.options.programs.http), ready=self._http_ready)

    def command(self, name: str, argv: tuple[str, ...], more: Mapping[str, str] = MappingProxyType({})) -> Command:
        """How one of the stack's own programs runs, with what only this one needs in its environment."""
        return Command(
            name=name,
            argv=argv,
            env=self.environment() | dict(more),
            cwd=self.options.programs.cwd,
            log=self.logs / f"{name}.log",
            keep_open=(self.lock,),
        )

    def write_file(self) -> None:
        """Write `stack.json`. No secret is in it."""
        content = {
            "pid": os.getpid(),
            "urls": {"http": self.http_url, "temporal_ui": self.temporal.ui_url},
            "addresses": {"temporal": self.temporal.address, "postgres": self.database_place},
            "children": {name: child.pid for name, child in self.children.items()},
        }
        write_private(self.state_dir / FILE, json.dumps(content, indent=2) + "\n")

    async def _forget_worker(self) -> None:
        self.ready_file.unlink(missing_ok=True)

    async def _worker_ready(self) -> bool:
        return self.ready_file.exists()

    async def _http_ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
            try:
                return (await http.get(f"{self.http_url}/v1/health")).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False


@asynccontextmanager
async def running_stack(options: StackOptions) -> AsyncIterator[Stack]:
    """Run the whole stack for the length of the block, then stop it in reverse order, also after half a start.

    Enter it in the main thread. Raises PortTaken, StackAlreadyRunning, ServerBinaryMissing, ServerDidNotStart.
    """
    state_dir = options.state_dir.resolve()
    for directory in (state_dir, state_dir / "logs"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stopping:
        lock = await stopping.enter_async_context(state_lock(state_dir / "lock"))
        temporal = find_temporal(options.temporal_binary) or await download_temporal(state_dir / "bin")
        stack = _plan(options, state_dir, lock, temporal)
        stopping.callback((state_dir / FILE).unlink, missing_ok=True)

        async def run(child: Child) -> None:
            stack.children[child.command.name] = child
            await stopping.enter_async_context(kept(child, stack.write_file))

        programs = options.programs
        if stack.postgres:
            await run(stack.postgres.child())
            await stack.postgres.create_database()
        await run(stack.temporal.child())
        await run_once(stack.command("migrate", programs.migrate))
        if programs.farewell:
            stopping.push_async_callback(run_once, stack.command("farewell", programs.farewell))
        await run(stack.worker())
        await run(stack.http())
        stack.write_file()
        yield stack


def _plan(options: StackOptions, state_dir: Path, lock: int, temporal: Path) -> Stack:
    binaries = find_postgres(options.postgres_binaries) if options.database_url is None else None
    ports = claim_ports(options.wanted_ports())
    logs = state_dir / "logs"
    return Stack(
        options=options,
        state_dir=state_dir,
        logs=logs,
        postgres=Postgres(
            state_dir=state_dir,
            log=logs / "postgres.log",
            port=ports["postgres"],
            binaries=binaries,
            durable=options.durable,
            keep_open=(lock,),
        )
        if binaries
        else None,
        temporal=TemporalServer(
            binary=temporal,
            state_dir=state_dir,
            log=logs / "temporal.log",
            port=ports["temporal"],
            ui_port=ports.get("temporal_ui"),
            database=state_dir / "temporal.db",
            search_attributes=options.search_attributes,
            keep_open=(lock,),
        ),
        http_port=ports["http"],
        lock=lock,
    )
