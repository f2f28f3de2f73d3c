"""The promise of order and atomicity, as a property of random transactions."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial

from tests.support import ledger
from tests.support.cluster import Database
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stream

_SIZES = (1, 2, 3, 5, 8, 20, 50)


async def test_stream_tells_what_was_committed_while_relays_are_killed(
    database: Database, stream: Stream, nursery: Nursery, seed: int
) -> None:
    """Batches and windows of any size, cut anywhere by kill -9."""
    await ledger.prepare(database)
    book = ledger.Book()
    draw = random.Random(seed)
    kills = transactions = 0
    for number in range(8):
        end = time.monotonic() + 0.8
        writing = asyncio.create_task(
            ledger.write(
                database,
                book,
                f"{seed} {number}",
                writers=draw.randint(3, 6),
                is_over=partial(_is_past, end),
            )
        )
        while not writing.done():
            relay = await _start(nursery, database, stream, draw)
            await asyncio.wait({writing}, timeout=draw.uniform(0.05, 0.6))
            await relay.kill()
            kills += 1
        await writing
        relay = await _start(nursery, database, stream, draw, "--drain", "--batch-events", "7")
        assert await relay.wait(timeout=60) == 0, relay.output
        transactions = await ledger.check(database, stream, book)
    print(f"{transactions} transactions, {kills} kills")


async def _start(
    nursery: Nursery, database: Database, stream: Stream, draw: random.Random, *flags: str
) -> Relay:
    """Start a relay with random sizes."""
    return await nursery.start(
        "relay",
        *("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--batch-events", str(draw.choice(_SIZES)), "--window", str(draw.choice(_SIZES))),
        *("--poll-interval", "50ms"),
        *flags,
    )


def _is_past(moment: float) -> bool:
    return time.monotonic() > moment
