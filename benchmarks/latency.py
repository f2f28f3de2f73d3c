"""How long after its COMMIT a change reaches a consumer."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import re
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import quantiles

import asyncpg
import nats
import psutil
from nats.aio.msg import Msg

from benchmarks.report import Column, Goal, Table
from benchmarks.rig import (
    NOTE,
    TOPIC,
    CpuClock,
    Database,
    Failed,
    Rig,
    connect,
    delete_stream,
    make_stream,
    nats_client,
    now,
)

SECONDS = {20: 60, 200: 20, 2_000: 15}  # for each rate of transactions a second
PLAIN_RATE = 200  # that is measured without uvloop, too
PERCENTILES = (50, 90, 95, 99, 99.9)
DIRECT = "direct"  # the subject that the writer publishes to itself
PATIENCE = 20.0  # seconds without any arrival, then something is lost

COLUMNS = (
    Column("direct p50", "direct_p50", digits=2),
    Column("p99", "direct_p99", digits=2),
    Column("p99.9", "direct_p99.9", digits=2),
    Column("pgoutbox p50", "p50", digits=2),
    Column("p99", "p99", digits=2),
    Column("p99.9", "p99.9", digits=2),
    Column("relay µs", "relay_us", digits=0),
    Column("PostgreSQL µs", "postgres_us", digits=0),
    Column("nats-server µs", "nats_us", digits=0),
)
NOTE_ON_DIRECT = (
    "direct: core NATS publish by the writer right after COMMIT; µs: CPU time of each process"
    " per event, the writer's session included"
)

_TABLE = "item_pgoutbox"
_NUMBER = re.compile(rb"number (\d+)")


async def run(rig: Rig) -> list[Table]:
    """Measure from the return of COMMIT at the writer to a consumer of the stream.

    Against a core NATS publish of the row by the writer itself right after that COMMIT, to the
    same consumer: for the very same transactions. These come at random moments (exponential
    gaps), from a process of their own. Once more at one rate by a relay without uvloop.
    """
    table = Table("latency from commit to consumer, ms", COLUMNS, NOTE_ON_DIRECT)
    for _ in range(rig.runs):
        async with rig.database() as database, consuming(rig) as consumer:
            with rig.relay(database) as relay:
                await write_to(rig, database, consumer, rate=100, count=20)  # until all is warm
                for rate in SECONDS:
                    figures = await _measure(rig, database, consumer, relay, rate)
                    table.add(_label(rate), rate=rate, **figures)
        async with rig.database() as database, consuming(rig) as consumer:
            with rig.relay(database, without="uvloop") as relay:
                await write_to(rig, database, consumer, rate=100, count=20)
                figures = await _measure(rig, database, consumer, relay, PLAIN_RATE)
                table.add(f"{_label(PLAIN_RATE)}, without uvloop", **figures)
    table.goals = [
        _goal(200, 50, 1.0, beyond=0.75),
        _goal(200, 99, 2.5, beyond=1.8),
        _goal(2_000, 99, 6),
        _goal(20, 99, 2),
        Goal(
            "relay's CPU an event at 200 transactions/s",
            _label(200),
            "relay_us",
            500,
            at_most=True,
            unit=" µs",
            digits=0,
        ),
    ]
    return [table]


def _label(rate: int) -> str:
    return f"{rate:,} transactions/s"


def _goal(rate: int, percentile: int, goal: float, beyond: float | None = None) -> Goal:
    what = f"latency p{percentile} at {rate:,} transactions/s"
    return Goal(
        what,
        _label(rate),
        f"p{percentile}",
        goal,
        beyond,
        beside=f"direct_p{percentile}",
        at_most=True,
        unit=" ms",
        digits=2,
    )


class Consumer:
    """Notes when each number arrived, by the relay's way and directly."""

    def __init__(self) -> None:
        self.arrived: dict[int, float] = {}
        self.arrived_directly: dict[int, float] = {}

    async def on_event(self, message: Msg) -> None:
        """Take a message of the stream."""
        self._note(self.arrived, message)

    async def on_direct(self, message: Msg) -> None:
        """Take a message that the writer published."""
        self._note(self.arrived_directly, message)

    def _note(self, arrived: dict[int, float], message: Msg) -> None:
        moment = now()
        found = _NUMBER.search(message.data)
        assert found, message.data
        arrived.setdefault(int(found[1]), moment)

    async def has_all(self, count: int) -> None:
        """Wait until ``count`` numbers arrived both ways."""
        seen, since = -1, now()
        while min(len(self.arrived), len(self.arrived_directly)) < count:
            if len(self.arrived) > seen:
                seen, since = len(self.arrived), now()
            elif now() - since > PATIENCE:
                raise Failed(f"{seen} of {count} events arrived")
            await asyncio.sleep(0.01)


@asynccontextmanager
async def consuming(rig: Rig) -> AsyncIterator[Consumer]:
    """Subscribe to an empty stream, and to what the writer publishes."""
    consumer = Consumer()
    async with nats_client(rig.nats) as client:
        await make_stream(client)
        jetstream = client.jetstream()
        await jetstream.subscribe(f"{TOPIC}.*", ordered_consumer=True, cb=consumer.on_event)
        await client.subscribe(DIRECT, cb=consumer.on_direct)
        yield consumer
        await delete_stream(client)


async def _measure(
    rig: Rig, database: Database, consumer: Consumer, relay: psutil.Process, rate: int
) -> dict[str, float]:
    """Return percentiles at one rate, both ways, and the CPU time per event."""
    count = rate * max(2, round(SECONDS[rate] * rig.scale))
    clock = CpuClock(relay_us=relay.pid, postgres_us=rig.postgres.pid, nats_us=rig.nats.pid)
    committed = await write_to(rig, database, consumer, rate, count)
    ours = delays(consumer.arrived, committed)
    direct = delays(consumer.arrived_directly, committed)
    return {**percentiles(ours, "p"), **percentiles(direct, "direct_p"), **clock.us_per(count)}


def delays(arrived: Mapping[int, float], committed: Mapping[int, float]) -> list[float]:
    """Return how long after its COMMIT each number arrived, in milliseconds."""
    return [(arrived[number] - at) * 1e3 for number, at in committed.items()]


def percentiles(delays: list[float], prefix: str) -> dict[str, float]:
    cuts = quantiles(delays, n=1000, method="inclusive")
    return {f"{prefix}{percent:g}": cuts[round(percent * 10) - 1] for percent in PERCENTILES}


async def write_to(
    rig: Rig, database: Database, consumer: Consumer, rate: int, count: int, table: str = _TABLE
) -> dict[int, float]:
    """Write ``count`` rows in another process; return when each was committed, once all arrived."""
    first = len(consumer.arrived)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        arguments = (database.dsn, rig.nats.url, table, first, count, rate)
        committed = await loop.run_in_executor(pool, write, *arguments)
    await consumer.has_all(first + count)
    return committed


def write(
    dsn: str, nats_url: str, table: str, first: int, count: int, rate: int
) -> dict[int, float]:
    """Commit and publish rows numbered from ``first`` on; return when each COMMIT returned."""
    return asyncio.run(_write_on_time(dsn, nats_url, table, first, count, rate))


async def _write_on_time(
    dsn: str, nats_url: str, table: str, first: int, count: int, rate: int
) -> dict[int, float]:
    committed: dict[int, float] = {}
    idle: asyncio.Queue[asyncpg.Connection] = asyncio.Queue()
    gaps = random.Random(rate)
    insert = f"insert into {table} (name, note) values ($1, $2)"

    async def write_one(number: int) -> None:
        connection = await idle.get()
        await connection.execute(insert, f"number {number}", NOTE)
        committed[number] = now()
        await client.publish(DIRECT, f"number {number} {NOTE}".encode())
        idle.put_nowait(connection)

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        client = await nats.connect(nats_url, allow_reconnect=False)
        stack.push_async_callback(client.drain)
        # Enough that it needn't wait for one commit to begin the next.
        for _ in range(max(2, rate // 250)):
            connection = await stack.enter_async_context(connect(dsn))
            await connection.fetch(f"select * from {table} limit 0")
            idle.put_nowait(connection)
        due = now()
        for number in range(first, first + count):
            due += gaps.expovariate(rate)
            await asyncio.sleep(max(0, due - now()))
            tasks.create_task(write_one(number))
    return committed
