"""What the documents repeat from the code: docs/commands.md, and the table in docs/settings.md.

``make docs`` writes both; tests/unit/test_documents.py notices when they are stale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from click.testing import CliRunner

from pgoutbox import config
from pgoutbox.cli import main
from pgoutbox.config import Setting
from tests.support import ROOT

COMMANDS = ROOT / "docs" / "commands.md"
README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"

_WIDTH = 100  # columns; never those of whoever's terminal this is
_TABLE = re.compile(r"(?<=<!-- settings: begin -->\n).*?(?=<!-- settings: end -->)", re.DOTALL)

# A setting without a flag has no help.
_MEANINGS = {
    "database.host": "PostgreSQL's host, where no `--dsn` is given.",
    "database.port": "Its port.",
    "database.name": "The database.",
    "database.user": "The role.",
    "database.password": "Its password.",
    "database.ssl_mode": "TLS: libpq's `sslmode`.",
    "database.enable_tls": "TLS: `sslmode` is `require` at least.",
    "monitoring.health_addr": "Port of the probes, on all interfaces.",
    "publisher.topics_map": "What stands in a subject instead of `schema_table`.",
    "install.tables": "Tables, each with its actions, that `install` captures without `--table`.",
}


def commands() -> str:
    """Return docs/commands.md as it should be."""
    parts = ["# Commands\n", "What `--help` says; `make docs` writes it here.\n"]
    for name in ("", *main.commands):
        parts.append(f"## {f'pgoutbox {name}'.strip()}\n\n```\n{_help(name)}```\n")
    return "\n".join(parts)


def with_settings(text: str) -> str:
    """Return docs/settings.md, now ``text``, with the table as it should be."""
    changed, count = _TABLE.subn(lambda _: settings(), text)
    if count != 1:
        raise ValueError("docs/settings.md has not exactly one place for the table")
    return changed


def settings() -> str:
    """Return the table of all settings, those last that only wal-listener's file has."""
    ordered = sorted(config.SETTINGS, key=lambda setting: setting.flag is None)
    rows = [
        ["key in the file", "flag", "variable", "default", "meaning"],
        ["---"] * 5,
        *(list(_row(setting)) for setting in ordered),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write() -> None:
    """Bring both files up to date."""
    COMMANDS.write_text(commands(), "utf-8")
    SETTINGS.write_text(with_settings(SETTINGS.read_text("utf-8")), "utf-8")


def _help(name: str) -> str:
    arguments = [name, "--help"] if name else ["--help"]
    printed = CliRunner().invoke(main, arguments, prog_name="pgoutbox", terminal_width=_WIDTH)
    return "".join(f"{line.rstrip()}\n" for line in printed.stdout.splitlines())


def _row(setting: Setting) -> Iterator[str]:
    yield _code(setting.keys)
    yield _code([setting.flag] if setting.flag else [])
    yield _code(setting.variables)
    yield _code([setting.shown_default] if setting.shown_default else [])
    yield setting.help.replace("|", "\\|") or _MEANINGS[setting.path]


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    write()
