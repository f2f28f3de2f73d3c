"""The script for a DBA: all that ``install`` would run, made without a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgoutbox import __version__
from pgoutbox.database import schema
from pgoutbox.locks import INSTALL_LOCK
from pgoutbox.names import ACTIONS


def print_sql(
    tables: Mapping[str, Sequence[str] | None],
    old_values: str | None = None,
    grant_relay: Sequence[str] = (),
    *,
    filtered: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return all that `install` would run, as a script for ``psql -1 -v ON_ERROR_STOP=1``.

    Made without a connection. It can be applied again and leaves what is as it should be.
    ``tables`` and their actions; names are found by the search_path of the session that
    applies the script. ``filtered`` are names without a schema, to be found in all of them.
    Actions and old values that are None stay as they are.
    """
    parts = [_HEADER]
    parts += [_guarded(migration) for migration in schema.migrations()]
    parts += [text if text.endswith("\n") else text + "\n" for text in schema.function_statements()]
    parts.append(_RESTORE_PATH)
    for table, actions in tables.items():
        parts.append(
            _perform(_capture(f"{literal(table)}::pg_catalog.regclass", actions, old_values))
        )
    for name, actions in (filtered or {}).items():
        if actions:
            parts.append(_capture_filtered(name, actions, old_values))
    for role in grant_relay:
        role_literal = f"{literal(quoted(role))}::pg_catalog.regrole"
        parts.append(_perform(f"pgoutbox.grant_relay({role_literal})"))
    return "\n".join(parts)


def _capture(
    table: str, actions: Sequence[str] | None, old_values: str | None, *, widens: bool = False
) -> str:
    def installed(column: str, default: str) -> str:
        return (
            f"coalesce((select t.{column} from pgoutbox.captured_table t"  # noqa: S608 - our names
            f" where t.relation = {table}), {default})"
        )

    wanted = literal("{" + ",".join(actions or ACTIONS) + "}")
    if actions is None:
        wanted = installed("actions", wanted)
    elif widens:
        wanted = f"{installed('actions', literal('{}'))} || {wanted}::text[]"
    values = literal(old_values) if old_values else installed("old_values", "'full'")
    return f"pgoutbox.capture_table({table}, {wanted}, {values})"


def _capture_filtered(name: str, actions: Sequence[str], old_values: str | None) -> str:
    return _perform(
        _capture("c.oid::pg_catalog.regclass", actions, old_values, widens=True)
        + "\n    from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        f"\n    where c.relname = {literal(name)} and c.relkind in ('r', 'p')"
        " and c.relpersistence <> 't'\n    and n.nspname !~ '^pg_'"
        " and n.nspname not in ('information_schema', 'pgoutbox')\n    order by n.nspname"
    )


def _perform(expression: str) -> str:
    """Return a statement that evaluates ``expression`` and shows nothing."""
    return _do(f"begin\n    perform {expression};\nend")


def _do(body: str) -> str:
    tag = "$do$"
    while tag in body:  # a name may hold it
        tag = f"$do{len(tag)}{tag[1:]}"
    return f"do {tag} {body} {tag};\n"


_HEADER = f"""\
-- pgoutbox {__version__}: what `pgoutbox install` runs. Apply it with
--     psql -1 -v ON_ERROR_STOP=1 -f this-file
-- as the owner of the tables, with the right to create a schema in this database.

set local lock_timeout = '500ms';
set local client_min_messages = warning;
set local standard_conforming_strings = on;
do $$ begin
    perform pg_catalog.set_config(
        'pgoutbox.search_path', pg_catalog.current_setting('search_path'), true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform pg_catalog.pg_advisory_xact_lock{INSTALL_LOCK};
end $$;
"""

_RESTORE_PATH = """\
do $$ begin
    perform pg_catalog.set_config(
        'search_path', pg_catalog.current_setting('pgoutbox.search_path'), true);
end $$;
"""


def _guarded(migration: schema.Migration) -> str:
    """Return a migration that does nothing where the database already has it."""
    number, tag = migration.number, f"$migration_{migration.number:04}$"
    exists = (
        schema.IS_THERE
        if number == 1
        else f"exists (select from pgoutbox.migration m where m.number = {number})"
    )
    record = (
        "    insert into pgoutbox.migration (number, name, breaking)\n"  # noqa: S608 - our constants
        f"    values ({number}, {literal(migration.name)}, {literal(migration.breaking)});"
    )
    steps = [f"    execute {tag}\n{migration.sql}{tag};", record]
    if number > 1:
        steps.reverse()
    body = "\n".join(steps)
    return _do(f"begin\nif not {exists} then\n{body}\nend if;\nend")


def literal(text: str | None) -> str:
    """Return ``text`` as a literal of SQL, right under every setting of the reading session."""
    if text is None:
        return "null"
    if "\0" in text:
        raise ValueError("a name can't hold a NUL character")
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'" + quoted.replace("\\", "\\\\") + "'"


def quoted(name: str) -> str:
    """Return ``name`` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'
