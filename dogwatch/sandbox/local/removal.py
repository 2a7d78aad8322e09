"""Removes trees that a hostile program built: of any depth, with any modes, full of links that lead elsewhere."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_below(top: Path) -> None:
    """Remove everything below `top`, following no link. Several processes may do so at once.

    Directories found deeper are first moved up to `top`: no path grows, no descriptor is kept and no call recurses, however deep the tree.
    """
    handle = os.open(top, _DIRECTORY)
    try:
        while names := os.listdir(handle):  # noqa: PTH208 - by descriptor: the names below are not to be trusted as paths
            for name in names:
                with suppress(FileNotFoundError):
                    _remove(name, handle)
    finally:
        os.close(handle)


def _remove(name: str, top: int) -> None:
    if not _is_directory(name, top):
        os.unlink(name, dir_fd=top)
        return
    _open_up(name, top)
    inside = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for entry in os.listdir(inside):  # noqa: PTH208
            with suppress(FileNotFoundError):
                _lift(entry, inside, top)
    finally:
        os.close(inside)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # another process is at it, or was: the next round shows
            raise


def _lift(entry: str, inside: int, top: int) -> None:
    if not _is_directory(entry, inside):
        os.unlink(entry, dir_fd=inside)
        return
    _open_up(entry, inside)
    os.rename(entry, secrets.token_hex(16), src_dir_fd=inside, dst_dir_fd=top)


def _is_directory(name: str, place: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)


def _open_up(name: str, place: int) -> None:
    """Give us all rights on a directory; never on what a link that took its place leads to."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - a descriptor, not a path
    finally:
        os.close(handle)
