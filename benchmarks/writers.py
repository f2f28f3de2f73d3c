"""What a captured table costs those who write to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

import asyncpg

from benchmarks.fill import ITEMS, VARIANTS, WARM_UP, sized, us_per_row
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import (
    NOTE,
    CpuClock,
    Database,
    Failed,
    Rig,
    backend_seconds,
    connect,
    delete_stream,
    nats_client,
    relay_sessions,
)

TRANSACTIONS = 20_000
BULK_ROWS = 100_000
SIZES = (100, 300, 1_000, 3_000, 10_000)  # bytes a row
SIZED_TRANSACTIONS = 5_000
PGBENCH_SECONDS = 8
BESIDE_RELAY = "8 clients, with a relay"

Bulk = Callable[[asyncpg.Connection, str, int], Awaitable[object]]

CPU_COLUMNS = (
    Column("no trigger", "none"),
    Column("usual +", "usual_over"),
    Column("pgoutbox +", "pgoutbox_over"),
    Column("+ ÷ +", "pgoutbox_over", per="usual_over", digits=2),
)
NOTE_ON_USUAL = (
    "usual: outbox trigger with serial key, jsonb_build_object, pg_notify; +: over no trigger"
)


async def run(rig: Rig) -> list[Table]:
    """Measure writes to a table with pgoutbox's trigger.

    Against the same table with the usual outbox trigger (serial key, jsonb_build_object,
    pg_notify; :data:`benchmarks.rig.SETUP`) and without any. No relay runs and nobody listens,
    so that only writers are measured.
    """
    return [await _cpu(rig), await _throughput(rig)]


async def run_sizes(rig: Rig) -> list[Table]:
    """Measure what the triggers add to a single-row transaction, for rows of several sizes.

    Against the same as :func:`run`. The rows can't be compressed, and from 3,000 bytes on they
    are stored out of line.
    """
    count = rig.scaled(SIZED_TRANSACTIONS)
    table = Table("writers: CPU by size of the row, µs", CPU_COLUMNS, NOTE_ON_USUAL)
    for _ in range(rig.runs):
        async with rig.database() as database:
            for size in SIZES:
                writes = sized(size)
                us = {v: await us_per_row(database, writes, v, count) for v in VARIANTS}
                table.add(f"{size:,} bytes", size=size, **_over(us))
    return [table]


async def _cpu(rig: Rig) -> Table:
    """CPU time of one backend per row, by loops and bulk statements inside the server."""
    single, rows = rig.scaled(TRANSACTIONS), rig.scaled(BULK_ROWS)
    label = f"{single:,} transactions, async commit"
    bulk: dict[str, Bulk] = {
        f"INSERT … SELECT of {rows:,} rows": _insert_select,
        f"COPY of {rows:,} rows": _copy,
        f"UPDATE of {rows:,} rows": _update,
    }
    table = Table("writers: CPU of the backend, µs a row", CPU_COLUMNS, NOTE_ON_USUAL)
    for _ in range(rig.runs):
        async with rig.database() as database:
            us = {v: await us_per_row(database, ITEMS, v, single) for v in VARIANTS}
            table.add(label, **_over(us))
            for what, workload in bulk.items():
                us = {v: await _bulk_us_per_row(database, workload, v, rows) for v in VARIANTS}
                table.add(what, **_over(us))
    table.goals = [
        _cost("writers, 1 client, single-row transactions", label, goal=1.6, beyond=1.3),
        *(_cost(f"writers, {what}", what, goal=0.8, beyond=0.6) for what in bulk),
    ]
    return table


def _over(us: dict[str, float]) -> dict[str, float]:
    return us | {f"{variant}_over": us[variant] - us["none"] for variant in ("usual", "pgoutbox")}


def _cost(what: str, row: str, *, goal: float, beyond: float) -> Goal:
    return Goal(
        what, row, "pgoutbox_over", goal, beyond, per="usual_over", at_most=True, unit=" µs"
    )


async def _bulk_us_per_row(database: Database, workload: Bulk, variant: str, rows: int) -> float:
    """Return the backend's CPU time per row, in a session that has done the same before."""
    name = f"item_{variant}"
    async with connect(database.dsn) as connection:
        await workload(connection, name, min(rows, WARM_UP))
        if workload is _update:
            await connection.execute(f"truncate {name}")
            await _insert_select(connection, name, rows)
        pid = connection.get_server_pid()
        began = backend_seconds(pid)
        await workload(connection, name, rows)
        return (backend_seconds(pid) - began) * 1e6 / rows


async def _insert_select(connection: asyncpg.Connection, table: str, count: int) -> None:
    await connection.execute(
        f"insert into {table} (name, note)"
        f" select 'row ' || i, '{NOTE}' from generate_series(1, {count}) i"
    )


async def _copy(connection: asyncpg.Connection, table: str, count: int) -> None:
    records = ((f"row {i}", NOTE) for i in range(count))
    await connection.copy_records_to_table(table, records=records, columns=["name", "note"])


async def _update(connection: asyncpg.Connection, table: str, _: int) -> None:
    await connection.execute(f"update {table} set name = name || '!', updated_at = now()")


async def _throughput(rig: Rig) -> Table:
    """Transactions a second of pgbench's clients, each inserting one row and committing."""
    table = Table(
        "writers: transactions a second",
        (
            Column("no trigger", "none", digits=0),
            Column("usual", "usual", digits=0),
            Column("pgoutbox", "pgoutbox", digits=0),
            Column("÷ usual", "pgoutbox", per="usual", digits=2),
            Column("÷ none", "pgoutbox", per="none", digits=2),
        ),
        note="pgbench, one row a transaction, fsync and synchronous_commit on; the relay and"
        " nats-server are on the same cores, beside pgoutbox's writers only",
    )
    for _ in range(rig.runs):
        async with rig.database() as database:
            for clients in (1, 8):
                figures: dict[str, float] = {}
                for variant in VARIANTS:
                    figures |= _variant(rig, database, variant, clients)
                table.add(f"{clients} client{'s' * (clients > 1)}", **figures)
            figures |= await _beside_relay(rig, database, clients)
            table.add(BESIDE_RELAY, **figures)
    table.goals = [
        _tps("8 clients", "usual trigger", "usual", goal=1.4, beyond=2),
        _tps("8 clients", "no trigger", "none", goal=0.55, beyond=0.7),
        _tps(BESIDE_RELAY, "usual trigger", "usual", goal=1.2, beyond=2),
    ]
    return table


def _tps(row: str, against: str, per: str, *, goal: float, beyond: float) -> Goal:
    what = f"writers, {row}, tps against {against}"
    return Goal(what, row, "pgoutbox", goal, beyond, per=per, unit="/s", digits=0)


async def _beside_relay(rig: Rig, database: Database, clients: int) -> dict[str, float]:
    """Return what :func:`_variant` does, of writers beside a relay that publishes their events."""
    async with nats_client(rig.nats) as client, connect(database.dsn) as watcher:
        await delete_stream(client)
        rig.drain(database)
        with rig.relay(database):
            await relay_sessions(watcher)
            return _variant(rig, database, "pgoutbox", clients)


def _variant(rig: Rig, database: Database, variant: str, clients: int) -> dict[str, float]:
    """Return transactions a second, and PostgreSQL's CPU time for each."""
    clock = CpuClock(us=rig.postgres.pid)
    seconds = max(1, round(PGBENCH_SECONDS * rig.scale))
    done, tps = pgbench(rig, database, variant, clients, seconds)
    return {variant: tps, f"{variant}_us": clock.us_per(done)["us"]}


def pgbench(
    rig: Rig, database: Database, variant: str, clients: int, seconds: int, *options: str
) -> tuple[int, float]:
    """Insert one row after another; return how many transactions, and how many a second."""
    with NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(
            "\\set number random(1, 1000000)\n"
            f"insert into item_{variant} (name, note) values ('row ' || :number, '{NOTE}');\n"
        )
        script.flush()
        arguments = f"-n -M prepared -c {clients} -j {min(clients, 2)} -T {seconds}".split()
        printed = rig.run_tool(
            "pgbench", database, *arguments, *options, "-f", str(Path(script.name))
        )
    done = int(_found(r"actually processed: (\d+)", printed))
    return done, float(_found(r"tps = ([\d.]+)", printed))


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise Failed(f"pgbench printed {text.strip()!r}")
    return match[1]
