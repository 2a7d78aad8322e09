"""The embedded stack of this project: its own programs, search attributes and settings."""

import sys
from collections.abc import Mapping

from dogwatch.names import SEARCH_ATTRIBUTES
from dogwatch.settings import Settings
from worker.embedded.option import Programs, StackOptions


def stack_options(settings: Settings, environment: Mapping[str, str], *, ui: bool = True) -> StackOptions:
    """The stack as these settings want it; `environment` is what its programs inherit, the model's key among it."""
    return StackOptions(
        state_dir=settings.state_dir,
        http_port=settings.http_port,
        temporal_port=settings.temporal_port,
        temporal_ui_port=settings.temporal_ui_port if ui else None,
        postgres_port=settings.postgres_port,
        search_attributes=SEARCH_ATTRIBUTES,
        env=dict(environment),
        database_url=environment.get("DOGWATCH_DATABASE_URL"),
        postgres_binaries=settings.postgres_bin,
        temporal_binary=settings.temporal_binary,
        programs=Programs(farewell=(sys.executable, "-m", "worker", "farewell")),
    )
