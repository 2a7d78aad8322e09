"""The HTTP door when Postgres or Temporal does not answer: a typed 503 soon, and no job that nobody runs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy.engine import make_url

from dogwatch.store.doors import DEADLINE_S
from tests.door import Door, open_door
from worker.embedded.port import free_port

HELLO = {"prompt": "say hello"}
GENEROUS_S = 10.0
"""The deadline is 2 s; the machine may be slow."""


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that accepts connections and never says anything, as a server that hangs."""

    over, connected = asyncio.Event(), set[asyncio.Task[None]]()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(cast(asyncio.Task[None], asyncio.current_task()))
        await over.wait()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        over.set()
        await asyncio.gather(*connected)


@asynccontextmanager
async def a_port(kind: str) -> AsyncIterator[int]:
    """A port where nobody listens, or one that hangs."""
    if kind == "refused":
        yield free_port()
    else:
        async with silent_port() as port:
            yield port


async def refused(door: Door, method: str, path: str, code: str) -> None:
    """Check that a request ends as 503 in time."""
    began = time.monotonic()
    answer = await door.http.request(method, path, json=HELLO if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert time.monotonic() - began < GENEROUS_S


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_without_temporal_nothing_is_accepted(kind: str, database_url: str, tmp_path: Path) -> None:
    """A start that Temporal did not take leaves no row, so that the job can be submitted again; looking still works."""
    async with a_port(kind) as port, open_door(database_url, f"127.0.0.1:{port}", tmp_path, deadline_s=DEADLINE_S) as door:
        await refused(door, "POST", "/v1/jobs", "temporal_unavailable")
        answer = await door.http.post("/v1/sessions", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "temporal_unavailable")
        assert (await door.count("jobs"), await door.count("sessions")) == (0, 0)
        await refused(door, "GET", "/v1/ready", "temporal_unavailable")
        assert (await door.http.get("/v1/jobs")).status_code == 200
        assert (await door.http.get("/v1/health")).status_code == 200


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_without_postgres_nobody_waits_long(kind: str, database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """A database that is away, or hangs, is told within the deadline; the process lives."""
    async with a_port(kind) as port:
        away = make_url(database_url).set(port=port).render_as_string(hide_password=False)
        async with open_door(away, temporal_server, tmp_path, records_url=database_url, deadline_s=DEADLINE_S) as door:
            await refused(door, "POST", "/v1/jobs", "database_unavailable")
            await refused(door, "GET", "/v1/jobs", "database_unavailable")
            await refused(door, "GET", "/v1/ready", "database_unavailable")
            assert (await door.http.get("/v1/health")).json()["status"] == "ok"
            assert await door.workflows() == []
            assert await door.count("jobs") == 0


async def test_a_ready_door_says_so(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """Ready means that both answer."""
    async with open_door(database_url, temporal_server, tmp_path) as door:
        assert (await door.http.get("/v1/ready")).json() == {"status": "ready"}
