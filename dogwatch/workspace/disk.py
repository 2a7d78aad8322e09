"""Work on a local disk: beside the event loop, with typed errors, and durable where it says so."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from dogwatch.errors import StorageFull, StorageUnavailable

T = TypeVar("T")


async def on_disk(work: Callable[[], T]) -> T:
    """Run blocking work in a thread. Raises StorageFull and StorageUnavailable for what the disk says."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> StorageFull | StorageUnavailable:
    """The typed error for an error of a disk."""
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageUnavailable
    return kind(error.strerror or str(error))


def write_durably(path: Path, source: BinaryIO) -> None:
    """Make a file that is either whole or absent, also after a power failure: temporary name, fsync, rename, fsync of the directory."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync(path.parent.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".put-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
