"""``pgoutbox pause`` and ``pgoutbox resume``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import click

from pgoutbox.cli import completion
from pgoutbox.cli.common import json_option, run, say, settings_of, utf8, where_options

_name = click.argument("name", metavar="NAME", callback=utf8, shell_complete=completion.relays)


@click.command(short_help="Let a relay publish nothing until it is resumed.")
@_name
@click.option("--reason", metavar="TEXT", callback=utf8, help="Why; `pgoutbox status` shows it.")
@json_option
@where_options
@click.pass_context
def pause(
    ctx: click.Context, /, name: str, reason: str | None, as_json: bool, **flags: Any
) -> None:
    """Let the relay NAME publish nothing until it is resumed.

    The pause is kept in the database, so it holds across restarts and for every standby. Events
    go on being captured and wait in the outbox, which keeps them for this relay. A relay that runs
    with --drain refuses meanwhile. Pausing a relay twice changes nothing but the reason.

    \b
    pgoutbox pause default --reason 'the consumer is being migrated'
    pgoutbox status
    pgoutbox resume default
    """
    from pgoutbox.database import pauses

    _steer(ctx, flags, as_json, lambda conn: pauses.pause(conn, name, reason, say))


@click.command(short_help="Let a paused relay publish again.")
@_name
@json_option
@where_options
@click.pass_context
def resume(ctx: click.Context, /, name: str, as_json: bool, **flags: Any) -> None:
    """Let the paused relay NAME publish again, from where it stopped.

    It reacts at once if it runs. Resuming a relay that isn't paused changes nothing.

    \b
    pgoutbox resume default
    """
    from pgoutbox.database import pauses

    _steer(ctx, flags, as_json, lambda conn: pauses.resume(conn, name, say))


def _steer(
    ctx: click.Context,
    flags: dict[str, Any],
    as_json: bool,
    work: Callable[[Any], Awaitable[dict[str, Any]]],
) -> None:
    settings = settings_of(ctx, **flags)

    async def steer() -> dict[str, Any]:
        from pgoutbox.database import connection, schema

        async with connection.session(
            settings.database, purpose=str(ctx.command.name), say=say
        ) as conn:
            await schema.check(conn)
            return await work(conn)

    state = run(steer())
    if as_json:
        click.echo(json.dumps(state, ensure_ascii=False).encode())
