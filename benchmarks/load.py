"""A relay at work while others write as fast as they can."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from statistics import mean

import asyncpg
from nats.aio.client import Client

from benchmarks.drain import CPU_COLUMNS
from benchmarks.latency import percentiles
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import (
    TOPIC,
    CpuClock,
    Database,
    Rig,
    ask_stream,
    backend_seconds,
    children_seconds,
    connect,
    cores,
    delete_stream,
    nats_client,
    relay_sessions,
    settled,
    stream_state,
    until,
)
from benchmarks.writers import pgbench
from pgoutbox.demo.process import guarded

WRITERS = 4
SECONDS = 30
SAMPLES = 30  # looks at the backlog
PATIENCE = 300.0  # seconds for what is left when the writers end
LOOKED_AT = 1_000  # messages, for how long each took
BURST_EVERY = 0.02  # seconds, as the relay's longest pause

# A process that takes a share of a core, in bursts. What it couldn't have it takes later.
_NEIGHBOUR = """
import sys, time
share, every = map(float, sys.argv[1:])
began = time.monotonic()
while True:
    due = share * (time.monotonic() - began)
    while time.process_time() < due:
        pass
    time.sleep(every * (1 - share))
"""

# In positions; each of these transactions has one event.
_BACKLOG = """
select (select last_value from pgoutbox.position_seq)
    - coalesce((select high from pgoutbox.progress), 0)
"""


COLUMNS = (
    Column("alone/s", "alone_tps", digits=0),
    Column("with relay/s", "tps", digits=0),
    Column("sharing explains", "fair_tps", digits=0),
    Column("beyond that", "lost_percent"),
    Column("relay's share/core", "relay_cores", digits=2),
    Column("beside a neighbour/s", "neighbour_tps", digits=0),
    Column("beyond that", "lost_beside_percent"),
    Column("p50 ms", "p50"),
    Column("p99 ms", "p99"),
    Column("largest backlog", "backlog", digits=0),
    Column("backlog's growth", "growth", digits=3),
    *CPU_COLUMNS,
)
NOTE_ON_COLUMNS = (
    "beyond that: % lost; relay's share: with nats-server and its sessions; neighbour: a process"
    " that takes as much CPU and does nothing; p50, p99: from the commit stage to the stream;"
    " growth: events that are added to the backlog, of each written; PostgreSQL µs: with the"
    " writers'"
)


async def run(rig: Rig) -> list[Table]:
    """Let 4 writers commit single rows as fast as they can, with fsync, while the relay runs.

    Against the same writers without a relay. Two questions, and the arithmetic of each:

    *Is the backlog bounded?* It is read at regular moments as positions drawn minus the relay's
    ``high``. Its growth is the mean of the last third of the readings minus that of the middle
    third, divided by the transactions that were committed between the middles of the two: 0 is
    a relay that keeps up, 1 one that sends nothing.

    *What do writers lose beyond what CPU sharing explains?* Without a relay they make T0
    transactions a second and use U0 CPU seconds a second (pgbench, and all of PostgreSQL). With
    one, relay, nats-server and the relay's sessions in PostgreSQL take R a second of the C
    cores. If sharing were all, writers would go on with T0 x min(1, (C - R) / U0) transactions a
    second. What they make less than that, T1, is lost beyond: 1 - T1 / that. It is what they
    wait for the relay, and what their transactions cost more because of it.

    Any process that wakes up when cores are busy takes them from somebody. So the same writers
    run once more, without a relay, beside a neighbour that takes R, too, and does nothing with it.
    """
    table = Table("4 writers as fast as they can", COLUMNS, NOTE_ON_COLUMNS)
    label = f"{WRITERS} clients, single-row transactions"
    for _ in range(rig.runs):
        async with rig.database() as database:
            table.add(label, **await _measure(rig, database))
    what = f"drain while {WRITERS} writers write"
    growth, lost = f"{what}, backlog's growth", f"{what}, writers' loss beyond sharing"
    beside = f"{what}, writers' loss beyond that beside a neighbour"
    table.goals = [
        Goal(growth, label, "growth", 0.01, at_most=True, digits=3),
        Goal(lost, label, "lost_percent", 10, at_most=True, unit=" %"),
        Goal(beside, label, "lost_beside_percent", 10, at_most=True, unit=" %"),
    ]
    return [table]


@dataclass(frozen=True)
class Written:
    """What writers did: transactions, how many a second, and the CPU they used meanwhile."""

    count: int
    tps: float
    cpu_seconds: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.count / self.tps


async def _measure(rig: Rig, database: Database) -> dict[str, float]:
    alone = await _write(rig, database)
    async with nats_client(rig.nats) as client, connect(database.dsn) as watcher:
        await delete_stream(client)
        rig.drain(database)  # what they left
        before = (await stream_state(client))["messages"]
        with rig.relay(database) as relay:
            sessions = await relay_sessions(watcher)
            clock = CpuClock(relay_us=relay.pid, postgres_us=rig.postgres.pid, nats_us=rig.nats.pid)
            began = sum(map(backend_seconds, sessions))
            writing = asyncio.create_task(_write(rig, database))
            backlog = await _watch(watcher, writing, rig)
            written = await writing
            us = clock.us_per(written.count)
            relays = (us["relay_us"] + us["nats_us"]) * written.count / 1e6
            relays += sum(map(backend_seconds, sessions)) - began

            async def all_sent() -> bool:
                return bool((await stream_state(client))["messages"] >= before + written.count)

            await until(all_sent, f"all {written.count:,} events are in the stream", PATIENCE)
        took = await _took(client, before + 1, before + written.count)
        with neighbour(relays / written.seconds):
            beside = await _write(rig, database)
    return {
        **us,
        **_compared(alone, written, relays / written.seconds, backlog),
        "neighbour_tps": beside.tps,
        "lost_beside_percent": (1 - written.tps / beside.tps) * 100,
        **percentiles(took, "p"),
    }


async def _took(client: Client, first: int, last: int) -> list[float]:
    """Return how long messages of the stream took from their commit stage, in milliseconds."""
    step = max(1, (last - first) // LOOKED_AT)
    return [await _delay(client, sequence) for sequence in range(first, last, step)]


async def _delay(client: Client, sequence: int) -> float:
    message = (await ask_stream(client, f"MSG.GET.{TOPIC}", seq=sequence))["message"]
    committed = json.loads(base64.b64decode(message["data"]))["commitTime"]
    times = map(datetime.fromisoformat, (message["time"], committed))
    return (next(times) - next(times)).total_seconds() * 1e3


@contextmanager
def neighbour(share: float) -> Iterator[None]:
    """Have a process take that much of a core meanwhile."""
    arguments = [sys.executable, "-c", _NEIGHBOUR, str(share), str(BURST_EVERY)]
    process = subprocess.Popen(guarded(arguments), stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _compared(
    alone: Written, written: Written, relay_cores: float, backlog: list[int]
) -> dict[str, float]:
    """Return the figures that :func:`run` explains."""
    fair = fair_tps(alone, relay_cores)
    third = len(backlog) // 3
    grown = mean(backlog[-third:]) - mean(backlog[-2 * third : -third])
    return {
        "alone_tps": alone.tps,
        "alone_us": alone.cpu_seconds * 1e6 / alone.count,
        "tps": written.tps,
        "fair_tps": fair,
        "lost_percent": (1 - written.tps / fair) * 100,
        "relay_cores": relay_cores,
        "backlog": max(backlog),
        "growth": grown / (written.count / 3),
    }


def fair_tps(alone: Written, relay_cores: float) -> float:
    """Return what writers would make if sharing the cores were all; see :func:`run`."""
    left = (cores() - relay_cores) / (alone.cpu_seconds / alone.seconds)
    return alone.tps * min(1.0, left)


async def _write(rig: Rig, database: Database) -> Written:
    clock, began = CpuClock(postgres=rig.postgres.pid), children_seconds()
    count, tps = await asyncio.to_thread(pgbench, rig, database, "pgoutbox", WRITERS, _seconds(rig))
    await settled(database, "pgbench")
    used = clock.us_per(1)["postgres"] / 1e6 + children_seconds() - began
    return Written(count, tps, used)


def _seconds(rig: Rig) -> int:
    return max(2, round(SECONDS * rig.scale))


async def _watch(
    watcher: asyncpg.Connection, writing: asyncio.Task[Written], rig: Rig
) -> list[int]:
    """Return the backlog at regular moments while the writers write."""
    backlog = []
    while not writing.done():
        await asyncio.wait({writing}, timeout=_seconds(rig) / SAMPLES)
        backlog.append(await watcher.fetchval(_BACKLOG))
    return backlog
