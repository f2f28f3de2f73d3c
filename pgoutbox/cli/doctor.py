"""``pgoutbox doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pgoutbox.cli.common import (
    NEEDS_ATTENTION,
    json_option,
    run,
    setting_options,
    settings_of,
    table_option,
    where_options,
)
from pgoutbox.config.settings import flags_of


@click.command(short_help="Say what will go wrong, before and after an installation.")
@table_option
@click.option("--nats/--no-nats", "with_nats", default=True, help="Whether to look at NATS, too.")
@json_option
@setting_options(*flags_of("nats", "messages", "stream"))
@where_options
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    with_nats: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Look at PostgreSQL and NATS, and say what will go wrong and what to do about it.

    A line for each check, before an installation as well as after it. It changes nothing and
    publishes nothing. Run it as the role, and with the settings, of the relay; before an
    installation name with --table what is to be captured. Exits with 7 if something needs
    attention.

    \b
    pgoutbox doctor --table users --no-nats
    pgoutbox doctor -c config.yml
    pgoutbox doctor --json | jq -r '.checks[] | select(.level == "attention") | .said'
    """
    from pgoutbox.doctor import finding
    from pgoutbox.doctor.examine import examine

    settings = settings_of(ctx, **flags)
    found = run(examine(settings, tables, with_nats=with_nats))
    # What programs read is UTF-8 whatever the terminal is.
    click.echo(finding.to_json(found).encode() if as_json else finding.to_text(found))
    if finding.needs_attention(found):
        ctx.exit(NEEDS_ATTENTION)
