"""Bring the database to this release."""

from pathlib import Path

import sqlalchemy.exc
from alembic import command
from alembic.config import Config

from dogwatch.errors import DatabaseUnavailable


def migrate(database_url: str, project: Path) -> None:
    """Run all migrations that have not run. Twice, and twice at once, is fine. Raises DatabaseUnavailable."""
    config = Config(toml_file=str(project / "pyproject.toml"))
    config.attributes["url"] = database_url
    try:
        command.upgrade(config, "head")
    except sqlalchemy.exc.OperationalError as error:
        raise DatabaseUnavailable(f"the migrations did not run: {error.orig}") from error
