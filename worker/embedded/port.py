"""TCP ports of this machine: one that is free, and a clear word about one that is taken."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from dogwatch.errors import PortTaken

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class WantedPort:
    """A port, what wants it in a person's words, and the setting that changes it. Port 0 means any free one."""

    number: int
    wanted_by: str
    setting: str


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of the loopback address."""
    with socket.socket() as probe:
        # As the servers do themselves: connections of a server that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def claim_ports(wanted: Mapping[str, WantedPort]) -> dict[str, int]:
    """The number to use for each, a free one in place of 0. Raises PortTaken."""
    return {name: _claim(port) for name, port in wanted.items()}


def _claim(port: WantedPort) -> int:
    if port.number == 0:
        return free_port()
    if not is_free(port.number):
        raise PortTaken(f"Port {port.number}, wanted by {port.wanted_by}, is taken; its setting is {port.setting}.")
    return port.number
