"""Numbers of events in their transactions: which one of how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import asyncpg

from pgoutbox.messages.event import EventNumber
from pgoutbox.outbox.progress import Key

_COUNTED_AT_ONCE = 200_000  # events; takes a second or so


class Numbering:
    """Numbers the events of each transaction, also of one that is read in several batches.

    Only what a batch doesn't show is asked of the database: how many events of a transaction are
    before the batch, and how many it has in all. Both are remembered, so a transaction of any
    size is counted once, and not again for each of its batches.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._last: Key | None = None  # of the last batch, where that was cut
        self._number = EventNumber(0, 0)  # of the event there

    async def of(
        self, keys: Sequence[Key], partial: Key | None, *, is_cut: bool
    ) -> list[EventNumber]:
        """Return the number of each event of a batch.

        ``partial`` is the last event that is sent of a transaction, and ``is_cut`` says that the
        batch's last one may have further events.
        """
        here = Counter(key.position for key in keys)
        before = {}
        if partial is not None and partial.position in here:
            before[partial.position] = await self._upto(partial)
        sizes = {position: before.get(position, 0) + count for position, count in here.items()}
        if is_cut and keys:
            last = keys[-1]
            upto_last = sizes[last.position]
            sizes[last.position] = await self._size(last, upto_last)
            self._last, self._number = last, EventNumber(upto_last, sizes[last.position])
        seen = Counter(before)
        numbers = []
        for key in keys:
            seen[key.position] += 1
            numbers.append(EventNumber(seen[key.position], sizes[key.position]))
        return numbers

    async def _upto(self, key: Key) -> int:
        if key == self._last:
            return self._number.number
        return await self._count(key.position, -1, key.seq)

    async def _size(self, last: Key, upto_last: int) -> int:
        if self._last is not None and last.position == self._last.position:
            return self._number.size
        return upto_last + await self._count(last.position, last.seq, 2**63 - 1)

    async def _count(self, position: int, after: int, upto: int) -> int:
        total: int = 0
        while True:
            row = await self._connection.fetchrow(
                "select * from pgoutbox.count_events($1, $2, $3, $4)",
                position,
                after,
                upto,
                _COUNTED_AT_ONCE,
            )
            assert row is not None  # noqa: S101 - an aggregate gives one row
            total += row["events"]
            if row["events"] < _COUNTED_AT_ONCE:
                return total
            after = row["last_seq"]
