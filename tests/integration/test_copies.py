"""Databases that are copies: what the copying left out is noticed, and `install` mends it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgoutbox.demo.postgres import postgres_installation
from tests.conftest import Servers
from tests.support.cluster import ADMIN, Cluster, Database
from tests.support.commands import clean_environment, pgoutbox
from tests.support.streams import Stream

BIN = postgres_installation() / "bin"


@pytest.fixture
async def original(cluster: Cluster) -> AsyncIterator[Database]:
    """A database with a table that is captured for some actions, and one that is for all."""
    database = await cluster.create_database()
    owner = await database.connect()
    await owner.execute(
        "create table users (id int primary key, name text); create table notes (body text);"
        "select pgoutbox.capture_table('notes', '{INSERT,DELETE}', 'identity');"
        "select pgoutbox.capture_table('users')"
    )
    yield database
    await cluster.drop_database(database)


@pytest.fixture
async def copy(cluster: Cluster) -> AsyncIterator[Database]:
    """A database to copy into."""
    database = await cluster.create_database(installed=False)
    yield database
    await cluster.drop_database(database)


def dump(source: Database, target: Database, *options: str) -> None:
    """Copy a database with pg_dump, as the superuser."""
    done = subprocess.run(
        [BIN / "pg_dump", *options, source.dsn_as(ADMIN)], capture_output=True, check=True
    )
    subprocess.run(
        [BIN / "psql", "-Xqo", "/dev/null", "-v", "ON_ERROR_STOP=1", target.dsn_as(ADMIN)],
        input=done.stdout,
        env=clean_environment(),
        check=True,
    )


def drain(database: Database, stream: Stream) -> subprocess.CompletedProcess[str]:
    """Send what is there."""
    return pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn),
        *("--nats-url", stream.url, "--topic", stream.topic),
    )


async def sent(stream: Stream) -> list[tuple[str, str, dict[str, object]]]:
    """Return table, action and new row of each message."""
    events = [json.loads(message.data) for message in await stream.messages()]
    return [(event["table"], event["action"], event["data"]) for event in events]


async def captured(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Return what is captured, and by which functions."""
    rows = await connection.fetch(
        "select relation::text, number, actions, old_values from pgoutbox.captured_table order by 1"
    )
    return [tuple(row) for row in rows]


async def test_a_copy_of_the_structure_is_made_whole_by_install(
    original: Database, copy: Database, stream: Stream
) -> None:
    """Such as a test database that is loaded from structure.sql."""
    dump(original, copy, "--schema-only")
    owner = await copy.connect()
    await owner.execute("insert into users values (1, 'before'); delete from notes")
    await owner.execute("alter table users add note text; insert into users values (2, 'x', 'y')")
    refused = drain(copy, stream)
    assert (refused.returncode, "Run: pgoutbox install" in refused.stderr) == (3, True)

    installed = pgoutbox("install", "--dsn", copy.dsn)

    assert (installed.returncode, "Traceback" in installed.stderr) == (0, False)
    assert await captured(owner) == await captured(await original.connect())
    assert await owner.fetchval("select id from pgoutbox.installation") != await (
        await original.connect()
    ).fetchval("select id from pgoutbox.installation")
    await owner.execute("insert into users values (3, 'after', null)")
    assert drain(copy, stream).returncode == 0
    assert await sent(stream) == [
        ("users", "INSERT", {"id": 1, "name": "before"}),
        ("users", "INSERT", {"id": 2, "name": "x", "note": "y"}),
        ("users", "INSERT", {"id": 3, "name": "after", "note": None}),
    ]


async def test_the_printed_script_makes_a_copy_of_the_structure_whole(
    original: Database, copy: Database
) -> None:
    """Its next table gets a capture function of its own."""
    dump(original, copy, "--schema-only")
    owner = await copy.connect()
    await owner.execute("create table more (id int)")
    script = pgoutbox("install", "--print-sql", "--table", "more").stdout

    await owner.execute(f"begin;{script}commit")

    [more, notes, users] = await captured(owner)
    assert [notes, users] == await captured(await original.connect())
    assert more[1] not in (notes[1], users[1])


async def test_sequences_that_were_left_behind_are_noticed_and_caught_up(
    original: Database, copy: Database, stream: Stream
) -> None:
    """As a database has that moved by logical replication, after its slots were emptied."""
    source = await original.connect()
    for number in range(40):
        await source.execute("insert into users values ($1, 'sent')", number)
    assert drain(original, stream).returncode == 0
    dump(original, copy)
    owner = await copy.connect()
    await owner.execute(
        "truncate pgoutbox.event, pgoutbox.transaction;"
        "select setval(s, 1, false) from unnest(array['pgoutbox.position_seq',"
        "'pgoutbox.event_seq']::regclass[]) s"
    )
    await owner.execute("insert into users values (101, 'at the copy')")
    await owner.execute("insert into users values (102, 'at the copy')")
    refused = drain(copy, stream)
    assert (refused.returncode, "without its sequences' values" in refused.stderr) == (3, True)

    assert pgoutbox("install", "--dsn", copy.dsn).returncode == 0

    await owner.execute("insert into users values (103, 'at the copy')")
    assert drain(copy, stream).returncode == 0
    names = [(row["id"], row["name"]) for _, _, row in (await sent(stream))[40:]]
    assert names == [(number, "at the copy") for number in (101, 102, 103)]


async def test_a_sequence_behind_positions_that_are_still_there_fails_no_write(
    original: Database, copy: Database, stream: Stream
) -> None:
    source = await original.connect()
    await source.execute("insert into users values (1, 'unsent')")
    dump(original, copy)
    owner = await copy.connect()
    await owner.execute("select setval('pgoutbox.position_seq', 1, false)")

    await owner.execute("insert into users values (2, 'at the copy')")

    assert pgoutbox("install", "--dsn", copy.dsn).returncode == 0
    assert drain(copy, stream).returncode == 0
    assert {row["id"] for _, _, row in await sent(stream)} == {1, 2}


async def test_a_whole_dump_goes_on_where_it_was(
    original: Database, servers: Servers, stream: Stream
) -> None:
    """In another cluster, with what was sent and what wasn't."""
    source = await original.connect()
    await source.execute("insert into users values (1, 'sent')")
    assert drain(original, stream).returncode == 0
    await source.execute("insert into users values (2, 'unsent')")
    cluster = await servers.cluster()
    there = await cluster.create_database(installed=False)
    dump(original, there)

    owner = await there.connect()
    await owner.execute("insert into users values (3, 'there')")
    assert drain(there, stream).returncode == 0
    assert [row["id"] for _, _, row in await sent(stream)] == [1, 2, 3]
    await there.disconnect()


async def test_a_dump_with_another_owner_and_with_disabled_triggers(
    original: Database, copy: Database, stream: Stream
) -> None:
    """As from a managed database into one's own, by a tool that disables triggers to load rows."""
    source = await original.connect()
    await source.execute("insert into users values (1, 'unsent')")
    dump(original, copy, "--no-owner", "--no-privileges")
    where = ("--dsn", copy.dsn_as(ADMIN))
    admin = await copy.connect(ADMIN)
    await admin.execute("alter table users disable trigger all")
    await admin.execute("insert into users values (2, 'by the tool')")

    check = pgoutbox("status", "--check", *where)
    assert check.returncode == 7
    assert "! public.users: trigger missing or disabled; run: pgoutbox install" in check.stdout
    assert pgoutbox("install", *where, "--table", "users").returncode == 0
    await admin.execute("insert into users values (3, 'there')")
    drained = pgoutbox(
        *("relay", "--drain", *where, "--nats-url", stream.url, "--topic", stream.topic)
    )

    assert drained.returncode == 0, drained.stderr
    assert [row["id"] for _, _, row in await sent(stream)] == [1, 3]
