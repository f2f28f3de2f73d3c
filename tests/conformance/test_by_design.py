"""Differences from wal-listener that no recorded case can show."""

from __future__ import annotations

import json

from nats.js import JetStreamContext

from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream


def publish(database: Database, stream: Stream, relay: str = "default") -> None:
    """Let a relay publish all that it hasn't published yet."""
    drained = pgoutbox(
        *("relay", "--drain", "--name", relay),
        *("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
    )
    assert drained.returncode == 0, drained.stderr


async def test_a_second_delivery_is_the_same_message(
    database: Database, stream: Stream, jetstream: JetStreamContext
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int primary key)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "t").returncode == 0
    await owner.execute("insert into t values (1), (2)")
    publish(database, stream)
    first = await stream.messages()
    publish(database, stream, "another")
    assert await stream.count() == 2  # the stream dropped the repeats
    await jetstream.delete_stream(stream.topic)
    publish(database, stream, "a third one")
    second = await stream.messages()

    assert [message.data for message in first] == [message.data for message in second]
    assert [json.loads(message.data)["id"] for message in first] == [
        message.id for message in second
    ]


async def test_old_values_are_the_whole_old_row_unless_told_otherwise(
    database: Database, stream: Stream
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int primary key, v text)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "t").returncode == 0
    await owner.execute("insert into t values (1, 'a')")
    await owner.execute("update t set v = 'b'")
    await owner.execute("delete from t")
    publish(database, stream)

    assert [json.loads(message.data)["dataOld"] for message in await stream.messages()] == [
        {},
        {"id": 1, "v": "a"},
        {"id": 1, "v": "b"},
    ]
