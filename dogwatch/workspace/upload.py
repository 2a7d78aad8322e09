"""An upload as a manifest and the bytes behind it: everything is checked before anything is stored."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic_core import PydanticCustomError

from dogwatch.contracts.paths import MAX_PATH_BYTES, check_collisions, check_path
from dogwatch.contracts.workspace import MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES, Entry, EntryKind, Manifest, Upload
from dogwatch.errors import ERRORS, ArchiveCorrupt, InvalidRequest, PathNotUtf8, TooManyFiles, UploadTooLarge
from dogwatch.workspace.manifest import raw
from dogwatch.workspace.reader import Decoder, LimitReached, Member, ReadLimits
from dogwatch.workspace.tree import canonical, entry


@dataclass(frozen=True)
class Received:
    """A checked upload."""

    manifest: Manifest
    """All its entries, with a directory for every file's parents."""
    blobs: dict[str, bytes]
    """The bytes of its files by digest."""


@dataclass
class _Claims:
    """What the files and archives of one upload claim, so far."""

    max_files: int
    max_bytes: int
    portable: bool
    entries: dict[str, Entry] = field(default_factory=dict)
    leaves: list[tuple[str, str]] = field(default_factory=list)
    directories: list[tuple[str, str]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    def leaf(self, row: Entry, source: str) -> None:
        self.leaves.append((row.path, source))
        if len(self.leaves) > self.max_files:
            raise TooManyFiles(f"an upload may have {self.max_files} files")
        self.entries[row.path] = row

    def file(self, path: str, data: bytes, mode: int, source: str) -> None:
        self.size += len(data)
        if self.size > self.max_bytes:
            raise UploadTooLarge(f"an upload may have {self.max_bytes} bytes")
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        self.leaf(entry(raw(path), EntryKind.FILE, mode=mode, size=len(data), sha256=sha256), source)


def receive(upload: Upload, *, max_files: int = MAX_UPLOAD_FILES, max_bytes: int = MAX_UPLOAD_BYTES) -> Received:
    """Check an upload as a whole and decode it. Nothing is stored here.

    Raises the errors of paths, PathDuplicate and PathCollision naming both places (`files`, `archive 1`, …), TooManyFiles,
    UploadTooLarge, ArchiveCorrupt and ArchiveTruncated. FIFOs, sockets and devices in an archive become skipped entries.
    """
    claims = _Claims(max_files, max_bytes, upload.portable)
    for file in upload.files:
        claims.file(file.path, file.data(), 0o755 if file.executable else 0o644, "files")
    for number, archive in enumerate(upload.archives, 1):
        _read(archive.data_base64, f"archive {number}", claims)
    with _refusal():
        check_collisions(claims.leaves, directories=claims.directories, portable=claims.portable)
    for path, _ in claims.leaves:
        while path := path.rpartition("/")[0]:
            claims.entries.setdefault(path, entry(raw(path), EntryKind.DIRECTORY, mode=0o755))
    rows = sorted(claims.entries.values(), key=lambda row: raw(row.path))
    return Received(Manifest(entries=tuple(rows)), claims.blobs)


def _read(data: bytes, source: str, claims: _Claims) -> None:
    limits = ReadLimits(file_bytes=claims.max_bytes, total_bytes=claims.max_bytes)
    decoder = Decoder(limits)
    member: Member | None = None
    content = bytearray()
    try:
        for event in decoder.feed(data):
            if isinstance(event, Member):
                member, content = event, bytearray()
            else:
                content += event
            if member is not None and len(content) == member.size:
                _claim(member, bytes(content), source, claims)
                member = None
        decoder.finish()
    except LimitReached as reached:
        kind = TooManyFiles if reached.limit == "entries" else UploadTooLarge
        raise kind(f"{source} is beyond the limit of {reached.limit}") from None
    except ArchiveCorrupt as fault:
        raise type(fault)(f"{source}: {fault.message}") from None
    if any(decoder.rest):
        raise ArchiveCorrupt(f"{source}: something follows its end mark")


def _claim(member: Member, content: bytes, source: str, claims: _Claims) -> None:
    name = canonical(member.name)
    if name == b"." and member.kind == "directory":
        return
    path = _path(name, source, portable=claims.portable)
    if member.kind == "directory":
        claims.directories.append((path, source))
        claims.entries.setdefault(path, entry(name, EntryKind.DIRECTORY, mode=member.mode))
    elif member.kind == "file":
        claims.file(path, content, member.mode, source)
    elif member.kind == "symlink":
        claims.leaf(_link(name, member.link, source), source)
    elif member.kind == "hardlink":
        claims.leaf(_same(name, member.link, source, claims), source)
    elif member.reason == "special_file":
        claims.leaf(entry(name, EntryKind.SKIPPED, mode=0, reason=member.reason), source)
    elif member.reason == "file_too_big":
        raise UploadTooLarge(f"{ascii(path)[:200]} in {source} has more bytes than an upload may have")
    else:
        raise ArchiveCorrupt(f"{source}: {ascii(path)[:200]} is of a kind that is not read here ({member.reason})")


def _path(name: bytes, source: str, *, portable: bool) -> str:
    try:
        path = name.decode()
    except UnicodeDecodeError:
        raise PathNotUtf8(f"{source}: the name {ascii(name)[1:201]} is not UTF-8") from None
    with _refusal(f"{source}: "):
        return check_path(path, portable=portable)


def _link(name: bytes, target: bytes, source: str) -> Entry:
    if not target or b"\0" in target or len(target) > MAX_PATH_BYTES:
        raise ArchiveCorrupt(f"{source}: the link {ascii(name)[1:201]} has no usable target")
    return entry(name, EntryKind.SYMLINK, mode=0o777, target=target.decode("utf-8", "surrogateescape"))


def _same(name: bytes, target: bytes, source: str, claims: _Claims) -> Entry:
    """A hard link is another name for what the archive, or a file beside it, holds already."""
    row = claims.entries.get(canonical(target).decode("utf-8", "surrogateescape"))
    if row is None or row.kind not in (EntryKind.FILE, EntryKind.SYMLINK):
        raise ArchiveCorrupt(f"{source}: the hard link {ascii(name)[1:201]} names nothing before it")
    return entry(name, row.kind, mode=row.mode, size=row.size, sha256=row.sha256, target=row.target)


@contextmanager
def _refusal(prefix: str = "") -> Iterator[None]:
    """Turn the refusals of contracts into errors with the same code."""
    try:
        yield
    except PydanticCustomError as refused:
        raise ERRORS.get(refused.type, InvalidRequest)(prefix + refused.message()) from None
