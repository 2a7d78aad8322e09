"""The Postgres make of the port `Records`."""

import sqlalchemy.exc
from sqlalchemy import text

from dogwatch.errors import DatabaseUnavailable
from dogwatch.store.attempts import Attempts
from dogwatch.store.endings import Endings
from dogwatch.store.engine import Database
from dogwatch.store.events import Events
from dogwatch.store.janitor import Janitors
from dogwatch.store.manifests import Manifests

_DEPLOYMENT = text("select id from deployment")


class PostgresRecords(Attempts, Events, Manifests, Endings, Janitors):
    """All queries of the activities, over one pool."""

    def __init__(self, db: Database, deployment: str) -> None:
        """Use `connect`, which reads the deployment's id."""
        Attempts.__init__(self, db, deployment)

    @classmethod
    async def connect(cls, db: Database) -> "PostgresRecords":
        """Records of the deployment that `db` belongs to. Raises DatabaseUnavailable, also where no migration has run."""
        return cls(db, await deployment_id(db))


async def deployment_id(db: Database) -> str:
    """The id of this installation, a UUID made by the first migration. Raises DatabaseUnavailable, also where no migration has run."""
    try:
        row = await db.one(_DEPLOYMENT)
    except sqlalchemy.exc.ProgrammingError as error:
        raise DatabaseUnavailable("the database has no tables: run the migrations") from error
    if row is None:
        raise DatabaseUnavailable("the database has no deployment row: run the migrations")
    return str(row.id)
