"""``pgoutbox uninstall``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pgoutbox.cli.common import (
    run,
    say,
    setting_options,
    settings_of,
    table_option,
    utf8,
    where_options,
)
from pgoutbox.config.settings import flags_of


@click.command(short_help="Release tables, forget a relay, or drop the schema.")
@table_option
@click.option(
    "--relay",
    "relay_name",
    metavar="NAME",
    callback=utf8,
    help="Relay that no longer runs: forget its progress and its parked events.",
)
@click.option("--all", "everything", is_flag=True, help="Release all tables and drop the schema.")
@click.option(
    "--drop-unsent", is_flag=True, help="With --all: discard events that are not sent yet."
)
@setting_options(*flags_of("install.lock_timeout", "install.lock_wait"))
@where_options
@click.pass_context
def uninstall(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    relay_name: str | None,
    everything: bool,
    drop_unsent: bool,
    **flags: Any,
) -> None:
    """Release tables, forget a relay, or with --all drop the schema pgoutbox.

    Events of a released table that are already in the outbox will still be sent. The outbox keeps
    events until every relay has sent them, so forget a relay that no longer runs. --all fails
    while there are unsent events.

    \b
    pgoutbox uninstall --table users
    pgoutbox uninstall --relay retired
    pgoutbox relay --drain && pgoutbox uninstall --all
    """
    if sum((bool(tables), relay_name is not None, everything)) != 1:
        raise click.UsageError("Give one of --table, --relay and --all.")
    if drop_unsent and not everything:
        raise click.UsageError("--drop-unsent goes with --all.")
    settings = settings_of(ctx, **flags)

    async def work() -> None:
        from pgoutbox.database import connection
        from pgoutbox.database import install as installing

        async with connection.session(settings.database, purpose="uninstall", say=say) as conn:
            if everything:
                await installing.uninstall_all(conn, settings.install, say, drop_unsent=drop_unsent)
            elif relay_name is not None:
                await installing.forget_relay(conn, relay_name, say)
            else:
                await installing.uninstall(conn, tables, settings.install, say)

    run(work())
