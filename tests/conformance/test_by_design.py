"""Differences from wal-listener that no recorded case can show."""

from __future__ import annotations

import json
import re
from datetime import datetime

from nats.js import JetStreamContext

from tests.support.cluster import Database
from tests.support.commands import ROOT, pgoutbox
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


async def test_payloads_are_equal_as_json_and_not_as_bytes(
    database: Database, stream: Stream
) -> None:
    """Beside what a real wal-listener has published of the same rows."""
    lines = (ROOT / "tests/conformance/cases/types.jsonl").read_text("utf-8").split("\n")
    recorded = [json.loads(line) for line in lines if line]
    theirs = {
        case["case"]: [message["payload"] for message in case["messages"]] for case in recorded
    }
    texts = [p for p in theirs["type_text"] if re.search(r"\\u(003c|0026|2028|0008|000c)", p)]
    assert texts
    assert any('"v":{"a":2,"b":1}' in payload for payload in theirs["type_jsonb"])
    owner = await database.connect()
    await owner.execute("create table texts (v text); create table objects (v jsonb)")
    assert pgoutbox("install", "--dsn", database.dsn, "--all-tables").returncode == 0
    for payload in texts:
        await owner.execute("insert into texts values ($1)", json.loads(payload)["data"]["v"])
    await owner.execute("""insert into objects values ('{"aa":{"c":1},"b":[1,2]}')""")
    publish(database, stream)

    *ours, last = [message.data.decode() for message in await stream.messages()]
    for mine, payload in zip(ours, texts, strict=True):
        value = json.loads(payload)["data"]["v"]
        assert json.loads(mine)["data"]["v"] == value
        assert payload.partition('"v":')[2].partition("},")[0] not in mine
    assert '"v":{"b": [1, 2], "aa": {"c": 1}}' in last


async def test_commit_time_is_when_the_transaction_got_its_place(
    database: Database, stream: Stream
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "t").returncode == 0
    async with owner.transaction():
        await owner.execute("insert into t values (1)")
        before = await owner.fetchval("select clock_timestamp()")
        await owner.execute("set constraints all immediate")
        after = await owner.fetchval("select clock_timestamp()")
    publish(database, stream)

    (message,) = await stream.messages()
    moment = datetime.fromisoformat(json.loads(message.data)["commitTime"])
    assert before <= moment <= after
