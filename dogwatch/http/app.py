"""The HTTP door put together, and the server it runs in."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import Depends, FastAPI

import dogwatch
from dogwatch.contracts.job import JobSubmission
from dogwatch.contracts.page import Problem
from dogwatch.contracts.session import SessionRequest
from dogwatch.http.auth import Guard, check_host
from dogwatch.http.deps import Deps
from dogwatch.http.describe import describe
from dogwatch.http.events import Events
from dogwatch.http.files import Files
from dogwatch.http.health import Health
from dogwatch.http.jobs import Jobs
from dogwatch.http.problems import install
from dogwatch.http.sessions import CloseRequest, ExtendRequest, Sessions

_STOP_WITHIN_S = 5
"""How long followers are served after the server was asked to stop; they come back to the next one with their last event's number."""


def create_app(deps: Deps) -> FastAPI:
    """The door as an ASGI application. It listens for news of jobs while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with deps.news.listening():
            yield

    app = FastAPI(
        title="dogwatch",
        version=dogwatch.__version__,
        summary="Durable headless coding-agent jobs.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
    )
    install(app)
    guarded = [Depends(Guard(deps.api_key))]
    for room in (Sessions(deps), Jobs(deps), Files(deps), Events(deps)):
        app.include_router(room.routes(), prefix="/v1", dependencies=guarded)
    app.include_router(Health(deps).routes(), prefix="/v1")
    describe(app, JobSubmission, SessionRequest, ExtendRequest, CloseRequest)
    return app


async def serve(deps: Deps, *, host: str = "127.0.0.1", port: int = 8484, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the port once connections are accepted.

    Raises KeyRequired where `host` is not this machine's own and there is no key, OSError where the port is taken.
    """
    check_host(host, deps.api_key)
    config = uvicorn.Config(
        create_app(deps),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    await _Server(config, ready).serve()


class _Server(uvicorn.Server):
    """Uvicorn that says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[int], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready(self.servers[0].sockets[0].getsockname()[1])
