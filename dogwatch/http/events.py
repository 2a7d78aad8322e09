"""Events of jobs over HTTP: a page, or a stream that goes on until the job has ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dogwatch.agent.display import storable
from dogwatch.agent.stream import classify
from dogwatch.contracts.agent import EventView
from dogwatch.contracts.page import EventPage
from dogwatch.errors import DatabaseUnavailable
from dogwatch.http.deps import Deps
from dogwatch.http.jobs import Id
from dogwatch.http.reply import HEADERS, Reply
from dogwatch.store.following import EventRow, EventRows

LOOK_EVERY_S = 1.0
"""Followers look for themselves too: a notification may be lost."""
BEAT_EVERY_S = 15.0
"""A stream that has nothing to say says so, before anybody between takes it for dead."""
PATIENCE_S = 30.0
"""How long a stream outlives a database that does not answer."""
_MOST = 2**62
_NDJSON, _SSE = "application/x-ndjson", "text/event-stream"
Number = Annotated[int, Query(ge=0, le=_MOST)]


class Events:
    """The addresses of events."""

    def __init__(self, deps: Deps) -> None:
        """Reads through `deps`."""
        self.deps = deps

    def routes(self) -> APIRouter:
        """Below `/jobs/{job_id}`."""
        router = APIRouter(tags=["events"])
        content: dict[str, Any] = {_NDJSON: {}, _SSE: {}}
        router.add_api_route(
            "/jobs/{job_id}/events", self.read, methods=["GET"], response_model=EventPage, responses={200: {"content": content}}
        )
        return router

    async def read(
        self,
        request: Request,
        job_id: Id,
        after: Number = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Events after the number `after`, or after the header `Last-Event-ID`.

        `Accept: application/json` gives a page; `application/x-ndjson` and `text/event-stream` go on until the job has ended and everything
        is sent. A stream of events ends with the event `end`.
        """
        if last_event_id is not None and last_event_id.isdecimal():
            after = min(int(last_event_id), _MOST)
        accept = request.headers.get("accept", "")
        if _SSE in accept or _NDJSON in accept:
            return await self._stream(job_id, after, _SSE if _SSE in accept else _NDJSON, again=last_event_id is not None)
        found = await self.deps.doors.events(self.deps.tenant, job_id, after=after, limit=limit)
        events = tuple([await self._view(row) for row in found.rows])
        return Reply(EventPage(events=events, next=found.rows[-1].seq if found.rows else after, ended=found.ended))

    async def _stream(self, job_id: str, after: int, media_type: str, *, again: bool) -> Response:
        first = await self.deps.doors.events(self.deps.tenant, job_id, after=after)
        if again and first.ended and media_type == _SSE:
            return Response(status_code=204)  # tells a browser to stop asking
        lines = self._as_sse(job_id, after) if media_type == _SSE else self._as_ndjson(job_id, after)
        return StreamingResponse(lines, 200, {**HEADERS, "X-Accel-Buffering": "no"}, media_type)

    async def _as_ndjson(self, job_id: str, after: int) -> AsyncIterator[str]:
        async with aclosing(self._follow(job_id, after)) as pages:
            async for page in pages:
                for row in page.rows:
                    yield (await self._view(row)).model_dump_json() + "\n"

    async def _as_sse(self, job_id: str, after: int) -> AsyncIterator[str]:
        async with aclosing(self._follow(job_id, after)) as pages:
            async for page in pages:
                for row in page.rows:
                    yield f"id: {row.seq}\ndata: {(await self._view(row)).model_dump_json()}\n\n"
                if page.ended:
                    yield f'event: end\ndata: {{"job_id":"{job_id}","status":"{page.status}"}}\n\n'
                elif not page.rows:
                    yield ": nothing new\n\n"

    async def _follow(self, job_id: str, after: int) -> AsyncGenerator[EventRows, None]:
        """Pages with events, an empty one now and then, and an empty one at the end."""
        clock = asyncio.get_running_loop()
        spoke = answered = clock.time()
        with self.deps.news.watching(job_id) as watch:
            while True:
                try:
                    page = await self.deps.doors.events(self.deps.tenant, job_id, after=after)
                    answered = clock.time()
                except DatabaseUnavailable:
                    if clock.time() - answered > PATIENCE_S:
                        raise
                    await asyncio.sleep(LOOK_EVERY_S)
                    continue
                if page.rows or page.ended or clock.time() - spoke > BEAT_EVERY_S:
                    spoke = clock.time()
                    yield page
                if page.ended:
                    return
                if page.rows:
                    after = page.rows[-1].seq
                else:
                    await watch.wait(LOOK_EVERY_S)

    async def _view(self, row: EventRow) -> EventView:
        line = row.raw if row.raw is not None else await self.deps.blobs.get(row.sha256 or "")
        _, _, data = classify(line)
        return EventView.model_construct(
            seq=row.seq,
            attempt=row.attempt,
            offset=row.offset,
            type=row.type,
            subtype=row.subtype,
            received_at=row.received_at,
            data=data,
            raw=storable(line.decode("utf-8", "replace")) if data is None else None,
        )
