"""Events as they are captured: read from the outbox in commit order, and left as they are.

It follows the same order as a relay, and comes back for gaps as that does, but it has no progress
of its own in the database, no lock and no session: each look is a read-only transaction.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from pgoutbox.tail.seen import Seen, Wanted

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_INTERVAL = 0.25  # seconds between looks where nothing new was there
_MOST_POSITIONS = 500  # a look
_MOST_EVENTS = 200  # a read
_MOST_BYTES = 4 * 1024**2  # of row data, a read; one event may have more
_MOST_GAPS = 1_000
_LOOK_BACK = 100  # positions that may belong to transactions which are committing at the start

# The indexes, in order, whatever statistics say about tables that are filled and emptied all the
# time: a tail must not read the outbox as a whole.
_PLANNER = """
set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;
set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0
"""

_LAST = "select coalesce(max(t.position), 0) from pgoutbox.transaction t"
_SINCE = """
select coalesce(min(t.position) filter (where t.committed_at >= $1), max(t.position) + 1, 1) - 1
from pgoutbox.transaction t
"""
_BEFORE = """
select t.position from pgoutbox.transaction t where t.position > $1 and t.position <= $2
"""

# One statement, so that one snapshot says what is there and who is still under way.
_LOOK = """
select
    array(
        select t.position from pgoutbox.transaction t where t.position > $1
        order by t.position limit $4
    ) as new,
    array(
        select t.position
        from rows from (unnest($2::bigint[]), unnest($3::bigint[])) g (first, last)
        join pgoutbox.transaction t on t.position between g.first and g.last
        order by t.position limit $4
    ) as filled,
    pg_catalog.pg_snapshot_xmin(s.now)::text::bigint as oldest,
    pg_catalog.pg_snapshot_xmax(s.now)::text::bigint as next
from pg_catalog.pg_current_snapshot() s (now)
"""

_READ = """
select e.*
from (
    select
        o.id, o.position, o.seq, o.committed_at, o.schema_name, o.table_name, o.action,
        o.data::text as data, o.data_old::text as data_old,
        sum(pg_catalog.octet_length(o.data::text) + pg_catalog.octet_length(o.data_old::text))
            over (order by o.position, o.seq rows unbounded preceding)
            - pg_catalog.octet_length(o.data::text) - pg_catalog.octet_length(o.data_old::text)
            as bytes_before
    from (
        select o.* from pgoutbox.outbox o
        where o.position = any ($1::bigint[])
          and o.position >= $2 and (o.position > $2 or o.seq > $3)
        order by o.position, o.seq limit $4
    ) o
) e
where e.bytes_before < $5
order by e.position, e.seq
"""


class _Gap(NamedTuple):
    """Positions whose transactions weren't visible when a snapshot with ``next`` first missed them.

    Each of these had its transaction id by then, below ``next``. So once no id below that is under
    way, what isn't visible never will be.
    """

    first: int
    last: int
    next: int


class Captured:
    """Yields events of the outbox from some moment on."""

    def __init__(self, connection: Connection, wanted: Wanted) -> None:
        self._connection = connection
        self._wanted = wanted
        self._high = 0
        self._gaps: list[_Gap] = []

    async def events(self, since: datetime | None, *, follow: bool) -> AsyncIterator[Seen]:
        """Yield the events that are committed from ``since`` on, or from now on.

        Without ``follow`` it ends with the last that is there.
        """
        await self._begin(since)
        while True:
            found = await self._look()
            async for seen in self._read(found):
                if since is None or seen.time >= since:
                    yield seen
            if not found:
                if not follow:
                    return
                await asyncio.sleep(_INTERVAL)

    async def _begin(self, since: datetime | None) -> None:
        if since is not None:
            self._high = await self._connection.fetchval(_SINCE, since)
            return
        last = await self._connection.fetchval(_LAST)
        self._high = max(0, last - _LOOK_BACK)
        rows = await self._connection.fetch(_BEFORE, self._high, last)
        positions = [row["position"] for row in rows]
        row = await self._connection.fetchrow(_LOOK, last, [], [], 0)
        assert row is not None  # noqa: S101 - one row
        self._pass({*positions, last}, row["next"])

    async def _look(self) -> list[int]:
        """Return positions that have become visible, and note those that are missing."""
        async with self._connection.transaction():
            await self._connection.execute(_PLANNER)
            row = await self._connection.fetchrow(
                _LOOK,
                self._high,
                [gap.first for gap in self._gaps],
                [gap.last for gap in self._gaps],
                _MOST_POSITIONS,
            )
        assert row is not None  # noqa: S101 - one row
        if len(row["filled"]) < _MOST_POSITIONS:
            self._gaps = [gap for gap in self._gaps if gap.next > row["oldest"]]
        for position in row["filled"]:
            self._gaps = [part for gap in self._gaps for part in _without(gap, position)]
        self._pass(set(row["new"]), row["next"])
        return sorted([*row["filled"], *row["new"]])

    def _pass(self, positions: set[int], next_xid: int) -> None:
        """Move on over ``positions``; what lies between them is missing."""
        for one, other in pairwise([self._high, *sorted(positions)]):
            if other > one + 1:
                self._gaps.append(_Gap(one + 1, other - 1, next_xid))
        self._high = max([self._high, *positions])
        del self._gaps[:-_MOST_GAPS]

    async def _read(self, positions: list[int]) -> AsyncIterator[Seen]:
        """Yield the events of these transactions, some at a time."""
        place = (0, 0)
        while positions:
            rows = await self._rows(positions, place)
            for row in rows:
                if self._wanted.has(row["schema_name"], row["table_name"], row["action"]):
                    yield _seen(row)
            if not rows:
                return
            place = rows[-1]["position"], rows[-1]["seq"]
            positions = [position for position in positions if position >= place[0]]

    async def _rows(self, positions: list[int], place: tuple[int, int]) -> list[asyncpg.Record]:
        async with self._connection.transaction():
            await self._connection.execute(_PLANNER)
            rows: list[asyncpg.Record] = await self._connection.fetch(
                _READ, positions, *place, _MOST_EVENTS, _MOST_BYTES
            )
        return rows


def _without(gap: _Gap, position: int) -> list[_Gap]:
    if not gap.first <= position <= gap.last:
        return [gap]
    parts = (gap._replace(last=position - 1), gap._replace(first=position + 1))
    return [part for part in parts if part.first <= part.last]


def _seen(row: asyncpg.Record) -> Seen:
    time = row["committed_at"].astimezone(UTC)
    return Seen(
        time,
        {"position": row["position"]},
        row["schema_name"],
        row["table_name"],
        row["action"],
        row["data"],
        row["data_old"],
        _whole(row, time),
    )


def _whole(row: asyncpg.Record, time: datetime) -> str:
    """Return the payload's fields, with the position before them."""
    head = json.dumps(
        {
            "position": row["position"],
            "id": str(row["id"]),
            "schema": row["schema_name"],
            "table": row["table_name"],
            "action": row["action"],
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    at = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06}".rstrip("0").rstrip(".")
    data = f'"data":{row["data"]},"dataOld":{row["data_old"]}'
    return f'{head[:-1]},{data},"commitTime":"{at}Z"}}'
