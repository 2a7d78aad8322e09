"""The scripted model inside a test's own process."""

from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Self

from dogwatch.testing.model.journal import Entry
from dogwatch.testing.model.parse import parse_script
from dogwatch.testing.model.script import Script
from dogwatch.testing.model.server import ModelServer


class ScriptedModel:
    """A Messages API that plays a script on a thread of its own; a context manager.

    `url` goes into ANTHROPIC_BASE_URL. A script is typed or parsed JSON, `port` 0 is a free one. Raises ScriptError for
    a bad script and OSError for a taken port, both before anything is served.
    """

    def __init__(
        self,
        script: Script | Mapping[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        self._server = ModelServer((host, port), _typed(script or {}), log)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="scripted-model")
        self.url = f"http://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def requests(self) -> list[Entry]:
        """All requests since the script was loaded, as `GET /__log` shows them."""
        return self._server.play.journal.entries()

    def stats(self) -> dict[str, Any]:
        """What `GET /__stats` shows."""
        return self._server.play.stats()

    def load(self, script: Script | Mapping[str, Any]) -> None:
        """Play another script from its beginning, with nothing recorded and nothing released."""
        self._server.load(_typed(script))

    def release(self, name: str) -> None:
        """Let the replies of all steps with this `wait_for` go, now and later."""
        self._server.play.gate.release(name)

    def await_waiting(self, name: str, count: int = 1, timeout: float = 60.0) -> None:
        """Block until that many replies wait for the name; TimeoutError after the timeout in seconds."""
        self._server.play.gate.await_waiting(name, count, timeout)


def _typed(script: Script | Mapping[str, Any]) -> Script:
    return script if isinstance(script, Script) else parse_script(dict(script))
