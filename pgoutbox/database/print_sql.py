"""What ``install`` would run, as SQL that a DBA or a migration tool applies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from pgoutbox import __version__
from pgoutbox.database import ownership, schema
from pgoutbox.database.choice import AS_INSTALLED, Choice
from pgoutbox.database.patterns import as_json
from pgoutbox.database.schema import literal
from pgoutbox.patterns import Pattern

Actions = Sequence[str] | None  # None: as installed


class Chosen(NamedTuple):
    """Patterns that are to be kept, what is left out of them, and their tables' actions."""

    patterns: Sequence[Pattern]
    excepted: Sequence[Pattern] = ()
    actions: Actions = None


def print_sql(
    tables: Mapping[str, Actions],
    old_values: str | None = None,
    grants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    context: bool | None = None,
    all_checks: bool | None = None,
    chosen: Chosen | None = None,
    fires_always: bool | None = None,
    event_trigger: bool | None = None,
    choice: Choice = AS_INSTALLED,
    filtered: Mapping[str, Sequence[str]] | None = None,
    lock_timeout: float = 2.0,
    schema_owner: str | None = None,
) -> str:
    """Return all that `install` would run, as one statement.

    Made without a connection. It can be applied again and leaves what is as it should be; it
    refuses where the schema is newer. One statement, so that it is done in whole or not at all,
    in a transaction or without. ``tables`` and their actions; names are found by the search_path
    of the session that applies it. ``filtered`` are names without a schema, to be found in all
    of them. Old values, context and checks that are None stay as they are. ``lock_timeout`` is in
    seconds, ``chosen`` are patterns that are to be kept, and ``schema_owner`` is a role that may
    own the schema beside those that are trusted anyway.
    """
    steps = [
        _SET.format(lock_timeout=_milliseconds(lock_timeout)),
        _refuse_strangers(schema_owner),
        _TAKE_TURNS.format(
            make=f"    perform {schema.NOTE_KNOWN_OBJECTS};\n{_migrate(schema.migrations()[0])}",
            is_there=schema.IS_THERE,
        ),
        f"    {schema.LOCK};\n",
        _refuse_newer(),
        *(_migrate(migration) for migration in schema.migrations()[1:]),
        *(_execute(statement) for statement in schema.function_statements()),
        _RESTORE_PATH,
        *(f"    perform {call};\n" for call in _settings(context, all_checks, event_trigger)),
        *(
            f"    perform {call};\n"
            for call in _captures(tables, old_values, filtered, chosen, fires_always, choice)
        ),
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
    chosen: Chosen | None = None,
    fires_always: bool | None = None,
    filtered: Mapping[str, Sequence[str]] | None = None,
    choice: Choice = AS_INSTALLED,
) -> str:
    """Return what captures the tables where the schema is installed already: a line for each.

    Each does nothing in a database without the schema, and fails where that is older than this
    release. No dollar quotes, no line breaks, and no semicolon at the end of a line but the last:
    what splits or rewrites migrations leaves them alone.
    """
    return "".join(
        f"do {literal(_where_installed(call))};\n"
        for call in _captures(tables, old_values, filtered, chosen, fires_always, choice)
    )


def print_release(table: str) -> str:
    """Return the line that releases a table, where the schema is installed and the table there."""
    call = (
        "pgoutbox.except_table(t.relation), pgoutbox.release_table(t.relation) from "
        f"(select pg_catalog.to_regclass({literal(table)}) as relation) t"
        " where t.relation is not null"
    )
    return f"do {literal(_where_installed(call))};\n"


def print_forget_pattern(pattern: Pattern) -> str:
    """Return the line that releases the tables of a pattern, and keeps it no longer."""
    schema_like = literal(pattern.schema) if pattern.schema else "pgoutbox.like_literal(s)"
    path = "" if pattern.schema else "unnest(pg_catalog.current_schemas(false)) s, lateral "
    found = f"pgoutbox.forget_pattern({schema_like}, {literal(pattern.table)})"
    return f"do {literal(_where_installed(f'pgoutbox.release_table(r) from {path}{found} r'))};\n"


def print_forget_relay(relay: str) -> str:
    """Return the line that forgets a relay, where the schema is installed."""
    return f"do {literal(_where_installed(f'pgoutbox.forget_relay({literal(relay)})'))};\n"


def print_uninstall_all(
    *, drop_unsent: bool = False, lock_timeout: float = 2.0, schema_owner: str | None = None
) -> str:
    """Return what `uninstall --all` would run, as one statement.

    It refuses while there are unsent or parked events, unless these are to be dropped.
    """
    body = (
        f"{_DECLARE}begin\n{_SET.format(lock_timeout=_milliseconds(lock_timeout))}"
        f"{_refuse_strangers(schema_owner)}    if {schema.IS_THERE} then\n"
        f"{_RELEASE_ALL}{'' if drop_unsent else _REFUSE_UNSENT}"
        f"        drop schema pgoutbox cascade;\n    end if;\n{_RESTORE}end\n"
    )
    tag = _tag(body)
    return f"do {tag}\n{body}{tag};\n"


# Nobody writes any more when it is asked what is unsent.
_RELEASE_ALL = """\
        perform pgoutbox.release_table(t.relation) from pgoutbox.captured_table t;
        lock table pgoutbox.event, pgoutbox.transaction;
"""

_REFUSE_UNSENT = """\
        if exists (
            select from (
                select p.relay from pgoutbox.progress p
                union all select 'default' where not exists (select from pgoutbox.progress)
            ) r cross join lateral pgoutbox.backlog(r.relay) b where b.events > 0
        ) or exists (select from pgoutbox.parked) then
            raise exception 'events are unsent or parked, and would be lost'
                using hint = 'Send them first: pgoutbox relay --drain; or print this again'
                    ' with --drop-unsent.';
        end if;
"""


def _where_installed(call: str) -> str:
    """Return a block that does nothing in a database without the schema."""
    return (
        "begin if pg_catalog.to_regnamespace('pgoutbox') is not null then "
        f"perform pgoutbox.require_release('{__version__}'); perform {call}; end if; end"
    )


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _captures(
    tables: Mapping[str, Actions],
    old_values: str | None,
    filtered: Mapping[str, Sequence[str]] | None,
    chosen: Chosen | None,
    fires_always: bool | None,
    choice: Choice,
) -> Iterator[str]:
    """Yield what follows PERFORM for each table."""
    if chosen:
        yield from (_keep(pattern, chosen, old_values, fires_always) for pattern in chosen.patterns)
    for table, actions in tables.items():
        relation = f"{literal(table)}::pg_catalog.regclass"
        yield _capture(relation, actions, old_values, choice=choice)
        if fires_always is not None:
            yield f"pgoutbox.fire_always({relation}, {_boolean(fires_always)})"
    for name, actions in (filtered or {}).items():
        if actions:
            call = _capture("t.relation", actions, old_values, widen=True)
            yield f"{call} from pgoutbox.tables_named(array[{literal(name)}]) t"
    if chosen or not tables:
        yield "pgoutbox.capture_matches()"
    if not (tables or chosen):
        successors = "pgoutbox.uncaptured('{}') u where u.is_successor"
        yield f"pgoutbox.capture_table(u.relation) from {successors}"


def _keep(
    pattern: Pattern, chosen: Chosen, old_values: str | None, fires_always: bool | None
) -> str:
    """Return the call of ``pgoutbox.keep_pattern``; without a schema one for each of the path."""
    rest = [
        literal(pattern.table),
        f"{literal(as_json(chosen.excepted))}::pg_catalog.jsonb",
        literal("{" + ",".join(chosen.actions) + "}") if chosen.actions else "null",
        literal(old_values),
        _boolean(fires_always),
    ]
    if pattern.schema is not None:
        place = [literal(pattern.text), literal(pattern.schema)]
        return f"pgoutbox.keep_pattern({', '.join([*place, *rest])})"
    name = f"pg_catalog.concat(pg_catalog.quote_ident(s), {literal('.' + pattern.text)})"
    call = ", ".join([name, "pgoutbox.like_literal(s)", *rest])
    return f"pgoutbox.keep_pattern({call}) from unnest(pg_catalog.current_schemas(false)) s"


def _capture(
    relation: str,
    actions: Actions,
    old_values: str | None,
    *,
    widen: bool = False,
    choice: Choice = AS_INSTALLED,
) -> str:
    """Return the call of ``pgoutbox.capture_table`` with the options that are given."""
    options = {
        "actions": literal("{" + ",".join(actions) + "}") if actions else None,
        "old_values": literal(old_values) if old_values else None,
        "widen": "true" if widen else None,
        **choice.named(),
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


def _refuse_strangers(trusted: str | None) -> str:
    """Return what fails where the schema isn't to be trusted, and else works as its owner.

    ``trusted`` is a role that may own it beside those that are trusted anyway.
    """
    return f"""\
    select o.* into owned from (
{ownership.OWNERSHIP.format(trusted=literal(trusted))}    ) o;
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


def _settings(
    context: bool | None, all_checks: bool | None, event_trigger: bool | None
) -> Iterator[str]:
    if context is not None or all_checks is not None:
        yield f"pgoutbox.configure_capture({_boolean(context)}, {_boolean(all_checks)})"
    if event_trigger is not None:
        yield f"pgoutbox.watch_tables({_boolean(event_trigger)})"


def _boolean(value: bool | None) -> str:
    return "null" if value is None else str(value).lower()


def _tag(text: str) -> str:
    """Return a dollar quote that doesn't occur in ``text``, which may hold anybody's names."""
    number = 0
    while f"$pgoutbox_{number}$" in text:
        number += 1
    return f"$pgoutbox_{number}$"


def quoted(name: str) -> str:
    """Return ``name`` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'
