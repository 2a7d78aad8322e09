"""The HTTP door put together, and the server it runs in."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import Depends, FastAPI

import dogwatch
from dogwatch.contracts.job import JobSubmission
from dogwatch.contracts.page import Problem
from dogwatch.contracts.session import SessionRequest
from dogwatch.errors import PortTaken
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


async def serve(
    deps: Deps, stop: asyncio.Event, *, host: str = "127.0.0.1", port: int = 8484, ready: Callable[[int], None] | None = None
) -> None:
    """Serve until `stop` is set; `ready` is called with the port once connections are accepted. Signals are left to the caller.

    Raises KeyRequired where `host` is not this machine's own and there is no key, PortTaken.
    """
    check_host(host, deps.api_key)
    config = uvicorn.Config(
        create_app(deps), log_config=None, access_log=False, server_header=False, lifespan="on", timeout_graceful_shutdown=_STOP_WITHIN_S
    )
    listening = _listen(host, port)
    server = _Server(config, lambda: ready(listening.getsockname()[1]) if ready else None)
    serving = asyncio.create_task(server.serve([listening]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
    except OSError as error:
        raise PortTaken(f"the HTTP door cannot listen on {host}:{port} (DOGWATCH_HTTP_PORT): {error.strerror}") from error


class _Server(uvicorn.Server):
    """Uvicorn that leaves signals alone and says when it is up."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
