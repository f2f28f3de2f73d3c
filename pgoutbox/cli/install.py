"""``pgoutbox install``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    Command,
    print_sql_option,
    run,
    say,
    selected,
    selection_options,
    setting_options,
    settings_of,
    utf8,
    where_options,
)
from pgoutbox.config import values
from pgoutbox.config.settings import Config, flags_of
from pgoutbox.errors import ConfigError
from pgoutbox.patterns import Pattern, parse

if TYPE_CHECKING:  # what the command needs is imported in it, so that it starts fast
    from pgoutbox.database.choice import Choice


def _grant_option(kind: str, meaning: str) -> Callable[[Command], Command]:
    return click.option(
        f"--grant-{kind}",
        multiple=True,
        metavar="ROLE",
        callback=utf8,
        help=f"{meaning} May be repeated.",
    )


@click.command()
@selection_options
@click.option(
    "--except-table",
    "excepted",
    multiple=True,
    metavar="NAME",
    callback=utf8,
    help="Table or pattern to leave out of patterns, --schema and --all-tables; without a schema"
    " it means any schema's. May be repeated.",
)
@click.option(
    "--actions",
    metavar="LIST",
    help="Actions to capture, of insert,update,delete,truncate;"
    " default: unchanged; for a new table, all.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    callback=utf8,
    help="Capture only rows that meet this condition on their columns; '' for all again.",
)
@click.option(
    "--columns",
    metavar="LIST",
    callback=utf8,
    help="Capture only these columns, and the key; '' for all again.",
)
@click.option(
    "--except-column",
    "except_columns",
    multiple=True,
    metavar="NAME",
    callback=utf8,
    help="Column not to capture; '' for none. May be repeated.",
)
@click.option(
    "--hash-column",
    "hash_columns",
    multiple=True,
    metavar="NAME",
    callback=utf8,
    help="Column of which only a keyed hash is captured; '' for none. May be repeated.",
)
@setting_options(*flags_of("install"))
@click.option(
    "--always/--no-always",
    default=None,
    help="Capture in sessions with session_replication_role = replica, too, such as those of a"
    " subscription; default: unchanged; for a new table, no.",
)
@_grant_option("relay", "Role to give the rights that a relay needs, and no others.")
@_grant_option("capture", "Role that may capture, and release, the tables that it owns.")
@_grant_option("emit", "Role that may emit events of its own, and set contexts.")
@_grant_option("reader", "Role that may see all of `pgoutbox status`, and no row's data.")
@click.option(
    "--event-trigger/--no-event-trigger",
    default=None,
    help="Capture a table that is made again, takes a captured table's name or matches a pattern in"
    " the transaction that makes it; for roles that may make event triggers. Default: unchanged.",
)
@click.option(
    "--context/--no-context",
    default=None,
    help="Capture who made each change: session user, application name, client address;"
    " default: unchanged; at first, no.",
)
@click.option(
    "--await-all-checks/--await-captured-checks",
    "all_checks",
    default=None,
    help="Give a transaction its place in the order behind the deferred checks of all tables, or"
    " only of captured ones, which costs less; default: unchanged; at first, of captured ones.",
)
@click.option(
    "--snapshot",
    is_flag=True,
    help="Publish the rows that each --table has already, too, unless that was asked for before.",
)
@click.option(
    "--allow-no-key",
    is_flag=True,
    help="With --snapshot: of tables without a key, too, as `pgoutbox snapshot start` has it.",
)
@print_sql_option
@click.option(
    "--tables-only",
    is_flag=True,
    help="With --print-sql: only what captures the tables, a line for each, for migrations.",
)
@where_options
@click.pass_context
def install(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    schemas: Sequence[str],
    all_tables: bool,
    excepted: Sequence[str],
    actions: str | None,
    always: bool | None,
    where: str | None,
    columns: str | None,
    except_columns: Sequence[str],
    hash_columns: Sequence[str],
    grant_relay: Sequence[str],
    grant_capture: Sequence[str],
    grant_emit: Sequence[str],
    grant_reader: Sequence[str],
    event_trigger: bool | None,
    context: bool | None,
    all_checks: bool | None,
    snapshot: bool,
    allow_no_key: bool,
    print_sql: bool,
    tables_only: bool,
    **flags: Any,
) -> None:
    """Capture tables; install or upgrade the schema pgoutbox.

    Safe to run again at any time. Without --table it captures the tables of listener.filter in
    the configuration file. It locks each table briefly, one after another, and never holds up the
    application for longer than --lock-timeout. Patterns are kept: tables that match and are made
    later are captured by the next install, or within seconds by a relay with --install.

    \b
    pgoutbox install --table users --table billing.invoices
    pgoutbox install --schema billing --table 'tenant_*.orders' --except-table '*_old'
    pgoutbox install --table users --snapshot
    pgoutbox install --print-sql --table users | psql "$DATABASE_URL" -v ON_ERROR_STOP=1
    pgoutbox install --print-sql --tables-only --table users >> migrations/0042.sql
    """
    grants = {
        "relay": grant_relay,
        "capture": grant_capture,
        "emit": grant_emit,
        "reader": grant_reader,
    }
    if tables_only and not print_sql:
        raise click.UsageError("--tables-only goes with --print-sql.")
    switches = {"context": context, "all_checks": all_checks, "event_trigger": event_trigger}
    if tables_only and (any(grants.values()) or set(switches.values()) != {None}):
        raise click.UsageError(
            "--tables-only goes without --grant-…, --context, --await-…-checks and --event-trigger."
        )
    settings = settings_of(ctx, **flags)
    wanted = _read_actions(actions)
    names, patterns = selected(tables, schemas, all_tables)
    choice = _choice(where, columns, except_columns, hash_columns)
    if choice and (patterns or not names):
        raise click.UsageError("Rows and columns are chosen of tables that --table names.")
    _check_snapshot(snapshot, allow_no_key, has_tables=bool(names) and not (patterns or print_sql))
    left_out = [_excepted(name) for name in excepted]
    if left_out and not patterns:
        raise click.UsageError("--except-table goes with a pattern, --schema or --all-tables.")
    if print_sql:
        chosen = (patterns, left_out)
        script = _script(
            settings, names, wanted, always, grants, switches, choice, tables_only, chosen
        )
        click.echo(script.encode(), nl=False)
        return

    for note in (*settings.notes, *settings.warnings):
        say(note)

    async def work() -> None:
        from pgoutbox.database import connection
        from pgoutbox.database import install as installing

        async with connection.session(settings.database, purpose="install", say=say) as conn:
            await installing.install(
                conn,
                names,
                settings.install,
                say,
                patterns=patterns,
                excepted=left_out,
                actions=wanted,
                fires_always=always,
                grants=grants,
                event_trigger=event_trigger,
                context=context,
                all_checks=all_checks,
                choice=choice,
            )
            if snapshot:
                from pgoutbox.database import snapshots

                wish = snapshots.Wish(allow_no_key=allow_no_key, once=True)
                await snapshots.start(conn, names, wish, (), settings.relay.name, say)

    run(work())


def _check_snapshot(snapshot: bool, allow_no_key: bool, *, has_tables: bool) -> None:
    if snapshot and not has_tables:
        raise click.UsageError(
            "--snapshot goes with tables by name (--table), without patterns and --print-sql."
        )
    if allow_no_key and not snapshot:
        raise click.UsageError("--allow-no-key goes with --snapshot.")


def _script(
    settings: Config,
    tables: Sequence[str],
    actions: tuple[str, ...] | None,
    always: bool | None,
    grants: Mapping[str, Sequence[str]],
    switches: Mapping[str, bool | None],
    choice: Choice,
    tables_only: bool,
    patterns: tuple[Sequence[Pattern], Sequence[Pattern]],
) -> str:
    from pgoutbox.database import print_sql

    wanted = dict.fromkeys(tables, actions)
    chosen = print_sql.Chosen(*patterns, actions) if patterns[0] else None
    filtered = None if tables or chosen else settings.install.actions_by_name
    old_values = settings.install.old_values
    if tables_only:
        return print_sql.print_tables(
            wanted,
            old_values,
            chosen=chosen,
            fires_always=always,
            filtered=filtered,
            choice=choice,
        )
    return print_sql.print_sql(
        wanted,
        old_values,
        grants,
        chosen=chosen,
        fires_always=always,
        choice=choice,
        filtered=filtered,
        lock_timeout=settings.install.lock_timeout,
        schema_owner=settings.database.schema_owner,
        **switches,
    )


def _excepted(name: str) -> Pattern:
    try:
        return parse(name)
    except ValueError as error:
        raise ConfigError(f"--except-table {error}") from error


def _choice(
    where: str | None, columns: str | None, except_columns: Sequence[str], hashed: Sequence[str]
) -> Choice:
    from pgoutbox.database.choice import Choice

    return Choice(
        where,
        None if columns is None else [name.strip() for name in columns.split(",") if name.strip()],
        [name for name in except_columns if name] if except_columns else None,
        [name for name in hashed if name] if hashed else None,
    )


def _read_actions(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    try:
        actions = values.parse_actions(text)
    except ValueError as error:
        raise ConfigError(f"--actions {error}") from error
    if not actions:
        raise ConfigError("--actions names no actions")
    return actions
