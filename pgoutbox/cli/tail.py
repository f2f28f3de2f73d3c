"""``pgoutbox tail``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    json_option,
    moment_option,
    parsed,
    run,
    say,
    setting_options,
    settings_of,
    table_option,
    wants_color,
    where_options,
)
from pgoutbox.config import values
from pgoutbox.config.settings import Config, flags_of

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.tail.seen import Seen, Wanted

_SETTINGS = (
    "nats",
    "messages.topic",
    "messages.topic_prefix",
    "messages.subject",
    "stream.jetstream",
    "stream.domain",
)


@click.command(short_help="Show events as they are captured or published.")
@click.option(
    "--stream",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Show messages as they are published, of the stream that the relay would publish to or"
    " of the one named.",
)
@table_option
@click.option("--action", "actions", metavar="LIST", help="Only these actions, such as insert.")
@moment_option("--since", "Begin with those of then.")
@click.option("--follow/--no-follow", default=True, help="Wait for more; --no-follow ends there.")
@json_option
@setting_options(*flags_of(*_SETTINGS))
@where_options
@click.pass_context
def tail(
    ctx: click.Context,
    /,
    stream: str | None,
    tables: Sequence[str],
    actions: str | None,
    since: datetime | None,
    follow: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show events as they are captured, a line for each, until Ctrl-C.

    It reads the outbox beside any relay, marks nothing as sent, holds nothing up, and needs no NATS
    but with --stream. Times are in UTC. On a terminal lines are cut to its width; --json has each
    event whole, in a line of its own.

    \b
    pgoutbox tail
    pgoutbox tail --table users --action update,delete --since 10m
    pgoutbox tail --stream
    pgoutbox tail --json --since 1h --no-follow | jq -r '[.commitTime, .table] | @tsv'
    """
    from pgoutbox.tail.seen import Wanted

    wanted = Wanted(
        tuple(name for text in tables for name in parsed("--table", values.TABLES.parse, text)),
        parsed("--action", values.parse_actions, actions) if actions is not None else (),
    )
    if stream is None:
        settings = settings_of(ctx, **flags)
        work = _show_captured(settings, wanted, since, follow=follow, as_json=as_json)
    else:
        settings = settings_of(ctx, **flags, stream=stream or None)
        work = _show_published(settings, wanted, since, follow=follow, as_json=as_json)
    run(work)


async def _show_captured(
    settings: Config, wanted: Wanted, since: datetime | None, *, follow: bool, as_json: bool
) -> None:
    from pgoutbox.database import connection, schema
    from pgoutbox.tail.captured import Captured

    async with connection.session(
        settings.database, purpose="tail", primary=False, say=say
    ) as conn:
        await schema.check(conn)
        if follow:
            say(f"events of {conn.whereabouts}, as they are captured; Ctrl-C ends it")
        await _show(Captured(conn, wanted).events(since, follow=follow), as_json=as_json)


async def _show_published(
    settings: Config, wanted: Wanted, since: datetime | None, *, follow: bool, as_json: bool
) -> None:
    from pgoutbox.tail import published

    if follow:
        say("messages as they are published; Ctrl-C ends it")
    await _show(published.events(settings, wanted, since, follow=follow), as_json=as_json)


async def _show(events: AsyncIterator[Seen], *, as_json: bool) -> None:
    from pgoutbox.tail.seen import COLORS, parts

    is_terminal = sys.stdout.isatty()
    in_color = wants_color(is_terminal)
    async for seen in events:
        if as_json:
            click.echo(seen.whole.encode())
            continue
        moment, action, what = parts(seen)
        line = f"{moment} {action} {what}"
        if is_terminal:
            line = _cut(line, shutil.get_terminal_size().columns)
        if in_color:
            head = len(moment) + 1
            colored = click.style(action, fg=COLORS.get(seen.action))
            line = line[:head] + colored + line[head + len(action) :]
        click.echo(line)


def _cut(line: str, width: int) -> str:
    """Return what fits into a terminal's line, and nothing that the terminal would act on."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in line[: width + 1])
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"
