"""Runs the migrations: online only, one transaction each, with short lock timeouts."""

import os

from alembic import context
from sqlalchemy import create_engine, pool, text

from dogwatch.store.tables import metadata

LOCK_TIMEOUT = "4s"
"""A migration that cannot get its lock fails and can be repeated; one that waits would hold up every query behind it."""
STATEMENT_TIMEOUT = "60s"


def run() -> None:
    """Upgrade or downgrade the database of DOGWATCH_DATABASE_URL (or of the URL that a caller has put into the configuration)."""
    url = context.config.attributes.get("url") or os.environ["DOGWATCH_DATABASE_URL"]
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"set statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True, compare_type=True)
        with context.begin_transaction():
            # Two processes may migrate at once: the second waits here, then finds nothing to do.
            connection.execute(text("select pg_advisory_xact_lock(hashtext('dogwatch migrations'))"))
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations run online only: set DOGWATCH_DATABASE_URL")
run()
