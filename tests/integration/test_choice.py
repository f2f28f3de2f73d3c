"""Rows and columns chosen with the real command, up to the stream."""

from __future__ import annotations

import json

import asyncpg

from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream

TABLE = """
    create table users (id int primary key, name text, email text, secret text, divisor int);
    insert into users values (0, 'old', 'o@x.y', 's', 1), (9, 'left out', 'l@x.y', 's', 20)
"""
CHOICE = (
    *("--where", "10 / divisor > 0", "--except-column", "secret", "--hash-column", "email"),
    *("--except-column", "divisor"),
)


async def test_what_is_chosen_reaches_the_stream(
    database: Database, connection: asyncpg.Connection, stream: Stream
) -> None:
    await connection.execute(TABLE)
    done = pgoutbox("install", "--table", "users", *CHOICE, "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    await connection.execute("insert into users values (1, 'a', 'a@x.y', 's', 5)")
    await connection.execute("insert into users values (2, 'b', 'b@x.y', 's', 20)")
    await connection.execute("insert into users values (3, 'c', 'c@x.y', 's', 0)")
    started = pgoutbox("snapshot", "start", "users", "--detach", "--dsn", database.dsn)
    assert started.returncode == 0, started.stderr

    relay = ("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url)
    done = pgoutbox(*relay, "--topic", stream.topic)
    assert done.returncode == 0, done.stderr

    (inserted, *_) = [json.loads(message.data) for message in await stream.messages()]
    hashed = await connection.fetchval("select pgoutbox.keyed_hash('a@x.y')")
    assert inserted["data"] == {"id": 1, "name": "a", "email": hashed}
    everything = b"".join(message.data for message in await stream.messages())
    assert b"@x.y" not in everything
    assert b"secret" not in everything
    assert b"left out" not in everything
    status = pgoutbox("status", "--dsn", database.dsn).stdout
    chosen = "rows where 10 / divisor > 0; all columns but secret, divisor; hashed email"
    assert chosen in status
    assert await connection.fetchval("select reason from pgoutbox.parked") == (
        "PostgreSQL can't read it: the condition on its table raised 22012: division by zero"
    )
    assert pgoutbox("status", "--check", "--dsn", database.dsn).returncode == 7


async def test_scripts_have_it(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute(TABLE)
    for arguments in (("--tables-only",), ()):
        script = pgoutbox("install", "--print-sql", *arguments, "--table", "users", *CHOICE).stdout
        await connection.execute(script)
        chosen = await connection.fetchval("select choice from pgoutbox.captured_table")
        assert json.loads(chosen) == {
            "where": "10 / divisor > 0",
            "except": ["secret", "divisor"],
            "hash": ["email"],
        }
    again = pgoutbox(
        *("install", "--table", "users", "--where", "", "--hash-column", ""),
        *("--dsn", database.dsn),
    )
    assert "all columns but secret, divisor" in again.stderr
    assert "rows where" not in again.stderr


async def test_what_cannot_be_chosen_is_said(
    database: Database, connection: asyncpg.Connection
) -> None:
    await connection.execute(TABLE)
    for arguments, code, problem in (
        (("--where", "true"), 2, "chosen of tables that --table names"),
        (("--table", "users", "--where", "now() > 'x'"), 6, "the condition now() > 'x' can't be"),
        (("--table", "users", "--except-column", "id"), 6, "the column id is part of the key"),
    ):
        done = pgoutbox("install", *arguments, "--dsn", database.dsn)
        assert (done.returncode, problem in done.stderr) == (code, True), done.stderr
