"""Rows of manifests and blobs: stored once per tree, announced before they are put, collected when nothing names them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest, ManifestKind, ManifestRef
from dogwatch.errors import NotFound, StorageUnavailable
from dogwatch.names import new_id
from dogwatch.ports import Tree
from dogwatch.store.engine import Database, one, plain, rows

_INSERT = text("""
insert into manifests (id, tenant, kind, digest, files, bytes, complete, limit_hit)
values (:id, :tenant, :kind, :digest, :files, :bytes, :complete, :limit) on conflict (id) do nothing
""")
_INSERT_ENTRIES = text("""
insert into manifest_entries (manifest_id, position, path, kind, mode, size, sha256, target, reason, repo_config)
select :id, position, path, kind, mode, size, sha256, target, reason, repo_config
from unnest(cast(:paths as bytea[]), cast(:kinds as text[]), cast(:modes as int[]), cast(:sizes as bigint[]), cast(:digests as bytea[]),
  cast(:targets as bytea[]), cast(:reasons as text[]), cast(:configs as bool[]))
  with ordinality as entry(path, kind, mode, size, sha256, target, reason, repo_config, position)
""")
_REF = text("select id, digest, files, bytes, complete from manifests where id = :id")
_ENTRIES = text("""
select path, kind, mode, size, sha256, target, reason, repo_config from manifest_entries where manifest_id = :id order by position
""")
_HEAD = text("select complete, limit_hit from manifests where id = :id")
_NOTE = text("""
insert into blobs (sha256, size) select sha256, size from unnest(cast(:digests as bytea[]), cast(:sizes as bigint[])) as b(sha256, size)
on conflict (sha256) do update set last_put_at = now() where not blobs.deleting
returning sha256, stored
""")
_STORED = text("update blobs set stored = true where sha256 = any(cast(:digests as bytea[])) and not stored")
_MARK_DELETING = text("""
update blobs set deleting = true where sha256 in (
  select b.sha256 from blobs b where (b.last_put_at < now() - :grace or b.deleting)
    and not exists (select 1 from manifest_entries e where e.sha256 = b.sha256)
    and not exists (select 1 from events e where e.sha256 = b.sha256)
    and not exists (select 1 from jobs j where j.prompt_sha256 = b.sha256)
  order by b.last_put_at limit :most for update skip locked)
returning sha256
""")
_FORGET = text("delete from blobs where sha256 = any(cast(:digests as bytea[])) and deleting")
COLLECTION_WAIT_S = 60.0
"""Longest wait of a put for the collection of the same blob to end."""


async def store_manifest(connection: AsyncConnection, tenant: str, kind: ManifestKind, tree: Tree) -> ManifestRef:
    """Write a manifest and its entries unless the tenant has the same one already; inside the caller's transaction."""
    manifest = tree.manifest
    ref = ManifestRef(
        manifest_id=new_id("manifest", tenant, kind, tree.digest, manifest.limit or ""),
        digest=tree.digest,
        files=manifest.files,
        bytes=manifest.size,
        complete=manifest.complete,
    )
    values = {
        "id": ref.manifest_id,
        "tenant": tenant,
        "kind": kind,
        "digest": bytes.fromhex(tree.digest),
        "files": ref.files,
        "bytes": ref.bytes,
    }
    inserted = await connection.execute(_INSERT, {**values, "complete": manifest.complete, "limit": manifest.limit})
    if inserted.rowcount and manifest.entries:
        await connection.execute(_INSERT_ENTRIES, {"id": ref.manifest_id, **_columns(manifest.entries)})
        digests = sorted({bytes.fromhex(entry.sha256) for entry in manifest.entries if entry.sha256})
        await connection.execute(_STORED, {"digests": digests})
    return ref


async def manifest_ref(connection: AsyncConnection, manifest_id: str | None) -> ManifestRef | None:
    """The reference of a stored manifest; None for None."""
    if manifest_id is None:
        return None
    row = await one(connection, _REF, id=manifest_id)
    if row is None:
        raise NotFound(f"there is no manifest {manifest_id}")
    return ManifestRef(manifest_id=row.id, digest=bytes(row.digest).hex(), files=row.files, bytes=row.bytes, complete=row.complete)


async def load_manifest(connection: AsyncConnection, manifest_id: str) -> Manifest:
    """A stored manifest with all its entries. Raises NotFound."""
    head = await one(connection, _HEAD, id=manifest_id)
    if head is None:
        raise NotFound(f"there is no manifest {manifest_id}")
    entries = [
        Entry.model_construct(
            path=_text(row.path),
            kind=EntryKind(row.kind),
            mode=row.mode,
            size=row.size,
            sha256=bytes(row.sha256).hex() if row.sha256 is not None else None,
            target=_text(row.target) if row.target is not None else None,
            reason=row.reason,
            repo_config=row.repo_config,
        )
        for row in await rows(connection, _ENTRIES, id=manifest_id)
    ]
    return Manifest.model_construct(entries=tuple(entries), complete=head.complete, limit=head.limit_hit)


def _columns(entries: Sequence[Entry]) -> dict[str, list[object]]:
    return {
        "paths": [_bytes(entry.path) for entry in entries],
        "kinds": [entry.kind.value for entry in entries],
        "modes": [entry.mode for entry in entries],
        "sizes": [entry.size for entry in entries],
        "digests": [bytes.fromhex(entry.sha256) if entry.sha256 else None for entry in entries],
        "targets": [_bytes(entry.target) if entry.target is not None else None for entry in entries],
        "reasons": [plain(entry.reason) if entry.reason else None for entry in entries],
        "configs": [entry.repo_config for entry in entries],
    }


def _bytes(words: str) -> bytes:
    return words.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return bytes(raw).decode("utf-8", "surrogateescape")


class Manifests:
    """Queries about manifests and blobs."""

    def __init__(self, db: Database) -> None:
        """Reads and writes through `db`."""
        self.db = db

    async def manifest(self, manifest_id: str) -> Manifest:
        """See `ports.Records`."""
        async with self.db.begin() as connection:
            return await load_manifest(connection, manifest_id)

    async def note_blobs(self, blobs: Mapping[str, int]) -> Sequence[str]:
        """See `ports.Records`."""
        missing = dict(blobs)
        to_put: list[str] = []
        deadline = time.monotonic() + COLLECTION_WAIT_S
        while missing:
            ordered = sorted(missing)
            values = {"digests": [bytes.fromhex(sha) for sha in ordered], "sizes": [missing[sha] for sha in ordered]}
            async with self.db.begin() as connection:
                noted = await rows(connection, _NOTE, **values)
            to_put.extend(bytes(row.sha256).hex() for row in noted if not row.stored)
            for row in noted:
                del missing[bytes(row.sha256).hex()]
            if missing:  # being collected right now: its row goes away, then the put begins anew
                if time.monotonic() > deadline:
                    raise StorageUnavailable("the collection of a blob does not end")
                await asyncio.sleep(0.1)
        return to_put

    async def mark_deleting(self, grace: timedelta, most: int = 1000) -> Sequence[str]:
        """Blobs that nothing names and nobody put within `grace`, marked so that a new put waits; also those an earlier collection left."""
        async with self.db.begin() as connection:
            return [bytes(row.sha256).hex() for row in await rows(connection, _MARK_DELETING, grace=grace, most=most)]

    async def forget_blobs(self, digests: Sequence[str]) -> None:
        """Remove the rows of blobs whose bytes are gone."""
        async with self.db.begin() as connection:
            await connection.execute(_FORGET, {"digests": [bytes.fromhex(sha) for sha in digests]})
