"""``pgoutbox relay``."""

from __future__ import annotations

from typing import Any

import click

from pgoutbox.cli.common import setting_options, settings_of, where_options
from pgoutbox.config.settings import flags_of


@click.command()
@setting_options(*flags_of("nats", "messages", "stream", "relay", "monitoring"))
@click.option("--drain", is_flag=True, help="Publish all unsent events, then exit.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="POSITION",
    help="With --drain: publish no later position, and wait for earlier ones that are missing.",
)
@setting_options(*flags_of("log"))
@where_options
@click.pass_context
def relay(ctx: click.Context, /, drain: bool, until: int | None, **flags: Any) -> None:
    """Publish the outbox to NATS until SIGTERM or SIGINT.

    While PostgreSQL or NATS is unavailable it keeps retrying. A second relay of the same name
    stands by, and takes over when the first one stops.

    \b
    pgoutbox relay --nats-url nats://localhost:4222
    pgoutbox relay --drain
    """
    if until and not drain:
        raise click.UsageError("--until goes with --drain.")
    settings = settings_of(ctx, **flags)
    from pgoutbox import log
    from pgoutbox.relay import daemon

    log.configure(settings.log.level, settings.log.format)
    daemon.run(settings, drain=drain, until=until)
