"""An archive stream into blobs and rows, in one pass."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from dogwatch.errors import ArchiveCorrupt
from dogwatch.workspace.deposit import SMALL, Deposit
from dogwatch.workspace.reader import Event, LimitReached, Member, ReadLimits, read_archive
from dogwatch.workspace.tree import Tree


async def ingest(chunks: AsyncIterator[bytes], tree: Tree, deposit: Deposit, limits: ReadLimits) -> str | None:
    """Add every member to `tree` and its bytes to `deposit`, which the caller flushes.

    Returns None for a whole archive, else what ended it: the name of a limit, `archive_truncated` or `archive_corrupt`. What came
    before stands; a file that was cut short leaves no row. Errors of the stream itself and of storage are raised.
    """
    try:
        async with aclosing(read_archive(chunks, limits)) as events:
            async for event in events:
                if isinstance(event, Member):
                    tree.add(event, await _bytes_of(event, events, deposit) if event.kind == "file" else None)
    except LimitReached as reached:
        return reached.limit
    except ArchiveCorrupt as fault:
        return fault.code
    return None


async def _bytes_of(member: Member, events: AsyncIterator[Event], deposit: Deposit) -> str:
    if member.size <= SMALL:
        return await deposit.add(b"".join([part async for part in _parts(member.size, events)]))
    async with deposit.spill() as spill:
        async for part in _parts(member.size, events):
            await spill.write(part)
        return await deposit.keep(spill)


async def _parts(size: int, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    left = size
    while left:
        part = await anext(events)
        assert isinstance(part, bytes)
        left -= len(part)
        yield part
