"""Secrets that the embedded stack makes up itself and keeps beside its data."""

import json
import os
import secrets
from pathlib import Path


def stored_secret(path: Path, name: str) -> str:
    """The secret `name` of the JSON file `path` (mode 0600), made up and stored when it is not there yet."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if name not in known:
        known[name] = secrets.token_urlsafe(24)
        write_private(path, json.dumps(known, indent=2) + "\n")
    return known[name]


def write_private(path: Path, text: str) -> None:
    """Replace the file `path` by one that only we may read, in one step: a reader sees the old or the new one."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
