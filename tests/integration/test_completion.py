"""Completion in real shells: commands, options, and names that the database has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Database
from tests.support.commands import clean_environment
from tests.support.terminal import shell_on_terminal
from tests.support.waiting import eventually

PROGRAM = Path(sys.executable).with_name("pgoutbox")

needs = {
    shell: pytest.mark.skipif(not shutil.which(shell), reason=f"there is no {shell}")
    for shell in ("bash", "zsh", "fish")
}


def environment(database: Database) -> dict[str, str]:
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    return {**clean_environment({"DATABASE_URL": database.dsn}), "PATH": path, "TERM": "xterm"}


def run(shell: list[str], script: str, database: Database) -> list[str]:
    done = subprocess.run(
        [*shell, script], env=environment(database), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def in_bash(words: list[str], database: Database) -> list[str]:
    """Return what bash offers for the last of ``words``."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        'eval "$(_PGOUTBOX_COMPLETE=bash_source pgoutbox)"; complete -p pgoutbox >/dev/null;'
        f" COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _pgoutbox_completion pgoutbox;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return [line for line in run(["bash", "-c"], script, database) if line]


def in_fish(words: list[str], database: Database) -> list[str]:
    """Return what fish offers for the last of ``words``."""
    script = (
        "_PGOUTBOX_COMPLETE=fish_source pgoutbox | source;"
        f" complete --do-complete '{' '.join(words)}'"
    )
    return [line.partition("\t")[0] for line in run(["fish", "--private", "-c"], script, database)]


SHELLS = [
    pytest.param(in_bash, marks=needs["bash"], id="bash"),
    pytest.param(in_fish, marks=[needs["fish"], pytest.mark.long], id="fish"),
]


@pytest.fixture
async def captured(database: Database) -> Database:
    """A database with the captured table users, the table usages that isn't, and two relays."""
    owner = await database.connect()
    await owner.execute(
        "create table users (id int primary key); create table usages (id int primary key);"
        "create schema billing; create table billing.invoices (id int primary key);"
        "select pgoutbox.capture_table('users'), pgoutbox.capture_table('billing.invoices');"
        "insert into pgoutbox.progress (relay) values ('default'), ('audit')"
    )
    return database


@pytest.mark.parametrize("offered", SHELLS)
async def test_names_of_tables_and_relays_are_completed(
    captured: Database, offered: Callable[[list[str], Database], list[str]]
) -> None:
    expected = {
        ("pause", "d"): ["default"],
        ("uninstall", "--table", "us"): ["users"],
        ("install", "--table", "us"): ["usages", "users"],
        ("tail", "--table", "b"): ["billing.invoices"],
        ("res",): ["resend", "resume"],
    }
    for words, names in expected.items():
        found = offered(["pgoutbox", *words], captured)
        assert sorted(found) == names, words


@pytest.mark.parametrize("offered", SHELLS)
async def test_completion_is_silent_where_there_is_no_database(
    captured: Database, offered: Callable[[list[str], Database], list[str]]
) -> None:
    words = ["pgoutbox", "pause", "--dsn", "postgresql://joe@127.0.0.1:1/db", "d"]

    assert offered(words, captured) == []


@needs["zsh"]
async def test_zsh_completes_on_its_command_line(captured: Database, tmp_path: Path) -> None:
    (tmp_path / ".zshrc").write_text(
        "autoload -Uz compinit && compinit -u -d $ZDOTDIR/dump\n"
        'eval "$(_PGOUTBOX_COMPLETE=zsh_source pgoutbox)"\n'
        "PS1='ready> '\n"
    )
    env = {**environment(captured), "ZDOTDIR": str(tmp_path), "HOME": str(tmp_path)}
    with shell_on_terminal([str(shutil.which("zsh")), "-i"], env=env) as terminal:
        await eventually(lambda: "ready> " in terminal.text)
        terminal.type("pgoutbox pause d\t")
        await eventually(lambda: "pgoutbox pause default" in terminal.text)
        terminal.type("\x15pgoutbox uninstall --table us\t")
        await eventually(lambda: "--table users" in terminal.text)
