"""Taking the lead of a relay, for tests that play one."""

from __future__ import annotations

import asyncpg

from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox

LEAD = "select pgoutbox.lead($1)"


async def lead(outbox: Outbox, connection: asyncpg.Connection, relay: str = "default") -> Progress:
    """Lead on ``connection``, and return the progress, which ``outbox`` has then."""
    return await outbox.take_over(await connection.fetchval(LEAD, relay))


async def led_once(connection: asyncpg.Connection, *relays: str) -> None:
    """Leave behind what relays do that have ended."""
    for relay in relays:
        await connection.execute(LEAD, relay)
    await connection.execute("select pg_advisory_unlock_all()")
