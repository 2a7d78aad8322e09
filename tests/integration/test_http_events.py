"""Events at the HTTP door: pages, live streams, and coming back without a gap."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from dogwatch.client.http import HttpClient
from dogwatch.contracts.agent import EventView, VerdictCode
from dogwatch.contracts.job import JobStatus
from tests.door import Door, Writing, open_door
from tests.hostile import line, say

SSE = {"Accept": "text/event-stream"}


@pytest_asyncio.fixture
async def door(database_url: str, temporal_server: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of this test's own."""
    async with open_door(database_url, temporal_server, tmp_path) as opened:
        yield opened


async def begun(door: Door) -> Writing:
    """A job whose first attempt writes events."""
    job_id = (await door.http.post("/v1/jobs", json={"prompt": "say hello"})).json()["job_id"]
    return await door.begin(job_id)


def numbered(first: int, last: int) -> list[bytes]:
    """Lines that tell which they are."""
    return [line(type="assistant", n=n) for n in range(first, last + 1)]


@asynccontextmanager
async def stream(door: Door, job_id: str, **headers: str) -> AsyncIterator[httpx.Response]:
    """An open stream of a job's events."""
    async with door.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE | headers) as response:
        yield response


async def messages(response: httpx.Response) -> AsyncGenerator[dict[str, str], None]:
    """Server-sent events as they come, comments left out."""
    held = ""
    async for text in response.aiter_text():
        *whole, held = (held + text).split("\n\n")
        for message in whole:
            if not message.startswith(":"):
                yield {name: value for name, _, value in (field.partition(": ") for field in message.split("\n"))}


async def test_a_page_has_events_in_order(door: Door) -> None:
    """Every line of the output is an event with its number, place and content; the page says how to go on."""
    writing = await begun(door)
    await writing.say(*numbered(1, 5), b"no json \xff\x00\n", b'{"type":"assistant","text":"\\ud800\\u0000"}\n')
    url = f"/v1/jobs/{writing.job_id}/events"
    page = (await door.http.get(url, params={"limit": 3})).json()
    assert [(event["seq"], event["data"]["n"]) for event in page["events"]] == [(1, 1), (2, 2), (3, 3)]
    assert (page["next"], page["ended"]) == (3, False)
    rest = (await door.http.get(url, params={"after": 3})).json()["events"]
    assert [event["seq"] for event in rest] == [4, 5, 6, 7]
    assert (rest[2]["type"], rest[2]["data"], rest[2]["raw"]) == ("unparsed", None, "no json \ufffd\\x00\n")
    assert rest[3]["data"]["text"] == "\ufffd\0"
    assert rest[1]["offset"] == sum(map(len, numbered(1, 4)))
    await writing.end()
    assert (await door.http.get(url, params={"after": 7})).json() == {"events": [], "next": 7, "ended": True}
    for wrong in ({"after": -1}, {"after": 2**70}, {"limit": 0}, {"limit": 10_000}):
        assert (await door.http.get(url, params=wrong)).status_code == 422
    assert (await door.http.get("/v1/jobs/never/events", headers=SSE)).status_code == 404


async def test_a_long_line_comes_from_the_blob_store(door: Door) -> None:
    """A line too long for a row is shown like any other, and a page ends early rather than grow without bounds."""
    writing = await begun(door)
    words = "é" * 3_000_000
    await writing.say_long(line(type="assistant", text=words))
    await writing.say(*numbered(2, 3))
    page = (await door.http.get(f"/v1/jobs/{writing.job_id}/events")).json()
    assert [event["seq"] for event in page["events"]] == [1]
    assert page["events"][0]["data"]["text"] == words
    assert page["next"] == 1


async def test_a_stream_is_live_until_the_job_has_ended(door: Door) -> None:
    """What is there comes first, then what is written, then the end."""
    writing = await begun(door)
    await writing.say(*numbered(1, 2))
    async with asyncio.timeout(60), stream(door, writing.job_id) as response, aclosing(messages(response)) as told:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert [(await anext(told))["id"] for _ in range(2)] == ["1", "2"]
        await writing.say(*numbered(3, 4))
        third = await anext(told)
        assert (third["id"], json.loads(third["data"])["data"]["n"]) == ("3", 3)
        assert (await anext(told))["id"] == "4"
        await writing.end(status=JobStatus.FAILED, code=VerdictCode.MAX_TURNS)
        end = await anext(told)
        assert (end["event"], json.loads(end["data"])["status"]) == ("end", "failed")
        assert [message async for message in told] == []


async def test_ndjson_ends_with_the_last_event(door: Door) -> None:
    """A stream for programs has events and nothing else."""
    writing = await begun(door)
    await writing.say(*numbered(1, 3))
    await writing.end()
    answer = await door.http.get(f"/v1/jobs/{writing.job_id}/events", headers={"Accept": "application/x-ndjson"}, params={"after": 1})
    assert [EventView.model_validate_json(text).seq for text in answer.text.splitlines()] == [2, 3]


async def test_a_reader_comes_back_without_gap_or_double(door: Door) -> None:
    """With the number of the last event it has seen a reader goes on where it was, however often it is cut off."""
    writing = await begun(door)
    seen: list[str] = []
    async with asyncio.timeout(60):
        for round_ in range(6):
            await writing.say(*numbered(7 * round_ + 1, 7 * round_ + 7))
            headers = {"Last-Event-ID": seen[-1]} if seen else {}
            async with stream(door, writing.job_id, **headers) as response, aclosing(messages(response)) as told:
                seen += [(await anext(told))["id"] for _ in range(5)]
        await writing.end()
        async with stream(door, writing.job_id, **{"Last-Event-ID": seen[-1]}) as response:
            seen += [message["id"] async for message in messages(response) if "id" in message]
    assert seen == [str(n) for n in range(1, 43)]
    async with stream(door, writing.job_id, **{"Last-Event-ID": seen[-1]}) as response:
        assert response.status_code == 204


async def test_many_readers_see_the_same(door: Door) -> None:
    """Every reader of a job gets every event, whoever else reads."""
    writing = await begun(door)

    async def read() -> list[str]:
        async with stream(door, writing.job_id) as response:
            return [message["id"] async for message in messages(response) if "id" in message]

    readers = [asyncio.create_task(read()) for _ in range(8)]
    for n in range(1, 21):
        await writing.say(*numbered(n, n))
    await writing.end()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*readers) == [[str(n) for n in range(1, 21)]] * 8


async def test_events_come_without_notifications_too(door: Door) -> None:
    """A lost notification costs a second, never an event; the listening connection is opened anew."""
    writing = await begun(door)
    async with asyncio.timeout(60), stream(door, writing.job_id) as response, aclosing(messages(response)) as told:
        await door.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where query ilike 'listen%'")
        await writing.say(*numbered(1, 1))
        assert (await anext(told))["id"] == "1"
        while not await door.value("select count(*) from pg_stat_activity where query ilike 'listen%'"):
            await asyncio.sleep(0.1)
        await writing.say(*numbered(2, 2))
        assert (await anext(told))["id"] == "2"


async def test_the_client_follows_over_restarts_of_the_door(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """The typed client comes back by itself, to a door on the same address, and yields each event once."""
    gate = Gate()
    async with open_door(database_url, temporal_server, tmp_path) as door, gate.serving(door):
        writing = await begun(door)
        await writing.say(*numbered(1, 3), say("line\u2028break\u0085and\x1cmore"))
        seen: list[int] = []

        async def follow() -> None:
            async with HttpClient(gate.url) as client:
                async for event in client.events(writing.job_id):
                    seen.append(event.seq)
                    if event.seq == 4:
                        assert event.data is not None
                        assert "line\u2028break\u0085and\x1cmore" in json.dumps(event.data, ensure_ascii=False).replace("\\u001c", "\x1c")

        follower = asyncio.create_task(follow())
        async with asyncio.timeout(60):
            while len(seen) < 4:
                await asyncio.sleep(0.05)
            gate.cut()
            await writing.say(*numbered(5, 6))
            while len(seen) < 6:
                await asyncio.sleep(0.05)
            gate.cut()
            await writing.end()
            await follower
        assert seen == [1, 2, 3, 4, 5, 6]
        assert gate.connections > 2


class Gate:
    """A way to the door that can be cut while something flows through it."""

    def __init__(self) -> None:
        """Closed as yet."""
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def serving(self, door: Door) -> AsyncIterator[None]:
        """Pass connections on to `door`."""

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            there, back = await asyncio.open_connection("127.0.0.1", door.http.base_url.port)
            self._writers += [writer, back]
            pipes = [asyncio.create_task(pipe(reader, back)), asyncio.create_task(pipe(there, writer))]
            self._tasks.update(pipes)
            await asyncio.gather(*pipes)

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            self.cut()
            server.close()
            await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """Break everything that is connected."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side ends."""
    try:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    except OSError:
        return
    finally:
        target.close()
