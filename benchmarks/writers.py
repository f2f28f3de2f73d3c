"""What a captured table costs those who write to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

import asyncpg

from benchmarks.report import Column, Table
from benchmarks.rig import NOTE, CpuClock, Database, Rig, backend_seconds, connect

VARIANTS = ("none", "usual", "pgoutbox")  # tables item_…; see rig.SETUP
TRANSACTIONS = 20_000
BULK_ROWS = 100_000
WARM_UP = 500
PGBENCH_SECONDS = 8

Workload = Callable[[asyncpg.Connection, str, int], Awaitable[object]]

_LOOP = """
do $$ begin
    for i in 1..{count} loop
        insert into {table} (name, note) values ('row ' || i, '{note}');
        commit;
    end loop;
end $$
"""

_RATIOS = (
    Column("÷ usual", "pgoutbox", per="usual", digits=2),
    Column("÷ none", "pgoutbox", per="none", digits=2),
)


async def run(rig: Rig) -> list[Table]:
    """Measure writes to a table with pgoutbox's trigger.

    Against the same table with the usual outbox trigger (serial key, jsonb_build_object,
    pg_notify; :data:`benchmarks.rig.SETUP`) and without any. No relay runs and nobody listens,
    so that only writers are measured.
    """
    return [await _cpu(rig), await _throughput(rig)]


async def _cpu(rig: Rig) -> Table:
    """CPU time of one backend per row, by loops and bulk statements inside the server."""
    table = Table(
        "writers: CPU of the backend, µs a row",
        (
            Column("no trigger", "none"),
            Column("+ usual", "usual_over"),
            Column("+ pgoutbox", "pgoutbox_over"),
            Column("+ ÷ +", "pgoutbox_over", per="usual_over", digits=2),
        ),
        note="usual: outbox trigger with serial key, jsonb_build_object, pg_notify;"
        " +: over no trigger",
    )
    for _ in range(rig.runs):
        async with rig.database() as database:
            for label, (workload, rows) in _workloads(rig).items():
                us = {v: await _us_per_row(database, workload, v, rows) for v in VARIANTS}
                over = {f"{v}_over": us[v] - us["none"] for v in ("usual", "pgoutbox")}
                table.add(label, **us, **over)
    return table


def _workloads(rig: Rig) -> dict[str, tuple[Workload, int]]:
    single, bulk = rig.scaled(TRANSACTIONS), rig.scaled(BULK_ROWS)
    return {
        f"{single:,} transactions, async commit": (_single_rows, single),
        f"INSERT … SELECT of {bulk:,} rows": (_insert_select, bulk),
        f"COPY of {bulk:,} rows": (_copy, bulk),
        f"UPDATE of {bulk:,} rows": (_update, bulk),
    }


async def _us_per_row(database: Database, workload: Workload, variant: str, rows: int) -> float:
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


async def _single_rows(connection: asyncpg.Connection, table: str, count: int) -> None:
    # Without waiting for the disk: the system's time for that would drown the rest.
    await connection.execute("set synchronous_commit = off")
    await connection.execute(_LOOP.format(table=table, count=count, note=NOTE))


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
            *_RATIOS,
        ),
        note="pgbench, one row a transaction, fsync and synchronous_commit on",
    )
    for _ in range(rig.runs):
        async with rig.database() as database:
            for clients in (1, 8):
                figures: dict[str, float] = {}
                for variant in VARIANTS:
                    figures |= _pgbench(rig, database, variant, clients)
                table.add(f"{clients} client{'s' * (clients > 1)}", **figures)
    return table


def _pgbench(rig: Rig, database: Database, variant: str, clients: int) -> dict[str, float]:
    """Return transactions a second, and PostgreSQL's CPU time for each."""
    seconds = max(1, round(PGBENCH_SECONDS * rig.scale))
    with NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(
            "\\set number random(1, 1000000)\n"
            f"insert into item_{variant} (name, note) values ('row ' || :number, '{NOTE}');\n"
        )
        script.flush()
        clock = CpuClock(us=rig.postgres.pid)
        arguments = f"-n -M prepared -c {clients} -j {min(clients, 2)} -T {seconds}".split()
        printed = rig.run_tool("pgbench", database, *arguments, "-f", str(Path(script.name)))
    done = int(_found(r"actually processed: (\d+)", printed))
    return {
        variant: float(_found(r"tps = ([\d.]+)", printed)),
        f"{variant}_us": clock.us_per(done)["us"],
    }


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"pgbench printed {text!r}"
    return match[1]
