"""This process's environment, as a value that is handed on."""

import os
from collections.abc import Mapping


def process_environment() -> Mapping[str, str]:
    """A copy of the environment, taken now."""
    return dict(os.environ)
