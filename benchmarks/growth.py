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

    Against the backlog of 100,000 events of the same run. The time counts from the relay's line
    "connected to NATS", so that all reading is in it, to the last message stored. What a relay
    needs anyway, before its first batch is stored, is measured with a backlog of one transaction,
    and left out.
    """
    columns = (
        Column("pgoutbox/s", "rate", digits=0),
        Column(f"÷ at {rig.scaled(REFERENCE):,}", "rate", per="reference", digits=2),
        *CPU_COLUMNS,
        Column("relay MiB", "relay_mib"),
        Column("first event ms", "first_ms", digits=0),
    )
    note = (
        "from the first reading to the last message stored; µs: CPU time of each process per event,"
        " the relay's with its start; the largest backlog: one run"
    )
    table = Table("growth of the backlog", columns, note)
    for run in range(rig.runs):
        least = await _drained(rig, TRANSACTION)
        sizes = [size for size in SIZES if run == 0 or size < ONCE_FROM]
        measured = {size: await _drained(rig, rig.scaled(size)) for size in sizes}
        rates = {size: _rate(figures, least) for size, figures in measured.items()}
        for size, figures in measured.items():
            row = figures | {"rate": rates[size], "reference": rates[REFERENCE]}
            table.add(_label(rig, size), **row)
    table.goals = [_flat(rig, size) for size in SIZES if size != REFERENCE]
    return [table]


def _rate(figures: dict[str, float], least: dict[str, float]) -> float:
    """Return events a second beyond what a relay needs for the least backlog."""
    seconds = max(figures["seconds"] - least["seconds"], 0.001)
    return (figures["events"] - least["events"]) / seconds


def _label(rig: Rig, size: int) -> str:
    return f"{rig.scaled(size):,} events"


def _flat(rig: Rig, size: int) -> Goal:
    what = f"growth, {_label(rig, size)} against {rig.scaled(REFERENCE):,}"
    return Goal(what, _label(rig, size), "rate", FLAT, per="reference", unit="/s", digits=0)


async def _drained(rig: Rig, events: int) -> dict[str, float]:
    async with rig.database() as database:
        written = await fill(database, batches(TRANSACTION), events)
        return {"events": written, **await drain(rig, database, written)}
