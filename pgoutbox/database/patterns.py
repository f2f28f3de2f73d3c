"""Patterns of tables in the database: which are kept, and what matches them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database.tables import Table, printable
from pgoutbox.errors import InstallError
from pgoutbox.patterns import Pattern

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Actions = Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Match:
    """A table that matches a pattern that is kept; ``may_capture`` where it can be captured."""

    table: Table
    pattern: str
    actions: Actions
    old_values: str | None
    fires_always: bool | None
    is_captured: bool
    may_capture: bool
    is_new_schema: bool


async def keep(
    conn: Connection,
    patterns: Sequence[Pattern],
    excepted: Sequence[Pattern],
    actions: Actions,
    old_values: str | None,
    fires_always: bool | None,
) -> list[Match]:
    """Keep the patterns, and return what matches them.

    One without a schema means those in which PostgreSQL looks for a name, in a session of this
    role.
    """
    kept = [each for pattern in patterns for each in await _qualified(conn, pattern)]
    for pattern in kept:
        await conn.execute(
            "select pgoutbox.keep_pattern($1, $2, $3, $4::text::jsonb, $5, $6, $7)",
            pattern.text,
            pattern.schema,
            pattern.table,
            as_json(excepted),
            actions,
            old_values,
            fires_always,
        )
    names = {pattern.text for pattern in kept}
    return [match for match in await matches(conn) if match.pattern in names]


async def matches(conn: Connection) -> list[Match]:
    """Return what matches the patterns that are kept."""
    rows = await conn.fetch(
        "select c.oid, m.relation::text as name, c.relkind = 'p' as is_partitioned, m.*"
        " from pgoutbox.pattern_matches() m join pg_catalog.pg_class c on c.oid = m.relation"
        " order by 2"
    )
    return [
        Match(
            Table(row["oid"], row["name"], row["is_partitioned"]),
            row["pattern"],
            row["actions"],
            row["old_values"],
            row["fires_always"],
            row["is_captured"],
            row["may_capture"],
            row["is_new_schema"],
        )
        for row in rows
    ]


async def forget(conn: Connection, pattern: Pattern) -> list[Table]:
    """Keep a pattern no longer; return the captured tables that match it.

    Raises:
        InstallError: neither is there.
    """
    qualified = await _qualified(conn, pattern)
    likes = [each.schema for each in qualified], [each.table for each in qualified]
    is_kept = await conn.fetchval(_IS_KEPT, *likes)
    rows = await conn.fetch(_FORGET, *likes)
    if not (is_kept or rows):
        raise InstallError(
            f"{printable(pattern.text)} isn't kept, and no captured table matches it",
            hint="Nothing was changed. See: pgoutbox status",
        )
    return [Table(row["oid"], row["name"], row["is_partitioned"]) for row in rows]


_IS_KEPT = """
select exists (
    select from pgoutbox.captured_pattern p
    join unnest($1::text[], $2::text[]) l (schema_like, table_like)
        on (p.wanted).schema_like = l.schema_like and (p.wanted).table_like = l.table_like
)
"""

_FORGET = """
select c.oid, c.oid::regclass::text as name, c.relkind = 'p' as is_partitioned
from unnest($1::text[], $2::text[]) l (schema_like, table_like)
cross join lateral pgoutbox.forget_pattern(l.schema_like, l.table_like) f (relation)
join pg_catalog.pg_class c on c.oid = f.relation
"""


async def _qualified(conn: Connection, pattern: Pattern) -> list[Pattern]:
    if pattern.schema is not None:
        return [pattern]
    rows = await conn.fetch(
        "select pg_catalog.quote_ident(s) as name, pgoutbox.like_literal(s) as like"
        " from unnest(pgoutbox.role_schemas()) s"
    )
    return [Pattern(f"{row['name']}.{pattern.text}", row["like"], pattern.table) for row in rows]


def as_json(excepted: Sequence[Pattern]) -> str:
    """Return patterns as rows of pgoutbox.table_pattern; without a schema any schema's."""
    return json.dumps(
        [
            {
                "pattern": pattern.text,
                "schema_like": pattern.schema or "%",
                "table_like": pattern.table,
            }
            for pattern in excepted
        ]
    )


def about(patterns: Sequence[Pattern], found: Sequence[Match]) -> Iterator[str]:
    """Yield what is to be said of patterns that were given, and of what matches them."""
    if patterns and not found:
        texts = ", ".join(printable(pattern.text) for pattern in patterns)
        yield f"{texts}: no table matches yet"
    left_out = [printable(match.table.name) for match in found if not match.may_capture]
    if left_out:
        more = ", …" if len(left_out) > 5 else ""
        yield (
            f"left out, since others own them: {', '.join(left_out[:5])}{more};"
            " their owners can capture them: --grant-capture"
        )
