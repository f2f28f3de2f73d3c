"""The outbox relay that one usually writes by hand, to measure pgoutbox against.

It reads the rows of table ``outbox`` by their serial key, publishes each, waits for the stream's
acknowledgement, and deletes what was sent. It wakes up by LISTEN, or by polling. It has the usual
faults: a transaction that commits late with a lower key can be sent after one that overwrote it.

    python -m benchmarks.by_hand listen|poll DSN NATS_URL
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import nats
from nats.aio.client import Client

from benchmarks.rig import TOPIC

POLL_INTERVAL = 0.1  # seconds
BATCH = 500

_NEXT = f"select id, table_name, payload from outbox order by id limit {BATCH}"


async def relay(way: str, dsn: str, nats_url: str) -> None:
    """Send what is there, and what comes, until the process is terminated."""
    connection = await asyncpg.connect(dsn)
    client = await nats.connect(nats_url)
    hint = asyncio.Event()
    if way == "listen":
        listening = await asyncpg.connect(dsn)
        await listening.add_listener("outbox", lambda *_: hint.set())
    while True:
        hint.clear()
        if await send(connection, client) < BATCH:
            if way == "listen":
                await hint.wait()
            else:
                await asyncio.sleep(POLL_INTERVAL)


async def send(connection: asyncpg.Connection, client: Client) -> int:
    """Send one batch; return how many rows it had."""
    jetstream = client.jetstream()
    rows = await connection.fetch(_NEXT)
    for row in rows:
        await jetstream.publish(f"{TOPIC}.public_{row['table_name']}", row["payload"].encode())
    await connection.execute("delete from outbox where id = any ($1)", [row["id"] for row in rows])
    return len(rows)


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
