"""What the SQL files look like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgoutbox.config.settings import LONGEST_RETENTION
from pgoutbox.locks import SLEEP_LOCK
from pgoutbox.sql_files import ring, sql_root

FILES = [
    file
    for folder in sql_root().iterdir()
    for file in folder.iterdir()
    if file.name.endswith(".sql")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_lines_are_short_and_plain(file: Path) -> None:
    """Databases of any encoding read them."""
    text = file.read_text()

    assert [line for line in text.splitlines() if len(line) > 100 or line != line.rstrip()] == []
    assert text.isascii()
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "file", [file for file in FILES if not re.match(r"\d", file.name)], ids=lambda file: file.name
)
def test_a_file_is_named_after_what_it_makes(file: Path) -> None:
    names = re.findall(
        r"^create or replace (?:function|view) pgoutbox\.(\w+)", file.read_text(), re.M
    )

    assert {re.sub(r"_0$", "", name) for name in names} <= {file.name.removesuffix(".sql")}


# Comments, literals that are read as such and their continuations, and plain ones.
_TOKEN = re.compile(
    r"--[^\n]*|\bE'(?:[^'\\]|''|\\.)*'(?:\s*\n\s*'(?:[^'\\]|''|\\.)*')*|(?P<plain>'(?:[^']|'')*')",
    re.DOTALL,
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_backslash_means_the_same_in_every_session(file: Path) -> None:
    """What a plain literal makes of it follows standard_conforming_strings."""
    literals = [match["plain"] or "" for match in _TOKEN.finditer(file.read_text())]

    assert [literal for literal in literals if "\\" in literal] == []


def test_the_ring_has_as_many_slots_as_tables() -> None:
    migration = (sql_root() / "migrations" / "0001_outbox.sql").read_text()

    for table in ("event", "first_event", "transaction"):
        slots = re.findall(rf"create table pgoutbox\.{table}_(\d+) ", migration)
        assert slots == [str(slot) for slot in range(ring().slots)]
    assert 0 < LONGEST_RETENTION < ring().rest


def test_advisory_locks_have_the_numbers_that_python_has() -> None:
    taken = {
        int(number)
        for file in FILES
        for number in re.findall(r"advisory_xact_lock\w*\((\d+),", file.read_text())
    }

    assert taken == {SLEEP_LOCK[0]}
    [holders] = [file for file in FILES if file.name == "sleep_lock_holders.sql"]
    assert "l.classid = {} and l.objid = {}".format(*SLEEP_LOCK) in holders.read_text()
