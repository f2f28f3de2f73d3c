"""How long publishing stops while a slot of the outbox is emptied."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import asyncpg

from benchmarks.drain import FORGET_STREAM
from benchmarks.fill import ITEMS, fill
from benchmarks.latency import consuming, percentiles, write_to
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import Database, Failed, Rig, connect, now, until

EVENTS = 2_000_000  # in the slot, each a transaction of its own
RATE = 2_000  # transactions a second that are published meanwhile
SECONDS = 30  # of them, within which the slot has to be emptied
PATIENCE = 120.0  # seconds until the slot is emptied

_TABLE = "item_pgoutbox"

# The ring as it has to be for transactions to begin in that slot for the next ten minutes.
_RING = """
select p from generate_series(700, 9000) p
where extract(epoch from now())::bigint / p % 5 = $1
  and extract(epoch from now())::bigint % p < p - 600
limit 1
"""
_SET_RING = """
create or replace function pgoutbox.ring(out period integer, out slots integer)
    language sql immutable set search_path = pg_catalog, pg_temp as 'select {period}, 5';
select pgoutbox.refresh_capture(relation) from pgoutbox.captured_table
"""


async def run(rig: Rig) -> list[Table]:
    """Have a relay empty a slot of single-row transactions while it publishes others.

    The figure is the longest time between two messages that a consumer gets, which includes the
    writers' own pauses; the same without anything to empty stands beside it.
    """
    count = rig.scaled(EVENTS)
    label = f"a slot of {count:,} single-row transactions"
    table = Table(
        f"publishing {RATE:,} transactions/s while a slot is emptied",
        (
            Column("without: longest pause ms", "without_longest_ms", digits=0),
            Column("p99", "without_p99"),
            Column("longest pause ms", "longest_ms", digits=0),
            Column("p99", "p99"),
            Column("emptied in s", "emptied_s"),
        ),
        note="pause: between two messages at a consumer; p99: ms from COMMIT to the consumer",
    )
    for _ in range(rig.runs):
        table.add(label, **await _measure(rig, count))
    table.goals = [
        Goal(
            f"{label} is emptied: longest pause",
            label,
            "longest_ms",
            50,
            beside="without_longest_ms",
            at_most=True,
            unit=" ms",
            digits=0,
            has_cpu=False,
        )
    ]
    return [table]


async def _measure(rig: Rig, count: int) -> dict[str, float]:
    async with rig.database() as database:
        await _begin_in(database, 0)
        await fill(database, ITEMS, count)
        rig.drain(database, "--no-jetstream")
        await rig.settle(database)
        await _begin_in(database, 1)
        without = await _published(rig, database, "15m")
        figures = await _published(rig, database, "1s")
    return {**{f"without_{name}": figure for name, figure in without.items()}, **figures}


async def _begin_in(database: Database, slot: int) -> None:
    """Have time go on, to where transactions begin in ``slot``."""
    async with connect(database.dsn) as owner:
        period = await owner.fetchval(_RING, slot)
        await owner.execute(_SET_RING.format(period=period))


async def _published(rig: Rig, database: Database, retention: str) -> dict[str, float]:
    """Write and publish, until the slot that isn't written to is emptied where it is to be."""
    empties = retention == "1s"
    async with consuming(rig) as consumer, connect(database.dsn) as watcher:
        await watcher.execute(FORGET_STREAM)
        with rig.relay(database, "--retention", retention):
            await write_to(rig, database, consumer, rate=100, count=20)  # until all is warm
            arrived_before = len(consumer.arrived)
            file, began = await _file(watcher), now()
            emptied = asyncio.create_task(_emptied(watcher, file)) if empties else None
            seconds = max(5.0, SECONDS * rig.scale)
            committed = await write_to(rig, database, consumer, RATE, round(RATE * seconds))
            if emptied and not emptied.done():
                raise Failed(f"the slot wasn't emptied within {seconds:g} s")
    arrivals = sorted(consumer.arrived.values())[arrived_before:]
    delays = [(consumer.arrived[number] - at) * 1e3 for number, at in committed.items()]
    return {
        "longest_ms": max(after - before for before, after in pairwise(arrivals)) * 1e3,
        "p99": percentiles(delays, "p")["p99"],
        **({"emptied_s": await emptied - began} if emptied else {}),
    }


async def _emptied(watcher: asyncpg.Connection, file: int) -> float:
    """Return when the slot's table had got a new file; no look at it that would lock it."""

    async def is_new() -> bool:
        return await _file(watcher) != file

    await until(is_new, "the slot is emptied", PATIENCE)
    return now()


async def _file(watcher: asyncpg.Connection) -> int:
    return int(
        await watcher.fetchval(
            "select relfilenode from pg_class where oid = 'pgoutbox.transaction_0'::regclass"
        )
    )
