"""What docs/scaling.md says of streams: its partitions keep the order of each row."""

from __future__ import annotations

import json
import re
from typing import Any

import asyncpg
import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from tests.conftest import Servers
from tests.support.cluster import Database
from tests.support.commands import ROOT, pgoutbox
from tests.support.streams import nats_client
from tests.support.waiting import eventually

TEXT = (ROOT / "docs" / "scaling.md").read_text("utf-8")
GATHERING, PARTITIONED = (
    json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
)
PARTITIONS = 4
ROWS = 60


async def consume(jetstream: JetStreamContext, partition: int) -> list[dict[str, Any]]:
    """Return the events of one partition, as its consumer gets them."""
    subscription = await jetstream.pull_subscribe(
        f"shop.{partition}.>",
        durable=f"partition_{partition}",
        stream="shop",
        config=ConsumerConfig(max_ack_pending=1),
    )
    events = []
    while (await subscription.consumer_info()).num_pending:
        (message,) = await subscription.fetch(1, timeout=5)
        events.append(json.loads(message.data))
        await message.ack()
    return events


@pytest.mark.parametrize("shards", [None, 2])
async def test_consumers_of_partitions(
    servers: Servers, database: Database, connection: asyncpg.Connection, shards: int | None
) -> None:
    """Together they have each event once, and each of them all of its rows' events, in order.

    By one relay, and by two shards whose streams are gathered.
    """
    server = servers.nats()
    await connection.execute("create table item (id int primary key, n int)")
    await connection.execute("select pgoutbox.capture_table('item')")
    await connection.execute(f"insert into item select n, 0 from generate_series(1, {ROWS}) n")
    for n in range(1, 4):
        await connection.execute(f"update item set n = {n}")

    async with nats_client(server.url) as client:
        jetstream = client.jetstream()

        async def create(config: dict[str, Any]) -> None:
            answer = await client.request(
                f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode()
            )
            assert "error" not in json.loads(answer.data), answer.data

        def relay(*flags: str) -> None:
            done = pgoutbox(
                *("relay", "--drain", "--dsn", database.dsn, "--nats-url", server.url),
                *("--subject", "{topic}.{table}.{key}", *flags),
            )
            assert done.returncode == 0, done.stderr

        async def all_there() -> bool:
            return (await jetstream.stream_info("shop")).state.messages == ROWS * 4

        if shards is None:
            await create(PARTITIONED)
            relay("--topic", "shop")
        else:
            for n in range(1, shards + 1):
                relay("--topic", f"shop_{n}", "--shard", f"{n}/{shards}")
            await create(GATHERING)
        await eventually(all_there)
        parts = [await consume(jetstream, partition) for partition in range(PARTITIONS)]

    rows = [{event["data"]["id"] for event in part} for part in parts]
    assert all(rows)
    assert sum(map(len, rows)) == len(set.union(*rows)) == ROWS
    for part, its_rows in zip(parts, rows, strict=True):
        for row in its_rows:
            assert [e["data"]["n"] for e in part if e["data"]["id"] == row] == [0, 1, 2, 3]
