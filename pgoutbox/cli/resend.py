"""``pgoutbox resend``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

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
    where_options,
)
from pgoutbox.config import values
from pgoutbox.config.settings import flags_of

_position = click.IntRange(min=1)


@click.command(short_help="Send sent events again that are still in the outbox.")
@moment_option("--since", "Events committed then or later.")
@moment_option("--before", "Events committed before then.")
@click.option("--from", "first", type=_position, metavar="POSITION", help="The first position.")
@click.option("--to", "last", type=_position, metavar="POSITION", help="The last position.")
@table_option
@click.option("--id", "ids", type=UUID, multiple=True, metavar="UUID", help="May be repeated.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@json_option
@setting_options(*flags_of("relay.name"))
@where_options
@click.pass_context
def resend(
    ctx: click.Context,
    /,
    since: datetime | None,
    before: datetime | None,
    first: int | None,
    last: int | None,
    tables: Sequence[str],
    ids: Sequence[UUID],
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Have the relay send events again that it has sent, and that are still in the outbox.

    Those to which all conditions apply; at least one is needed. The relay sends them in their
    order, behind what is newer, and goes on with what comes meanwhile. The payload keeps its id;
    the message has an id of its own, so that the stream doesn't drop it, and the header
    Pgoutbox-Resent. The outbox keeps events for --retention; docs/sending-again.md says how a
    consumer replays older ones from the stream.

    \b
    pgoutbox resend --since 10m --table users --dry-run
    pgoutbox resend --from 4711 --to 4720
    pgoutbox resend --id 3f0c8e5e-0c0b-8d3e-8a3c-000000000001
    """
    if not any((since, before, first, last, tables, ids)):
        raise click.UsageError("Give one of --since, --before, --from, --to, --table and --id.")
    from pgoutbox.database import resends

    wanted = resends.Selection(
        since,
        before,
        first,
        last,
        [name for text in tables for name in parsed("--table", values.TABLES.parse, text)],
        ids,
    )
    settings = settings_of(ctx, **flags)

    async def work() -> dict[str, Any]:
        from pgoutbox.database import connection, schema

        async with connection.session(settings.database, purpose="resend", say=say) as conn:
            await schema.check(conn)
            name = settings.relay.name
            return await resends.resend(conn, name, wanted, say, dry_run=dry_run)

    state = run(work())
    if as_json:
        click.echo(json.dumps(state, ensure_ascii=False).encode())
