"""Program: goes into a sandbox and becomes one command there. Its orders come in a file descriptor, so no secret is in an argument list."""

# ruff: noqa: PTH123, PTH118, PTH113 - see identity.py

import errno
import marshal
import os
import resource
import signal
from contextlib import suppress
from typing import Any, Final, NoReturn

from dogwatch.sandbox.local.identity import Process
from dogwatch.sandbox.local.namespaces import die_with_parent, drop_privileges, forbid_privileges, join

SHELL: Final = "/bin/sh"
RUN: Final = 'exec "$0" "$@"'


def main(order_fd: str, report_fd: str) -> None:
    """Do what the order says; `report_fd` stays empty where the command was started and else gets an error number and what failed."""
    report = int(report_fd)
    os.set_inheritable(report, False)
    with open(int(order_fd), "rb") as file:
        order: dict[str, Any] = marshal.load(file)  # quicker to import than json; written by the same interpreter
    try:
        _enter(order)
        child = os.fork()
    except OSError as error:
        _give_up(report, error)
    if child == 0:
        _become(order, report)
    # The command's own copy is closed by its exec: only then does whoever reads the report know.
    os.close(report)
    os._exit(_code(os.waitpid(child, 0)[1]))


def _enter(order: dict[str, Any]) -> None:
    for group in order["cgroups"]:
        with open(os.path.join(group, "cgroup.procs"), "w") as file:
            file.write("0")
    drop_privileges(order["account"])
    if order["first"]:
        join(Process(*order["first"]))
    if not order["detached"]:
        die_with_parent()  # after the changes of account and namespace, which undo it
    forbid_privileges()


def _become(order: dict[str, Any], report: int) -> NoReturn:
    """Run the command in the child, which is the first process of ours inside. Never returns."""
    try:
        # Twice, or the command would be a child of a process outside: those are reaped by the machine's init, not by the sandbox's.
        if order["detached"] and os.fork():
            os._exit(0)
        if not order["detached"]:
            die_with_parent()
        os.setsid()
        os.umask(0o022)
        for number, value in order["limits"]:
            resource.setrlimit(number, _at_most(number, value))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program inherits that
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["cwd"])
        program = _find(order["argv"][0], order["env"]["PATH"])
        # By way of the host's read-only shell: executing a file of the agent's from here would make our interpreter, through
        # a first line of `#!/proc/self/exe`, a file that it can open for writing.
        os.execve(SHELL, [SHELL, "-c", RUN, program, *order["argv"][1:]], order["env"])
    except (OSError, ValueError) as error:
        _give_up(report, error)


def _find(program: str, path: str) -> str:
    places = [program] if "/" in program else [f"{directory}/{program}" for directory in path.split(":")]
    for place in places:
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    raise FileNotFoundError(errno.ENOENT, f"no such program: {program}")


def _at_most(number: int, value: int) -> tuple[int, int]:
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return value, value


def _give_up(report: int, error: OSError | ValueError) -> NoReturn:
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
    with suppress(OSError):
        os.write(report, f"{number} {error}".encode(errors="replace"))
    os._exit(127)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
