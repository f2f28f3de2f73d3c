"""Snapshots under writers that are as fast as they can, and a relay that is killed."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from tests.support import frontier
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.ledger import all_sent
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stream


async def _start(database: Database, nursery: Nursery, stream: Stream) -> Relay:
    return await nursery.start(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--poll-interval", "100ms", "--batch-events", "200"),
    )


async def _over(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            "select pg_catalog.count(*) > 0 and bool_and(state = 'done') from pgoutbox.snapshot"
        )
    )


@pytest.mark.parametrize("snapshots", [1, pytest.param(8, marks=pytest.mark.long)])
async def test_each_row_is_read_as_the_events_before_it_have_left_it(
    database: Database, stream: Stream, nursery: Nursery, seed: int, snapshots: int
) -> None:
    draw = random.Random(seed)
    judge = frontier.Judge(await frontier.prepare(database))
    owner = await database.connect()
    is_over = asyncio.Event()
    writing = [
        asyncio.create_task(frontier.write(database, draw.randrange(2**32), is_over.is_set))
        for _ in range(3)
    ]
    kills = 0
    relay = await _start(database, nursery, stream)
    for _ in range(snapshots):
        arguments = ("plain", "part", "--rate", "2000", "--detach", "--dsn", database.dsn)
        done = await asyncio.to_thread(pgoutbox, "snapshot", "start", *arguments)
        assert done.returncode == 0, done.stderr
        while not await _over(owner):
            await asyncio.sleep(draw.uniform(0.2, 0.8))
            await relay.kill()
            kills += 1
            relay = await _start(database, nursery, stream)
    is_over.set()
    await asyncio.gather(*writing)
    await all_sent(database)
    assert await relay.stop() == 0

    judge.judge(await stream.messages())

    print(f"{kills} kills, {judge.chunks} chunks, {judge.read}, {judge.found} changed before")
    assert judge.ended == {"plain", "part"}
    assert judge.copies == judge.truth == await frontier.contents(owner)
    assert judge.found > 100
