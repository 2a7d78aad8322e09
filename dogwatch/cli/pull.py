"""A job's changes into the directory it was packed from: beneath one descriptor, through no link, never over somebody's own changes."""

import hashlib
import io
import os
import secrets
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from dogwatch.agent.display import escape
from dogwatch.client.http import HttpClient
from dogwatch.contracts.workspace import EntryKind, FileView

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Pulled:
    """What was written back and what was not."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    """Paths that were left as they are here, each with the reason."""


def packed_digests(packed: bytes) -> dict[bytes, str]:
    """Digest by path of the files in an archive of our own."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive if member.isreg())
        return {os.fsencode(name): hashlib.sha256(file.read()).hexdigest() for name, file in files if file is not None}


async def pull(client: HttpClient, files: AsyncIterator[FileView], directory: Path, before: Mapping[bytes, str]) -> Pulled:
    """Write changed files below `directory` and remove those that are gone; `before` tells what each file was when it was packed.

    A file that was changed here meanwhile stays, and so do links, and files that tools on this machine might act on (`.git`, `.claude`, …).
    """
    done = Pulled()
    by_name = {escape(os.fsdecode(path)): path for path in before}
    root = os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        async for file in files:
            path = unquote_to_bytes(file.download_url.split("/files/", 1)[1]) if file.download_url else by_name.get(file.path)
            reason = _reason_to_keep(file, path, root, before)
            if reason is not None or path is None:
                if reason:
                    done.kept.append((file.path, reason))
            elif file.change == "deleted":
                with _inside(root, path, make=False) as (parent, name):
                    os.unlink(name, dir_fd=parent)
                done.removed.append(file.path)
            else:
                await _write(client, file, root, path)
                done.written.append(file.path)
    finally:
        os.close(root)
    return done


def _reason_to_keep(file: FileView, path: bytes | None, root: int, before: Mapping[bytes, str]) -> str | None:
    """Why an entry is not written here; empty for one that needs no word."""
    if file.kind is EntryKind.DIRECTORY or (path is None and file.change == "deleted"):
        return ""
    if file.kind is not EntryKind.FILE or path is None:
        return file.reason or str(file.kind)
    if file.repo_config:
        return "tools on this machine might act on it"
    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
        return "not a path below this directory"
    try:
        now = _digest(root, path)
    except OSError as error:
        return error.strerror or "it cannot be read"
    if now == file.sha256 and file.change != "deleted":
        return ""
    if now is None and file.change == "deleted":
        return ""
    return None if now == before.get(path) else "it was changed here meanwhile"


def _digest(root: int, path: bytes) -> str | None:
    """Digest of a file here; None where there is none. Raises OSError for anything else that has its name."""
    try:
        with _inside(root, path, make=False) as (parent, name), os.fdopen(os.open(name, _READ, dir_fd=parent), "rb") as here:
            return hashlib.file_digest(here, "sha256").hexdigest()
    except FileNotFoundError:
        return None


async def _write(client: HttpClient, file: FileView, root: int, path: bytes) -> None:
    with _inside(root, path, make=True) as (parent, name):
        draft = f".dogwatch-{secrets.token_hex(8)}".encode()
        try:
            with os.fdopen(os.open(draft, _WRITE, 0o600, dir_fd=parent), "wb") as target:
                async for chunk in client.download(file):
                    target.write(chunk)
                os.fchmod(target.fileno(), file.mode & 0o777)
            os.rename(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=parent)
            raise


@contextmanager
def _inside(root: int, path: bytes, *, make: bool) -> Iterator[tuple[int, bytes]]:
    """The directory of a path, reached through no link, and the last name."""
    *parents, name = path.split(b"/")
    descriptor = os.dup(root)
    try:
        for part in parents:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor, name
    finally:
        os.close(descriptor)
