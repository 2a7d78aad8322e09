"""Everything the doors ask the database, in one object."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from dogwatch.store.acceptance import Acceptance
from dogwatch.store.bounded import bounded
from dogwatch.store.engine import Database, one, plain
from dogwatch.store.files import Files
from dogwatch.store.following import Following
from dogwatch.store.manifests import Manifests
from dogwatch.store.views import Views

DEADLINE_S = 2.0
"""Seconds after which a person is told that the database does not answer."""

_EXISTS = text("""
select exists (select 1 from manifests where id = :manifest and tenant = :tenant and kind = 'workspace') as manifest,
  exists (select 1 from jobs where id = :job and tenant = :tenant) as job
""")


class Doors(Acceptance, Views, Files, Following):
    """All queries of the doors, over one pool. Each may raise DatabaseUnavailable, at the latest after `deadline_s` seconds."""

    def __init__(self, db: Database, deployment: str, *, deadline_s: float = DEADLINE_S) -> None:
        """`deployment` is the id of this installation, part of every id that is made from an idempotency key."""
        Acceptance.__init__(self, db, deadline_s)
        self.deployment = deployment

    @bounded
    async def note_blobs(self, blobs: Mapping[str, int]) -> Sequence[str]:
        """Announce blobs that are about to be referenced; returns those whose bytes must be put."""
        return await Manifests(self.db).note_blobs(blobs)

    @bounded
    async def has_manifest(self, tenant: str, manifest_id: str) -> bool:
        """Whether the tenant has this list of workspace files."""
        async with self.db.begin() as connection:
            row = await one(connection, _EXISTS, tenant=tenant, manifest=plain(manifest_id), job=None)
            return bool(row and row.manifest)

    @bounded
    async def has_job(self, tenant: str, job_id: str) -> bool:
        """Whether the tenant has this job."""
        async with self.db.begin() as connection:
            row = await one(connection, _EXISTS, tenant=tenant, manifest=None, job=job_id)
            return bool(row and row.job)

    @bounded
    async def check(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        await self.db.check()
