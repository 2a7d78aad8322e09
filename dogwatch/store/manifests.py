"""Rows of manifests and blobs: stored once per tree, announced before they are put, collected when nothing names them."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dogwatch.contracts.workspace import Entry, EntryKind, Manifest, ManifestKind, ManifestRef
from dogwatch.errors import NotFound, StorageUnavailable
from dogwatch.names import new_id
from dogwatch.ports import Tree
from dogwatch.store.engine import Database, one, plain, rows

_INSERT = text("""
insert into manifests (id, tenant, kind, digest, files, bytes, complete, limit_hit)
select id, :tenant, kind, digest, files, bytes, complete, limit_hit
from unnest(cast(:ids as text[]), cast(:kinds as text[]), cast(:digests as bytea[]), cast(:files as int[]), cast(:bytes as bigint[]),
  cast(:complete as bool[]), cast(:limits as text[])) as m(id, kind, digest, files, bytes, complete, limit_hit)
on conflict (id) do nothing returning id
""")
# The lock keeps a collection away until the caller's transaction has named the blobs. Marking is a hint that saves later puts: it waits
# for nobody, and so never deadlocks.
_HELD = """held as materialized (
  select sha256 from blobs where sha256 = any(cast(:blobs as bytea[])) and deleting_since is null order by sha256 for key share
), marked as (
  update blobs set stored = true where sha256 in (
    select sha256 from blobs where sha256 = any(cast(:blobs as bytea[])) and not stored and deleting_since is null
    for no key update skip locked)
)
select count(*) as held from held"""
_HOLD = text(f"with {_HELD}")
_INSERT_ENTRIES = text(f"""
with listed as (
  insert into manifest_entries (manifest_id, position, path, kind, mode, size, sha256, target, reason, repo_config)
  select * from unnest(cast(:manifests as text[]), cast(:positions as int[]), cast(:paths as bytea[]), cast(:kinds as text[]),
    cast(:modes as int[]), cast(:sizes as bigint[]), cast(:digests as bytea[]), cast(:targets as bytea[]), cast(:reasons as text[]),
    cast(:configs as bool[]))
), {_HELD}
""")
_REF = text("select id, digest, files, bytes, complete from manifests where id = :id")
_LOAD = text("""
select m.complete, m.limit_hit, e.path, e.kind, e.mode, e.size, e.sha256, e.target, e.reason, e.repo_config
from manifests m left join manifest_entries e on e.manifest_id = m.id where m.id = :id order by e.position
""")
_NOTE = text("""
insert into blobs (sha256, size) select sha256, size from unnest(cast(:digests as bytea[]), cast(:sizes as bigint[])) as b(sha256, size)
on conflict (sha256) do update set last_put_at = now() where blobs.deleting_since is null
returning sha256, stored
""")
_UNNAMED = """not exists (select 1 from manifest_entries e where e.sha256 = b.sha256)
  and not exists (select 1 from events e where e.sha256 = b.sha256)
  and not exists (select 1 from jobs j where j.prompt_sha256 = b.sha256)"""
_CANDIDATES = text(f"""
select b.sha256 from blobs b
where (b.last_put_at < now() - :grace and b.deleting_since is null or b.deleting_since < now() - :abandoned) and {_UNNAMED}
order by b.last_put_at limit :most for update skip locked
""")
_MARK_DELETING = text(f"""
update blobs b set deleting_since = now() where b.sha256 = any(cast(:digests as bytea[])) and {_UNNAMED} returning b.sha256
""")
_FORGET = text("delete from blobs where sha256 = any(cast(:digests as bytea[])) and deleting_since is not null")
ABANDONED_AFTER = timedelta(minutes=10)
"""A collection that has not ended by then is taken over: far longer than a batch takes, so that two never delete the same blob, between
which a put might fall."""
COLLECTION_WAIT_S = 60.0
"""Longest wait of a put for the collection of the same blob to end."""


async def store_manifest(connection: AsyncConnection, tenant: str, kind: ManifestKind, tree: Tree) -> ManifestRef:
    """Write one manifest, as `store_manifests` does."""
    return (await store_manifests(connection, tenant, {kind: tree}))[kind]


async def store_manifests(connection: AsyncConnection, tenant: str, trees: Mapping[ManifestKind, Tree]) -> dict[ManifestKind, ManifestRef]:
    """Write manifests and their entries unless the tenant has the same ones already; inside the caller's transaction."""
    refs = {kind: _new_ref(tenant, kind, tree) for kind, tree in trees.items()}
    heads = {
        "ids": [ref.manifest_id for ref in refs.values()],
        "kinds": list(refs),
        "digests": [bytes.fromhex(ref.digest) for ref in refs.values()],
        "files": [ref.files for ref in refs.values()],
        "bytes": [ref.bytes for ref in refs.values()],
        "complete": [ref.complete for ref in refs.values()],
        "limits": [tree.manifest.limit for tree in trees.values()],
    }
    new = {row.id for row in await rows(connection, _INSERT, tenant=tenant, **heads)} if refs else set()
    listed = [
        (refs[kind].manifest_id, position, entry)
        for kind, tree in trees.items()
        if refs[kind].manifest_id in new
        for position, entry in enumerate(tree.manifest.entries, start=1)
    ]
    if listed:
        await _hold(connection, {entry.sha256 for _, _, entry in listed if entry.sha256}, _INSERT_ENTRIES, _columns(listed))
    return refs


def _new_ref(tenant: str, kind: ManifestKind, tree: Tree) -> ManifestRef:
    manifest = tree.manifest
    return ManifestRef(
        manifest_id=new_id("manifest", tenant, kind, tree.digest, manifest.limit or ""),
        digest=tree.digest,
        files=manifest.files,
        bytes=manifest.size,
        complete=manifest.complete,
    )


async def hold_blobs(connection: AsyncConnection, digests: Collection[str]) -> None:
    """Keep blobs, announced and put before, from being collected until the caller's transaction, which names them, has ended.

    Raises StorageUnavailable where one has been collected already: the step that is repeated then puts it anew.
    """
    await _hold(connection, digests, _HOLD, {})


async def _hold(connection: AsyncConnection, digests: Collection[str], statement: TextClause, values: Mapping[str, object]) -> None:
    row = await one(connection, statement, blobs=[bytes.fromhex(sha) for sha in digests], **values)
    if row is None or row.held != len(digests):
        raise StorageUnavailable("a blob was collected before it was named: more than the grace has passed since it was announced")


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
    return _manifest(manifest_id, await rows(connection, _LOAD, id=manifest_id))


def _manifest(manifest_id: str, found: Sequence[Row[Any]]) -> Manifest:
    if not found:
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
        for row in found
        if row.path is not None
    ]
    return Manifest.model_construct(entries=tuple(entries), complete=found[0].complete, limit=found[0].limit_hit)


def _columns(listed: Sequence[tuple[str, int, Entry]]) -> dict[str, list[object]]:
    entries = [entry for _, _, entry in listed]
    return {
        "manifests": [manifest for manifest, _, _ in listed],
        "positions": [position for _, position, _ in listed],
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
        return _manifest(manifest_id, await self.db.rows(_LOAD, id=manifest_id))

    async def note_blobs(self, blobs: Mapping[str, int]) -> Sequence[str]:
        """See `ports.Records`."""
        missing = dict(blobs)
        to_put: list[str] = []
        deadline = time.monotonic() + COLLECTION_WAIT_S
        while missing:
            ordered = sorted(missing)
            digests, sizes = [bytes.fromhex(sha) for sha in ordered], [missing[sha] for sha in ordered]
            noted = await self.db.rows(_NOTE, digests=digests, sizes=sizes)
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
            found = await rows(connection, _CANDIDATES, grace=grace, abandoned=ABANDONED_AFTER, most=most)
            # Looked at again, now that nobody else can name them: a transaction that did may have ended between the look and the lock.
            marked = await rows(connection, _MARK_DELETING, digests=[row.sha256 for row in found])
        return [bytes(row.sha256).hex() for row in marked]

    async def forget_blobs(self, digests: Sequence[str]) -> None:
        """Remove the rows of blobs whose bytes are gone."""
        await self.db.execute(_FORGET, digests=[bytes.fromhex(sha) for sha in digests])
