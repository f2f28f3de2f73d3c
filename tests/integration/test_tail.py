"""``pgoutbox tail``: what is captured and what is published, as people and programs read it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgoutbox.demo.process import free_port
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, WRITER, Database
from tests.support.commands import Daemon, pgoutbox
from tests.support.streams import Stream
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually, unique

NOTES = "create table notes (id int primary key, text text)"


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute(f"{NOTES}; create table other (id int)")
    await owner.execute("select pgoutbox.capture_table('notes'), pgoutbox.capture_table('other')")
    return owner


def ids(command: Daemon) -> list[int]:
    return [json.loads(line)["data"]["id"] for line in command.stdout]


async def test_events_come_in_commit_order_while_nothing_is_held_or_marked(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    """A transaction that has its place and isn't committed is waited for; others pass it."""
    await owner.execute("insert into notes values (0)")
    first, second, third = [await database.connect(WRITER) for _ in range(3)]
    tail = await daemon("tail", "--json", "--dsn", database.dsn)
    await tail.line("as they are captured; Ctrl-C ends it")
    known = [one.get_server_pid() for one in (owner, first, second, third)]
    await eventually(lambda: _is_idle(database, known))

    opened = [writer.transaction() for writer in (first, second)]
    for number, (writer, transaction) in enumerate(zip((first, second), opened, strict=True), 1):
        await transaction.start()
        await writer.execute(f"insert into notes values ({number})")
        await writer.execute("set constraints all immediate")
    await third.execute("insert into notes values (3)")
    await eventually(lambda: ids(tail) == [3])
    await opened[0].commit()
    await eventually(lambda: ids(tail) == [3, 1])
    await opened[1].rollback()
    await third.execute("insert into notes select generate_series(1001, 2000)")
    await eventually(lambda: len(tail.stdout) == 1002)

    assert ids(tail) == [3, 1, *range(1001, 2001)]
    await eventually(lambda: _is_idle(database, known))
    assert await owner.fetchval("select count(*) from pgoutbox.progress") == 0
    tail.send_signal(signal.SIGINT)
    assert await tail.wait() == 130
    assert "Traceback" not in tail.output


async def _is_idle(database: Database, known: list[int]) -> bool:
    """Tell whether there is one more session, with neither snapshot, transaction id nor lock."""
    admin = await database.connect(ADMIN)
    row = await admin.fetchrow(
        "select count(*) as count, bool_and(a.state = 'idle' and a.backend_xmin is null"
        "  and a.backend_xid is null"
        "  and not exists (select from pg_locks l where l.pid = a.pid)) as is_idle"
        " from pg_stat_activity a"
        " where a.datname = $1 and a.pid <> pg_backend_pid() and a.pid <> all ($2::int[])",
        database.name,
        known,
    )
    await admin.close()
    return bool(row and row["count"] == 1 and row["is_idle"])


async def test_json_has_the_payload_that_is_published(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into notes values (1, E'a\\nb')")
    await owner.execute("update notes set text = null; delete from notes; truncate other")
    where = ("--dsn", database.dsn)
    drained = pgoutbox(
        "relay", "--drain", *where, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert drained.returncode == 0

    done = pgoutbox("tail", "--json", "--since", "1h", "--no-follow", *where)

    assert (done.returncode, done.stderr) == (0, "")
    captured = [json.loads(line) for line in done.stdout.splitlines()]
    positions = [event.pop("position") for event in captured]
    assert captured == [json.loads(message.data) for message in await stream.messages()]
    assert positions == sorted(positions)

    some = ("--table", "notes", "--action", "update,delete")
    done = pgoutbox("tail", *some, "--since", "1h", "--no-follow", *where)
    assert [line.split(" ", 1)[1] for line in done.stdout.splitlines()] == [
        'UPDATE   public.notes {"id":1,"text":null} was {"text":"a\\nb"}',
        'DELETE   public.notes {"id":1,"text":null}',
    ]
    done = pgoutbox("tail", "--since", "2099-01-01", "--no-follow", *where)
    assert (done.returncode, done.stdout) == (0, "")


async def test_lines_fit_the_terminal_in_colour_unless_that_isnt_wanted(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("insert into notes values (1, repeat('long ', 50)), (2, E'\\u001b[2J')")
    command = ("tail", "--since", "1h", "--no-follow", "--dsn", database.dsn)

    with on_terminal(*command) as terminal:
        assert terminal.end() == 0
    with on_terminal(*command, env={"NO_COLOR": "1"}) as plain:
        assert plain.end() == 0
    with on_terminal(*command, columns=200) as wide:
        assert wide.end() == 0

    assert [len(line) for line in terminal.lines[:2]] == [80, len(terminal.lines[1])]
    assert terminal.lines[0].endswith("…")
    assert "\x1b[32mINSERT" in terminal.written
    assert "\x1b[2J" not in terminal.written
    assert "\x1b" not in plain.written
    assert plain.lines == terminal.lines
    assert len(wide.lines[0]) == 200


async def test_stream_shows_what_is_published(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    nats = ("--nats-url", stream.url, "--topic", stream.topic)
    missing = pgoutbox("tail", "--stream", *nats)
    assert (missing.returncode, missing.stdout) == (5, "")
    assert f"error: no stream has the subjects {stream.topic}.*" in missing.stderr

    drain = ("relay", "--drain", "--dsn", database.dsn, *nats)
    await owner.execute("insert into notes values (1, 'a'); insert into other values (2)")
    assert pgoutbox(*drain).returncode == 0
    done = pgoutbox("tail", "--stream", "--json", "--since", "1h", "--no-follow", *nats)
    assert (done.returncode, done.stderr) == (0, "")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    stored = await stream.messages()
    assert [(one["sequence"], one["subject"]) for one in shown] == [
        (message.sequence, message.subject) for message in stored
    ]
    assert [one["payload"] for one in shown] == [json.loads(one.data) for one in stored]
    assert [one["headers"]["Nats-Msg-Id"] for one in shown] == [
        one.headers["Nats-Msg-Id"] for one in stored
    ]

    named = await daemon("tail", "--stream", stream.topic, "--table", "public.notes", *nats)
    await named.line("messages as they are published")
    await eventually(lambda: _has_consumer(stream))
    await owner.execute("insert into other values (3); update notes set text = 'b'")
    assert pgoutbox(*drain).returncode == 0
    line = await named.line('public.notes {"id": 1, "text": "b"} was {"text":"a"}')
    assert line.split()[1] == "UPDATE"
    assert len(named.stdout) == 1


async def _has_consumer(stream: Stream) -> bool:
    return bool((await stream.jetstream.stream_info(stream.topic)).state.consumer_count)


async def test_a_role_with_a_relays_rights_may_look(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("insert into notes values (1)")
    admin = await database.connect(ADMIN)
    role = unique("looker")
    password = urlsplit(database.dsn).password
    await admin.execute(f"create role {role} login password '{password}'")
    try:
        done = pgoutbox("install", "--grant-relay", role, "--dsn", database.dsn)
        assert done.returncode == 0
        tail = ("tail", "--since", "1h", "--no-follow", "--dsn", database.dsn_as(role))
        assert 'public.notes {"id":1' in pgoutbox(*tail).stdout
    finally:
        await admin.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "error: --since must be a time such as 2026-01-31T14:00Z"),
        (("--action", "upsert"), "error: --action has an unknown action 'UPSERT'"),
        (("--table", "a.b.c"), "error: --table "),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = pgoutbox("tail", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_servers_that_are_away_are_said_to_be(tmp_path: Path) -> None:
    nowhere = free_port()
    done = pgoutbox("tail", "--stream", "--nats-url", f"nats://127.0.0.1:{nowhere}")
    assert (done.returncode, done.stdout) == (5, "")
    done = pgoutbox("tail", "--dsn", f"postgresql://joe@127.0.0.1:{nowhere}/db")
    assert (done.returncode, done.stdout) == (4, "")
