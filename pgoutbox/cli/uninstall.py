"""``pgoutbox uninstall``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pgoutbox.cli import completion
from pgoutbox.cli.common import (
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
from pgoutbox.cli.countdown import Countdown
from pgoutbox.config.settings import flags_of


@click.command(short_help="Release tables, forget a relay, or drop the schema.")
@selection_options
@click.option(
    "--relay",
    "relay_name",
    metavar="NAME",
    callback=utf8,
    shell_complete=completion.relays,
    help="Relay that no longer runs: forget its progress and its parked events.",
)
@click.option("--all", "everything", is_flag=True, help="Release all tables and drop the schema.")
@click.option(
    "--drop-unsent", is_flag=True, help="With --all: discard events that are not sent yet."
)
@click.option(
    "--drain",
    is_flag=True,
    help="With --all: wait until the relays that run have sent all events, and show how far"
    " they are.",
)
@print_sql_option
@setting_options(*flags_of("install.lock_timeout", "install.lock_wait"))
@where_options
@click.pass_context
def uninstall(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    schemas: Sequence[str],
    all_tables: bool,
    relay_name: str | None,
    everything: bool,
    drop_unsent: bool,
    drain: bool,
    print_sql: bool,
    **flags: Any,
) -> None:
    """Release tables, forget a relay, or with --all drop the schema pgoutbox.

    Events of a released table that are already in the outbox will still be sent. The outbox keeps
    events until every relay has sent them, so forget a relay that no longer runs. --all fails
    while there are unsent events; with --drain it stops capturing and waits until the relays that
    run have sent them. A pattern releases all captured tables that match it, and isn't
    kept for later ones any more.

    \b
    pgoutbox uninstall --table users
    pgoutbox uninstall --table 'tenant_*.orders'
    pgoutbox uninstall --relay retired
    pgoutbox relay --drain && pgoutbox uninstall --all
    pgoutbox uninstall --all --drain
    """
    is_chosen = bool(tables or schemas or all_tables)
    if sum((is_chosen, relay_name is not None, everything)) != 1:
        raise click.UsageError(
            "Give one of --relay and --all, or tables with --table, --schema and --all-tables."
        )
    if drop_unsent and not everything:
        raise click.UsageError("--drop-unsent goes with --all.")
    if drain and (drop_unsent or print_sql or not everything):
        raise click.UsageError("--drain goes with --all, without --drop-unsent and --print-sql.")
    settings = settings_of(ctx, **flags)
    names, patterns = selected(tables, schemas, all_tables)
    if print_sql:
        from pgoutbox.database import print_sql as printing

        if everything:
            script = printing.print_uninstall_all(
                drop_unsent=drop_unsent,
                lock_timeout=settings.install.lock_timeout,
                schema_owner=settings.database.schema_owner,
            )
        elif relay_name is not None:
            script = printing.print_forget_relay(relay_name)
        else:
            releases = map(printing.print_release, names)
            script = "".join([*releases, *map(printing.print_forget_pattern, patterns)])
        click.echo(script.encode(), nl=False)
        return

    async def work() -> None:
        from pgoutbox.database import connection
        from pgoutbox.database import install as installing

        async with connection.session(settings.database, purpose="uninstall", say=say) as conn:
            if everything:
                await installing.uninstall_all(
                    conn,
                    settings.install,
                    say,
                    drop_unsent=drop_unsent,
                    drain=Countdown().show if drain else None,
                )
            elif relay_name is not None:
                await installing.forget_relay(conn, relay_name, say)
            else:
                await installing.uninstall(conn, names, settings.install, say, patterns=patterns)

    run(work())
