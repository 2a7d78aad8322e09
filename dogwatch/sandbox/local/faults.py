"""Errors of the operating system as the errors that people meet."""

import errno

from dogwatch.errors import CommandFailed, DogwatchError, SandboxUnavailable, StorageFull

_FULL = (errno.ENOSPC, errno.EDQUOT)
_COMMAND = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.E2BIG, errno.EINVAL)


def machine_fault(error: OSError) -> DogwatchError:
    """What went wrong on this machine while it served a sandbox."""
    if error.errno in _FULL:
        return StorageFull(f"no space left for the sandbox: {error}")
    return SandboxUnavailable(f"this machine could not serve the sandbox: {error}")


def start_fault(number: int, reason: str) -> DogwatchError:
    """Why a command was not started, by the error number that the attempt gave."""
    if number in _COMMAND:
        return CommandFailed(f"the command was not started: {reason}")
    return machine_fault(OSError(number, reason))
