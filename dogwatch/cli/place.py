"""Where the door is: as told, or the stack that runs here."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dogwatch.client.http import DEFAULT_URL, HttpClient

_STACK = Path(".dogwatch", "stack.json")


@dataclass(frozen=True)
class Place:
    """Addresses of a deployment."""

    url: str
    """The HTTP door."""
    ui: str | None = None
    """The Temporal UI."""

    def client(self) -> HttpClient:
        """A client of the door; its key comes from DOGWATCH_API_KEY, since arguments are seen by everybody on the machine."""
        return HttpClient(self.url, key=os.environ.get("DOGWATCH_API_KEY"))

    def workflow(self, workflow_id: str) -> str:
        """Where to look at a workflow."""
        if self.ui is None:
            return f"workflow {workflow_id}"
        return f"{self.ui}/namespaces/{os.environ.get('TEMPORAL_NAMESPACE', 'default')}/workflows/{quote(workflow_id, safe='')}"


def find(url: str | None, directory: Path) -> Place:
    """The door that `url` or DOGWATCH_URL names, else that of the stack in `directory` or above it, else this machine's default one."""
    stack = _stack(directory)
    told = url or os.environ.get("DOGWATCH_URL")
    here = stack.get("http")
    ui = os.environ.get("DOGWATCH_TEMPORAL_UI_URL") or (stack.get("temporal_ui") if told in (None, here) else None)
    return Place((told or here or DEFAULT_URL).rstrip("/"), ui)


def _stack(directory: Path) -> dict[str, str]:
    state = os.environ.get("DOGWATCH_STATE_DIR")
    places = [Path(state, _STACK.name)] if state else [parent / _STACK for parent in (directory, *directory.parents)]
    for place in places:
        try:
            urls = json.loads(place.read_text())["urls"]
        except (OSError, ValueError, KeyError):
            continue  # no stack here, or one that is just being written
        return {name: url for name, url in urls.items() if isinstance(url, str)}
    return {}
