"""The files of a sandbox's directory as a manifest and blobs: scan, choose, read, scan again."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from dogwatch.contracts.workspace import Manifest
from dogwatch.errors import CommandFailed
from dogwatch.ports import Sandbox
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.ingest import ingest
from dogwatch.workspace.manifest import shown
from dogwatch.workspace.reader import LimitReached, ReadLimits
from dogwatch.workspace.scan import Seen, scan
from dogwatch.workspace.tree import Tree, name_problem

_TAR = ["tar", "--create", "--file=-", "--format=gnu", "--numeric-owner", "--hard-dereference", "--no-recursion"]
_NAMES_ON_STDIN = ["--null", "--verbatim-files-from", "--no-unquote", "--files-from=-"]


async def pull(sandbox: Sandbox, root: str, deposit: Deposit, limits: ReadLimits | None = None, exclude: Sequence[str] = ()) -> Manifest:
    """Everything below `root`, an absolute path in the sandbox; the bytes are in the blob store when this returns.

    Nothing that lies there can make it fail: what cannot be kept becomes a skipped entry with its reason, and where a limit or a
    damaged stream ends the reading, the manifest is not `complete` and says why. Raises SandboxLost, SandboxUnavailable, CommandFailed
    (no such directory, no tar, no find) and the errors of storage. `exclude` are patterns as of find's -path.
    """
    manifest = await _Pull(sandbox, root, deposit, limits or ReadLimits(), exclude).run()
    await deposit.flush()
    return manifest


class _Pull:
    """One pull, in the order of `run`."""

    def __init__(self, sandbox: Sandbox, root: str, deposit: Deposit, limits: ReadLimits, exclude: Sequence[str]) -> None:
        self._sandbox = sandbox
        self._root = root
        self._deposit = deposit
        self._limits = limits
        self._exclude = exclude
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._tree = Tree(limits.depth)
        self._limit: str | None = None

    async def run(self) -> Manifest:
        before = await self._scan()
        fault = await self._read(self._choose(before), first=True)
        if self._limit != "pull_timeout":
            fault = await self._read_again(before)
        return self._tree.manifest(self._limit or fault)

    async def _read_again(self, before: Mapping[bytes, Seen]) -> str | None:
        """Read once more what changed while it was read and what did not arrive. What changes again is skipped."""
        after = await self._scan()
        for path in before.keys() - after.keys():
            self._tree.drop(shown(path))
        stale = {path: seen for path, seen in after.items() if self._is_stale(path, before.get(path), seen)}
        if not stale:
            return None
        for path in stale:
            self._tree.drop(shown(path))
        fault = await self._read(self._choose(stale), first=False)
        final = await self._scan()
        self._settle(stale, after, final)
        missing = [path for path in stale if path in final and shown(path) not in self._tree]
        if missing and fault is None:  # tar could have read them and did not
            for path in missing:
                self._tree.skip(path, "unreadable")
        return fault if missing else None

    def _is_stale(self, path: bytes, before: Seen | None, after: Seen) -> bool:
        if shown(path) in self._tree:
            return before != after
        return self._limit is None  # else it is beyond the limit

    def _settle(self, stale: Mapping[bytes, Seen], after: Mapping[bytes, Seen], final: Mapping[bytes, Seen]) -> None:
        for path, seen in stale.items():
            if final.get(path) != seen:
                self._tree.drop(shown(path))
                if path in final:
                    self._tree.skip(path, "changed")
        if self._limit is None:
            for path in final.keys() - after.keys():
                self._tree.skip(path, "changed")

    async def _scan(self) -> Mapping[bytes, Seen]:
        listing: dict[bytes, Seen] = {}
        try:
            async with aclosing(scan(self._sandbox, self._root, self._remaining(), self._exclude)) as found:
                async for path, seen in found:
                    listing[path] = seen  # noqa: PERF403 - what came before the limit is kept
        except LimitReached as reached:
            self._limit = self._limit or reached.limit
        return listing

    def _choose(self, listing: Mapping[bytes, Seen]) -> list[bytes]:
        """The paths to read, in order; what will not be read gets its row here."""
        chosen, total = [], 0
        for path in sorted(listing):
            seen = listing[path]
            if reason := name_problem(path, self._limits.depth) or self._obstacle(seen):
                self._tree.skip(path, reason)
                continue
            total += seen.size if seen.type == "f" else 0
            if total > self._limits.total_bytes:
                self._limit = self._limit or "total_bytes"
                break
            chosen.append(path)
        return chosen

    def _obstacle(self, seen: Seen) -> str | None:
        if seen.access == "x":
            return "excluded"
        if seen.type in "psbc":
            return "special_file"
        if seen.type not in "fdl":
            return "unknown_type"
        if seen.type != "l" and seen.access != "+":
            return "unreadable"
        return "file_too_big" if seen.type == "f" and seen.size > self._limits.file_bytes else None

    async def _read(self, paths: Sequence[bytes], *, first: bool) -> str | None:
        """Read these paths; returns what ended the archive early. Its exit status is not asked: the second scan knows better."""
        if not paths or self._limit == "pull_timeout":
            return None
        known = len(self._tree)
        names = b"".join(path + b"\0" for path in paths)
        limits = self._remaining()
        argv = [*_TAR, "--directory", self._root, *_NAMES_ON_STDIN]
        archive = self._sandbox.stream(argv, stdin=names, timeout_s=limits.seconds + 5)
        try:
            fault = await ingest(archive, self._tree, self._deposit, limits)
        except CommandFailed:
            if first and len(self._tree) == known:
                raise
            return "archive_truncated"
        if fault is not None and not fault.startswith("archive_"):
            self._limit = self._limit or fault
        return fault

    def _remaining(self) -> ReadLimits:
        return replace(self._limits, seconds=max(self._deadline - asyncio.get_running_loop().time(), 0.0))
