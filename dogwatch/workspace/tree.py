"""The rows of a pull: one per name, the last member of a name wins, and nothing a sandbox wrote is ever refused as a whole."""

from dogwatch.contracts.paths import MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, is_repo_config
from dogwatch.contracts.workspace import Entry, EntryKind, Manifest
from dogwatch.workspace.manifest import raw, shown
from dogwatch.workspace.reader import Member

_FIELDS = set(Entry.model_fields)
_ROOT = b"."


def canonical(name: bytes) -> bytes:
    """A member's name without the two spellings that every producer of archives uses: a leading `./`, a directory's trailing `/`."""
    bare = name.removesuffix(b"/") or name
    return bare.removeprefix(b"./")


def name_problem(name: bytes, depth: int = MAX_DEPTH) -> str | None:
    """Why a canonical name cannot be a path of a workspace, as the reason of a skipped entry; None where it can."""
    if name.startswith(b"/"):
        return "path_absolute"
    if name.count(b"/") >= depth:
        return "path_too_deep"
    parts = name.split(b"/")
    if b".." in parts:
        return "path_traversal"
    if b"\0" in name or any(part in (b"", _ROOT) for part in parts):
        return "bad_name"
    if len(name) > MAX_PATH_BYTES or max(map(len, parts)) > MAX_COMPONENT_BYTES:
        return "path_too_long"
    return None


class Tree:
    """Entries by path as they come."""

    def __init__(self, depth: int = MAX_DEPTH) -> None:
        """Skip what lies deeper than `depth` levels."""
        self._depth = depth
        self._rows: dict[str, Entry] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, member: Member, sha256: str | None = None) -> None:
        """Make the row of a member; `sha256` is the digest of a file's bytes."""
        name = canonical(member.name)
        if name == _ROOT:
            if member.kind != "directory":
                self.skip(name, "root_replaced")
            return
        if problem := name_problem(name, self._depth):
            self.skip(name, problem)
        elif member.kind == "file":
            self._put(entry(name, EntryKind.FILE, mode=member.mode, size=member.size, sha256=sha256))
        elif member.kind == "directory":
            self._put(entry(name, EntryKind.DIRECTORY, mode=member.mode))
        elif member.kind == "symlink":
            self._link(name, member.link)
        elif member.kind == "hardlink":
            self._same(name, shown(canonical(member.link)))
        else:
            self.skip(name, member.reason or "unknown_type")

    def skip(self, name: bytes, reason: str) -> None:
        """Make a row that says why something is not kept."""
        cut = name if len(name) <= MAX_PATH_BYTES else name[: MAX_PATH_BYTES - 3] + "…".encode()
        self._put(entry(cut, EntryKind.SKIPPED, mode=0, reason=reason))

    def drop(self, path: str) -> None:
        """Forget a row."""
        self._rows.pop(path, None)

    def manifest(self, limit: str | None = None) -> Manifest:
        """All rows, ordered. What lies below anything but a directory is skipped: it could only be there by a trick.

        `limit` says what ended the reading, if it ended early.
        """
        for path, row in self._rows.items():
            if row.kind is not EntryKind.SKIPPED and self._below_another(path):
                self._rows[path] = entry(raw(path), EntryKind.SKIPPED, mode=0, reason="parent_not_a_directory")
        rows = sorted(self._rows.values(), key=lambda row: raw(row.path))
        return Manifest(entries=tuple(rows), complete=limit is None, limit=limit)

    def _put(self, row: Entry) -> None:
        before = self._rows.get(row.path)
        again = before is not None and not before.kind == row.kind == EntryKind.DIRECTORY
        if again and row.kind is not EntryKind.SKIPPED:
            row = row.model_copy(update={"reason": "duplicate_name"})
        self._rows[row.path] = row

    def _link(self, name: bytes, target: bytes) -> None:
        if not target or b"\0" in target or len(target) > MAX_PATH_BYTES:
            self.skip(name, "bad_link")
        else:
            self._put(entry(name, EntryKind.SYMLINK, mode=0o777, target=shown(target)))

    def _same(self, name: bytes, path: str) -> None:
        """A hard link is another name for the row that stands at its target now, link or file: nothing is looked up on a disk."""
        row = self._rows.get(path)
        if row is None or row.kind not in (EntryKind.FILE, EntryKind.SYMLINK):
            self.skip(name, "hardlink")
        else:
            self._put(row.model_copy(update={"path": shown(name), "repo_config": is_repo_config(shown(name)), "reason": None}))

    def _below_another(self, path: str) -> bool:
        while path := path.rpartition("/")[0]:
            if path in self._rows and self._rows[path].kind is not EntryKind.DIRECTORY:
                return True
        return False


def entry(
    name: bytes,
    kind: EntryKind,
    *,
    mode: int,
    size: int = 0,
    sha256: str | None = None,
    target: str | None = None,
    reason: str | None = None,
) -> Entry:
    """A manifest's entry, made without validation: a validated one takes twice the memory, and there may be 100,000 of them."""
    path = shown(name)
    return Entry.model_construct(
        _FIELDS,
        path=path,
        kind=kind,
        mode=mode,
        size=size,
        sha256=sha256,
        target=target,
        reason=reason,
        repo_config=is_repo_config(path),
    )
