"""What commands share. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from pgoutbox import patterns
from pgoutbox.cli import completion
from pgoutbox.config import load
from pgoutbox.config.declare import Setting
from pgoutbox.config.settings import Config, flags_of
from pgoutbox.config.values import InvalidValue, parse_moment
from pgoutbox.errors import ConfigError, PgoutboxError
from pgoutbox.patterns import Pattern

Result = TypeVar("Result")

Command = TypeVar("Command", bound=Callable[..., Any])


NEEDS_ATTENTION = 7
_INTERRUPTED = 130
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


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
            with suppress(OSError):
                click.secho(f"error: {visible(str(error))}", fg="red", err=True)
            if error.subject:
                say(f"subject: {error.subject}")
            if error.hint:
                say(f"hint: {error.hint}")
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
    say(f"error: the output can't be written: {error.strerror}")
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
    complete = completion.relays if flag == "--name" else None
    return click.option(flag, metavar=setting.type.metavar, help=help_text, shell_complete=complete)


def where_options(command: Command) -> Command:
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


def utf8(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Refuse a value that isn't UTF-8; a callback of click's."""
    for text in value if isinstance(value, tuple) else (value or "",):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter(f"{text!r} isn't UTF-8") from error
    return value


table_option = click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME",
    callback=utf8,
    shell_complete=completion.tables,
    help="Table, as SQL names it: users, billing.invoices, '\"Odd Name\"'. May be repeated.",
)


def selection_options(command: Command) -> Command:
    """Add the options that choose tables by names and patterns; see :class:`Selection`."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


_SELECTION = (
    click.option(
        "--table",
        "tables",
        multiple=True,
        metavar="NAME",
        callback=utf8,
        shell_complete=completion.tables,
        help="Table, as SQL names it: users, billing.invoices, '\"Odd Name\"'; or a pattern with *"
        " and ? outside of double quotes: 'tenant_*.orders'. May be repeated.",
    ),
    click.option(
        "--schema",
        "schemas",
        multiple=True,
        metavar="NAME",
        callback=utf8,
        help="All tables of this schema, or of schemas that match a pattern. May be repeated.",
    ),
    click.option("--all-tables", is_flag=True, help="All tables of the database."),
)


def selected(
    tables: Sequence[str], schemas: Sequence[str], everything: bool
) -> tuple[list[str], list[Pattern]]:
    """Return the names and the patterns that the options of :func:`selection_options` give.

    Raises:
        ConfigError: one of them can't be read.
    """
    try:
        return patterns.chosen(tables, schemas, everything=everything)
    except ValueError as error:
        raise ConfigError(str(error)) from error


print_sql_option = click.option(
    "--print-sql", is_flag=True, help="Print the SQL instead of running it."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def parsed(flag: str, parse: Callable[[object], Any], value: object) -> Any:
    """Return a flag's value as ``parse`` has it.

    Raises:
        ConfigError: it isn't one.
    """
    try:
        return parse(value)
    except InvalidValue as error:
        raise ConfigError(f"{flag} {error}") from error


def moment_option(flag: str, meaning: str) -> Callable[[Command], Command]:
    """Add an option for a moment; see :func:`pgoutbox.config.values.parse_moment`."""
    return click.option(
        flag,
        metavar="TIME",
        callback=lambda _, __, value: value and parsed(flag, parse_moment, value),
        help=f"{meaning} A time such as 2026-01-31T14:00Z, or how long ago: 10m, 2d.",
    )


def settings_of(ctx: click.Context, **flags: Any) -> Config:
    """Return the settings; a flag after the command's name overrides one before it."""
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**ctx.ensure_object(dict), **given}
    file = merged.pop("file", None) or os.environ.get("PGOUTBOX_CONFIG")
    return load.load(merged, os.environ, Path(file) if file else None)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run what a command does, and return what it returns."""
    import asyncio  # imported here, so that --help is quick

    return asyncio.run(work)


def say(text: str) -> None:
    """Tell the user something that isn't data; where nobody can be told, the work goes on."""
    with suppress(OSError):
        click.echo(visible(text), err=True)


def wants_color(is_terminal: bool) -> bool:
    """Tell whether to write colours: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return is_terminal and not os.environ.get("NO_COLOR")


def visible(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act on, but line breaks.

    Names of the database are in it, and they can be anything.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )
