"""What a relay's leader looks after beside publishing: tables, other relays, slots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from pgoutbox.database.status import Holder

_GLANCE_TIMEOUT = 1.0  # seconds, for what is looked at between two batches and can wait

# The moment is that after the look, so nothing that the look notes is later: a jump of the clock is
# counted from there.
_RESTING = """
select pg_catalog.clock_timestamp() as moment, r.slot, r."position"
from (select) one left join pgoutbox.resting_slots($1, $2, $3) r on true
"""

_OTHERS = """
select
    p.relay, extract(epoch from u.committed_at)::float8 as oldest,
    extract(epoch from
        pg_catalog.clock_timestamp() - greatest(u.committed_at, p.started_at))::float8 as idle_s
from pgoutbox.progress p
left join lateral pgoutbox.unsent(
    p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq, 1, 9223372036854775807,
    settled => p.settled, holders => p.holders,
    again => pgoutbox.ended_since(p.holders, p.holder_since)
) u on true
where p.relay <> $1
"""


class Upkeep:
    """Asks about an outbox what can wait, on the connection of one relay's leader.

    Every method may raise one of :data:`pgoutbox.database.connection.FAILURES` when the
    connection or the server fails.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], relay: str) -> None:
        self._connection = connection
        self._relay = relay
        # Our clock, which can't be set, and PostgreSQL's, at the last look at slots.
        self._looked: tuple[float, datetime | None] = (0.0, None)

    async def mend_drift(self) -> list[asyncpg.Record]:
        """Refresh the capture functions of drifted tables.

        Returns the tables that had a problem (columns ``asked_name``, ``present_name``,
        ``problem``); those with the problem ``drift`` are mended.
        """
        return await self._connection.fetch("select * from pgoutbox.mend_drift()")

    async def misses(self, names: Sequence[str]) -> bool:
        """Return True if a table isn't captured that should be.

        It has one of the bare ``names``, in any schema, or that of a table that is captured.
        """
        return bool(
            await self._connection.fetchval(
                "select exists (select from pgoutbox.uncaptured($1))",
                names,
            )
        )

    async def others(self) -> list[asyncpg.Record]:
        """Return what the outbox keeps for each other relay.

        Columns: ``relay``; ``oldest``, when its first unsent event was committed, in seconds since
        the epoch, or None; ``idle_s``, for how many seconds it has neither sent that event nor
        got a new leader. Looks at one event of each, however many there are.
        """
        return await self._connection.fetch(_OTHERS, self._relay, timeout=_GLANCE_TIMEOUT)

    async def is_led(self, relay: str) -> bool:
        """Tell whether a relay has a leader."""
        return bool(
            await self._connection.fetchval(
                "select pgoutbox.is_led(p) from pgoutbox.progress p where p.relay = $1",
                relay,
                timeout=_GLANCE_TIMEOUT,
            )
        )

    async def strangers(self) -> dict[int, str]:
        """Return who holds the sleep lock without leading a relay: names of sessions, by pid."""
        rows = await self._connection.fetch(
            "select pid, application from pgoutbox.sleep_lock_holders() where not leads",
            timeout=_GLANCE_TIMEOUT,
        )
        return {row["pid"]: row["application"] for row in rows}

    async def long_holders(self) -> list[Holder]:
        """Return the transactions that have held their positions back for long."""
        from pgoutbox.database import status  # 15 ms to import, and rarely needed

        found = await status.gap_holders(self._connection, timeout=_GLANCE_TIMEOUT)
        return [holder for holder in found if status.is_long(holder)]

    async def bytes_on_disk(self) -> int:
        """Return what the outbox takes on PostgreSQL's disk."""
        return int(
            await self._connection.fetchval(
                "select pgoutbox.outbox_bytes()", timeout=_GLANCE_TIMEOUT
            )
        )

    async def resting_slots(
        self, retention: float
    ) -> tuple[datetime, list[tuple[int, int | None]]]:
        """Return PostgreSQL's time, and the slots that have rested for ``retention`` seconds.

        With the last position in each; None where there is none. That goes by PostgreSQL's clock.
        What it has jumped ahead since the last look, as ours tells, doesn't count.
        """
        began = time.monotonic()
        then, its_clock = self._looked
        rows = await self._connection.fetch(
            _RESTING,
            timedelta(seconds=retention),
            its_clock,
            its_clock and timedelta(seconds=began - then),
        )
        moment: datetime = rows[0]["moment"]
        self._looked = (began, moment)
        slots = [(row["slot"], row["position"]) for row in rows if row["slot"] is not None]
        return moment, slots
