"""Whether a larger backlog makes the relay slower."""

from __future__ import annotations

from benchmarks.drain import CPU_COLUMNS, drain
from benchmarks.fill import batches, fill
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import Rig

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # events
REFERENCE = 100_000
ONCE_FROM = 10_000_000  # a backlog so large is drained in the first run only
TRANSACTION = 10  # events

# What keeps its rate flat within 15 %.
FLAT = 0.85


async def run(rig: Rig) -> list[Table]:
    """Drain backlogs of very different sizes, all of transactions of ten rows.

    Against the backlog of 100,000 events of the same run. Here the time counts from the relay's
    line "connected to NATS" on: the first batch is read after it, and of a small backlog that is
    all the reading there is. What is on its way while the next batch is read makes a backlog of
    one batch slower than one of many.
    """
    table = Table(
        "growth of the backlog",
        (
            Column("pgoutbox/s", "with_reading_per_s", digits=0),
            Column(
                f"÷ at {rig.scaled(REFERENCE):,}",
                "with_reading_per_s",
                per="reference_per_s",
                digits=2,
            ),
            *CPU_COLUMNS,
            Column("relay MiB", "relay_mib"),
            Column("first event ms", "first_ms", digits=0),
        ),
        note="from the first reading to the last message stored; µs: CPU time of each process per event, the relay's with its start; the largest"
        " backlog: one run",
    )
    for run in range(rig.runs):
        sizes = [size for size in SIZES if run == 0 or size < ONCE_FROM]
        figures = {size: await _drained(rig, rig.scaled(size)) for size in sizes}
        for size, measured in figures.items():
            reference = figures[REFERENCE]["with_reading_per_s"]
            table.add(_label(rig, size), reference_per_s=reference, **measured)
    table.goals = [_flat(rig, size) for size in SIZES if size != REFERENCE]
    return [table]


def _label(rig: Rig, size: int) -> str:
    return f"{rig.scaled(size):,} events"


def _flat(rig: Rig, size: int) -> Goal:
    what = f"growth, {_label(rig, size)} against {rig.scaled(REFERENCE):,}"
    per = "reference_per_s"
    return Goal(what, _label(rig, size), "with_reading_per_s", FLAT, per=per, unit="/s", digits=0)


async def _drained(rig: Rig, events: int) -> dict[str, float]:
    async with rig.database() as database:
        written = await fill(database, batches(TRANSACTION), events)
        return {"events": written, **await drain(rig, database, written)}
