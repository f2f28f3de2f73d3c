"""Which tables a name means."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.config.settings import InstallConfig
from pgoutbox.errors import InstallError, one_a_line
from pgoutbox.names import Column, DescribedTable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as PostgreSQL found it; ``name`` is qualified and quoted."""

    oid: int
    name: str
    is_partitioned: bool = False
    is_there: bool = True  # False: captured once, dropped since


async def resolve(conn: Connection, names: Sequence[str]) -> list[Table]:
    """Find tables as PostgreSQL does in a session of this role; InstallError names all missing.

    ``users``, ``billing.invoices``, ``"Odd Name"."T"``; each table once.
    """
    found: dict[int, Table] = {}
    problems: list[str] = []
    oids = [(name, await _find(conn, name)) for name in names]
    for name, oid in oids:
        problem = await _describe(conn, name, oid, found)
        problems += [problem] if problem else []
    if problems:
        raise InstallError(
            one_a_line(problems, "names can't be used"),
            hint=f"Nothing was changed.{_how_to_name([name for name, oid in oids if not oid])}",
        )
    return list(found.values())


def _how_to_name(missing: Sequence[str]) -> str:
    if any("," in name for name in missing):
        return " Give --table once for each table."
    if missing:
        return (
            " Names are read as PostgreSQL reads them:"
            " capitals and special characters need double quotes."
        )
    return ""


async def _find(conn: Connection, name: str) -> int | None:
    try:
        oid: int | None = await conn.fetchval("select pgoutbox.relation_named($1)", name)
    except asyncpg.DataError:  # not even Unicode
        return None
    return oid


async def oid_of(conn: Connection, name: str) -> int | None:
    """Return the OID of the relation that ``name`` means; None where there is none."""
    oid: int | None = await conn.fetchval("select pg_catalog.to_regclass($1)::oid", name)
    return oid


async def _describe(
    conn: Connection, name: str, oid: int | None, found: dict[int, Table]
) -> str | None:
    """Add the table to ``found``, or return what is wrong with it."""
    if oid is None:
        return f"there is no table {printable(name)}{await _similar(conn, name)}"
    row = await conn.fetchrow(
        "select c.oid::regclass::text as name, c.relkind = 'p' as is_partitioned,"
        " pgoutbox.why_not_capture(c.oid) as problem"
        " from pg_catalog.pg_class c where c.oid = $1",
        oid,
    )
    if row is None:
        return f"there is no table {printable(name)}"
    if row["problem"] is None:
        found[oid] = Table(oid, row["name"], row["is_partitioned"])
    problem: str | None = row["problem"]
    return problem


def printable(name: str) -> str:
    """Return ``name`` without anything that a terminal would act on."""
    return name if name.isprintable() else repr(name)


async def _similar(conn: Connection, name: str) -> str:
    rows = await conn.fetch(
        "select c.oid::regclass::text as full_name, c.relname"
        " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'p') and n.nspname !~ '^pg_'"
        " and n.nspname not in ('information_schema', 'pgoutbox') limit 10000"
    )
    names = {row["full_name"].lower(): row["full_name"] for row in rows}
    names |= {row["relname"].lower(): row["full_name"] for row in rows}
    close = difflib.get_close_matches(name.lower().replace('"', ""), names, n=1, cutoff=0.7)
    return f" (did you mean {names[close[0]]}?)" if close else ""


async def tables_of_filter(
    conn: Connection, settings: InstallConfig, warn: Say
) -> dict[Table, Sequence[str] | None]:
    """Return the tables of wal-listener's filter, which names them without their schema."""
    named = settings.actions_by_name
    rows = await conn.fetch(
        "select t.relation::oid as oid, t.relation::text as full_name, t.name, t.is_partitioned"
        " from pgoutbox.tables_named($1) t",
        list(named),
    )
    found = {row["name"] for row in rows}
    for name in settings.tables:
        if not found & {name, name.lower()}:
            warn(f"{printable(name)}: the filter names it, but no schema has such a table yet")
    return {
        Table(row["oid"], row["full_name"], row["is_partitioned"]): named[row["name"]]
        for row in rows
        if named[row["name"]]
    }


async def successors(conn: Connection) -> list[Table]:
    """Return the tables that have taken the names of captured ones, and aren't captured."""
    rows = await conn.fetch(
        "select u.relation::oid as oid, u.relation::text as name, c.relkind = 'p' as is_partitioned"
        " from pgoutbox.uncaptured('{}') u join pg_catalog.pg_class c on c.oid = u.relation"
        " where u.is_successor order by 2"
    )
    return [Table(row["oid"], row["name"], row["is_partitioned"]) for row in rows]


async def captured_tables(conn: Connection) -> list[Table]:
    """Return all captured tables, those that were dropped included."""
    rows = await conn.fetch(
        "select t.relation::oid as oid, t.schema_name, t.table_name, c.relkind::text as kind,"
        " coalesce(c.oid::regclass::text, pg_catalog.format('%I.%I', t.schema_name, t.table_name))"
        " as name from pgoutbox.captured_table t"
        " left join pg_catalog.pg_class c on c.oid = t.relation order by t.number"
    )
    return [
        Table(row["oid"], row["name"], row["kind"] == "p", row["kind"] is not None) for row in rows
    ]


async def resolve_captured(conn: Connection, names: Sequence[str]) -> list[Table]:
    """Find tables to release; also by the name of a captured table that was dropped."""
    gone = {name: found for name in names if (found := await _dropped(conn, name))}
    return [*gone.values(), *await resolve(conn, [name for name in names if name not in gone])]


async def _dropped(conn: Connection, name: str) -> Table | None:
    """Return the captured table of that name, with or without its schema, if it was dropped."""
    dropped = [table for table in await captured_tables(conn) if not table.is_there]
    if not dropped:
        return None
    try:
        parts = await conn.fetchval("select pg_catalog.parse_ident($1)", name)
    except (asyncpg.InvalidParameterValueError, asyncpg.DataError):
        return None
    rows = await conn.fetch(
        "select c.relation::oid as oid from pgoutbox.captured_table c"
        " where array[c.schema_name, c.table_name] = $1 or array[c.table_name] = $1",
        parts,
    )
    oids = {row["oid"] for row in rows}
    return next((table for table in dropped if table.oid in oids), None)


async def described(conn: Connection, names: Sequence[str]) -> list[DescribedTable]:
    """Return the named captured tables, or all of them, with the columns that events carry.

    Raises:
        InstallError: one isn't there, or isn't captured.

    """
    asked = {table.oid: table.name for table in await resolve(conn, names)}
    rows = await conn.fetch(_DESCRIBED, list(asked) if names else None)
    missing = [name for oid, name in asked.items() if oid not in {row["oid"] for row in rows}]
    if missing:
        raise InstallError(
            f"{missing[0]} isn't captured", hint="Capture it first: pgoutbox install --table NAME"
        )
    return [
        DescribedTable(
            row["schema_name"],
            row["table_name"],
            tuple(row["actions"]),
            row["old_values"],
            tuple(map(Column, row["names"], row["types"], row["not_nulls"])),
        )
        for row in rows
    ]


_DESCRIBED = """
select t.relation::oid as oid, t.schema_name, t.table_name, t.actions, t.old_values,
    c.names, c.types, c.not_nulls
from pgoutbox.captured_table t
join pg_catalog.pg_class r on r.oid = t.relation
cross join lateral (
    select array_agg(a.attname::text order by k.n) as names,
        array_agg(pg_catalog.format_type(a.atttypid, null) order by k.n) as types,
        array_agg(a.attnotnull order by k.n) as not_nulls
    from pgoutbox.captured_columns(t.relation, 'new')
        with ordinality k (name, expression, settings, n)
    join pg_catalog.pg_attribute a on a.attrelid = t.relation and a.attname = k.name
) c
where $1::oid[] is null or t.relation = any ($1)
order by t.schema_name, t.table_name
"""


# Those before ours in the order in which PostgreSQL fires them: of names, byte by byte.
EARLIER_TRIGGERS = """
select pg_catalog.format('%s on %s', t.tgname, t.tgrelid::regclass) as name
from pg_catalog.pg_trigger t
where t.tgrelid = any ($1::oid[]) and not t.tgisinternal and t.tgenabled <> 'D'
  and t.tgtype & 1 = 1 and t.tgtype & 66 = 0 and t.tgname < '00_pgoutbox' collate "C"
order by 1
"""
