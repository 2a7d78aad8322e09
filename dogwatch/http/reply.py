"""Answers as JSON, which nobody stores."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
"""On every answer that shows somebody's data."""


class Reply(Response):
    """A contract as JSON."""

    media_type = "application/json"

    def __init__(self, content: BaseModel, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """`headers` come on top of the usual ones."""
        super().__init__(content.model_dump_json(), status_code, {**HEADERS, **(headers or {})})
