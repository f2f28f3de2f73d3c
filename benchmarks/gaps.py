"""What transactions that hold their positions back cost the others' events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import asyncpg

from benchmarks.latency import consuming, delays, percentiles, write_to
from benchmarks.report import Column, Table
from benchmarks.rig import CpuClock, Database, Rig, connect

SECONDS = 30  # of the others' transactions, for each kind
RATES = (20, 200)  # of them, a second
HELD_FOR = 30  # seconds before that
PAUSE = 0.0025  # seconds between two positions that are held back: 400 a second, at most

_TABLE = "item_pgoutbox"
_WRITE = f"insert into {_TABLE} (name, note) values ('held back', '')"
_OPEN = f"begin; {_WRITE}; set constraints all immediate"
_ROLL_BACK = f"savepoint s; {_WRITE}; rollback to s; release s"
_FAIL = f"begin; {_WRITE}; set constraints all immediate; rollback"
_PREPARE = f"set pgoutbox.notify = off; begin; {_WRITE}; prepare transaction 'held'"


async def run(rig: Rig) -> list[Table]:
    """Measure latency beside a transaction that draws positions all the time, and a prepared one.

    The first draws 400 a second and rolls each back to a savepoint. Beside the other one others
    fail at their COMMIT, as often. What the rows cost by themselves is measured, too: the same
    transaction draws none where it doesn't set its constraints immediate.
    """
    table = Table(
        "latency of others' events beside positions that are held back, ms",
        (
            Column("p50", "p50", digits=2),
            Column("p99", "p99", digits=2),
            Column("relay µs", "relay_us", digits=0),
            Column("PostgreSQL µs", "postgres_us", digits=0),
            Column("ranges", "ranges", digits=0),
            Column("progress row, bytes", "bytes", digits=0),
        ),
        note="µs: CPU time of each process per event; ranges: of positions, in the progress row",
    )
    for _ in range(rig.runs):
        for label, held in _KINDS.items():
            for rate in RATES:
                table.add(f"{label}, {rate} transactions/s", **await _measure(rig, held, rate))
    return [table]


async def _measure(rig: Rig, held: Held, rate: int) -> dict[str, float]:
    async with rig.database() as database, consuming(rig) as consumer:
        with rig.relay(database) as relay:
            await write_to(rig, database, consumer, rate=100, count=20)
            async with held(database):
                await write_to(rig, database, consumer, rate, _count(rig, rate, HELD_FOR))
                clock = CpuClock(relay_us=relay.pid, postgres_us=rig.postgres.pid)
                count = _count(rig, rate, SECONDS)
                committed = await write_to(rig, database, consumer, rate, count)
                figures = clock.us_per(count)
                async with connect(database.dsn) as watching:
                    row = await watching.fetchrow(
                        "select cardinality(gap_first) as ranges, pg_column_size(p) as bytes"
                        " from pgoutbox.progress p"
                    )
    return {**percentiles(delays(consumer.arrived, committed), "p"), **figures, **dict(row or ())}


def _count(rig: Rig, rate: int, seconds: int) -> int:
    return rate * max(2, round(seconds * rig.scale))


@contextlib.asynccontextmanager
async def _nobody(_: Database) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _rolling_back(begin: str, database: Database) -> AsyncIterator[None]:
    async with connect(database.dsn) as writer:
        await writer.execute(begin)
        async with _again_and_again(writer, _ROLL_BACK):
            yield
        await writer.execute("rollback")


@contextlib.asynccontextmanager
async def _prepared(database: Database) -> AsyncIterator[None]:
    async with connect(database.dsn) as holder, connect(database.dsn) as failing:
        await holder.execute(_PREPARE)
        async with _again_and_again(failing, _FAIL):
            yield
        await holder.execute("rollback prepared 'held'")


@contextlib.asynccontextmanager
async def _again_and_again(connection: asyncpg.Connection, script: str) -> AsyncIterator[None]:
    async def repeat() -> None:
        while not is_over.is_set():
            await connection.execute(script)
            await asyncio.sleep(PAUSE)

    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(repeat())
        yield
        is_over.set()


Held = Callable[[Database], AbstractAsyncContextManager[None]]

_KINDS: dict[str, Held] = {
    "alone": _nobody,
    "beside rolled-back savepoints without positions": partial(_rolling_back, "begin"),
    "beside rolled-back savepoints": partial(_rolling_back, _OPEN),
    "beside a prepared transaction": _prepared,
}
