"""Queries of the cleanup: which sandboxes may have lost their owner."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row

from dogwatch.contracts.sandbox import Provider
from dogwatch.ports import Stray
from dogwatch.store.engine import Database

_COLUMNS = "name, provider, job_id, sandbox_id, created_at, state"
_STRAYS = text(f"select {_COLUMNS} from sandboxes where state <> 'ended' and created_at < now() - :grace order by created_at limit :most")
_STRAY = text(f"select {_COLUMNS} from sandboxes where name = :name")
_OLDER = text("select cast(:created as timestamptz) < now() - :grace as older")


class Janitors:
    """Queries of the sweep."""

    def __init__(self, db: Database) -> None:
        """Reads through `db`."""
        self.db = db

    async def strays(self, grace: timedelta, most: int) -> Sequence[Stray]:
        """Unsettled sandboxes older than `grace`, the oldest first."""
        return [_stray(row) for row in await self.db.rows(_STRAYS, grace=grace, most=most)]

    async def stray(self, name: str) -> Stray | None:
        """The row of one sandbox."""
        row = await self.db.one(_STRAY, name=name)
        return _stray(row) if row is not None else None

    async def older_than(self, stray: Stray, grace: timedelta) -> bool:
        """Whether a sandbox is older than `grace`, by the database's clock."""
        row = await self.db.one(_OLDER, created=stray.created_at, grace=grace)
        return row is not None and bool(row.older)


def _stray(row: Row[Any]) -> Stray:
    return Stray(row.name, Provider(row.provider), row.job_id, row.sandbox_id, row.created_at, settled=row.state == "ended")
