"""How much is unsent, counted for the metrics on a connection of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database import connection as database
from pgoutbox.errors import PgoutboxError
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.progress import Progress
from pgoutbox.relay.outage import Outage

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_INTERVAL = 5.0  # seconds
_SHARE = 0.02  # of the time, at most, goes into counting
_AT_MOST = 1_000_000  # events, which takes a few seconds
_TIMEOUT = 5.0  # seconds
_RETRY = _TIMEOUT / _SHARE

_UNSENT = """
select count(*) as unsent, extract(epoch from min(committed_at))::float8 as oldest
from pgoutbox.unsent(
    $1, $2, $3, $4, $5, $6, 9223372036854775807,
    settled => $7, holders => $8::bigint[]::text[]::xid8[],
    again => pgoutbox.ended_since($8::bigint[]::text[]::xid8[], $9)
)
"""

_OTHERS_INTERVAL = 60.0  # seconds
_OTHERS_AT_MOST = 100_000  # events of each

_UNSENT_OF_OTHERS = """
select p.relay, (
    select count(*)
    from pgoutbox.unsent(
        p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq,
        $2, 9223372036854775807,
        settled => p.settled, holders => p.holders,
        again => pgoutbox.ended_since(p.holders, p.holder_since))
) as unsent
from pgoutbox.progress p where p.relay <> $1
"""


class BacklogCount:
    """Counts unsent and parked events for the monitor, for as long as a relay leads.

    While the relay publishes, the number of positions that are ahead of it has to do: counting
    would take from the events what it tells about them. Those of other relays are counted, for
    these may be gone. ``connect`` opens a connection.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        relay: str,
        monitor: Monitor,
    ) -> None:
        self._connect = connect
        self._relay = relay
        self._monitor = monitor
        self._others_due = 0.0  # of the monotonic clock
        self._outage = Outage("backlog count failed; retrying", "backlog count succeeded")

    @asynccontextmanager
    async def running(self, progress: Callable[[], Progress]) -> AsyncIterator[None]:
        """Count now and then what ``progress`` lacks, inside a ``with`` block."""
        task = asyncio.create_task(self._run(progress))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, progress: Callable[[], Progress]) -> None:
        while True:
            pause = _RETRY
            try:
                async with self._connect() as connection:
                    while True:
                        await asyncio.sleep(await self._count(connection, progress()))
                        self._outage.end()
            except TimeoutError:
                self._outage.begin(TimeoutError("the query timed out"))
            except (asyncpg.PostgresError, PgoutboxError) as error:
                self._outage.begin(error)
            except database.FAILURES:  # the relay finds out, and says so
                pause = _INTERVAL
            await asyncio.sleep(pause)

    async def _count(self, connection: Connection, progress: Progress) -> float:
        """Count once; return how many seconds to wait until the next time."""
        began = time.monotonic()
        parked = await connection.fetchval(
            "select count(*) from pgoutbox.parked where relay = $1", self._relay, timeout=_TIMEOUT
        )
        if self._monitor.nats.is_out or self._monitor.is_paused:
            unsent, oldest = await self._count_unsent(connection, progress)
        else:
            oldest = self._monitor.lead.oldest if self._monitor.lead else None
            unsent = await self._positions_ahead(connection, progress) if oldest else 0
        self._monitor.counted(unsent, oldest, parked)
        if began >= self._others_due:
            self._others_due = began + _OTHERS_INTERVAL
            await self._count_others(connection)
        return max(_INTERVAL, (time.monotonic() - began) / _SHARE)

    async def _count_unsent(
        self, connection: Connection, progress: Progress
    ) -> tuple[int, float | None]:
        row = await connection.fetchrow(
            _UNSENT,
            progress.high,
            [gap.first for gap in progress.gaps],
            [gap.last for gap in progress.gaps],
            *(progress.partial or (None, None)),
            _AT_MOST,
            progress.settled,
            [holder.xid for holder in progress.holders],
            [holder.since for holder in progress.holders],
            timeout=_TIMEOUT,
        )
        assert row is not None  # noqa: S101 - an aggregate returns one row
        return row["unsent"], row["oldest"]

    async def _count_others(self, connection: Connection) -> None:
        rows = await connection.fetch(
            _UNSENT_OF_OTHERS, self._relay, _OTHERS_AT_MOST, timeout=_TIMEOUT
        )
        self._monitor.counted_others({row["relay"]: row["unsent"] for row in rows})

    async def _positions_ahead(self, connection: Connection, progress: Progress) -> int:
        last: int = await connection.fetchval(
            "select last_value from pgoutbox.position_seq", timeout=_TIMEOUT
        )
        return max(0, last - progress.high)
