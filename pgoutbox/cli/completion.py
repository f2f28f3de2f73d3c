"""What a shell completes: names of tables and relays, as the database has them.

Quick and silent: a shell waits for it, and has no place for what is wrong.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

_PATIENCE = 2.0  # seconds
_MOST = 1000  # names

_RELAYS = """
select p.relay as name from pgoutbox.progress p where pg_catalog.starts_with(p.relay, $1)
order by 1 limit $2
"""

# Bare names, too, of tables that are found without their schema as a rule.
_NAMES = """
select n.name
from {tables} t (schema_name, table_name)
cross join lateral (
    select pg_catalog.format('%I.%I', t.schema_name, t.table_name)
    union all
    select pg_catalog.quote_ident(t.table_name) where t.schema_name in ('public', current_user)
) n (name)
where pg_catalog.starts_with(n.name, $1)
order by 1 limit $2
"""

_CAPTURED = "(select c.schema_name, c.table_name from pgoutbox.captured_table c)"

_ANY = """(
    select s.nspname::text, c.relname::text
    from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = c.relnamespace
    where c.relkind in ('r', 'p') and s.nspname !~ '^pg_'
      and s.nspname not in ('information_schema', 'pgoutbox'))
"""


def tables(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return names of tables that begin so: of captured ones where only these make sense."""
    is_any = ctx.info_name in ("install", "doctor")
    return _names(ctx, _NAMES.format(tables=_ANY if is_any else _CAPTURED), incomplete)


def relays(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return names of relays that begin so."""
    return _names(ctx, _RELAYS, incomplete)


def _names(ctx: click.Context, query: str, incomplete: str) -> list[str]:
    given: dict[str, Any] = {}
    for context in (ctx.find_root(), ctx):
        given |= {
            name: value
            for name, value in context.params.items()
            if name in ("dsn", "dsn_file", "file") and value is not None
        }
    try:
        return asyncio.run(asyncio.wait_for(_ask(given, query, incomplete), _PATIENCE))
    except Exception:  # whatever it is, there is nobody to tell
        return []


async def _ask(given: dict[str, Any], query: str, incomplete: str) -> list[str]:
    from pgoutbox.config import load
    from pgoutbox.database import connection

    file = given.pop("file", None) or os.environ.get("PGOUTBOX_CONFIG")
    config = load.load(given, os.environ, Path(file) if file else None)
    async with connection.session(config.database, purpose="complete", primary=False) as conn:
        return [row["name"] for row in await conn.fetch(query, incomplete, _MOST)]
