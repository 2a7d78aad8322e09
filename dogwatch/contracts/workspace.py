"""Files in and out: manifests and their entries, the sources of a workspace, uploads and their limits."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Base64Bytes, Field, model_validator
from pydantic_core import PydanticCustomError

from dogwatch.contracts.base import Contract, JobId, Sha256, Utc
from dogwatch.contracts.paths import check_collisions, check_path

MAX_UPLOAD_FILES = 200
"""Most inline files of one upload, unless a deployment says otherwise."""
MAX_UPLOAD_BYTES = 25_000_000
"""Most bytes of one upload, all files together, unless a deployment says otherwise."""

WorkspacePath = Annotated[str, AfterValidator(check_path)]
"""A relative path with one spelling (see `paths.check_path`)."""
MAX_ENTRY_TEXT = 16_384
"""Most characters of an entry's path or link target."""


def _short(text: str) -> str:
    if len(text) > MAX_ENTRY_TEXT:
        raise PydanticCustomError("string_too_long", "at most {limit} characters", {"limit": MAX_ENTRY_TEXT})
    return text


EntryText = Annotated[str, AfterValidator(_short)]
"""Text from a sandbox. Its length is checked in Python because pydantic's own constraints refuse surrogate escapes."""


class EntryKind(StrEnum):
    """What a manifest entry is. `skipped` stands for something that was seen and, for a stated reason, not kept."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    SKIPPED = "skipped"


class ManifestKind(StrEnum):
    """What a manifest lists."""

    WORKSPACE = "workspace"
    TRANSCRIPT = "transcript"


class Entry(Contract):
    """One entry of a manifest. A sandbox's names are data: they are bytes there, and shown here with undecodable bytes escaped."""

    path: EntryText
    """Path below the root of the workspace; bytes that are no UTF-8 are carried as surrogate escapes (U+DC80 to U+DCFF)."""
    kind: EntryKind
    """What the entry is."""
    mode: Annotated[int, Field(ge=0, le=0o7777)] = 0o644
    """Permission bits."""
    size: Annotated[int, Field(ge=0)] = 0
    """Size in bytes; 0 for anything but a file."""
    sha256: Sha256 | None = None
    """Digest of a file's bytes, its key in the blob store."""
    target: EntryText | None = None
    """Text of a symbolic link. Data only: it is never followed."""
    reason: Annotated[str, Field(max_length=100)] | None = None
    """Why an entry was skipped: `special_file` (fifo, socket, device), `changed` (while it was read), `unreadable`, `file_too_big`,
    `path_traversal`, `path_absolute`, `path_too_deep`, `path_too_long`, `bad_name`, `bad_link`, `hardlink`, `unknown_type`,
    `sparse_unsupported`, `root_replaced`, `parent_not_a_directory`, `excluded`. On an entry that is kept, `duplicate_name` says that
    an archive held its name more than once; the last one won."""
    repo_config: bool = False
    """Whether tools might act on this file (.git, .claude, .mcp.json, …). Inert unless a job says `trust_repo_config`."""


class Manifest(Contract):
    """The immutable list of a tree's entries, ordered by path."""

    entries: tuple[Entry, ...] = ()
    """All entries, ordered by the bytes of their path, each path once."""
    complete: bool = True
    """False when a limit ended the reading: `limit` says which."""
    limit: Annotated[str, Field(max_length=100)] | None = None
    """What ended the reading: `entries`, `total_bytes`, `name_bytes`, `header_bytes`, `pull_timeout`, or the code of the archive's fault,
    `archive_truncated` or `archive_corrupt`."""

    @property
    def files(self) -> int:
        """Number of regular files."""
        return sum(entry.kind is EntryKind.FILE for entry in self.entries)

    @property
    def size(self) -> int:
        """Bytes of all regular files together."""
        return sum(entry.size for entry in self.entries)


class ManifestRef(Contract):
    """A stored manifest, small enough for a workflow's history."""

    manifest_id: Annotated[str, Field(max_length=64)]
    """Id of the manifest's row."""
    digest: Sha256
    """SHA-256 over all entries; equal trees have equal digests."""
    files: int
    """Number of regular files."""
    bytes: int
    """Bytes of all regular files together."""
    complete: bool = True
    """False when a limit ended the reading."""


class Changes(Contract):
    """How a job's workspace differs from the one it started with, counted by path."""

    added: int = 0
    """Paths that are new."""
    modified: int = 0
    """Paths whose bytes, kind, mode or link target differ."""
    deleted: int = 0
    """Paths that are gone."""
    skipped: int = 0
    """Entries that were seen and not kept."""


class UploadFile(Contract):
    """One file of an inline upload. Exactly one of `content` and `content_base64` is given."""

    path: WorkspacePath
    """Relative path in the workspace."""
    content: str | None = None
    """The file as text, stored as UTF-8."""
    content_base64: Base64Bytes | None = None
    """The file as base64, for anything that is not text."""
    executable: bool = False
    """Whether the file gets the execute permission."""

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.content is None) == (self.content_base64 is None):
            raise PydanticCustomError(
                "file_content", "give exactly one of content and content_base64 for {path}", {"path": ascii(self.path)}
            )
        try:
            self.data()
        except UnicodeEncodeError:
            raise PydanticCustomError(
                "content_not_utf8", "the content of {path} is not valid Unicode text", {"path": ascii(self.path)}
            ) from None
        return self

    def data(self) -> bytes:
        """The bytes of the file."""
        return self.content_base64 if self.content_base64 is not None else (self.content or "").encode()


class UploadArchive(Contract):
    """A tar archive (uncompressed) whose members join the workspace."""

    kind: Literal["tar"] = "tar"
    """Format of the archive."""
    data_base64: Base64Bytes
    """The archive as base64."""


class Upload(Contract):
    """The files a client hands over with a request, given inline."""

    files: tuple[UploadFile, ...] = ()
    """Single files."""
    archives: tuple[UploadArchive, ...] = ()
    """Archives; no path may be claimed twice over files and archives."""
    portable: bool = False
    """Also refuse names that cannot exist side by side on every operating system."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.portable:
            for file in self.files:
                check_path(file.path, portable=True)
        check_collisions(((file.path, "files") for file in self.files), portable=self.portable)
        return self


class EmptyWorkspace(Contract):
    """Start with no files."""

    kind: Literal["empty"] = "empty"
    """Names this source."""


class ManifestWorkspace(Contract):
    """Start from a stored manifest."""

    kind: Literal["manifest"] = "manifest"
    """Names this source."""
    manifest_id: Annotated[str, Field(max_length=64)]
    """Id of a manifest of the same tenant."""


class SessionWorkspace(Contract):
    """Start from what the session's last job left, or from its input when no job has ended yet."""

    kind: Literal["session"] = "session"
    """Names this source."""


class JobWorkspace(Contract):
    """Start from the files another job left."""

    kind: Literal["job"] = "job"
    """Names this source."""
    job_id: JobId
    """A finished job of the same tenant."""


class InlineWorkspace(Contract):
    """Files inside a workflow's input. Never accepted: it exists so that the refusal can say what to do instead."""

    kind: Literal["files"] = "files"
    """Names this source."""
    files: tuple[object, ...] = ()
    """Ignored."""


WorkspaceSource = Annotated[
    EmptyWorkspace | ManifestWorkspace | SessionWorkspace | JobWorkspace | InlineWorkspace, Field(discriminator="kind")
]
"""Where a job's files come from, always by reference."""


class FileView(Contract):
    """One file of a job's result, as a door shows it."""

    path: str
    """Path in the workspace; control characters and undecodable bytes are escaped."""
    kind: EntryKind
    """What the entry is."""
    size_bytes: int
    """Size in bytes."""
    mode: int
    """Permission bits."""
    sha256: Sha256 | None = None
    """Digest of the bytes."""
    target: str | None = None
    """Text of a symbolic link."""
    change: Literal["added", "modified", "deleted", "unchanged"] = "unchanged"
    """How the entry differs from the job's input."""
    reason: str | None = None
    """Why an entry was skipped."""
    repo_config: bool = False
    """Whether tools might act on this file."""
    download_url: str | None = None
    """Where the bytes can be fetched, relative to the door."""


class ManifestView(Contract):
    """A manifest as a door shows it."""

    manifest_id: str
    """Id of the manifest."""
    digest: Sha256
    """SHA-256 over all entries."""
    created_at: Utc
    """When it was stored."""
    complete: bool
    """False when a limit ended the reading."""
    files: tuple[FileView, ...]
    """The entries, ordered by path."""
