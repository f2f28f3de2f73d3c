"""The commands, a module for each. Only this package prints, and only it imports click."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import click

from pgoutbox import __version__
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


class _Commands(Mapping[str, click.Command]):
    """The commands by name, each imported when it is looked up: one run needs one of them."""

    _MODULES: Mapping[str, str] = {
        "install": "install",
        "uninstall": "uninstall",
        "relay": "relay",
        "pause": "pause",
        "resume": "pause",
        "snapshot": "snapshot",
        "resend": "resend",
        "parked": "parked",
        "status": "status",
        "tail": "tail",
        "doctor": "doctor",
        "schema": "schema",
        "demo": "demo",
    }

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"pgoutbox.cli.{self._MODULES[name]}")
        command: click.Command = getattr(module, name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._MODULES)

    def __len__(self) -> int:
        return len(self._MODULES)


@click.group(
    cls=Cli,
    commands=_Commands(),
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
