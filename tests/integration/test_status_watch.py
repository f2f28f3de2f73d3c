"""``pgoutbox status --watch``, as it looks on terminals and in a pipe."""

from __future__ import annotations

import re
import signal

import asyncpg
import pytest

from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database import connection
from pgoutbox.database.status.watch import look, screen
from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.terminal import Terminal, on_terminal
from tests.support.waiting import eventually

HOME = "\x1b[H"


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute("create table notes (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('notes'), pgoutbox.lead('default')")
    return owner


def screens(terminal: Terminal) -> list[str]:
    """Return what was drawn, screen by screen, as it looks; the last may not be whole."""
    return [
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part).replace("\r", "")
        for part in terminal.written.split(HOME)[1:]
    ]


async def test_screen_is_drawn_again_with_rates_and_fits_the_terminal(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute(
        "insert into notes values (1);"
        "insert into pgoutbox.progress (relay) values ('a-relay-whose-name-goes-on-and-on')"
    )
    watch = ("status", "--watch", "--interval", "100ms", "--dsn", database.dsn)
    with on_terminal(*watch, columns=80, rows=24) as terminal:
        await eventually(lambda: len(screens(terminal)) > 2)
        await owner.execute("insert into notes values (2)")
        await owner.execute("insert into notes values (3)")
        await eventually(lambda: any("unsent 3" in one for one in screens(terminal)[:-1]))
    with on_terminal(*watch, columns=80, rows=8, env={"NO_COLOR": "1"}) as small:
        await eventually(lambda: len(screens(small)) > 1)

    whole = next(one for one in screens(terminal) if "unsent 3" in one)
    assert re.search("^written [1-9]", whole, re.MULTILINE)
    assert [line for line in whole.split("\n") if len(line) > 80] == []
    assert f"database {database.name} at " in whole
    assert re.search(r"^default +\S+ +3 ", whole, re.MULTILINE)
    assert "a-relay-whose-name-…" in whole
    assert "tables   1 captured" in whole
    assert "slots    " in whole
    assert "! nobody publishes the unsent events of relay a-relay" in whole
    assert "\x1b[31m! nobody" in terminal.written
    cut = screens(small)[0].split("\n")
    assert len(cut) == 8
    assert re.fullmatch(r"\.\.\. \d+ more lines; see pgoutbox status", cut[6])
    assert "\x1b[31m" not in small.written


async def test_rates_are_those_of_events(database: Database, owner: asyncpg.Connection) -> None:
    """Also of a transaction that a relay has sent in part."""
    config = DatabaseConfig(dsn=database.dsn)
    async with connection.session(config, purpose="status", primary=False) as conn:
        first = await look(conn, None)
        await owner.execute("insert into notes select generate_series(1, 100)")
        await owner.execute("insert into notes select generate_series(101, 110)")
        row = await owner.fetchrow(
            "select min(position) as high, max(position) as next from pgoutbox.transaction"
        )
        assert row is not None
        await owner.execute(
            "update pgoutbox.progress set high = $1, partial_position = $2, partial_seq = ("
            " select min(seq) + 2 from pgoutbox.outbox where position = $2)",
            row["high"],
            row["next"],
        )
        second = await look(conn, first)
        await owner.execute(
            "update pgoutbox.progress set high = $1, partial_position = null, partial_seq = null",
            row["next"],
        )
        third = await look(conn, second)
        fourth = await look(conn, third)

    assert first.flow is not None
    assert first.flow.seconds is None, "nothing to compare with"
    flows = [each.flow for each in (second, third, fourth) if each.flow]
    assert [(flow.written, dict(flow.sent)) for flow in flows] == [
        (110, {"default": 103}),
        (0, {"default": 7}),
        (0, {"default": 0}),
    ]
    shown = screen(second, "12:00:00 UTC", width=80, height=24)
    assert any(re.match(r"written [1-9][\d,]*/s ", line) for line in shown), shown
    assert any(re.match(r"default +[1-9][\d,]*/s +7 ", line) for line in shown), shown


async def test_in_a_pipe_screens_are_plain_text_one_below_another(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    watch = await daemon("status", "--watch", "--interval", "100ms", "--dsn", database.dsn)
    await eventually(lambda: sum("captured" in line for line in watch.stdout) > 2)
    watch.send_signal(signal.SIGINT)

    assert await watch.wait() == 130
    assert "\x1b" not in watch.output
    assert watch.stderr == []


async def test_database_that_comes_back_is_watched_on(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    watch = await daemon("status", "--watch", "--interval", "100ms", "--dsn", database.dsn)
    await watch.line("captured")
    await owner.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    await watch.line("trying again")
    shown = len(watch.stdout)

    await eventually(lambda: len(watch.stdout) > shown + 10)


def test_watching_goes_without_what_ends() -> None:
    for arguments, said in (
        (("--json",), "--watch goes without --json and --check"),
        (("--interval", "soon"), "--interval must be a duration"),
        (("--dsn", "postgresql://joe@127.0.0.1:1/db"), "refused the connection"),
    ):
        done = pgoutbox("status", "--watch", *arguments)
        assert done.returncode in (2, 4)
        assert said in done.stderr
        assert done.stdout == ""
