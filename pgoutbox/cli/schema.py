"""``pgoutbox schema``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pgoutbox.cli.common import (
    run,
    say,
    setting_options,
    settings_of,
    table_option,
    where_options,
)
from pgoutbox.config.settings import flags_of
from pgoutbox.errors import ConfigError

if TYPE_CHECKING:
    from pgoutbox.names import DescribedTable


@click.command(short_help="Describe messages for machines: JSON Schema, AsyncAPI.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonschema", "asyncapi"]),
    default="jsonschema",
    show_default=True,
    help="JSON Schema 2020-12 of the payloads, or an AsyncAPI 3.0 document with the subjects.",
)
@table_option
@setting_options(*flags_of("messages"))
@where_options
@click.pass_context
def schema(ctx: click.Context, /, kind: str, tables: Sequence[str], **flags: Any) -> None:
    """Describe the messages of the captured tables, or of those named, as they are now.

    Print a JSON document, for generators of types and of documentation.

    \b
    pgoutbox schema --table users > users.schema.json
    pgoutbox schema --format asyncapi > asyncapi.json
    """
    from pgoutbox.messages import description
    from pgoutbox.subjects import Naming

    settings = settings_of(ctx, **flags)
    if settings.messages.content != "wal-listener":
        raise ConfigError(
            f"a schema describes wal-listener's payload, not --content {settings.messages.content}"
        )

    async def look() -> tuple[list[DescribedTable], str]:
        from pgoutbox.database import connection
        from pgoutbox.database import tables as database
        from pgoutbox.database.schema import check

        async with connection.session(
            settings.database, purpose="schema", primary=False, say=say
        ) as conn:
            await check(conn)
            name: str = await conn.fetchval("select pg_catalog.current_database()")
            return await database.described(conn, tables), name

    found, name = run(look())
    config = settings.messages
    naming = Naming(config.topic, config.topic_prefix, config.topics_map, name)
    document = (
        description.json_schema(found)
        if kind == "jsonschema"
        else description.asyncapi(found, naming, config.subject)
    )
    click.echo(json.dumps(document, indent=2, ensure_ascii=False).encode())
