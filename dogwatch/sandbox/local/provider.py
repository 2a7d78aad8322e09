"""The port `Sandboxes` on this machine."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar

import structlog

from dogwatch.contracts.sandbox import Network, Provider, SandboxSpec
from dogwatch.errors import IsolationMissing, SandboxLost, SandboxRefused, SandboxUnavailable
from dogwatch.ports import Sandbox, SandboxInfo
from dogwatch.sandbox.local import bubblewrap
from dogwatch.sandbox.local.endpoint import model_endpoint
from dogwatch.sandbox.local.faults import machine_fault
from dogwatch.sandbox.local.handle import Inside, LocalSandbox
from dogwatch.sandbox.local.ledger import Ledger, State, name_of
from dogwatch.sandbox.local.lifecycle import Lifecycle
from dogwatch.sandbox.local.place import place_agent, prepare_root

SANDBOX_UID: Final = 61_184
"""The default account of what runs inside, where we are root; Debian and systemd give numbers in this range to nobody."""
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class LocalSandboxes:
    """Sandboxes on this machine: bubblewrap where it can be used, otherwise plain processes. Everything known of them lies below `root`."""

    provider = Provider.LOCAL

    def __init__(
        self,
        root: Path,
        *,
        agent_binary: Path,
        model_url: str | None = None,
        sandbox_uid: int = SANDBOX_UID,
        allow_unisolated: bool = False,
        isolation: Literal["auto", "bubblewrap", "processes"] = "auto",
    ) -> None:
        """Tries bubblewrap once. `sandbox_uid` counts only where we are root; `model_url` None is the CLI's default.

        Raises SettingsInvalid for a model that cannot be relayed, SandboxRefused for a root that is not ours, and IsolationMissing where
        `isolation` asks for bubblewrap in vain.
        """
        account = sandbox_uid if os.geteuid() == 0 else None
        prepare_root(root, account)
        self.root, self._agent_binary, self._model_url, self._allow_unisolated = root, agent_binary, model_url, allow_unisolated
        self._missing = bubblewrap.unusable(account, root) if isolation != "processes" else "plain processes were asked for"
        if self._missing and isolation == "bubblewrap":
            raise IsolationMissing(self._missing)
        self._ledger = Ledger(root)
        self._lifecycle = Lifecycle(self._ledger, self._missing is None, account, model_endpoint(model_url))
        if self._missing:
            _LOG.warning(
                "sandboxes_not_isolated",
                reason=self._missing,
                effect="the agent can do what its account can",
                remedy=IsolationMissing.remedy,
            )

    async def create(self, spec: SandboxSpec, *, name: str, tags: Mapping[str, str], lifetime: timedelta) -> Sandbox:
        """See the port."""
        if spec.image is not None:
            raise SandboxRefused("the local provider has no images: leave sandbox.image out")
        if lifetime <= timedelta(0):
            raise SandboxRefused("a sandbox needs a lifetime of more than nothing")
        if self._missing and spec.network is not Network.OPEN:
            _LOG.warning("network_not_limited", sandbox=name, asked=spec.network.value, reason=self._missing)
        agent = self._agent()
        return self._handle(await _in_thread(lambda: self._lifecycle.create(spec, name, tags, lifetime, agent)))

    async def attach(self, sandbox_id: str) -> Sandbox:
        """See the port."""
        state = self._ledger.by_id(sandbox_id)
        if state is None or not state.running:
            raise SandboxLost(f"the sandbox {sandbox_id} does not run any more")
        return self._handle(state)

    async def find(self, name: str) -> Sandbox | None:
        """See the port."""
        state = self._ledger.read(name)
        return self._handle(state) if state and state.running else None

    async def list(self, tags: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """See the port."""
        for state in await _in_thread(lambda: [*self._ledger.running()]):
            if tags.items() <= state.tags.items():
                yield SandboxInfo(state.sandbox_id, state.name, state.tags, state.created_at)

    async def terminate(self, sandbox_id: str) -> bool:
        """See the port."""
        name = name_of(sandbox_id)
        return name is not None and await _in_thread(lambda: self._lifecycle.terminate(name, sandbox_id))

    async def terminate_named(self, name: str) -> bool:
        """See the port."""
        return await _in_thread(lambda: self._lifecycle.terminate(name, None))

    def check(self, network: Network, *, real_model: bool) -> None:
        """See the port. Plain processes cannot limit the network; with the scripted model that is only said, when the sandbox is made."""
        if self._missing and real_model and not self._allow_unisolated:
            raise IsolationMissing(
                f"{self._missing}: a local sandbox is only a directory, without isolation, and a real model is refused there."
            )

    def _agent(self) -> Path:
        return place_agent(self._agent_binary, self.root, self._lifecycle.account)

    def _handle(self, state: State) -> LocalSandbox:
        if not state.isolated:
            directory = self._ledger.directory(state.name)
            workspace, runs, home, temporary = (str(directory / part) for part in ("workspace", "runs", "home", "tmp"))
            return LocalSandbox(state, Inside(workspace, runs, home, temporary, str(self._agent())), self._model_url)
        inside = Inside(bubblewrap.WORKSPACE, bubblewrap.RUNS, bubblewrap.HOME, "/tmp", bubblewrap.AGENT)
        relayed = state.spec.network is not Network.OPEN
        return LocalSandbox(state, inside, self._lifecycle.model.inside_url if relayed else self._model_url)


async def _in_thread(work: Callable[[], T]) -> T:
    """Blocking work, to its end also when we are cancelled, with this machine's faults as typed errors."""
    try:
        return await asyncio.to_thread(work)
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable("the sandbox did not start in time") from error
    except OSError as error:
        raise machine_fault(error) from error
