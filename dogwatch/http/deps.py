"""What the HTTP door is made of, handed in by whoever starts it."""

from dataclasses import dataclass

from dogwatch.client import Client
from dogwatch.contracts.job import MAX_TIMEOUT_S
from dogwatch.contracts.workspace import MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES
from dogwatch.ports import Blobs
from dogwatch.store.doors import Doors
from dogwatch.store.news import News


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one request may ask for."""

    max_upload_files: int = MAX_UPLOAD_FILES
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    max_timeout_s: float = MAX_TIMEOUT_S
    body_timeout_s: float = 60.0
    """Seconds for a request's body to arrive."""

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request's body: an upload as base64, a prompt, and some air."""
        return self.max_upload_bytes * 3 // 2 + (16 << 20)


@dataclass(frozen=True, kw_only=True)
class Deps:
    """Everything the door uses."""

    doors: Doors
    """Queries; the deadline is theirs."""
    blobs: Blobs
    """Bytes of files."""
    temporal: Client
    """Starts, messages and cancels; the deadline is the client's."""
    news: News
    """Tells followers to look."""
    limits: Limits = Limits()
    api_key: str | None = None
    """Key that callers must send; without one the door serves this machine only."""
    tenant: str = "default"
    """Owner of everything that comes through this door."""
