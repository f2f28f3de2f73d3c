"""``pgoutbox snapshot``: start, list, pause, resume, cancel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli import completion
from pgoutbox.cli.common import run, say, settings_of, utf8, where_options
from pgoutbox.errors import ConfigError

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.config.settings import Config
    from pgoutbox.database.snapshots import SnapshotStatus, Step


@click.group(short_help="Publish the rows that tables have already.")
def snapshot() -> None:
    """Publish the rows that tables have already, without a lock and without missing a change.

    A relay reads the table in the order of its key, a thousand rows at a time, and publishes them
    between its events, where they belong: applying the stream in order gives the table.
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@snapshot.command(short_help="Ask for snapshots of tables.")
@click.argument(
    "tables",
    nargs=-1,
    required=True,
    metavar="TABLE...",
    callback=utf8,
    shell_complete=completion.tables,
)
@click.option(
    "--where",
    "condition",
    metavar="SQL",
    callback=utf8,
    help="Only rows that meet this condition of the table's columns.",
)
@click.option(
    "--as",
    "action",
    type=click.Choice(["read", "insert"]),
    default="read",
    show_default=True,
    help="The messages' action.",
)
@click.option(
    "--subject",
    metavar="TEMPLATE",
    callback=utf8,
    help="Template of the messages' subjects; default: that of events.",
)
@click.option(
    "--rate",
    type=click.IntRange(min=1, max=2**31 - 1),
    metavar="ROWS",
    help="At most so many rows a second.",
)
@click.option(
    "--relay",
    "relays",
    multiple=True,
    metavar="NAME",
    callback=utf8,
    shell_complete=completion.relays,
    help="Relay that is to publish them; default: each. May be repeated.",
)
@click.option(
    "--allow-no-key",
    is_flag=True,
    help="Take tables without a key, too: a row that changes meanwhile may come as an event and as"
    " READ.",
)
@click.option("--detach", is_flag=True, help="Ask, and don't wait for the end.")
@_json_option
@where_options
@click.pass_context
def start(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    condition: str | None,
    action: str,
    subject: str | None,
    rate: int | None,
    relays: Sequence[str],
    allow_no_key: bool,
    detach: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Ask for snapshots of captured tables, and show how far they are until they are done.

    The relay does the work, now or when it runs; Ctrl-C ends the display alone. Exits with 6 if
    a snapshot fails.

    \b
    pgoutbox snapshot start users billing.invoices
    pgoutbox snapshot start users --where "created_at >= '2026-01-01'" --rate 5000
    pgoutbox snapshot start users --detach --json | jq -r '.[].id'
    """
    from pgoutbox.database.snapshots import Wish

    settings = settings_of(ctx, **flags)
    wish = Wish(
        condition,
        "INSERT" if action == "insert" else "READ",
        _template(subject),
        rate,
        allow_no_key=allow_no_key,
    )
    found = run(_start(settings, tables, wish, relays, detach=detach))
    if as_json:
        _print(found)
    if any(one.state == "failed" for one in found):
        ctx.exit(6)


def _template(subject: str | None) -> str | None:
    if subject is None:
        return None
    from pgoutbox.subjects import Template

    try:
        Template(subject)
    except ValueError as error:
        raise ConfigError(f"--subject {error}") from error
    return subject


async def _start(
    settings: Config, tables: Sequence[str], wish: Any, relays: Sequence[str], *, detach: bool
) -> list[SnapshotStatus]:
    from pgoutbox.database import connection, snapshots

    async with connection.session(settings.database, purpose="snapshot", say=say) as conn:
        ids = await snapshots.start(conn, tables, wish, relays, settings.relay.name, say)
        if detach:
            return await snapshots.gather(conn, ids)
        return await follow(conn, ids)


async def follow(conn: Any, ids: Sequence[str]) -> list[SnapshotStatus]:
    """Show how far snapshots are until all have ended; return how they stand."""
    from pgoutbox.cli.snapshot_text import Display
    from pgoutbox.database import snapshots

    display = Display()
    found: list[SnapshotStatus] = []
    async for found in snapshots.follow(conn, ids):
        display.show(found)
    return found


@snapshot.command("list", short_help="Show snapshots and how far they are.")
@_json_option
@where_options
@click.pass_context
def list_(ctx: click.Context, /, as_json: bool, **flags: Any) -> None:
    """Show the snapshots that were asked for, the latest last, and how far each relay is.

    \b
    pgoutbox snapshot list
    pgoutbox snapshot list --json | jq -e 'all(.[]; .state == "done")'
    """
    settings = settings_of(ctx, **flags)

    async def gather() -> list[SnapshotStatus]:
        from pgoutbox.database import connection, snapshots

        async with connection.session(
            settings.database, purpose="snapshot", primary=False, say=say
        ) as conn:
            return await snapshots.gather(conn)

    found = run(gather())
    if as_json:
        _print(found)
    elif found:
        from pgoutbox.cli.snapshot_text import table_of

        click.echo(table_of(found))
    else:
        say("no snapshots; to ask for one: pgoutbox snapshot start TABLE")


_ids_argument = click.argument("ids", nargs=-1, required=True, metavar="ID...", callback=utf8)


@snapshot.command(short_help="Hold snapshots where they are.")
@_ids_argument
@where_options
@click.pass_context
def pause(ctx: click.Context, /, ids: Sequence[str], **flags: Any) -> None:
    """Hold snapshots where they are, until `snapshot resume`.

    The beginning of an id will do. What is in flight is still published.
    """
    _steer(ctx, "pause", ids, flags)


@snapshot.command(short_help="Go on with snapshots that were paused or have failed.")
@_ids_argument
@where_options
@click.pass_context
def resume(ctx: click.Context, /, ids: Sequence[str], **flags: Any) -> None:
    """Go on with snapshots that were paused or have failed, behind the last row they sent.

    The beginning of an id will do.
    """
    _steer(ctx, "resume", ids, flags)


@snapshot.command(short_help="End snapshots.")
@_ids_argument
@where_options
@click.pass_context
def cancel(ctx: click.Context, /, ids: Sequence[str], **flags: Any) -> None:
    """End snapshots; what they have sent stays in the stream.

    The beginning of an id will do.
    """
    _steer(ctx, "cancel", ids, flags)


def _steer(ctx: click.Context, step: Step, ids: Sequence[str], flags: dict[str, Any]) -> None:
    settings = settings_of(ctx, **flags)

    async def steer() -> None:
        from pgoutbox.database import connection, snapshots

        async with connection.session(settings.database, purpose="snapshot", say=say) as conn:
            await snapshots.steer(conn, step, ids, say)

    run(steer())


def _print(found: Sequence[SnapshotStatus]) -> None:
    # What programs read is UTF-8 whatever the terminal is.
    text = json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False)
    click.echo(text.encode())
