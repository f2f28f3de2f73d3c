"""``pgoutbox status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    NEEDS_ATTENTION,
    json_option,
    run,
    say,
    settings_of,
    visible,
    where_options,
)

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.database.status import Status


@click.command(short_help="Show backlog, tables, relays, and what needs attention.")
@json_option
@click.option("--check", is_flag=True, help="Exit with 7 if something needs attention.")
@where_options
@click.pass_context
def status(ctx: click.Context, /, as_json: bool, check: bool, **flags: Any) -> None:
    """Show backlog, captured tables, the leading relays, and what needs attention.

    Exits with 3 if the schema pgoutbox is missing. With --check, exits with 7 if a captured
    table has a problem, a relay can't publish, events are parked, events are unsent and nobody
    publishes them or they are older than 5 minutes, or a session holds up the relays.

    \b
    pgoutbox status
    pgoutbox status --check > /dev/null || echo 'look at it'
    pgoutbox status --json | jq '.relays[].backlog'
    """
    from pgoutbox.database import status as looking

    settings = settings_of(ctx, **flags)

    async def gather() -> Status:
        from pgoutbox.database import connection

        async with connection.session(
            settings.database, purpose="status", primary=False, say=say
        ) as conn:
            return await looking.gather(conn, conn.whereabouts)

    found = run(gather())
    # What programs read is UTF-8 whatever the terminal is.
    text = looking.to_json(found).encode() if as_json else visible(looking.to_text(found))
    click.echo(text)
    if found.schema.is_missing:
        ctx.exit(3)
    if check and looking.problems(found):
        ctx.exit(NEEDS_ATTENTION)
