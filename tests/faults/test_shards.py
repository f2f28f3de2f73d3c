"""Shards whose relays are killed: each event in one of them, each row's in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest
from nats.js.errors import NotFoundError

from tests.conftest import Connect
from tests.support.nursery import Relay
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import eventually

SHARDS = 2
ROWS = 40


@pytest.fixture
async def streams(scene: Scene) -> AsyncIterator[list[Stream]]:
    """A stream for each shard."""
    jetstream = scene.stream.jetstream
    streams = [Stream(f"{scene.stream.topic}_{n}", scene.stream.url, jetstream) for n in (1, 2)]
    yield streams
    for stream in streams:
        try:
            await jetstream.delete_stream(stream.topic)
        except NotFoundError:
            continue


async def test_a_shard_is_killed_again_and_again(
    scene: Scene, streams: list[Stream], connect: Connect
) -> None:
    """The other one goes on; in transactions of one event and of many."""
    owner = await connect()
    await owner.execute("create table item (id int primary key, n int not null)")
    await owner.execute("select pgoutbox.capture_table('item')")
    await owner.execute(f"insert into item select n, 0 from generate_series(1, {ROWS}) n")
    is_over = asyncio.Event()
    writing = [asyncio.create_task(_write(await connect(), scene, is_over)) for _ in range(2)]

    async def relay(number: int) -> Relay:
        topic = streams[number - 1].topic
        return await scene.relay("--topic", topic, "--shard", f"{number}/{SHARDS}")

    other = await relay(2)
    for _ in range(6):
        killed = await relay(1)
        await killed.line("connected to NATS")
        await scene.pause(0.05, 0.3)
        await killed.kill()
    is_over.set()
    await asyncio.gather(*writing)
    last = await relay(1)
    for number in (1, 2):
        await eventually(partial(_has_sent, owner, f"default-{number}-of-2"), timeout=60)
    assert [await last.stop(), await other.stop()] == [0, 0]

    stored = [[json.loads(message.data) for message in await s.messages()] for s in streams]
    names = [event["id"] for events in stored for event in events]
    written = await owner.fetch("select id::text from pgoutbox.outbox where table_name = 'item'")
    assert sorted(names) == sorted(row["id"] for row in written)
    assert all(stored)
    rows = [{event["data"]["id"] for event in events} for events in stored]
    assert not rows[0] & rows[1]
    for events in stored:
        latest: dict[int, int] = {}
        for event in events:
            row = event["data"]
            assert row["n"] == latest.get(row["id"], -1) + 1
            latest[row["id"]] = row["n"]


async def _write(owner: asyncpg.Connection, scene: Scene, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        await scene.pause(0, 0.02)
        count = scene.draw.choice((1, 1, 5, ROWS))
        first = scene.draw.randint(1, ROWS)
        async with owner.transaction():
            await owner.execute(
                "select from item where id between $1 and $2 order by id for update",
                first,
                first + count - 1,
            )
            await owner.execute(
                "update item set n = n + 1 where id between $1 and $2", first, first + count - 1
            )


async def _has_sent(owner: asyncpg.Connection, relay: str) -> bool:
    return bool(await owner.fetchval("select events = 0 from pgoutbox.backlog($1)", relay))
