"""A key-value bucket equals its table, whatever happens to the relay that fills it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.conftest import Connect, Servers
from tests.support.buckets import Bucket, Change, Filler
from tests.support.cluster import Database
from tests.support.nats_cluster import Network, start_cluster
from tests.support.nursery import Nursery
from tests.support.streams import nats_client
from tests.support.waiting import eventually

TABLE = "create table items (id int, kind text, body text, primary key (kind, id))"
KINDS = ("a", "b c", "=")
_NUMBERS = 12  # ids of each kind: few, so that keys come again


def key_of(row: Mapping[str, Any]) -> str:
    return f"{row['kind'].replace('=', '=3D').replace(' ', '=20')}.{row['id']}"


async def change(connection: asyncpg.Connection, draw: random.Random) -> None:
    """Do something to a random row, or to all of them."""
    kind, number, other = draw.choice(KINDS), draw.randrange(_NUMBERS), draw.randrange(_NUMBERS)
    body = str(draw.random())
    match draw.choices(["insert", "update", "move", "delete", "truncate"], [8, 4, 4, 4, 0.3])[0]:
        case "insert":
            await connection.execute("insert into items values ($1, $2, $3)", number, kind, body)
        case "update":
            await connection.execute(
                "update items set body = $3 where (id, kind) = ($1, $2)", number, kind, body
            )
        case "move":
            await connection.execute(
                "update items set id = $3 where (id, kind) = ($1, $2)", number, kind, other
            )
        case "delete":
            await connection.execute("delete from items where (id, kind) = ($1, $2)", number, kind)
        case _:
            await connection.execute("truncate items")


async def write(
    connection: asyncpg.Connection, draw: random.Random, is_over: asyncio.Event
) -> None:
    """Commit or roll back one transaction after another."""
    while not is_over.is_set():
        with contextlib.suppress(
            asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, InterruptedError
        ):
            async with connection.transaction():
                for _ in range(draw.choice((1, 1, 1, 2, 5))):
                    await change(connection, draw)
                if draw.random() < 0.1:
                    raise InterruptedError
        await asyncio.sleep(draw.uniform(0, 0.01))


@contextlib.asynccontextmanager
async def writers(connect: Connect, seed: int, count: int = 3) -> AsyncIterator[None]:
    """Write for as long as the block lasts."""
    is_over = asyncio.Event()
    writing = [
        asyncio.create_task(write(await connect(), random.Random(seed + number), is_over))
        for number in range(count)
    ]
    try:
        yield
    finally:
        is_over.set()
        await asyncio.gather(*writing)


async def table(connection: asyncpg.Connection) -> dict[str, Any]:
    """Return the table's rows as the bucket is to have them."""
    rows = await connection.fetch("select to_json(i) as row from items i")
    return {key_of(row): row for row in (json.loads(each["row"]) for each in rows)}


async def events(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the events in the outbox, in their order."""
    return await connection.fetch(
        "select id::text, action, data, data_old from pgoutbox.outbox order by position, seq"
    )


def expected(happened: list[asyncpg.Record]) -> dict[str, list[Change]]:
    """Return what those who watch a key are to see."""
    live: dict[str, Any] = {}
    found: dict[str, list[Change]] = defaultdict(list)

    def see(operation: str, key: str, row: Any = None) -> None:
        found[key].append(Change(operation, key, row))
        if row is None:
            live.pop(key, None)
        else:
            live[key] = row

    for event in happened:
        new, old = (json.loads(event[name] or "null") for name in ("data", "data_old"))
        if event["action"] == "TRUNCATE":
            for key in list(live):
                see("PURGE", key)
        elif not new:
            see("DEL", key_of(old))
        else:
            if old and key_of(old) != key_of(new):
                see("DEL", key_of(old))
            see("PUT", key_of(new), new)
    return found


class Watcher:
    """Sees what is published for events, and tells what is new from what comes again."""

    def __init__(self, bucket: Bucket) -> None:
        self._prefix = f"$KV.{bucket.name}."
        self._seen: list[tuple[str, Change]] = []  # with the event's id

    async def begin(self, client: Client) -> None:
        """Watch from now on."""
        await client.subscribe(
            f"{self._prefix}>", cb=self._see, pending_msgs_limit=0, pending_bytes_limit=0
        )
        await client.flush()

    async def _see(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Pgoutbox-Snapshot" in headers:
            return
        key = message.subject.removeprefix(self._prefix)
        row = json.loads(message.data) if message.data else None
        change = Change(headers.get("KV-Operation", "PUT"), key, row)
        self._seen.append((headers["Nats-Msg-Id"].partition(".")[0], change))

    def new(self, happened: list[asyncpg.Record]) -> dict[str, list[Change]]:
        """Return each key's changes but for those by an event that isn't behind all before it."""
        order = {event["id"]: number for number, event in enumerate(happened)}
        found: dict[str, list[Change]] = defaultdict(list)
        last: dict[str, int] = {}
        for event_id, change in self._seen:
            if order[event_id] > last.get(change.key, -1):
                last[change.key] = order[event_id]
                found[change.key].append(change)
        return found

    @property
    def count(self) -> int:
        """How many changes it has seen, repeats included."""
        return len(self._seen)


async def check(filler: Filler, connection: asyncpg.Connection, *flags: str) -> None:
    """Let a relay publish the rest; then bucket and table are to be equal."""
    await connection.execute("insert into items values (99, 'a', 'last') on conflict do nothing")
    await filler.drain(*flags, table="items")
    rows = await filler.bucket.rows()
    assert rows == await table(connection)
    assert rows, "nothing was left to compare"


@pytest.fixture(autouse=True)
async def items(connection: asyncpg.Connection) -> None:
    await connection.execute(TABLE)
    await connection.execute("select pgoutbox.capture_table('items')")


async def test_killed_again_and_again_under_load(
    connection: asyncpg.Connection, connect: Connect, filler: Filler, nats: Client, seed: int
) -> None:
    """Whoever watches a key sees the changes of its rows in commit order, and each once."""
    watcher = Watcher(filler.bucket)
    await watcher.begin(nats)
    draw = random.Random(seed)
    async with writers(connect, seed):
        for _ in range(15):
            relay = await filler.start("--batch-events", "7", table="items")
            await relay.line("connected to NATS")
            await asyncio.sleep(draw.uniform(0.05, 0.3))
            await relay.kill()
    await check(filler, connection)

    happened = await events(connection)
    wanted = expected(happened)
    await eventually(lambda: watcher.new(happened)["a.99"] == wanted["a.99"])
    changes = sum(map(len, wanted.values()))
    purges = sum(one.operation == "PURGE" for each in wanted.values() for one in each)
    print(f"{changes} changes, {purges} purges, {watcher.count - changes} repeats")
    assert watcher.new(happened) == wanted


async def test_nats_server_killed_again_and_again_under_load(
    database: Database,
    connection: asyncpg.Connection,
    connect: Connect,
    nursery: Nursery,
    servers: Servers,
    seed: int,
) -> None:
    """After it has forgotten the ids of values that the bucket doesn't keep."""
    server = servers.nats()
    draw = random.Random(seed)
    async with nats_client(server.url) as client:
        filler = Filler(database, Bucket("items", server.url, client.jetstream()), nursery)
        relay = await filler.start("--batch-events", "20", table="items")
        await relay.line("connected to NATS")
    async with writers(connect, seed):
        for _ in range(6):
            await asyncio.sleep(draw.uniform(0.1, 0.5))
            server.kill()
            server.start()
    assert await relay.stop() == 0
    async with nats_client(server.url) as client:
        filler.bucket = Bucket("items", server.url, client.jetstream())
        await check(filler, connection)


@pytest.mark.parametrize("flags", [("--mode", "fast"), ("--window", "1")], ids=" ".join)
async def test_other_ways_to_publish(
    connection: asyncpg.Connection,
    connect: Connect,
    filler: Filler,
    seed: int,
    flags: tuple[str, ...],
) -> None:
    relay = await filler.start("--batch-events", "20", *flags, table="items")
    async with writers(connect, seed):
        await asyncio.sleep(1.0)
    assert await relay.stop() == 0
    await check(filler, connection, *flags)


async def test_what_came_behind_a_truncate_comes_again_with_it(
    connection: asyncpg.Connection, filler: Filler
) -> None:
    """Its purge is new to the stream; the row behind it must not be dropped as a repeat."""
    await filler.drain(table="items")
    before = await connection.fetchval("select high from pgoutbox.progress")
    await connection.execute("insert into items values (1, 'a', 'gone')")
    await connection.execute("truncate items")
    await connection.execute("insert into items values (2, 'a', 'kept')")
    await filler.drain(table="items")
    # As after a crash of PostgreSQL, or a failover, that the progress didn't survive.
    await connection.execute("update pgoutbox.progress set high = $1", before)

    await check(filler, connection)
    assert set(await filler.bucket.rows()) == {"a.2", "a.99"}


async def change_leaders(client: Client, bucket: Bucket, draw: random.Random) -> None:
    """Make the bucket's leader step down, again and again."""
    while True:
        with contextlib.suppress(Exception):  # there is no leader just now
            await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{bucket.stream_name}", timeout=2)
        await asyncio.sleep(draw.uniform(0.3, 1.5))


@pytest.mark.long
@pytest.mark.parametrize("batches", ["fast-ingest", "atomic", "none"])
async def test_a_replicated_bucket_whose_leader_keeps_changing(
    database: Database,
    connection: asyncpg.Connection,
    connect: Connect,
    nursery: Nursery,
    servers: Servers,
    seed: int,
    batches: str,
) -> None:
    urls = ",".join(server.url for server in start_cluster(servers, Network()))
    draw = random.Random(seed)
    async with nats_client(urls) as client:
        bucket = Bucket("items", urls, client.jetstream(timeout=10))
        if batches != "fast-ingest":  # which the relay's own bucket takes
            await make_bucket(bucket, accepts_atomic=batches == "atomic")
        filler = Filler(database, bucket, nursery)
        relay = await filler.start("--stream-replicas", "3", table="items")
        await relay.line("connected to NATS", timeout=60)
        changing = asyncio.create_task(change_leaders(client, bucket, draw))
        async with writers(connect, seed):
            for _ in range(4):
                await asyncio.sleep(draw.uniform(1.0, 3.0))
                await relay.kill()
                relay = await filler.start("--stream-replicas", "3", table="items")
                await relay.line("connected to NATS", timeout=60)
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        assert await relay.stop() == 0
        await check(filler, connection)


async def make_bucket(bucket: Bucket, *, accepts_atomic: bool) -> None:
    """Make a bucket of three replicas, once the cluster has a leader."""
    config = {
        "name": bucket.stream_name,
        "subjects": [f"$KV.{bucket.name}.>"],
        "num_replicas": 3,
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "discard": "new",
        "allow_atomic": accepts_atomic,
    }

    async def is_made() -> bool:
        with contextlib.suppress(Exception):
            answer = await bucket.jetstream._nc.request(
                f"$JS.API.STREAM.CREATE.{bucket.stream_name}",
                json.dumps(config).encode(),
                timeout=5,
            )
            return "error" not in json.loads(answer.data)
        return False

    await eventually(is_made, timeout=60, pause=0.2)


async def test_a_store_that_was_rolled_back_is_made_up_for(
    database: Database,
    connection: asyncpg.Connection,
    connect: Connect,
    nursery: Nursery,
    servers: Servers,
    seed: int,
    tmp_path: Path,
) -> None:
    """What the bucket's limit has removed isn't taken for lost, and what is lost comes again."""
    server = servers.nats()
    store = server.folder / "jetstream"

    async def drain() -> str:
        async with nats_client(server.url) as client:
            filler = Filler(database, Bucket("items", server.url, client.jetstream()), nursery)
            said = await filler.drain(table="items")
            assert await filler.bucket.rows() == await table(connection)
            return said

    for _ in range(3):
        async with writers(connect, seed, count=1):
            await asyncio.sleep(0.2)
        assert "lacks messages" not in await drain()
    server.stop()
    shutil.copytree(store, tmp_path / "copy")
    server.start()
    await connection.execute(
        "truncate items; insert into items values (1, 'a', 'x'), (2, 'a', 'y'), (3, 'a', 'z')"
    )
    await connection.execute("update items set id = 4 where id = 3; delete from items where id = 2")
    await drain()
    server.kill()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "copy", store)
    server.start()

    assert "the stream lacks messages that it had confirmed" in await drain()
