"""Rows of manifests as the doors show them: pages with change marks, one file by its path."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.engine import Row

from dogwatch.contracts.workspace import EntryKind, Manifest
from dogwatch.errors import NotFound
from dogwatch.store.bounded import bounded
from dogwatch.store.engine import Database, one, rows
from dogwatch.store.manifests import load_manifest

_OF_JOB = text("""
select j.output_manifest as output, j.input_manifest as input, j.transcript_manifest as transcript, m.created_at, m.complete
from jobs j left join manifests m on m.id = j.output_manifest where j.id = :id and j.tenant = :tenant
""")
_OF_SESSION = text("""
select s.workspace_manifest as output, s.input_manifest as input, s.transcript_manifest as transcript, m.created_at, m.complete
from sessions s left join manifests m on m.id = s.workspace_manifest where s.id = :id and s.tenant = :tenant
""")
# A path is not gone where it could not be seen: below an entry that was skipped, or beyond the limit that ended the reading.
_PAGE = text("""
with o as (select * from manifest_entries where manifest_id = :output and path > :after),
i as (select * from manifest_entries where manifest_id = :input and path > :after),
skipped as (select path || '/'::bytea as below from manifest_entries where manifest_id = :output and kind = 'skipped'),
entry as (
  select coalesce(o.path, i.path) as path, coalesce(o.kind, i.kind) as kind, coalesce(o.mode, i.mode) as mode,
    coalesce(o.size, i.size) as size, case when o.path is null then i.sha256 else o.sha256 end as sha256,
    case when o.path is null then i.target else o.target end as target,
    case when o.path is null then i.reason else o.reason end as reason, coalesce(o.repo_config, i.repo_config) as repo_config,
    case when o.path is null then 'deleted' when i.path is null then 'added'
      when (o.kind, o.mode, o.sha256, o.target) is distinct from (i.kind, i.mode, i.sha256, i.target) then 'modified'
      else 'unchanged' end as change
  from o full join i on i.path = o.path
  where o.path is not null or (:complete and i.kind <> 'skipped'
    and not exists (select 1 from skipped where substring(i.path from 1 for length(below)) = below))
)
select * from entry where not :changed or change <> 'unchanged' order by path limit :limit
""")
_ENTRY = text("""
select path, kind, mode, size, sha256, target, reason, repo_config, 'unchanged' as change
from manifest_entries where manifest_id = :manifest and sha256(path) = sha256(:path)
""")
_MAIN_TRANSCRIPT = text("""
select path, kind, mode, size, sha256, target, reason, repo_config, 'unchanged' as change
from manifest_entries where manifest_id = :manifest and kind = 'file'
order by length(path) - length(replace(encode(path, 'escape'), '/', '')), path limit 1
""")


@dataclass(frozen=True)
class FileRow:
    """An entry of a manifest, its name as the bytes it has in the sandbox."""

    path: bytes
    kind: EntryKind
    mode: int
    size: int
    sha256: str | None
    target: bytes | None
    reason: str | None
    repo_config: bool
    change: Literal["added", "modified", "deleted", "unchanged"]


@dataclass(frozen=True)
class FileRows:
    """Some entries, ordered by path."""

    manifest_id: str | None
    """None while there are no results."""
    complete: bool
    created_at: datetime | None
    rows: tuple[FileRow, ...]
    more: bool
    """Whether others follow."""


@dataclass(frozen=True)
class _Manifests:
    output: str | None
    input: str | None
    transcript: str | None
    complete: bool
    created_at: datetime | None


class Files:
    """Queries about the files of jobs and sessions, bound to a tenant."""

    def __init__(self, db: Database, deadline_s: float) -> None:
        """Reads through `db`; each query has `deadline_s` seconds."""
        self.db = db
        self.deadline_s = deadline_s

    @bounded
    async def job_files(self, tenant: str, job_id: str, *, after: bytes = b"", changed: bool = False, limit: int = 1000) -> FileRows:
        """The files a job left, compared with those it started with; those that are gone are among them. Raises NotFound."""
        return await self._page(await self._of_job(tenant, job_id), after, changed, limit)

    @bounded
    async def session_files(
        self, tenant: str, session_id: str, *, after: bytes = b"", changed: bool = False, limit: int = 1000
    ) -> FileRows:
        """The files of a session now, compared with those it was opened with. Raises NotFound."""
        async with self.db.begin() as connection:
            row = await one(connection, _OF_SESSION, id=session_id, tenant=tenant)
        if row is None:
            raise NotFound("there is no such session")
        return await self._page(_manifests(row), after, changed, limit)

    @bounded
    async def job_file(self, tenant: str, job_id: str, path: bytes) -> FileRow:
        """A regular file that a job left. Raises NotFound."""
        found = await self._of_job(tenant, job_id)
        async with self.db.begin() as connection:
            row = await one(connection, _ENTRY, manifest=found.output, path=path)
        if row is None or row.kind != EntryKind.FILE:
            raise NotFound("the job has left no such file")
        return _file_row(row)

    @bounded
    async def job_transcript(self, tenant: str, job_id: str) -> FileRow:
        """The file of a job's conversation. Raises NotFound."""
        found = await self._of_job(tenant, job_id)
        async with self.db.begin() as connection:
            row = await one(connection, _MAIN_TRANSCRIPT, manifest=found.transcript)
        if row is None:
            raise NotFound("the job has left no transcript")
        return _file_row(row)

    @bounded
    async def job_manifest(self, tenant: str, job_id: str) -> Manifest:
        """All files that a job left. Raises NotFound."""
        found = await self._of_job(tenant, job_id)
        if found.output is None:
            raise NotFound("the job has left no files")
        async with self.db.begin() as connection:
            return await load_manifest(connection, found.output)

    async def _of_job(self, tenant: str, job_id: str) -> _Manifests:
        async with self.db.begin() as connection:
            row = await one(connection, _OF_JOB, id=job_id, tenant=tenant)
        if row is None:
            raise NotFound("there is no such job")
        return _manifests(row)

    async def _page(self, found: _Manifests, after: bytes, changed: bool, limit: int) -> FileRows:
        if found.output is None:
            return FileRows(None, True, None, (), more=False)
        values = {"output": found.output, "input": found.input, "complete": found.complete, "after": after, "changed": changed}
        async with self.db.begin() as connection:
            page = await rows(connection, _PAGE, **values, limit=limit + 1)
        entries = tuple(_file_row(row) for row in page[:limit])
        return FileRows(found.output, found.complete, found.created_at, entries, more=len(page) > limit)


def _manifests(row: Row[Any]) -> _Manifests:
    return _Manifests(row.output, row.input, row.transcript, bool(row.complete), row.created_at)


def _file_row(row: Row[Any]) -> FileRow:
    return FileRow(
        path=bytes(row.path),
        kind=EntryKind(row.kind),
        mode=row.mode,
        size=row.size,
        sha256=bytes(row.sha256).hex() if row.sha256 is not None else None,
        target=bytes(row.target) if row.target is not None else None,
        reason=row.reason,
        repo_config=row.repo_config,
        change=row.change,
    )
