"""Program: starts one sandbox, carries its connections to the model, and ends it at its time, whatever happens to the worker."""

import encodings.idna  # noqa: F401 - used to look up a host name, at a time when this account can read no file of ours
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from dogwatch.sandbox.local.identity import Process, end, identify, open_handle
from dogwatch.sandbox.local.marked import SANDBOX, end_marked
from dogwatch.sandbox.local.namespaces import drop_privileges, forbid_privileges
from dogwatch.sandbox.local.relay import Relay, listen_inside

READY: Final = b"ready\n"
"""What the first process of a sandbox prints once everything around it is in place."""
_START_S: Final = 30.0
_END_S: Final = 30.0


def main() -> None:
    """Read the order from standard input, answer one line of JSON on standard output once the sandbox runs, and stay until it has ended."""
    order: dict[str, Any] = json.load(sys.stdin)
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        started, first = _start(order)
        relays = [Relay(listen_inside(first, target["port"]), target["host"], target["target_port"]) for target in order["targets"]]
        _record(order, first)
    except (OSError, RuntimeError) as error:
        end_marked(SANDBOX, order["state"]["sandbox_id"], _END_S)
        _answer({"error": str(error)})
        os._exit(1)
    _answer({})
    os.close(order["lock"])
    if order["isolated"]:
        drop_privileges(order["account"])
        forbid_privileges()
    for relay in relays:
        relay.start()
    _wait(first, time.monotonic() + order["lifetime_s"])
    if not order["isolated"]:
        end_marked(SANDBOX, order["state"]["sandbox_id"], _END_S)
    started.wait()
    os._exit(0)


def _start(order: dict[str, Any]) -> tuple["subprocess.Popen[bytes]", Process]:
    """Start the sandbox; returns what we started and the first process inside."""
    for group in order["cgroups"]:
        Path(group, "cgroup.procs").write_text("0")
    account = order["account"]
    info_read, info_write = os.pipe()
    started = subprocess.Popen(
        [part.replace("{info}", str(info_write)) for part in order["argv"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=order["env"],
        cwd="/",
        pass_fds=[info_write],
        user=account,
        group=account,
        extra_groups=None if account is None else [],
    )
    os.close(info_write)
    _await_ready(started)
    first = identify(json.loads(os.read(info_read, 1 << 16))["child-pid"] if order["isolated"] else started.pid)
    os.close(info_read)
    if first is None:
        raise RuntimeError("the sandbox ended at once")
    return started, first


def _await_ready(started: "subprocess.Popen[bytes]") -> None:
    assert started.stdout
    assert started.stderr
    with started.stdout as output, started.stderr as errors:
        poll = select.poll()
        poll.register(output, select.POLLIN)
        if not poll.poll(_START_S * 1000):
            raise RuntimeError(f"the sandbox did not start within {_START_S:.0f} seconds")
        if os.read(output.fileno(), len(READY)) != READY:
            raise RuntimeError(errors.read(2000).decode(errors="replace").strip() or "the sandbox did not start")


def _record(order: dict[str, Any], first: Process) -> None:
    """Write down where the sandbox is, so that any process finds it from now on, also if the worker that asked for it is dead."""
    path = Path(order["state_file"])
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({**order["state"], "first": first, "keeper": identify(os.getpid())}))
    draft.replace(path)


def _answer(answer: dict[str, str]) -> None:
    os.write(1, json.dumps(answer).encode())
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def _wait(first: Process, deadline: float) -> None:
    """Wait for the sandbox's end, and make it where the deadline comes first."""
    handle = open_handle(first)
    if handle is None:
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(min(left, 3600.0) * 1000):
            return
    end(first, _END_S)
