"""The HTTP door as a process."""

import structlog

from dogwatch.client import Client
from dogwatch.http.app import serve
from dogwatch.http.deps import Deps, Limits
from dogwatch.settings import Settings
from dogwatch.store.doors import Doors
from dogwatch.store.engine import Database
from dogwatch.store.news import News
from dogwatch.store.records import deployment_id
from worker.process import stop_event, touch
from worker.wiring import open_blobs

log = structlog.get_logger()


async def run_door(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. It starts also while Temporal is away, and answers 503 until it is back.

    Raises KeyRequired, DatabaseUnavailable.
    """
    url = settings.database_url.get_secret_value()
    db = Database(url)
    try:
        deps = Deps(
            doors=Doors(db, await deployment_id(db)),
            blobs=open_blobs(settings),
            temporal=await Client.connect(lazy=True, deadline_s=2.0),
            news=News(url),
            limits=Limits(
                max_upload_files=settings.max_upload_files,
                max_upload_bytes=settings.max_upload_bytes,
                max_timeout_s=settings.max_timeout_s,
            ),
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        )

        def ready(port: int) -> None:
            log.info("the HTTP door is open", host=settings.http_host, port=port)
            if settings.ready_file is not None:
                touch(settings.ready_file)

        await serve(deps, stop_event(), host=settings.http_host, port=settings.http_port, ready=ready)
    finally:
        await db.close()
    return 0
