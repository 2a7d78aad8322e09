"""What is measured on: a Postgres, a Temporal in memory and worker processes, each a child of the bench with a process id of its own."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.direct import ended
from bench.script import TURNS
from dogwatch.client import Client
from dogwatch.names import SEARCH_ATTRIBUTES
from worker.embedded.port import free_port
from worker.embedded.postgres import Postgres, find_postgres
from worker.embedded.process import Child, Command, run_once
from worker.embedded.temporal import TemporalServer, find_temporal

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Servers:
    """The running servers, as the product starts them: Temporal without a database file, Postgres durable."""

    directory: Path
    database_url: str
    address: str
    client: Client
    postgres_pid: int
    temporal_pid: int

    def environment(self, **settings: str) -> dict[str, str]:
        """The whole environment of a process that works with these servers; `settings` are names of `Settings`."""
        return {
            "PATH": os.environ["PATH"],
            "TEMPORAL_ADDRESS": self.address,
            "DOGWATCH_DATABASE_URL": self.database_url,
            "DOGWATCH_STATE_DIR": str(self.directory),
            "DOGWATCH_SCRIPTED_MODEL": "true",
            **{f"DOGWATCH_{name.upper()}": value for name, value in settings.items()},
        }


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Servers]:
    """Servers for the length of the block, the database migrated. Raises ServerBinaryMissing, ServerDidNotStart."""
    postgres = Postgres(state_dir=directory, log=directory / "postgres.log", port=free_port(), binaries=find_postgres())
    temporal = TemporalServer(
        binary=find_temporal() or Path("temporal"),
        state_dir=directory,
        log=directory / "temporal.log",
        port=free_port(),
        search_attributes=SEARCH_ATTRIBUTES,
    )
    async with AsyncExitStack() as closing:
        postgres_pid = await closing.enter_async_context(running(postgres.child()))
        temporal_pid = await closing.enter_async_context(running(temporal.child()))
        await postgres.create_database()
        client = await Client.connect(temporal.address)
        servers = Servers(directory, postgres.url(), temporal.address, client, postgres_pid, temporal_pid)
        await run_once(_program("migrate", servers, ("worker", "migrate"), {}))
        try:
            yield servers
        finally:
            await run_once(_program("farewell", servers, ("worker", "farewell"), {}))  # sandboxes lie outside of the directory


@asynccontextmanager
async def worker(servers: Servers, kind: str, **settings: str) -> AsyncIterator[int]:
    """A worker process of a kind for the length of the block; its process id. Its timed calls are in `calls_of` afterwards."""
    ready = servers.directory / f"{kind}.ready"
    ready.unlink(missing_ok=True)
    environment = {"ready_file": str(ready), **settings}
    command = _program(kind, servers, ("bench.worker", kind, str(calls_of(servers, kind))), environment)

    async def is_ready() -> bool:
        return ready.exists()

    async with running(Child(command, ready=is_ready)) as pid:
        yield pid


@asynccontextmanager
async def scripted_model(servers: Servers) -> AsyncIterator[str]:
    """The model's API as a process of its own for the length of the block; its address."""
    script = servers.directory / "script.json"
    script.write_text(json.dumps(TURNS))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dogwatch.testing.model", "--script", str(script)), stdout=asyncio.subprocess.PIPE, cwd=PROJECT
    )
    async with ended(process):
        assert process.stdout is not None
        async with asyncio.timeout(60):
            first = await process.stdout.readline()
        yield json.loads(first)["ANTHROPIC_BASE_URL"]


def calls_of(servers: Servers, kind: str) -> Path:
    """Where a worker of a kind leaves its timed calls when it ends."""
    return servers.directory / f"{kind}.calls.json"


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[int]:
    """A child for the length of the block; its process id."""
    await child.start()
    try:
        assert child.pid is not None
        yield child.pid
    finally:
        await child.stop()


def _program(name: str, servers: Servers, module: tuple[str, ...], settings: Mapping[str, str]) -> Command:
    return Command(
        name=name,
        argv=(sys.executable, "-m", *module),
        env=servers.environment(**settings),
        cwd=PROJECT,
        log=servers.directory / f"{name}.log",
    )
