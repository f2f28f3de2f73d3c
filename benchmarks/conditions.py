"""What makes other outboxes slow: each beside the same run without it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.drain import CPU_COLUMNS, drain
from benchmarks.fill import ITEMS, Writes, batches, fill, overhead, sized
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import Database, Rig, connect
from benchmarks.writers import pgbench

EVENTS = 100_000  # of each drain
TRANSACTIONS = 10_000  # of each writer
AGING = 20  # seconds of writes at 1,000 a second, and so of small batches, under the snapshot
HISTORY = 10_000_000  # events
TABLES = 1_000
COLUMNS = 200
LARGE_ROW = 1_000_000  # bytes; with the rest of the message just below what NATS takes
LARGE_ROWS = 400

WITHIN = 0.9, 1.1  # of the rate, and of the price, without


@dataclass(frozen=True)
class Run:
    """One of the two things compared: a database, what is written to it, and how much."""

    name: str
    database: Callable[[], AbstractAsyncContextManager[Database]]
    writes: Writes = ITEMS
    events: int = EVENTS
    transactions: int = TRANSACTIONS


async def run_snapshot(rig: Rig) -> list[Table]:
    """Hold a snapshot open for the whole run, in the relay's database.

    First a relay sends events one by one for a while, so that its progress has been updated
    thousands of times, and none of the dead rows may be removed.
    """
    label = "a snapshot held for the whole run"
    table = _table("held snapshot", label)
    return await _compare(
        table,
        label,
        rig,
        Run("without", partial(_aged, rig)),
        Run("with", partial(_held, rig)),
    )


@asynccontextmanager
async def _held(rig: Rig) -> AsyncIterator[Database]:
    async with rig.database() as database, connect(database.dsn) as holder:
        await holder.execute("begin isolation level repeatable read")
        await holder.execute("select from item_pgoutbox limit 1")  # takes the snapshot
        await _age(rig, database)
        yield database
        await holder.execute("rollback")


@asynccontextmanager
async def _aged(rig: Rig) -> AsyncIterator[Database]:
    async with rig.database() as database:
        await _age(rig, database)
        yield database


async def _age(rig: Rig, database: Database) -> None:
    with rig.relay(database):
        pgbench(rig, database, "pgoutbox", 2, max(1, round(AGING * rig.scale)), "-R", "1000")
    rig.drain(database)


async def run_history(rig: Rig) -> list[Table]:
    """Have events in the slots that are sent and not yet removed; one run is enough.

    They are sent without a stream, which is quicker and the same to the outbox. Autovacuum has
    been there when the measurement begins.
    """
    count = rig.scaled(HISTORY)
    label = f"{count:,} events of history"
    table = _table("history", label, "; one run")
    return await _compare(
        table,
        label,
        rig,
        Run("without", rig.database),
        Run("with", partial(_with_history, rig, count)),
        runs=1,
    )


@asynccontextmanager
async def _with_history(rig: Rig, count: int) -> AsyncIterator[Database]:
    async with rig.database() as database:
        await fill(database, batches(10), count)
        rig.drain(database, "--no-jetstream")
        await rig.settle(database)
        yield database


async def run_tables(rig: Rig) -> list[Table]:
    """Capture a thousand tables, and write to one after another of them.

    Against the same dynamic statements for one table. A session has written to each table six
    times before its CPU time is read: PostgreSQL plans a statement anew the first five times.
    """
    count = max(2, round(TABLES * rig.scale))
    label = f"{count:,} captured tables"
    table = _table("many tables", label)
    return await _compare(
        table,
        label,
        rig,
        Run("without", partial(_with_tables, rig, 1), _to_each(1)),
        Run("with", partial(_with_tables, rig, count), _to_each(count)),
    )


def _to_each(tables: int) -> Writes:
    insert = "insert into many_{variant}_' || i % " + str(tables) + " || '"
    return Writes(
        f"execute '{insert} (name, note) select name, note from one_row'", warm_up=6 * tables + 100
    )


@asynccontextmanager
async def _with_tables(rig: Rig, count: int) -> AsyncIterator[Database]:
    async with rig.database() as database:
        async with connect(database.dsn) as owner:
            await owner.execute("create table one_row (name text, note text)")
            await owner.execute("insert into one_row values ('a row', repeat('x', 230))")
            for variant in ("none", "pgoutbox"):
                names = [f"many_{variant}_{number}" for number in range(count)]
                for name in names:
                    await owner.execute(f"create table {name} (like item_none including all)")
        rig.install(database, *names)
        yield database


async def run_columns(rig: Rig) -> list[Table]:
    """Write to a table of 200 columns of usual types.

    Against rows of 300 bytes and five columns, both by the size of their messages.
    """
    label = f"a table of {COLUMNS} columns"
    table = _table_by_bytes("wide table", label)
    return await _compare(
        table,
        label,
        rig,
        Run("without", rig.database),
        Run("with", partial(_with_columns, rig), _wide(), EVENTS // 5, TRANSACTIONS // 5),
    )


def _wide() -> Writes:
    values = ("i", "'text ' || i", "now()", "i / 100.0")
    return Writes(f"insert into wide_{{variant}} values ({', '.join(values * (COLUMNS // 4))})")


@asynccontextmanager
async def _with_columns(rig: Rig) -> AsyncIterator[Database]:
    types = ("integer", "text", "timestamptz", "numeric(12, 2)")
    columns = ", ".join(f"column_{n} {types[n % 4]}" for n in range(COLUMNS))
    async with rig.database() as database:
        async with connect(database.dsn) as owner:
            for variant in ("none", "pgoutbox"):
                await owner.execute(f"create table wide_{variant} ({columns})")
        rig.install(database, "wide_pgoutbox")
        yield database


async def run_large_rows(rig: Rig) -> list[Table]:
    """Write rows of a megabyte that can't be compressed.

    Against rows of 300 bytes, both by the size of their messages.
    """
    label = "rows of 1 MB"
    table = _table_by_bytes("large rows", label)
    large = sized(LARGE_ROW, warm_up=10)
    return await _compare(
        table,
        label,
        rig,
        Run("without", rig.database),
        Run("with", rig.database, large, LARGE_ROWS, LARGE_ROWS // 4),
    )


def _table(title: str, label: str, note: str = "") -> Table:
    columns = (
        Column("pgoutbox/s without", "without_per_s", digits=0),
        Column("with", "with_per_s", digits=0),
        Column("ratio", "with_per_s", per="without_per_s", digits=2),
        Column("writer + µs without", "without_over_us"),
        Column("with", "with_over_us"),
        Column("ratio", "with_over_us", per="without_over_us", digits=2),
        *CPU_COLUMNS,
        Column("relay MiB", "relay_mib"),
    )
    note = f"writer +: CPU of a single-row transaction over no trigger{note}"
    goals = _goals(label, ("per_s", "/s"), ("over_us", " µs"))
    return Table(title, columns, note, goals=goals)


def _table_by_bytes(title: str, label: str) -> Table:
    columns = (
        Column("MB/s without", "without_mb_per_s"),
        Column("with", "with_mb_per_s"),
        Column("ratio", "with_mb_per_s", per="without_mb_per_s", digits=2),
        Column("writer + µs/kB without", "without_us_per_kb"),
        Column("with", "with_us_per_kb"),
        Column("ratio", "with_us_per_kb", per="without_us_per_kb", digits=2),
        *CPU_COLUMNS,
        Column("relay MiB", "relay_mib"),
    )
    note = "without: rows of 300 bytes; writer +: CPU over no trigger; all by size of the message"
    goals = _goals(label, ("mb_per_s", " MB/s"), ("us_per_kb", " µs/kB"))
    return Table(title, columns, note, goals=goals)


def _goals(label: str, rate: tuple[str, str], price: tuple[str, str]) -> list[Goal]:
    """Return goals for two figures, each given with its unit."""

    def goal(what: str, figure: str, unit: str, bound: float, *, at_most: bool) -> Goal:
        return Goal(
            f"{label}: {what}",
            label,
            f"with_{figure}",
            bound,
            per=f"without_{figure}",
            unit=unit,
            at_most=at_most,
            digits=0 if unit == "/s" else 1,
            has_cpu=not at_most,
        )

    least, most = WITHIN
    return [
        goal("drain", *rate, least, at_most=False),
        goal("writer", *price, most, at_most=True),
    ]


async def _compare(
    table: Table, label: str, rig: Rig, without: Run, with_it: Run, runs: int | None = None
) -> list[Table]:
    """Measure both, as often as the rig says; the CPU time in a row is that of ``with_it``."""
    for _ in range(runs or rig.runs):
        row: dict[str, float] = {}
        for run in (without, with_it):
            async with run.database() as database:
                figures = await _measure(rig, run, database)
            row |= {f"{run.name}_{name}": value for name, value in figures.items()}
        row |= {name: figures[name] for name in ("relay_us", "postgres_us", "nats_us", "relay_mib")}
        table.add(label, **row)
    return [table]


async def _measure(rig: Rig, run: Run, database: Database) -> dict[str, float]:
    count = await fill(database, run.writes, rig.scaled(run.events))
    figures = await drain(rig, database, count)
    figures |= await overhead(database, run.writes, rig.scaled(run.transactions))
    return figures | {
        "mb_per_s": figures["bytes_per_s"] / 1e6,
        "us_per_kb": figures["over_us"] / figures["message_bytes"] * 1e3,
    }
