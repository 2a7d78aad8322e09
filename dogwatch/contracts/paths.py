"""The rule for names of workspace files: one spelling per file, refused rather than repaired."""

import unicodedata
from collections.abc import Iterable
from typing import LiteralString, NoReturn

from pydantic_core import PydanticCustomError

MAX_COMPONENT_BYTES = 255  # NAME_MAX of every common Linux file system
MAX_PATH_BYTES = 4096  # PATH_MAX; a path of exactly this size is still kept
MAX_DEPTH = 128

_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_LINE_BREAKS = {0x2028, 0x2029}
_DOS_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", *(a + b for a in ("com", "lpt") for b in "123456789¹²³")}
_CONFIG_DIRECTORIES = {".claude", ".git", "git~1", ".vscode", ".idea", ".zed", ".cursor", ".devcontainer"}
_CONFIG_FILES = {
    ".mcp.json",
    "claude.md",
    "claude.local.md",
    ".claude.json",
    ".gitmodules",
    ".gitattributes",
    ".gitconfig",
    ".envrc",
}


def check_path(path: str, *, portable: bool = False) -> str:
    """Return `path` unchanged when it may name a file of a workspace.

    Raises PydanticCustomError whose type is the error code: path_empty, path_not_utf8, path_control_char, path_backslash, path_absolute,
    path_traversal, path_not_canonical, path_too_long and, with `portable`, path_not_portable. Names that only look special (`~`, `-rf`,
    `$HOME`, `%2e`, look-alike characters) are kept as they are: nothing here is ever expanded or normalised.
    """
    if not path:
        raise PydanticCustomError("path_empty", "a file path is empty")
    raw = _encoded(path)
    _check_characters(path)
    parts = path.split("/")
    if path.startswith("/"):
        raise PydanticCustomError("path_absolute", "the path {path} is absolute", {"path": _shown(path)})
    if ".." in parts:
        raise PydanticCustomError("path_traversal", "the path {path} goes up", {"path": _shown(path)})
    if any(part in ("", ".") for part in parts):
        raise PydanticCustomError("path_not_canonical", "the path {path} has another spelling", {"path": _shown(path)})
    if len(raw) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH or any(len(_encoded(part)) > MAX_COMPONENT_BYTES for part in parts):
        raise PydanticCustomError("path_too_long", "the path {path} is too long or too deep", {"path": _shown(path)})
    if portable:
        for part in parts:
            _check_portable(part, path)
    return path


def check_collisions(paths: Iterable[tuple[str, str]], *, directories: Iterable[tuple[str, str]] = (), portable: bool = False) -> None:
    """Refuse a set of (path, where it came from) in which two entries claim one name, or one is a file and a directory at once.

    `paths` are files and links; `directories` may be named any number of times. Raises PydanticCustomError path_duplicate or
    path_collision naming both paths and where they came from. With `portable`, names that differ only by case or Unicode normal
    form collide too, also those of directories.
    """
    key = _folded if portable else str
    leaves: dict[str, tuple[str, str]] = {}
    branches = [(claim[0], claim) for claim in directories]
    for claim in paths:
        if (first := leaves.get(key(claim[0]))) is not None:
            _collide(first, claim, "path_duplicate" if first[0] == claim[0] else "path_collision")
        leaves[key(claim[0])] = claim
        branches.append((claim[0].rpartition("/")[0], claim))
    spellings: dict[str, tuple[str, tuple[str, str]]] = {}
    for branch, claim in branches:
        directory = branch
        while directory:
            if (leaf := leaves.get(key(directory))) is not None:
                _collide(leaf, claim)
            spelling, first = spellings.setdefault(key(directory), (directory, claim))
            if spelling != directory:
                _collide(first, claim)
            directory = directory.rpartition("/")[0]


def is_repo_config(path: str) -> bool:
    """Whether a path is configuration that an agent CLI, git or an editor might act on: kept as data, flagged, inert by default.

    Compares as the most lenient file systems do: without case, invisible characters and trailing dots, spaces or streams.
    """
    parts = [_lenient(part) for part in path.split("/")]
    return bool(_CONFIG_DIRECTORIES & set(parts)) or parts[-1] in _CONFIG_FILES


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("path_not_utf8", "a file path is not valid Unicode text") from None


def _check_characters(path: str) -> None:
    for char in path:
        code = ord(char)
        if unicodedata.category(char) == "Cc" or code in _BIDI or code in _LINE_BREAKS:
            raise PydanticCustomError(
                "path_control_char", "the path {path} holds the control character U+{code}", {"path": _shown(path), "code": f"{code:04X}"}
            )
    if "\\" in path:
        raise PydanticCustomError("path_backslash", "the path {path} holds a backslash", {"path": _shown(path)})


def _check_portable(part: str, path: str) -> None:
    stem = part.split(".")[0].rstrip(" ").casefold()
    if stem in _DOS_DEVICES or part[-1] in " ." or any(char in '<>:"|?*' for char in part):
        raise PydanticCustomError("path_not_portable", "the path {path} cannot exist on every system", {"path": _shown(path)})


def _collide(first: tuple[str, str], second: tuple[str, str], code: LiteralString = "path_collision") -> NoReturn:
    duplicate: LiteralString = "{first} is given twice: in {one} and in {other}"
    collision: LiteralString = "{first} in {one} and {second} in {other} collide"
    context = {"first": _shown(first[0]), "one": first[1], "second": _shown(second[0]), "other": second[1]}
    raise PydanticCustomError(code, duplicate if code == "path_duplicate" else collision, context)


def _folded(path: str) -> str:
    """One spelling for all that differ by case or normal form only: canonical caseless matching of the Unicode standard."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _lenient(part: str) -> str:
    visible = part if part.isascii() else "".join(char for char in part if unicodedata.category(char) != "Cf")
    return visible.partition(":")[0].rstrip(" .").casefold()


def _shown(path: str) -> str:
    """A path as it may stand in a message: escaped and capped."""
    return ascii(path)[:200]
