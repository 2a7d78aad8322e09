"""Makes and ends sandboxes, each step such that any process can go on where another one died."""

import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dogwatch.contracts.sandbox import Network, SandboxSpec
from dogwatch.errors import SandboxRefused, SandboxUnavailable
from dogwatch.sandbox.local import bubblewrap
from dogwatch.sandbox.local.command import program_argv
from dogwatch.sandbox.local.endpoint import ModelEndpoint
from dogwatch.sandbox.local.identity import end, wait_gone
from dogwatch.sandbox.local.ledger import Ledger, State
from dogwatch.sandbox.local.limits import cgroups_of, make_cgroups, remove_cgroups
from dogwatch.sandbox.local.marked import SANDBOX, end_marked
from dogwatch.sandbox.local.place import let_pass, make_own

_START_S: Final = 60.0
_END_S: Final = 30.0


@dataclass(frozen=True)
class Lifecycle:
    """Makes and ends the sandboxes of one root. Everything here blocks; OSError stands for this machine's faults."""

    ledger: Ledger
    isolated: bool
    account: int | None
    model: ModelEndpoint

    def create(self, spec: SandboxSpec, name: str, tags: Mapping[str, str], lifetime: timedelta, agent: Path) -> State:
        """Make the sandbox of that name, or adopt it. What a dead creator left half made is removed first."""
        try:
            while (state := self._adopt_or_build(spec, name, tags, lifetime, agent)) is None:
                self.ledger.purge()
        except BaseException:
            self.ledger.purge()
            raise
        return state

    def terminate(self, name: str, only: str | None) -> bool:
        """End the sandbox of that name, if its id is `only`, and remove what it kept. True where it was running."""
        with self.ledger.lock(name) as lock:
            state = self.ledger.read(name)
            if lock is None or (only is not None and (state is None or state.sandbox_id != only)):
                return False
            was_running = self._settle(name, state)
        self.ledger.purge()
        return was_running

    def _adopt_or_build(self, spec: SandboxSpec, name: str, tags: Mapping[str, str], lifetime: timedelta, agent: Path) -> State | None:
        """One try under the lock; None where leftovers were in the way and are out of it now."""
        with self.ledger.lock(name, make=True) as lock:
            assert lock is not None
            state = self.ledger.read(name)
            if state and state.running:
                return _adopted(state, tags)
            if any(self.ledger.directory(name).iterdir()):
                self._settle(name, state)
                return None
            return self._build(self._intended(spec, name, tags, lifetime), agent, lock)

    def _intended(self, spec: SandboxSpec, name: str, tags: Mapping[str, str], lifetime: timedelta) -> State:
        now, sandbox_id = datetime.now(UTC), f"{name}~{secrets.token_hex(6)}"
        return State(
            sandbox_id=sandbox_id,
            name=name,
            isolated=self.isolated,
            account=self.account,
            spec=spec,
            tags=dict(tags),
            created_at=now,
            expires_at=now + lifetime,
            cgroups=tuple(map(str, cgroups_of(sandbox_id))),
        )

    def _build(self, state: State, agent: Path, lock: int) -> State:
        directory = self.ledger.directory(state.name)
        try:
            let_pass(directory, self.account)
            # The intent is on the disk before anything that would have to be cleared away.
            self.ledger.write(state)
            make_own(directory, self.account)
            bubblewrap.write_etc(directory, state.spec.network, self.model)
            groups = make_cgroups([Path(group) for group in state.cgroups], state.spec.resources)
            _start_keeper(self._order(state.model_copy(update={"cgroups": tuple(map(str, groups))}), agent, lock))
        except BaseException:
            self._settle(state.name, state)
            raise
        made = self.ledger.read(state.name)
        if made is None:
            raise SandboxUnavailable(f"the state of the sandbox {state.name} vanished while it started")
        return made

    def _order(self, state: State, agent: Path, lock: int) -> dict[str, Any]:
        """What the keeper is to do."""
        directory, lifetime_s = self.ledger.directory(state.name), (state.expires_at - state.created_at).total_seconds()
        reached = self.isolated and state.spec.network is Network.MODEL
        target = {"port": self.model.port, "host": self.model.host, "target_port": self.model.port}
        return {
            "argv": bubblewrap.arguments(directory, state.spec, agent, lifetime_s)
            if self.isolated
            else bubblewrap.first_process(lifetime_s),
            "env": {"PATH": bubblewrap.PATH, SANDBOX: state.sandbox_id},
            "isolated": self.isolated,
            "account": self.account,
            "cgroups": state.cgroups,
            "targets": [target] if reached else [],
            "lifetime_s": lifetime_s,
            "state": state.model_dump(mode="json"),
            "state_file": str(self.ledger.state_file(state.name)),
            "lock": lock,
        }

    def _settle(self, name: str, state: State | None) -> bool:
        """End what there is of a sandbox, under its lock, and take its directory out of sight."""
        was_running = False
        if state:
            if state.first:
                was_running = end(state.first, _END_S)
            if state.first is None or not state.isolated:
                end_marked(SANDBOX, state.sandbox_id, _END_S)
            if state.keeper:
                wait_gone(state.keeper, _END_S)
            remove_cgroups([Path(group) for group in state.cgroups])
        self.ledger.discard(name)
        return was_running


def _adopted(state: State, tags: Mapping[str, str]) -> State:
    if dict(state.tags) != dict(tags):
        raise SandboxRefused(f"another sandbox of the name {state.name} runs, with the tags {dict(state.tags)}")
    return state


def _start_keeper(order: Mapping[str, Any]) -> None:
    """Start the keeper and wait until the sandbox runs. The lock goes along, so it holds also when we die now."""
    done = subprocess.run(
        program_argv("keeper"),
        input=json.dumps(order).encode(),
        capture_output=True,
        timeout=_START_S,
        check=False,
        env={},
        cwd="/",
        pass_fds=(order["lock"],),
        start_new_session=True,
    )
    try:
        problem = json.loads(done.stdout).get("error")
    except ValueError:
        problem = done.stderr.decode(errors="replace")[-2000:] or "its keeper died"
    if problem:
        raise SandboxUnavailable(f"the sandbox did not start: {problem}")
