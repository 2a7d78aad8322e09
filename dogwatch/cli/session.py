"""Commands about sessions."""

import asyncio
import base64
import secrets
from pathlib import Path

from pydantic import ValidationError

from dogwatch.cli import outcome
from dogwatch.cli.place import Place
from dogwatch.cli.show import Screen, job_row, session_lines
from dogwatch.contracts.session import SessionRequest, SessionView
from dogwatch.errors import invalid_request
from dogwatch.workspace.directory import pack


async def open_session(place: Place, screen: Screen, directory: Path, ttl_s: float | None) -> int:
    """Open a session with the files of a directory."""
    request = request_of(await asyncio.to_thread(pack, directory), ttl_s)
    async with place.client() as client:
        _show(screen, place, await client.open_session(request, idempotency_key=secrets.token_hex(16)))
    return outcome.OK


async def show(place: Place, screen: Screen, session_id: str) -> int:
    """Show a session and its latest jobs."""
    async with place.client() as client:
        _show(screen, place, await client.session(session_id))
        page = await client.jobs(session_id=session_id, limit=20)
    if not screen.json:
        screen.table(("job", "status", "created", "cost", "prompt"), map(job_row, page.jobs))
    return outcome.OK


async def close(place: Place, screen: Screen, session_id: str, *, cancel: bool) -> int:
    """Close a session."""
    async with place.client() as client:
        _show(screen, place, await client.close_session(session_id, cancel=cancel))
    return outcome.OK


def request_of(packed: bytes, ttl_s: float | None = None) -> SessionRequest:
    """What opens a session with the files of an archive. Raises InvalidRequest."""
    body: dict[str, object] = {"upload": {"archives": [{"data_base64": base64.b64encode(packed)}]}}
    if ttl_s is not None:
        body["ttl_s"] = ttl_s
    try:
        return SessionRequest.model_validate(body)
    except ValidationError as error:
        raise invalid_request(error) from None


def _show(screen: Screen, place: Place, session: SessionView) -> None:
    if screen.json:
        screen.value(session)
        return
    for line in (*session_lines(session), f"  {place.workflow(session.workflow_id)}"):
        screen.say(line)
