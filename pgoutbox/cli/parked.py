"""``pgoutbox parked``: list, show, retry, drop."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    Command,
    json_option,
    moment_option,
    run,
    say,
    settings_of,
    utf8,
    where_options,
)

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.database.parked import Choice, ParkedEvent


@click.group(short_help="List events that couldn't be published, and publish or discard them.")
def parked() -> None:
    """List the events that a relay couldn't publish and has set aside, and decide about them."""


def _choice_options(command: Command) -> Command:
    """Add the options that choose among parked events."""
    for option in reversed((
        click.option(
            "--relay", "relays", multiple=True, metavar="NAME", callback=utf8,
            help="Only those of this relay. May be repeated.",
        ),
        click.option(
            "--table", "tables", multiple=True, metavar="NAME", callback=utf8,
            help="Only those of this table, with its schema or without. May be repeated.",
        ),
        moment_option("--since", "Only those parked since then."),
        moment_option("--before", "Only those parked before then."),
    )):  # fmt: skip
        command = option(command)
    return command


_ids = click.argument("ids", nargs=-1, metavar="[EVENT]...", callback=utf8)
_all = click.option("--all", "everything", is_flag=True, help="Every parked event.")


@parked.command("list", short_help="List parked events.")
@_choice_options
@json_option
@where_options
@click.pass_context
def list_(
    ctx: click.Context,
    /,
    relays: Sequence[str],
    tables: Sequence[str],
    since: datetime | None,
    before: datetime | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """List parked events in commit order, each with the reason.

    \b
    pgoutbox parked list
    pgoutbox parked list --table docs --since 2d --json | jq -r '.[].id'
    """
    from pgoutbox.database import parked as work

    choice = work.Choice((), relays, tables, since, before)
    found: list[ParkedEvent] = _on_database(ctx, flags, lambda conn: work.find(conn, choice))
    if as_json:
        _print([asdict(event) for event in found])
    elif not found:
        click.echo("no event is parked")
    else:
        from pgoutbox.database.status.text import columns

        click.echo("\n".join(columns([work.HEADER, *map(work.line, found)])))


@parked.command(short_help="Show a parked event's data.")
@click.argument("event", metavar="EVENT", callback=utf8)
@where_options
@click.pass_context
def show(ctx: click.Context, /, event: str, **flags: Any) -> None:
    """Show what a parked event would publish: its message, or its rows where it has none.

    \b
    pgoutbox parked show 97a0d7f5-3a61-8c4e-9d43-8f1f3c1f0e55 | jq .data
    """
    from pgoutbox.database import parked as work

    headers, content = _on_database(ctx, flags, lambda conn: work.content(conn, event))
    if headers:
        say(headers.replace("\r\n", "\n").rstrip("\n"))
    click.echo(content)


@parked.command(short_help="Have parked events published after all.")
@_ids
@_choice_options
@_all
@json_option
@where_options
@click.pass_context
def retry(ctx: click.Context, /, **options: Any) -> None:
    """Have parked events published, once what was wrong is mended.

    Their relay publishes them as soon as it runs, with the ids that they had, between the events
    that it publishes then: behind later events, so a consumer that keeps the last version of a
    row must look at commitTime. What still can't be published stays parked.

    \b
    pgoutbox parked retry 97a0d7f5-3a61-8c4e-9d43-8f1f3c1f0e55
    pgoutbox parked retry --table docs --since 2h
    """
    from pgoutbox.database import parked as work

    _change(ctx, options, work.retry, "will be published")


@parked.command(short_help="Discard parked events.")
@_ids
@_choice_options
@_all
@json_option
@where_options
@click.pass_context
def drop(ctx: click.Context, /, **options: Any) -> None:
    """Discard parked events: they are never published.

    \b
    pgoutbox parked drop 97a0d7f5-3a61-8c4e-9d43-8f1f3c1f0e55
    pgoutbox parked drop --before 30d
    """
    from pgoutbox.database import parked as work

    _change(ctx, options, work.drop, "discarded")


def _change(
    ctx: click.Context,
    options: dict[str, Any],
    work: Callable[[Any, Choice], Awaitable[int]],
    done: str,
) -> None:
    from pgoutbox.database.parked import Choice

    names = ("ids", "relays", "tables", "since", "before")
    choice = Choice(*(options.pop(name) for name in names))
    everything, as_json = options.pop("everything"), options.pop("as_json")
    if choice.is_everything != everything:
        raise click.UsageError("Name events, choose some with options, or give --all.")
    count: int = _on_database(ctx, options, lambda conn: work(conn, choice))
    say(f"{count:,} parked {'event' if count == 1 else 'events'} {done}")
    if as_json:
        _print({"events": count})


def _on_database(ctx: click.Context, flags: dict[str, Any], work: Callable[[Any], Any]) -> Any:
    settings = settings_of(ctx, **flags)

    async def connect() -> Any:
        from pgoutbox.database import connection, schema

        async with connection.session(settings.database, purpose="parked", say=say) as conn:
            await schema.check(conn)
            return await work(conn)

    return run(connect())


def _print(found: object) -> None:
    text = json.dumps(found, indent=2, ensure_ascii=False, default=datetime.isoformat)
    click.echo(text.encode())
