"""What a write costs in instructions, which a busy machine doesn't change."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.fill import VARIANTS
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import NOTE, OWNER, Database, Failed, Rig, connect
from pgoutbox.demo.process import guarded, unprivileged_user

FEW, MANY = 100, 400  # of what is measured: the difference is what one costs
COLUMNS = (
    Column("no trigger", "none"),
    Column("usual +", "usual_over"),
    Column("pgoutbox +", "pgoutbox_over"),
    Column("+ ÷ +", "pgoutbox_over", per="usual_over", digits=2),
)
# A session of a superuser would be spared the look at rights at each function that it calls.
OPENING = (f"set session authorization {OWNER}", "set synchronous_commit = off")
WIDTHS = (10, 30)
KINDS = ("integer default 7", "text default 'text'", "bigint default 7", "boolean default true",
         "timestamptz default now()")  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Statements of which ``count`` units are made, each on a line; and what one may cost."""

    name: str
    statements: Callable[[str, int], list[str]]
    goal: float
    beyond: float | None = None
    table: str = "item"
    few: int = FEW
    many: int = MANY


def _insert(table: str, rows: int, number: str = "i") -> str:
    return (
        f"insert into {table} (name, note)"
        f" select 'row ' || {number}, '{NOTE}' from generate_series(1, {rows}) {number}"
    )


def _loop(statement: str, count: int) -> str:
    return f"do $$ begin for n in 1..{count} loop {statement}; commit; end loop; end $$"


def _single(table: str, count: int) -> list[str]:
    one = f"insert into {table} (name, note) values ('row ' || n, '{NOTE}')"
    return [_loop(one, 50), _loop(one, count)]


def _ten(table: str, count: int) -> list[str]:
    return [_loop(_insert(table, 10), 5), _loop(_insert(table, 10), count)]


def _bulk(table: str, count: int) -> list[str]:
    return [_insert(table, 50), _insert(table, count)]


def _update(table: str, count: int) -> list[str]:
    change = f"update {table} set name = name || '!', updated_at = now()"
    fill = [
        f"truncate {table}",
        f"alter table {table} disable trigger all",
        _insert(table, count),
        f"alter table {table} enable trigger all",
    ]
    return [f"truncate {table}", _insert(table, 50), change, *fill, change]


def _first(table: str, count: int) -> list[str]:
    return [f"insert into {table} (name, note) values ('row', 'x')"] * count


WORKS = (
    Work("single-row transaction", _single, 1.6, 1.3),
    *(
        Work(f"single-row transaction, {width} columns", _single, goal, table=f"wide{width}")
        for width, goal in zip(WIDTHS, (1.4, 1.2), strict=True)
    ),
    Work("transaction of 10 rows", _ten, 1.0),
    Work("a row of INSERT … SELECT", _bulk, 0.8, 0.6),
    Work("a row of UPDATE", _update, 0.8, 0.6),
    Work("first INSERT of a session", _first, 2.0, few=0, many=1),
)


async def run(rig: Rig) -> list[Table]:
    """Count the instructions of backends that write, by callgrind.

    Against the same table with the usual outbox trigger and without any; see
    :func:`benchmarks.writers.run`. Each is the difference between two runs of a single-user
    backend, which do the same a few times and many times.
    """
    require_valgrind()  # before anything is made
    table = Table(
        "writers: thousand instructions of the backend",
        COLUMNS,
        "usual: outbox trigger with serial key, jsonb_build_object, pg_notify; +: over no trigger",
    )
    async with rig.database() as database:
        await _make_wide_tables(rig, database)
        with stopped(rig):
            for work in WORKS:
                costs = {v: cost(rig, database, work, f"{work.table}_{v}") for v in VARIANTS}
                over = {f"{v}_over": costs[v] - costs["none"] for v in VARIANTS[1:]}
                table.add(work.name, **costs, **over)
    table.goals = [
        Goal(
            f"writers, instructions, {work.name}",
            work.name,
            "pgoutbox_over",
            work.goal,
            work.beyond,
            per="usual_over",
            at_most=True,
            unit="k",
        )
        for work in WORKS
    ]
    return [table]


async def _make_wide_tables(rig: Rig, database: Database) -> None:
    async with connect(database.dsn) as owner:
        for width in WIDTHS:
            more = "".join(f", c{n} {KINDS[n % len(KINDS)]}" for n in range(width - 5))
            for variant in VARIANTS:
                await owner.execute(
                    f"create table wide{width}_{variant} (like item_none including all{more})"
                )
            await owner.execute(
                "create trigger write_outbox after insert or update or delete"
                f" on wide{width}_usual for each row execute function write_outbox()"
            )
    rig.install(database, *(f"wide{width}_pgoutbox" for width in WIDTHS))


@contextmanager
def stopped(rig: Rig) -> Iterator[None]:
    """Have PostgreSQL stopped for a while: its data belong to one backend then."""
    rig.postgres.stop()
    try:
        yield
    finally:
        rig.postgres.restart()


def cost(rig: Rig, database: Database, work: Work, table: str) -> float:
    """Return what one unit costs in a table, in thousand instructions."""
    few, many = (
        _instructions(rig, database, work.statements(table, count))
        for count in (work.few, work.many)
    )
    return (many - few) / (work.many - work.few) / 1000


def require_valgrind() -> str:
    """Return the path of valgrind, or raise that there is none."""
    found = shutil.which("valgrind")
    if found is None:
        raise Failed("valgrind isn't installed: instructions can't be counted")
    return found


def _instructions(rig: Rig, database: Database, statements: list[str]) -> int:
    done = subprocess.run(
        guarded(
            [
                *(require_valgrind(), "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                *(rig.postgres.bin / "postgres", "--single", "-D", rig.postgres.data),
                database.name,
            ],
            user=unprivileged_user(),
        ),
        cwd="/",
        input="\n".join([*OPENING, *statements, ""]),
        capture_output=True,
        text=True,
    )
    printed = done.stdout + done.stderr
    counted = re.search(r"Collected : (\d+)", printed)
    if counted is None or "ERROR" in printed:
        raise Failed(f"a single-user backend failed: {printed.strip()[-500:]}")
    return int(counted[1])
