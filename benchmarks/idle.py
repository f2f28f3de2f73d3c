"""What a relay costs while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import psutil

from benchmarks.drain import drain
from benchmarks.fill import ITEMS, fill
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import Database, Rig, backend_seconds, connect, now, relay_sessions

SECONDS = 60
EVENTS = 1_000  # sent before, so that there is something in the outbox
SETTLED = 12.0  # seconds after its start, when also its statistics are settled
LOOK = 0.1  # seconds between two looks for an open transaction

_OPEN = """
select count(*) filter (where state like 'idle in transaction%') as waiting,
    coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 * 1000 as ms
from pg_stat_activity where pid = any($1::integer[])
"""

# What the sessions wrote, and what anybody changed in their database.
_WRITTEN = """
select
    (select coalesce(sum(w.wal_bytes), 0)::float8
        from unnest($1::integer[]) pid, pg_stat_get_backend_wal(pid) w) as wal_bytes,
    (select coalesce(sum(io.writes + io.extends), 0)::float8
        from unnest($1::integer[]) pid, pg_stat_get_backend_io(pid) io) as writes,
    (select (tup_inserted + tup_updated + tup_deleted)::float8
        from pg_stat_database where datname = current_database()) as rows
"""


async def run(rig: Rig) -> list[Table]:
    """Watch a relay that has sent everything, and whose database nobody writes to.

    CPU time is that of its process, and of its two sessions in PostgreSQL. Writes are the WAL
    of these sessions and what they wrote to files (``pg_stat_get_backend_wal`` and ``_io``, of
    PostgreSQL 18), and the rows that anybody changed in the database (``pg_stat_database``).
    """
    table = Table(
        "idle relay",
        (
            Column("% of a core", "cpu_percent", digits=3),
            Column("its sessions %", "sessions_percent", digits=3),
            Column("MiB", "mib"),
            Column("idle in transaction", "waiting", digits=0),
            Column("longest transaction ms", "longest_ms"),
            Column("WAL bytes", "wal_bytes", digits=0),
            Column("writes", "writes", digits=0),
            Column("rows changed", "rows", digits=0),
        ),
        note="MiB: resident; idle in transaction: looks that found a session so",
    )
    label = f"{_seconds(rig):g} s"
    for _ in range(rig.runs):
        async with rig.database() as database:
            await drain(rig, database, await fill(database, ITEMS, EVENTS))
            table.add(label, **await _measure(rig, database))
    table.goals = [
        _at_most(label, "CPU", "cpu_percent", 0.2, " %", digits=3),
        _at_most(label, "memory", "mib", 45, " MiB"),
        _at_most(label, "looks that found it idle in a transaction", "waiting", 0),
        _at_most(label, "WAL written", "wal_bytes", 0, " B"),
        _at_most(label, "writes to files", "writes", 0),
        _at_most(label, "rows changed in the database", "rows", 0),
    ]
    return [table]


def _at_most(
    row: str, what: str, figure: str, goal: float, unit: str = "", digits: int = 0
) -> Goal:
    return Goal(f"idle relay, {what}", row, figure, goal, at_most=True, unit=unit, digits=digits)


def _seconds(rig: Rig) -> float:
    return max(3.0, SECONDS * rig.scale)


async def _measure(rig: Rig, database: Database) -> dict[str, float]:
    await rig.settle(database)
    async with connect(database.dsn) as watcher:
        with rig.relay(database) as relay:
            sessions = await relay_sessions(watcher)
            await asyncio.sleep(SETTLED)
            return await _watch(watcher, relay, sessions, _seconds(rig))


async def _watch(
    watcher: asyncpg.Connection, relay: psutil.Process, sessions: Sequence[int], seconds: float
) -> dict[str, float]:
    before = await _written(watcher, sessions)
    began, relay_began, sessions_began = now(), backend_seconds(relay.pid), _spent(sessions)
    waiting, longest = 0, 0.0
    while now() - began < seconds:
        await asyncio.sleep(LOOK)
        (row,) = await watcher.fetch(_OPEN, sessions)
        waiting, longest = waiting + row["waiting"], max(longest, row["ms"])
    took = now() - began
    after = await _written(watcher, sessions)
    return {
        "cpu_percent": (backend_seconds(relay.pid) - relay_began) / took * 100,
        "sessions_percent": (_spent(sessions) - sessions_began) / took * 100,
        "mib": relay.memory_info().rss / 2**20,
        "waiting": waiting,
        "longest_ms": longest,
        **{name: after[name] - before[name] for name in after},
    }


def _spent(sessions: Sequence[int]) -> float:
    return sum(map(backend_seconds, sessions))


async def _written(watcher: asyncpg.Connection, sessions: Sequence[int]) -> dict[str, float]:
    (row,) = await watcher.fetch(_WRITTEN, sessions)
    return dict(row)
