"""The commands, a module for each. Only this package prints, and only it imports click."""

from __future__ import annotations

from typing import Any

import click

from pgoutbox import __version__
from pgoutbox.cli import (
    demo,
    doctor,
    install,
    parked,
    pause,
    relay,
    resend,
    schema,
    snapshot,
    status,
    tail,
    uninstall,
)
from pgoutbox.cli.common import Cli, where_options

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    another error
  2    wrong flag, variable or configuration file
  3    schema pgoutbox missing, or of another version
  4    PostgreSQL unavailable, or it rejected something
  5    NATS unavailable, or it stored nothing
  6    a table can't be captured, released or read, or a relay forgotten
  7    something needs attention (status --check, doctor)
  130  interrupted
  143  terminated, as the first process of a container"""


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
)
@where_options
@click.version_option(__version__, message="pgoutbox %(version)s")
@click.pass_context
def main(ctx: click.Context, /, **flags: Any) -> None:
    """Publish row changes of PostgreSQL tables to NATS, in wal-listener's format.

    \b
    pgoutbox install --table users     # capture a table's changes
    pgoutbox relay                     # publish them
    pgoutbox status                    # see how far it has got

    Flags override environment variables, which override the configuration file. The database is
    that of --dsn, PGOUTBOX_DSN or DATABASE_URL; without them, of libpq's PG* variables and the
    file.
    """
    ctx.obj = {key: value for key, value in flags.items() if value is not None}


for command in (
    install.install,
    uninstall.uninstall,
    relay.relay,
    pause.pause,
    pause.resume,
    snapshot.snapshot,
    resend.resend,
    parked.parked,
    status.status,
    tail.tail,
    doctor.doctor,
    schema.schema,
    demo.demo,
):
    main.add_command(command)
