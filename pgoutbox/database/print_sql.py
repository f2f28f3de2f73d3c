"""What ``install`` would run, as SQL that a DBA or a migration tool applies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from pgoutbox import __version__
from pgoutbox.database import ownership, schema
from pgoutbox.database.schema import literal

Actions = Sequence[str] | None  # None: as installed


def print_sql(
    tables: Mapping[str, Actions],
    old_values: str | None = None,
    grants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    context: bool | None = None,
    filtered: Mapping[str, Sequence[str]] | None = None,
    lock_timeout: float = 2.0,
) -> str:
    """Return all that `install` would run, as one statement.

    Made without a connection. It can be applied again and leaves what is as it should be; it
    refuses where the schema is newer. One statement, so that it is done in whole or not at all,
    in a transaction or without. ``tables`` and their actions; names are found by the search_path
    of the session that applies it. ``filtered`` are names without a schema, to be found in all
    of them. Old values and context that are None stay as they are. ``lock_timeout`` is in seconds.
    """
    steps = [
        _SET.format(lock_timeout=f"{max(1, round(lock_timeout * 1000))}ms"),
        _refuse_strangers(),
        _TAKE_TURNS.format(
            make=f"    perform {schema.NOTE_KNOWN_OBJECTS};\n{_migrate(schema.migrations()[0])}",
            is_there=schema.IS_THERE,
        ),
        f"    {schema.LOCK};\n",
        _refuse_newer(),
        *(_migrate(migration) for migration in schema.migrations()[1:]),
        *(_execute(statement) for statement in schema.function_statements()),
        _RESTORE_PATH,
        *(
            f"    perform pgoutbox.capture_sessions({str(wanted).lower()});\n"
            for wanted in (context,)
            if wanted is not None
        ),
        *(f"    perform {call};\n" for call in _captures(tables, old_values, filtered)),
        *(
            f"    perform pgoutbox.grant_{kind}({literal(quoted(role))}::pg_catalog.regrole);\n"
            for kind, roles in grants.items()
            for role in roles
        ),
        _RESTORE,
    ]
    body = f"{_DECLARE}begin\n{''.join(steps)}end\n"
    tag = _tag(body)
    return f"{_HEADER}do {tag}\n{body}{tag};\n"


def print_tables(
    tables: Mapping[str, Actions],
    old_values: str | None = None,
    *,
    filtered: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return what captures the tables where the schema is installed already: a line for each.

    Each does nothing in a database without the schema, and fails where that is older than this
    release. No dollar quotes, no line breaks, and no semicolon at the end of a line but the last:
    what splits or rewrites migrations leaves them alone.
    """
    return "".join(
        "do "
        + literal(
            "begin if pg_catalog.to_regnamespace('pgoutbox') is not null then "
            f"perform pgoutbox.require_release('{__version__}'); perform {call}; end if; end"
        )
        + ";\n"
        for call in _captures(tables, old_values, filtered)
    )


def print_release(table: str) -> str:
    """Return the line that releases a table, where the schema is installed and the table there."""
    name = literal(table)
    return (
        "do "
        + literal(
            "begin if pg_catalog.to_regnamespace('pgoutbox') is not null then "
            "perform pgoutbox.release_table(t.relation) from "
            f"(select pg_catalog.to_regclass({name}) as relation) t where t.relation is not null; "
            "end if; end"
        )
        + ";\n"
    )


def _captures(
    tables: Mapping[str, Actions],
    old_values: str | None,
    filtered: Mapping[str, Sequence[str]] | None,
) -> Iterator[str]:
    """Yield what follows PERFORM for each table."""
    for table, actions in tables.items():
        yield _capture(f"{literal(table)}::pg_catalog.regclass", actions, old_values)
    for name, actions in (filtered or {}).items():
        if actions:
            call = _capture("t.relation", actions, old_values, widen=True)
            yield f"{call} from pgoutbox.tables_named(array[{literal(name)}]) t"
    if not tables:
        successors = "pgoutbox.uncaptured('{}') u where u.is_successor"
        yield f"pgoutbox.capture_table(u.relation) from {successors}"


def _capture(
    relation: str, actions: Actions, old_values: str | None, *, widen: bool = False
) -> str:
    """Return the call of ``pgoutbox.capture_table`` with the options that are given."""
    options = {
        "actions": literal("{" + ",".join(actions) + "}") if actions else None,
        "old_values": literal(old_values) if old_values else None,
        "widen": "true" if widen else None,
    }
    given = [f"{name} => {value}" for name, value in options.items() if value]
    return f"pgoutbox.capture_table({', '.join([relation, *given])})"


_HEADER = f"""\
-- pgoutbox {__version__}: what `pgoutbox install` runs. Apply it with
--     psql -v ON_ERROR_STOP=1 -f this-file
-- as the owner of the tables, with the right to create a schema in this database.

"""

# What is set here is put back at the end, since the rest of the transaction is somebody else's.
_DECLARE = """\
declare
    names constant pg_catalog.text[] := array[
        'search_path', 'lock_timeout', 'client_min_messages', 'check_function_bodies',
        'standard_conforming_strings', 'role'];
    before pg_catalog.text[];
    owned pg_catalog.record;
    installed pg_catalog.text;
"""

_SET = """\
    for n in 1 .. pg_catalog.cardinality(names) loop
        before[n] := pg_catalog.current_setting(names[n]);
    end loop;
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform pg_catalog.set_config('lock_timeout', '{lock_timeout}', true);
    perform pg_catalog.set_config('client_min_messages', 'warning', true);
    perform pg_catalog.set_config('standard_conforming_strings', 'on', true);
"""

# There is nothing yet that could be locked when the schema is made for the first time.
_TAKE_TURNS = """\
    loop
        begin
{make}
            exit;
        exception
            when duplicate_schema or duplicate_table or duplicate_object or unique_violation then
                if not {is_there} then
                    raise;
                end if;
        end;
    end loop;
"""

_RESTORE_PATH = """\
    perform pg_catalog.set_config('search_path', before[1], true);
"""

_RESTORE = """\
    for n in 1 .. pg_catalog.cardinality(names) loop
        perform pg_catalog.set_config(names[n], before[n], true);
    end loop;
"""


def _refuse_strangers() -> str:
    """Return what fails where the schema isn't to be trusted, and else works as its owner."""
    return f"""\
    select o.* into owned from (
{ownership.OWNERSHIP.format(trusted="null")}    ) o;
    if owned.problem is not null then
        raise exception '%', owned.problem using hint = owned.hint;
    end if;
    if owned.work_as is not null then
        perform pg_catalog.set_config('role', owned.owner, true);
    end if;
"""  # noqa: S608 - our constants


def _refuse_newer() -> str:
    known = ",".join(str(migration.number) for migration in schema.migrations())
    installed, own = [
        schema.RELEASE.format(version=version) for version in ("installed", f"'{__version__}'")
    ]
    return f"""\
    if {schema.IS_THERE} then
        select i.functions_version into installed from pgoutbox.installation i;
        if exists (select from pgoutbox.migration m where m.number <> all ('{{{known}}}'))
            or {installed} > {own}
        then
            raise exception 'the schema pgoutbox (%) is newer than this script ({__version__})',
                pg_catalog.split_part(installed, '+', 1)
                using hint = 'Print it again with the release that is installed, or a later one.';
        end if;
    end if;
"""  # noqa: S608 - our constants


def _migrate(migration: schema.Migration) -> str:
    """Return a migration that does nothing where the database already has it."""
    number = migration.number
    exists = (
        schema.IS_THERE
        if number == 1
        else f"exists (select from pgoutbox.migration m where m.number = {number})"  # noqa: S608
        " or not exists (select from pgoutbox.migration)"
        f" and {schema.MIGRATIONS_OF_COPY} >= {number}"
    )
    values = f"{number}, {literal(migration.name)}, {literal(migration.breaking)}"
    record = (
        "    insert into pgoutbox.migration (number, name, breaking)\n"  # noqa: S608 - our constants
        f"    values ({values});\n"
    )
    steps = [_execute(migration.sql), record]
    if number > 1:
        steps.reverse()
    return f"    if not ({exists}) then\n{''.join(steps)}    end if;\n"


def _execute(statements: str) -> str:
    tag = _tag(statements)
    return f"    execute {tag}\n{statements.rstrip()}\n{tag};\n"


def _tag(text: str) -> str:
    """Return a dollar quote that doesn't occur in ``text``, which may hold anybody's names."""
    number = 0
    while f"$pgoutbox_{number}$" in text:
        number += 1
    return f"$pgoutbox_{number}$"


def quoted(name: str) -> str:
    """Return ``name`` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'
