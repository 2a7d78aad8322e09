"""Whether the process lives, and whether what it needs answers."""

import asyncio

from fastapi import APIRouter

import dogwatch
from dogwatch.http.deps import Deps


class Health:
    """The addresses for probes; they need no key."""

    def __init__(self, deps: Deps) -> None:
        """Asks Postgres and Temporal through `deps`."""
        self.deps = deps

    def routes(self) -> APIRouter:
        """`/health` and `/ready`."""
        router = APIRouter(tags=["health"])
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/ready", self.ready, methods=["GET"])
        return router

    async def health(self) -> dict[str, str]:
        """The process lives."""
        return {"status": "ok", "version": dogwatch.__version__}

    async def ready(self) -> dict[str, str]:
        """Postgres and Temporal answer. 503 with the one that does not."""
        await asyncio.gather(self.deps.doors.check(), self.deps.temporal.check())
        return {"status": "ready"}
