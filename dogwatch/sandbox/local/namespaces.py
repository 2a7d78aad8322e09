"""What the programs of this room ask of the kernel beyond Python's standard library."""

# ruff: noqa: PTH116 - see identity.py

import ctypes
import os
from fcntl import ioctl
from typing import Final

from dogwatch.sandbox.local.identity import Process, open_handle

_NAMESPACES: Final = {
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mnt": 0x00020000,
}
"""Flags of setns(2)."""
_OWNING_USER_NAMESPACE: Final = 0xB701
"""NS_GET_USERNS of ioctl_ns(2)."""
_SET_PDEATHSIG: Final = 1
_CAPBSET_DROP: Final = 24
_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9

_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(account: int | None) -> None:
    """Become the user and group of that number for good; None stays who we are."""
    if account is not None:
        os.setgroups([])
        os.setresgid(account, account, account)
        os.setresuid(account, account, account)


def forbid_privileges() -> None:
    """Give up, for this process and all it will start, every way to more rights: setuid programs and capabilities."""
    _prctl(_SET_NO_NEW_PRIVS, 1)
    capability = 0
    while True:
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError:  # EINVAL after the last capability that this kernel knows, EPERM where we have none to give up
            return
        capability += 1


def die_with_parent() -> None:
    """Be killed when the parent ends."""
    _prctl(_SET_PDEATHSIG, _SIGKILL)


def join(first: Process) -> None:
    """Enter all namespaces of a sandbox at once; the PID namespace counts for children only. Raises ProcessLookupError where it has ended.

    One call on a pidfd does what no sequence of calls can for an unprivileged user: its rights come from owning the user namespace that
    owns the others, which is not the innermost one of `bwrap --disable-userns`. Needs Linux 5.8.
    """
    handle = open_handle(first)
    if handle is None:
        raise ProcessLookupError
    try:
        _setns(handle, sum(flag for name, flag in _NAMESPACES.items() if _is_other(first.pid, name)))
    finally:
        os.close(handle)


def join_network(first: Process) -> None:
    """Enter the network of a sandbox by the user namespace that owns it, where a port below 1024 may be bound."""
    network = os.open(f"/proc/{first.pid}/ns/net", os.O_RDONLY)
    _setns(ioctl(network, _OWNING_USER_NAMESPACE), _NAMESPACES["user"])
    _setns(network, _NAMESPACES["net"])


def _is_other(pid: int, name: str) -> bool:
    return os.stat(f"/proc/self/ns/{name}").st_ino != os.stat(f"/proc/{pid}/ns/{name}").st_ino


def _setns(handle: int, flags: int) -> None:
    if _libc.setns(handle, flags):
        _fail("setns")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        _fail("prctl")


def _fail(call: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")
