"""Runs the migrations: online only, one transaction each, with short lock timeouts."""

import os

import sqlalchemy.exc
from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from dogwatch.errors import DatabaseUnavailable
from dogwatch.store.tables import metadata

LOCK_TIMEOUT_S = 4
"""A migration that cannot get its lock fails and can be repeated; one that waits would hold up every query behind it."""
STATEMENT_TIMEOUT_S = 60
_NO_LOCK = "55P03"


def run() -> None:
    """Upgrade or downgrade the database of DOGWATCH_DATABASE_URL (or of the URL that a caller has put into the configuration)."""
    url = context.config.attributes.get("url") or os.environ["DOGWATCH_DATABASE_URL"]
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        connection.execute(text(f"set statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
        # Two processes may migrate at once: the second waits here, over all migrations, then finds nothing to do.
        connection.execute(text("select pg_advisory_lock(hashtext('dogwatch migrations'))"))
        connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True, compare_type=True)
        _migrate(connection)


def _migrate(connection: Connection) -> None:
    try:
        with context.begin_transaction():
            context.run_migrations()
    except sqlalchemy.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_LOCK:
            raise
        wanted = " ".join((error.statement or "").split())[:200]
        raise DatabaseUnavailable(f"a migration did not get the lock for `{wanted}` within {LOCK_TIMEOUT_S} s") from error


if context.is_offline_mode():
    raise SystemExit("migrations run online only: set DOGWATCH_DATABASE_URL")
run()
