"""Emitted events as the real command publishes them to a real server."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client

from tests.conftest import StartDaemon
from tests.support.cluster import WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream, event_id
from tests.support.waiting import eventually, unique


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """The owner's connection, with a captured table."""
    owner = await database.connect()
    await owner.execute("create table users (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('users')")
    return owner


def drain(database: Database, stream: Stream, *arguments: str) -> str:
    """Relay what is there; return what the relay says."""
    done = pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic, *arguments),
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


async def stored(stream: Stream) -> list[tuple[str, bytes]]:
    """Return subjects below the topic, and payloads."""
    return [
        (message.subject.removeprefix(f"{stream.topic}."), message.data)
        for message in await stream.messages()
    ]


async def parked(owner: asyncpg.Connection) -> list[tuple[str, str]]:
    """Return subjects and reasons."""
    return [tuple(row) for row in await owner.fetch("select subject, reason from pgoutbox.parked")]


async def test_a_stream_that_the_relay_makes_takes_what_a_role_emits(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    said = pgoutbox("install", "--grant-emit", WRITER, "--dsn", database.dsn)
    assert said.returncode == 0, said.stderr
    assert f"role {WRITER}: may emit events" in said.stderr
    async with owner.transaction():
        await owner.execute("insert into users values (1)")
        await owner.execute(
            "select pgoutbox.emit("
            "'orders.placed', '{\"id\": 7}', headers => '{\"X-Trace\": \"é\"}')"
        )
        await owner.execute("insert into users values (2)")
    writer = await database.connect(WRITER)
    await writer.execute("select pgoutbox.emit('a.b.c', 'not json')")

    drain(database, stream, "--topic-prefix", "dev_")

    found = await stored(stream)
    assert [subject for subject, _ in found] == [
        "dev_public_users",
        "dev_orders.placed",
        "dev_public_users",
        "dev_a.b.c",
    ]
    assert [payload for _, payload in found[1::2]] == [b'{"id": 7}', b"not json"]
    message = (await stream.messages())[1]
    assert message.headers["X-Trace"] == "é"
    ids = await owner.fetch("select id from pgoutbox.outbox order by position, seq")
    assert event_id(message.headers) == str(ids[1]["id"])
    info = await stream.jetstream.stream_info(stream.topic)
    assert info.config.subjects == [f"{stream.topic}.>"]


async def test_a_subject_that_the_stream_does_not_have_is_parked(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """Also where another stream has it; once the stream has it, the next event goes there."""
    jetstream, other = stream.jetstream, unique("other")
    await jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"])
    await jetstream.add_stream(name=other, subjects=[f"{stream.topic}.taken.*"])
    for subject in ("one", "two.tokens", "taken.elsewhere", "last"):
        await owner.execute("insert into users select coalesce(max(id), 0) + 1 from users")
        await owner.execute(f"select pgoutbox.emit('{subject}', '{subject}')")

    said = drain(database, stream)
    await jetstream.delete_stream(other)

    assert [subject for subject, _ in await stored(stream)] == [
        *("public_users", "one", "public_users", "public_users", "public_users", "last")
    ]
    reason = f"the stream '{stream.topic}' doesn't have this subject; it has {stream.topic}.*"
    assert sorted(await parked(owner)) == [
        (f"{stream.topic}.taken.elsewhere", reason),
        (f"{stream.topic}.two.tokens", reason),
    ]
    assert said.count("event parked") == 1  # a minute

    await jetstream.update_stream(name=stream.topic, subjects=[f"{stream.topic}.>"])
    await owner.execute("select pgoutbox.emit('two.tokens', 'again')")
    drain(database, stream)
    assert (await stored(stream))[-1] == ("two.tokens", b"again")


async def test_a_stream_that_gets_the_subject_takes_it_without_a_restart(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    await stream.jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"])
    await owner.execute("insert into users values (1)")
    await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    )
    await eventually(stream.count)
    await stream.jetstream.update_stream(name=stream.topic, subjects=[f"{stream.topic}.>"])
    await owner.execute("select pgoutbox.emit('two.tokens', 'here')")

    async def has_both() -> bool:
        return await stream.count() == 2

    await eventually(has_both)
    assert await parked(owner) == []


async def test_described(database: Database, owner: asyncpg.Connection, stream: Stream) -> None:
    """With headers, and as CloudEvents in both modes."""
    await stream.jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.>"])
    await owner.execute("begin; insert into users values (1)")
    await owner.execute("select pgoutbox.emit('orders.placed', '{\"id\":7}', key => 'k, 7')")
    await owner.execute(
        "select pgoutbox.emit('told', 'text', headers => '{\"content-type\": \"text/x\"}'); commit"
    )
    drain(database, stream, "--headers", "--content", "cloudevents")
    await owner.execute("delete from pgoutbox.progress")
    drain(database, stream, "--content", "cloudevents-structured", "--topic-prefix", "s_")

    _, placed, told, _, placed_as_json, told_as_json = await stream.messages()
    transaction = {
        name: value for name, value in placed.headers.items() if name.startswith("Pgoutbox-")
    }
    assert transaction.pop("Pgoutbox-Commit-Time") == placed.headers["ce-time"]
    assert transaction.pop("Pgoutbox-Transaction")
    assert transaction == {
        "Pgoutbox-Action": "EMIT",
        "Pgoutbox-Transaction-Event": "2",
        "Pgoutbox-Transaction-Size": "3",
    }
    assert placed.data == b'{"id":7}'
    source = f"/postgresql/{database.name}"
    assert (placed.headers["ce-type"], placed.headers["ce-source"]) == ("orders.placed", source)
    assert placed.headers["ce-subject"] == "k%252C%207"
    assert told.data == b"text"
    assert (told.headers["content-type"], told.headers["ce-datacontenttype"]) == ("text/x",) * 2

    envelope = json.loads(placed_as_json.data)
    assert (envelope["type"], envelope["source"], envelope["subject"], envelope["data"]) == (
        *("orders.placed", source, "k%2C 7"),
        {"id": 7},
    )
    assert json.loads(told_as_json.data)["data"] == "text"
    assert told_as_json.headers["Content-Type"] == "application/cloudevents+json"
    assert "content-type" not in told_as_json.headers


async def test_relays_of_some_tables_leave_them_to_others(
    database: Database, owner: asyncpg.Connection, stream: Stream, tmp_path: Path
) -> None:
    """wal-listener's filter is about tables; ``--tables`` is all that a relay publishes."""
    await owner.execute("insert into users values (1); select pgoutbox.emit('told', '')")
    file = tmp_path / "config.yml"
    file.write_text("listener: {filter: {tables: {orders: [insert]}}}")
    expected = {
        ("--name", "filter", "-c", str(file)): ["told"],
        ("--name", "some", "--tables", "users"): ["public_users"],
        ("--name", "rest", "--except-tables", "users"): ["told"],
    }
    found: list[str] = []
    for arguments, subjects in expected.items():
        drain(database, stream, *arguments)
        found += [s for s in subjects if s not in found]
    assert [subject for subject, _ in await stored(stream)] == ["told", "public_users"]


async def test_without_a_stream_everything_goes(
    database: Database, owner: asyncpg.Connection, stream: Stream, nats: Client
) -> None:
    subscription = await nats.subscribe(f"{stream.topic}.>")
    await nats.flush()
    await owner.execute("select pgoutbox.emit('any.subject.at.all', 'x')")
    drain(database, stream, "--no-jetstream")
    message = await subscription.next_msg(timeout=10)
    assert (message.subject, message.data) == (f"{stream.topic}.any.subject.at.all", b"x")
