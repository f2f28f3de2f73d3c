"""The durable consumers for Python, Node and Go: order, repeats, restarts, poison, all of it."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import Servers
from tests.examples.conftest import EXAMPLES, StartProgram, Users, read_lines
from tests.support.cluster import Database
from tests.support.commands import Daemon
from tests.support.streams import nats_client

Start = Callable[[], Awaitable[Daemon]]


@pytest.fixture
def start_python(program: StartProgram, users: Users) -> Start:
    async def start() -> Daemon:
        file = EXAMPLES / "python-consumer" / "consume.py"
        where = ("--nats", users.stream.url, "--stream", users.stream.topic)
        return await program(file, *where, "--delays", "0.05", "0.05")

    return start


@pytest.fixture
def start_node(program: StartProgram, users: Users, node_consumer: Path) -> Start:
    variables = {
        "NATS_URL": users.stream.url,
        "STREAM": users.stream.topic,
        "DELAYS": "0.05 0.05",
    }

    async def start() -> Daemon:
        return await program(node_consumer, env=variables)

    return start


@pytest.fixture
def start_go(program: StartProgram, users: Users, go_consumer: Path, database: Database) -> Start:
    variables = {
        "DATABASE_URL": f"{database.dsn}?options=-csearch_path%3Dcopy",
        "NATS_URL": users.stream.url,
        "STREAM": users.stream.topic,
        "DELAYS": "50ms 50ms",
    }

    async def start() -> Daemon:
        return await program(go_consumer, env=variables)

    return start


async def consume_all(users: Users, start: Start) -> list[str]:
    """Give a consumer events, a repeat and poison, kill it, go on; return what it said."""
    consumer = await start()  # before there is a stream
    await users.relay()
    await users.write(
        "insert into users (name, email) values ('John Wick', 'wick'), ('James Bond', 'bond')",
        "update users set name = 'Baba Yaga' where email = 'wick'",
    )
    first, *_ = await users.events(3)
    await users.publish(first)
    await users.publish(b"no event")
    await users.write("update users set id = 7 where email = 'bond'")
    await consumer.line("6 UPDATE users")

    await consumer.kill()
    await users.write("delete from users where id = 1")
    again = await start()
    await again.line("7 DELETE users")
    again.send_signal(signal.SIGTERM)
    assert await again.wait() == 0, again.output
    assert not again.stderr
    return consumer.stdout + again.stdout


def steps(said: list[str]) -> list[str]:
    """Return sequence and outcome of each line."""
    return [" ".join(re.split(r"[ :]+", line)[:2]) for line in said]


EXPECTED = [
    "1 INSERT",
    "2 INSERT",
    "3 UPDATE",
    "4 seen",
    *["5 failed"] * 3,
    "5 given",
    "6 UPDATE",
    "7 DELETE",
]


async def test_copy_in_sqlite_equals_the_table(
    users: Users, start_python: Start, tmp_path: Path
) -> None:
    said = await consume_all(users, start_python)

    assert steps(said) == EXPECTED
    copy = sqlite3.connect(tmp_path / "users.sqlite")
    rows = copy.execute("select id, name, email from users order by id").fetchall()
    copy.close()
    assert rows == await users.rows() == [("7", "James Bond", "bond")]


async def test_truncate_empties_the_copy(users: Users, start_python: Start, tmp_path: Path) -> None:
    await users.relay()
    await users.write("insert into users (name) values ('Sarah Walker')", "truncate users")
    consumer = await start_python()
    await consumer.line("2 TRUNCATE users")
    await consumer.kill()

    copy = sqlite3.connect(tmp_path / "users.sqlite")
    assert copy.execute("select count(*) from users").fetchone() == (0,)
    copy.close()


async def test_outage_of_nats_is_outlived(program: StartProgram, servers: Servers) -> None:
    server = servers.nats()
    consumer = await program(EXAMPLES / "python-consumer" / "consume.py", "--nats", server.url)
    await publish_truncate(server.url, "before")
    await consumer.line("1 TRUNCATE users")

    server.stop()  # killed, it can forget the acknowledgement, and wait 30 s for another one
    await consumer.line("NATS: ")
    server.start()
    await publish_truncate(server.url, "after")

    await consumer.line("2 TRUNCATE users")
    assert "Traceback" not in consumer.output


async def publish_truncate(url: str, event_id: str) -> None:
    """Publish an event as the relay would, into a stream that is made for it."""
    event = {"id": event_id, "table": "users", "action": "TRUNCATE", "data": {}, "dataOld": {}}
    async with nats_client(url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="wal_listener", subjects=["wal_listener.*"])
        await jetstream.publish("wal_listener.public_users", json.dumps(event).encode())


async def test_file_of_node_has_each_event_once_and_in_order(
    users: Users, start_node: Start, tmp_path: Path
) -> None:
    said = await consume_all(users, start_node)

    assert steps(said) == EXPECTED
    events = read_lines(tmp_path / "users.jsonl")
    assert [event["action"] for event in events] == [
        "INSERT",
        "INSERT",
        "UPDATE",
        "UPDATE",
        "DELETE",
    ]
    assert len({event["id"] for event in events}) == len(events)


@pytest.mark.long
async def test_copy_of_go_in_postgresql_equals_the_table(
    users: Users, start_go: Start, connection: asyncpg.Connection
) -> None:
    """Each event's id is written down in the transaction that applies it."""
    await connection.execute("create schema copy")
    said = await consume_all(users, start_go)

    assert steps(said) == EXPECTED
    rows = await connection.fetch("select id, name, email from copy.users")
    assert [tuple(row) for row in rows] == await users.rows() == [("7", "James Bond", "bond")]
    assert await connection.fetchval("select count(*) from copy.inbox") == 5
