"""What choosing rows, columns and context costs a writer, in instructions beyond plain capture."""

from __future__ import annotations

from benchmarks.instructions import WORKS, cost, require_valgrind, stopped
from benchmarks.report import Column, Table
from benchmarks.rig import Database, Rig, connect

CHOICES = {
    "nothing, beside tables with a choice": (),
    "--where, met": ("--where", "name <> ''"),
    "--where, not met": ("--where", "name = ''"),
    "--columns id,name": ("--columns", "id,name"),
    "--hash-column note": ("--hash-column", "note"),
}
MEASURED = ("single-row transaction", "a row of INSERT … SELECT")
COLUMNS = (
    Column("single-row transaction", "single-row transaction", digits=1),
    Column("a row of INSERT … SELECT", "a row of INSERT … SELECT", digits=1),
)


async def run(rig: Rig) -> list[Table]:
    """Count the instructions of backends that write captured tables, by callgrind.

    Each table beside one with nothing chosen that was measured before any other was captured; see
    :func:`benchmarks.instructions.run`.
    """
    require_valgrind()
    table = Table(
        "writers: thousand instructions beyond plain capture",
        COLUMNS,
        "an INSERT into a table of five columns; --context is of the installation",
    )
    async with rig.database() as database:
        plain = _costs(rig, database, "item_pgoutbox")
        table.add(
            "plain capture, over no trigger", **_over(plain, _costs(rig, database, "item_none"))
        )
        names = [await _captured(rig, database, *CHOICES[label]) for label in CHOICES]
        for label, name in zip(CHOICES, names, strict=True):
            table.add(label, **_over(_costs(rig, database, name), plain))
        rig.install(database, "item_pgoutbox", flags=("--context",))
        table.add("--context", **_over(_costs(rig, database, "item_pgoutbox"), plain))
    return [table]


async def _captured(rig: Rig, database: Database, *flags: str) -> str:
    """Make a table like the others, and capture what ``flags`` choose of it; return its name."""
    async with connect(database.dsn) as owner:
        count = await owner.fetchval("select count(*) from pg_class where relname ~ '^chosen'")
        name = f"chosen{count}"
        await owner.execute(f"create table {name} (like item_none including all)")
    rig.install(database, name, flags=flags)
    return name


def _costs(rig: Rig, database: Database, table: str) -> dict[str, float]:
    with stopped(rig):
        works = [work for work in WORKS if work.name in MEASURED]
        return {work.name: cost(rig, database, work, table) for work in works}


def _over(costs: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    return {name: costs[name] - others[name] for name in costs}
