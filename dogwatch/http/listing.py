"""Entries of manifests as the door lists them."""

import base64
from collections.abc import Iterable
from urllib.parse import quote

from dogwatch.agent.display import escape
from dogwatch.contracts.page import FilePage
from dogwatch.contracts.workspace import EntryKind, FileView
from dogwatch.errors import InvalidRequest
from dogwatch.store.files import FileRow, FileRows


def file_page(job_id: str | None, found: FileRows) -> FilePage:
    """A page of entries; `job_id` is the job whose addresses have the bytes."""
    return FilePage(
        manifest_id=found.manifest_id,
        complete=found.complete,
        files=file_views(job_id, found.rows),
        next=base64.urlsafe_b64encode(found.rows[-1].path).decode() if found.more else None,
    )


def position(after: str | None) -> bytes:
    """The path that a page's `next` stands for. Raises InvalidRequest."""
    try:
        return base64.b64decode(after, altchars=b"-_", validate=True) if after else b""
    except ValueError:
        raise InvalidRequest("`after` is not the `next` of an earlier page") from None


def file_views(job_id: str | None, rows: Iterable[FileRow]) -> tuple[FileView, ...]:
    """Entries with names that are safe to show; the exact bytes of a name are in its address."""
    return tuple(_file_view(job_id, row) for row in rows)


def _file_view(job_id: str | None, row: FileRow) -> FileView:
    there = job_id is not None and row.kind is EntryKind.FILE and row.change != "deleted"
    return FileView(
        path=_shown(row.path),
        kind=row.kind,
        size_bytes=row.size,
        mode=row.mode,
        sha256=row.sha256,
        target=_shown(row.target) if row.target is not None else None,
        change=row.change,
        reason=row.reason,
        repo_config=row.repo_config,
        download_url=f"/v1/jobs/{job_id}/files/{quote(row.path)}" if there else None,
    )


def _shown(name: bytes) -> str:
    return escape(name.decode("utf-8", "surrogateescape"))
