"""The script for a DBA: all that ``install`` would run, made without a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgoutbox import __version__
from pgoutbox.database import schema
from pgoutbox.locks import INSTALL_LOCK


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
        relation = f"{schema.literal(table)}::pg_catalog.regclass"
        parts.append(_perform(_capture(relation, actions, old_values)))
    for name, actions in (filtered or {}).items():
        if actions:
            call = _capture("t.relation", actions, old_values, widen=True)
            named = f"pgoutbox.tables_named(array[{schema.literal(name)}]) t"
            parts.append(_perform(f"{call} from {named}"))
    if not tables:
        successors = "pgoutbox.uncaptured('{}') u where u.is_successor"
        parts.append(_perform(f"pgoutbox.capture_table(u.relation) from {successors}"))
    for role in grant_relay:
        role_literal = f"{schema.literal(quoted(role))}::pg_catalog.regrole"
        parts.append(_perform(f"pgoutbox.grant_relay({role_literal})"))
    return "\n".join(parts)


def _capture(
    relation: str, actions: Sequence[str] | None, old_values: str | None, *, widen: bool = False
) -> str:
    """Return the call of ``pgoutbox.capture_table`` with the options that are given."""
    options = {
        "actions": schema.literal("{" + ",".join(actions) + "}") if actions else None,
        "old_values": schema.literal(old_values) if old_values else None,
        "widen": "true" if widen else None,
    }
    given = [f"{name} => {value}" for name, value in options.items() if value]
    return f"pgoutbox.capture_table({', '.join([relation, *given])})"


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
        else f"exists (select from pgoutbox.migration m where m.number = {number})"  # noqa: S608
        " or not exists (select from pgoutbox.migration)"
        f" and {schema.MIGRATIONS_OF_COPY} >= {number}"
    )
    values = f"{number}, {schema.literal(migration.name)}, {schema.literal(migration.breaking)}"
    record = (
        "    insert into pgoutbox.migration (number, name, breaking)\n"  # noqa: S608 - our constants
        f"    values ({values});"
    )
    steps = [f"    execute {tag}\n{migration.sql}{tag};", record]
    if number > 1:
        steps.reverse()
    body = "\n".join(steps)
    return _do(f"begin\nif not {exists} then\n{body}\nend if;\nend")


def quoted(name: str) -> str:
    """Return ``name`` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'
