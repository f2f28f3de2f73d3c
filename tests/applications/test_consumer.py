"""pgoutbox.consumer, behind a real relay or beside one, on a real stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import asyncpg
import psycopg
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from pgoutbox.consumer import Change, Inbox, consume, consume_transactions
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually

QUICK: dict[str, Any] = {"delays": (0.01, 0.01), "ack_wait": 1.0, "durable": "test"}


async def relay(database: Database, stream: Stream, *flags: str) -> None:
    arguments = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    done = await asyncio.to_thread(pgoutbox, "relay", "--drain", *arguments, *flags)
    assert done.returncode == 0, done.stderr


async def put(stream: Stream, *rows: dict[str, Any], action: str = "UPDATE") -> None:
    """Publish changes of table t, as a relay does."""
    config = StreamConfig(name=stream.topic, subjects=[f"{stream.topic}.*"])
    await stream.jetstream.add_stream(config)
    for row in rows:
        payload = {
            "id": "00000000-0000-8000-8000-000000000000",
            "schema": "public",
            "table": "t",
            "action": action,
            "data": row,
            "dataOld": {},
            "commitTime": "2026-11-23T05:25:03.949472Z",
        }
        await stream.jetstream.publish(f"{stream.topic}.public_t", json.dumps(payload).encode())


class Consumer:
    """Runs until it has handled so many changes."""

    def __init__(self, count: int) -> None:
        self.seen: list[Any] = []
        self.stop = asyncio.Event()
        self._count = count

    def note(self, what: Any) -> None:
        self.seen.append(what)
        if len(self.seen) >= self._count:
            self.stop.set()


async def test_a_relays_messages_as_objects(
    shop: Database, connection: asyncpg.Connection, nats: Client, stream: Stream
) -> None:
    await connection.execute("update users set name = 'Baba Yaga'")
    await relay(shop, stream, "--headers")
    consumer = Consumer(2)

    async def handle(change: Change) -> None:
        consumer.note(change)

    await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    _, update = consumer.seen
    assert (update.schema, update.table, update.action) == ("public", "users", "UPDATE")
    assert update.row["name"] == "Baba Yaga"
    assert update.data_old["name"] == "John Wick"
    assert update.subject == f"{stream.topic}.public_users"
    assert (update.sequence, update.deliveries, update.number) == (2, 1, (1, 1))
    assert update.transaction > consumer.seen[0].transaction
    assert update.committed_at.tzinfo is not None


@pytest.mark.parametrize("content", ["cloudevents", "cloudevents-structured"])
async def test_cloud_events(shop: Database, nats: Client, stream: Stream, content: str) -> None:
    await relay(shop, stream, "--content", content)
    consumer = Consumer(1)

    async def handle(change: Change) -> None:
        consumer.note(change.row["name"])

    await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == ["John Wick"]


async def test_changes_of_one_key_stay_in_order_and_others_overtake(
    nats: Client, stream: Stream
) -> None:
    await put(stream, *({"id": n % 4, "v": n} for n in range(40)))
    consumer = Consumer(40)
    gate = asyncio.Event()

    async def handle(change: Change) -> None:
        if change.row["id"] == 0:
            await gate.wait()
        consumer.note((change.row["id"], change.row["v"]))
        if len(consumer.seen) == 30:
            gate.set()

    await consume(
        nats,
        handle,
        stream=stream.topic,
        parallel=4,
        key=lambda change: change.row["id"],
        stop=consumer.stop,
        **QUICK,
    )

    assert [key for key, _ in consumer.seen[:30] if key == 0] == []
    for key in range(4):
        assert [v for k, v in consumer.seen if k == key] == list(range(key, 40, 4))


async def test_a_truncate_waits_and_is_waited_for(nats: Client, stream: Stream) -> None:
    await put(stream, {"id": 1}, {"id": 2})
    await put(stream, {}, action="TRUNCATE")
    await put(stream, {"id": 3})
    consumer = Consumer(4)

    async def handle(change: Change) -> None:
        await asyncio.sleep(0 if change.action == "TRUNCATE" else 0.05)
        consumer.note(change.action)

    await consume(
        nats,
        handle,
        stream=stream.topic,
        parallel=4,
        key=lambda change: change.row["id"],
        stop=consumer.stop,
        **QUICK,
    )

    assert consumer.seen == ["UPDATE", "UPDATE", "TRUNCATE", "UPDATE"]


async def test_what_fails_is_tried_again_before_its_successors_and_then_given_up(
    nats: Client, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    await put(stream, {"id": 1}, {"id": 2})
    consumer = Consumer(4)

    async def handle(change: Change) -> None:
        consumer.note(change.row["id"])
        if change.row["id"] == 1:
            raise OSError("no")

    with caplog.at_level(logging.WARNING, "pgoutbox.consumer"):
        await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == [1, 1, 1, 2]
    assert caplog.messages[-1] == "given up: UPDATE public.t at sequence 1: OSError('no')"

    async def nothing_is_left() -> bool:
        info = await stream.jetstream.consumer_info(stream.topic, "test")
        return (info.num_ack_pending, info.num_pending) == (0, 0)

    await eventually(nothing_is_left)


async def test_what_a_killed_consumer_left_comes_first(nats: Client, stream: Stream) -> None:
    await put(stream, *({"id": n} for n in range(5)))
    began = asyncio.Event()

    async def hang(_: Change) -> None:
        began.set()
        await asyncio.Event().wait()

    killed = asyncio.create_task(consume(nats, hang, stream=stream.topic, **QUICK))
    await began.wait()
    killed.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await killed
    await put(stream, {"id": 5})
    consumer = Consumer(6)

    async def handle(change: Change) -> None:
        consumer.note(change.row["id"])

    await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == [0, 1, 2, 3, 4, 5]


async def test_what_is_left_at_a_stop_comes_again_at_once(nats: Client, stream: Stream) -> None:
    await put(stream, *({"id": n} for n in range(3)))
    first = Consumer(1)

    async def fail_second(change: Change) -> None:
        if change.row["id"] == 1:
            raise OSError
        first.note(change.row["id"])

    await consume(
        nats, fail_second, stream=stream.topic, stop=first.stop, **{**QUICK, "delays": (60.0,)}
    )
    consumer = Consumer(2)

    async def handle(change: Change) -> None:
        consumer.note(change.row["id"])

    await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == [1, 2]


async def test_a_stream_that_comes_later(nats: Client, stream: Stream) -> None:
    consumer = Consumer(1)

    async def handle(change: Change) -> None:
        consumer.note(change.row["id"])

    running = asyncio.create_task(
        consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)
    )
    await put(stream, {"id": 1})
    await running

    assert consumer.seen == [1]


async def test_what_is_no_change_is_passed_over(
    nats: Client, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    await put(stream)
    await stream.jetstream.publish(f"{stream.topic}.x", b"hello")
    await put(stream, {"id": 1})
    consumer = Consumer(1)

    async def handle(change: Change) -> None:
        consumer.note(change.row["id"])

    await consume(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == [1]
    assert f"the message at sequence 1 of stream {stream.topic} is no row change" in caplog.text


async def test_whole_transactions(
    shop: Database, connection: asyncpg.Connection, nats: Client, stream: Stream
) -> None:
    async with connection.transaction():
        await connection.execute("insert into orders select n, n from generate_series(1, 500) n")
        await connection.execute("delete from orders where id = 7")
    await connection.execute("delete from orders where id = 8")
    await relay(shop, stream, "--headers", "--batch-events", "100")
    consumer = Consumer(3)

    async def handle(changes: Sequence[Change]) -> None:
        consumer.note([change.action for change in changes])

    await consume_transactions(nats, handle, stream=stream.topic, stop=consumer.stop, **QUICK)

    assert consumer.seen == [["INSERT"], ["INSERT"] * 500 + ["DELETE"], ["DELETE"]]


async def test_without_headers_there_are_no_transactions(
    shop: Database, nats: Client, stream: Stream
) -> None:
    await relay(shop, stream)

    async def handle(_: Sequence[Change]) -> None:
        pytest.fail("there is no transaction")

    with pytest.raises(ValueError, match="set --headers"):
        await consume_transactions(nats, handle, stream=stream.topic, **QUICK)


async def test_the_inbox_remembers_what_was_committed(
    shop: Database, connection: asyncpg.Connection, nats: Client, stream: Stream
) -> None:
    await relay(shop, stream)
    (message,) = await stream.messages()
    change = Change(
        message.id, "", "public", "users", "INSERT", {}, {}, "", {}, message.sequence, 1
    )
    inbox = Inbox("billing")
    await connection.execute(inbox.create)
    await connection.execute(inbox.create)

    with contextlib.suppress(OSError):
        async with connection.transaction():
            assert await inbox.is_new(connection, change)
            raise OSError("rolled back")
    async with connection.transaction():
        assert await inbox.is_new(connection, change)
    assert not await inbox.is_new(connection, change)
    assert await Inbox("audit").is_new(connection, change)
    with psycopg.connect(shop.dsn) as synchronous:
        assert not inbox.is_new_sync(synchronous, change)
    await inbox.forget(connection, days=0)
    assert await inbox.is_new(connection, change)


def test_a_name_that_could_be_sql_is_refused() -> None:
    with pytest.raises(ValueError, match="letters"):
        Inbox("x'; drop table users --")


async def test_two_of_a_durable_share_the_work(nats: Client, stream: Stream) -> None:
    await put(stream, *({"id": n} for n in range(200)))
    seen: list[int] = []
    stop = asyncio.Event()

    async def handle(change: Change) -> None:
        seen.append(change.row["id"])

    running = [
        asyncio.create_task(consume(nats, handle, stream=stream.topic, stop=stop, **QUICK))
        for _ in range(2)
    ]
    await eventually(lambda: len(seen) >= 200)
    stop.set()
    await asyncio.gather(*running)

    assert sorted(set(seen)) == list(range(200))
