"""``pgoutbox status``."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    NEEDS_ATTENTION,
    json_option,
    parsed,
    run,
    say,
    settings_of,
    visible,
    wants_color,
    where_options,
)
from pgoutbox.config import values
from pgoutbox.config.settings import Config
from pgoutbox.errors import DatabaseError

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.database.status import Status
    from pgoutbox.database.status.watch import Look

_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_SHARE = 0.25  # of the time, at most, goes into looking

_interval = values.duration(0.1, 3600)


@click.command(short_help="Show backlog, tables, relays, and what needs attention.")
@json_option
@click.option("--check", is_flag=True, help="Exit with 7 if something needs attention.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    metavar="DURATION",
    default="2s",
    show_default=True,
    callback=lambda _, __, value: parsed("--interval", _interval.parse, value),
    help="With --watch: how often.",
)
@where_options
@click.pass_context
def status(
    ctx: click.Context,
    /,
    as_json: bool,
    check: bool,
    watch: bool,
    interval: float,
    **flags: Any,
) -> None:
    """Show backlog, captured tables, the leading relays, and what needs attention.

    Exits with 3 if the schema pgoutbox is missing. With --check, exits with 7 if a captured
    table has a problem, a relay can't publish or only polls, events are parked, events are unsent
    and nobody publishes them or they are older than 5 minutes, or a session holds up the relays.

    --watch fills the terminal, and has rates beside: how many events are written and sent a
    second.

    \b
    pgoutbox status
    pgoutbox status --watch
    pgoutbox status --check > /dev/null || echo 'look at it'
    pgoutbox status --json | jq '.relays[].backlog'
    """
    from pgoutbox.database import status as looking

    if watch and (as_json or check):
        raise click.UsageError("--watch goes without --json and --check.")
    settings = settings_of(ctx, **flags)
    if watch:
        run(_watch(settings, interval))

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


async def _watch(settings: Config, interval: float) -> None:
    """Show screens until this is cancelled; a database that is away is said to be, and waited for.

    Raises:
        DatabaseError: it is away from the beginning.
    """
    from pgoutbox.database import connection
    from pgoutbox.database.status.watch import look

    before: Look | None = None
    while True:
        try:
            async with connection.session(
                settings.database, purpose="status", primary=False
            ) as conn:
                while True:
                    before = await look(conn, before)
                    _show(before)
                    await asyncio.sleep(max(interval, (time.monotonic() - before.at) / _SHARE))
        except DatabaseError as error:
            if before is None:
                raise
            say(f"{error}; trying again")
            await asyncio.sleep(interval)


def _show(seen: Look) -> None:
    from pgoutbox.database.status.watch import screen

    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    width, height = shutil.get_terminal_size() if is_terminal else (200, 10_000)
    clock = f"{datetime.now(UTC):%H:%M:%S} UTC"
    lines = [visible(line) for line in screen(seen, clock, width=width, height=height - 1)]
    if wants_color(is_terminal):
        lines = [click.style(line, fg="red") if line[:2] == "! " else line for line in lines]
    if is_terminal:
        shown = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
        click.echo(f"{_HOME}{shown}{_REST_OF_SCREEN}", nl=False, color=True)
    else:
        click.echo("\n".join([*lines, ""]))
