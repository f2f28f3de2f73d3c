"""How fast a snapshot publishes the rows that a table has, and what writers lose to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import psutil

from benchmarks.drain import CPU_COLUMNS, drain
from benchmarks.load import WRITERS, Written, fair_tps, neighbour
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import (
    NOTE,
    CpuClock,
    Database,
    Rig,
    backend_seconds,
    children_seconds,
    connect,
    relay_sessions,
    settled,
    until,
)
from benchmarks.writers import pgbench

ROWS = 500_000
SECONDS = 15  # of writing, each time

_TABLE = """
create table before (
    id bigint primary key,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    name text not null,
    note text not null
)
"""
_ASK = """
insert into pgoutbox.snapshot (id, relay, relation, table_name)
select gen_random_uuid(), 'default', 'before'::regclass, 'before' from generate_series(1, $1)
"""
_SENT = "select coalesce(sum(rows), 0)::bigint from pgoutbox.snapshot"
_STOP = "update pgoutbox.snapshot set state = 'cancelled' where state in ('waiting', 'running')"

COLUMNS = (Column("rows/s", "per_s", digits=0), *CPU_COLUMNS, Column("relay MiB", "relay_mib"))
NOTE_ON_COLUMNS = (
    "first message to last; µs: CPU time of each process per row, the relay's with its start; MiB:"
    " resident at the peak"
)
COLUMNS_OF_WRITERS = (
    Column("without/s", "without_tps", digits=0),
    Column("with snapshot/s", "tps", digits=0),
    Column("sharing explains", "fair_tps", digits=0),
    Column("beyond that", "lost_percent"),
    Column("beside a neighbour/s", "neighbour_tps", digits=0),
    Column("beyond that", "lost_beside_percent"),
    Column("rows/s meanwhile", "rows_per_s", digits=0),
    Column("relay's share/core", "relay_cores", digits=2),
)
NOTE_ON_WRITERS = (
    "a relay runs each time; beyond that: % lost; neighbour: a process that takes as much CPU as"
    " the snapshot does, and does nothing; relay's share: with nats-server and its sessions"
)


async def run(rig: Rig) -> list[Table]:
    """Publish the rows of a table of 300-byte rows, alone and beside 4 writers.

    Alone it is ``pgoutbox relay --drain``, the rate by the stream's clock, as a drain's. The
    writers commit single rows of another table as fast as they can, first beside a relay that has
    only their events to send, then beside one that takes a snapshot, too, and at last beside a
    neighbour in the snapshot's place; losses are those of :mod:`benchmarks.load`.
    """
    count = rig.scaled(ROWS)
    label = f"a table of {count:,} rows"
    of_writers = f"{WRITERS} clients, single-row transactions"
    alone = Table("snapshot", COLUMNS, NOTE_ON_COLUMNS)
    beside = Table("writers beside a snapshot", COLUMNS_OF_WRITERS, NOTE_ON_WRITERS)
    for _ in range(rig.runs):
        async with rig.database() as database:
            await _make_table(rig, database, count)
            alone.add(label, **await _drained(rig, database, count))
            beside.add(of_writers, **await _beside_writers(rig, database))
    alone.goals = [Goal(f"snapshot, {label}", label, "per_s", 50_000, unit="/s", digits=0)]
    what = f"snapshot while {WRITERS} writers write, writers' loss beyond"
    beside.goals = [
        Goal(f"{what} sharing", of_writers, "lost_percent", 10, at_most=True, unit=" %"),
        Goal(
            f"{what} that beside a neighbour",
            of_writers,
            "lost_beside_percent",
            10,
            at_most=True,
            unit=" %",
        ),
    ]
    return [alone, beside]


async def _make_table(rig: Rig, database: Database, count: int) -> None:
    async with connect(database.dsn) as owner:
        await owner.execute(_TABLE)
        await owner.execute(
            "insert into before (id, name, note)"
            f" select i, 'row ' || i, '{NOTE}' from generate_series(1, {count}) i"
        )
    rig.install(database, "before")
    await rig.settle(database)


async def _drained(rig: Rig, database: Database, count: int) -> dict[str, float]:
    async with connect(database.dsn) as owner:
        await owner.execute(_ASK, 1)
    return await drain(rig, database, count)


@dataclass(frozen=True)
class _Relay:
    """A running relay, and who works for it in PostgreSQL and NATS."""

    rig: Rig
    database: Database
    process: psutil.Process
    sessions: Sequence[int]

    async def beside(self) -> tuple[Written, float]:
        """Let writers write; return what they did, and what the relay took, in CPU seconds."""
        postgres, began = CpuClock(postgres=self.rig.postgres.pid), children_seconds()
        relay = CpuClock(relay=self.process.pid, nats=self.rig.nats.pid)
        sessions = sum(map(backend_seconds, self.sessions))
        seconds = max(2, round(SECONDS * self.rig.scale))
        count, tps = await asyncio.to_thread(
            pgbench, self.rig, self.database, "pgoutbox", WRITERS, seconds
        )
        await settled(self.database, "pgbench")
        sessions = sum(map(backend_seconds, self.sessions)) - sessions
        used = postgres.us_per(1)["postgres"] / 1e6 - sessions + children_seconds() - began
        return Written(count, tps, used), sum(relay.us_per(1).values()) / 1e6 + sessions


async def _beside_writers(rig: Rig, database: Database) -> dict[str, float]:
    async with connect(database.dsn) as watcher:
        with rig.relay(database) as process:
            relay = _Relay(rig, database, process, await relay_sessions(watcher))
            without, used_without = await relay.beside()
            await watcher.execute(_ASK, 100)  # more than there is time for
            before = await until(lambda: _sent(watcher), "the snapshot has begun")
            written, used = await relay.beside()
            rows = await _sent(watcher) - before
            await watcher.execute(_STOP)
            relay_cores = used / written.seconds
            with neighbour(relay_cores - used_without / without.seconds):
                beside, _ = await relay.beside()
    fair = fair_tps(without, relay_cores)
    return {
        "without_tps": without.tps,
        "tps": written.tps,
        "fair_tps": fair,
        "lost_percent": (1 - written.tps / fair) * 100,
        "neighbour_tps": beside.tps,
        "lost_beside_percent": (1 - written.tps / beside.tps) * 100,
        "rows_per_s": rows / written.seconds,
        "relay_cores": relay_cores,
    }


async def _sent(watcher: asyncpg.Connection) -> int:
    """Return how many rows snapshots have sent."""
    return int(await watcher.fetchval(_SENT))
