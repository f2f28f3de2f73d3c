"""All faults at random, for as long as one likes: ``make soak DURATION=600 SEED=7``.

Each round has new servers' databases and streams, a seed of its own that is printed, and ends
with the ledger's judgement: every committed event in the stream, once, whole transactions, in
commit order, and no writer with an error that pgoutbox caused. Meanwhile the ring of slots goes
round every five seconds, and at the end the outbox is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from nats.js.api import StreamConfig

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from tests.conftest import Servers
from tests.support import frontier, ledger
from tests.support.cluster import Cluster, Database
from tests.support.nats_cluster import Network, start_cluster
from tests.support.nursery import Nursery
from tests.support.proxy import Proxy, port_of, proxy, through
from tests.support.ring import slots_of
from tests.support.scene import Scene
from tests.support.storm import Storm
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique

ROUND = 60.0  # seconds
PATIENCE = 120.0  # seconds until everything has recovered after the last fault

pytestmark = pytest.mark.timeout(0)  # it takes as long as it was told to


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> list[float]:
    """How long each round lasts, in seconds."""
    left = float(pytestconfig.getoption("soak"))
    lasting = []
    while left > 0:
        lasting.append(min(left, ROUND))
        left -= ROUND
    return lasting


async def test_one_server(
    servers: Servers, nursery: Nursery, seed: int, rounds: Sequence[float]
) -> None:
    cluster = await servers.cluster()
    server = servers.nats()
    for number, seconds in enumerate(rounds):
        async with proxy(server.port) as between:
            url = through(server.url, between)
            await _round(cluster, [server], nursery, seed + number, seconds, url, between)


async def test_three_servers_and_somebody_else_in_the_stream(
    servers: Servers, nursery: Nursery, seed: int, rounds: Sequence[float]
) -> None:
    cluster = await servers.cluster()
    three = start_cluster(servers, Network())
    for number, seconds in enumerate(rounds):
        await _round(cluster, three, nursery, seed + number, seconds)


async def test_snapshots_at_their_frontier(
    database: Database, stream: Stream, nursery: Nursery, seed: int, rounds: Sequence[float]
) -> None:
    end = time.monotonic() + sum(rounds)
    await frontier.judged(database, stream, nursery, seed, lambda: time.monotonic() < end)


async def _round(
    cluster: Cluster,
    nats: Sequence[NatsServer],
    nursery: Nursery,
    seed: int,
    seconds: float,
    nats_url: str | None = None,
    nats_proxy: Proxy | None = None,
) -> None:
    print(f"round of {seconds:g} s, seed {seed}")
    postgres = cluster.server
    assert postgres is not None
    database = await cluster.create_database()
    await ledger.prepare(database)
    await (await database.connect()).execute(slots_of(1))
    await database.disconnect()
    async with proxy(port_of(database.dsn)) as between, _stream(nats, seed) as stream:
        scene, before = Scene(database, stream, nursery, seed), len(nursery.relays)
        scene.flags = ("--retention", "1s")
        scene.dsn = through(database.dsn, between)
        scene.nats_url = nats_url
        storm = Storm(scene, postgres, nats, between, nats_proxy)
        end = time.monotonic() + seconds
        async with scene.load(writers=4), _somebody_else(storm) if len(nats) > 1 else _nobody():
            await storm.rage(lambda: time.monotonic() > end)
        await _recovered(storm, postgres)
        emptied = sum(relay.output.count("slot emptied") for relay in nursery.relays[before:])
        print(f"{emptied} slots emptied")
        print(f"{dict(storm.counts)}, writers lost {scene.book.losses} connections")


async def _recovered(storm: Storm, postgres: PostgresServer) -> None:
    scene = storm.scene
    try:
        await scene.all_sent(timeout=PATIENCE)
    except AssertionError:
        for relay in storm.relays:
            print(relay.output[-4000:])
        raise
    await ledger.all_emptied(scene.database, timeout=PATIENCE)
    for relay in storm.relays:
        assert await relay.stop() == 0, relay.output
    async with nats_client(",".join(server.url for server in storm.nats)) as client:
        jetstream = client.jetstream(timeout=10)
        stream = Stream(scene.stream.topic, storm.nats[0].url, jetstream)
        scene.stream = stream
        await scene.check()
        print(f"{await stream.count()} messages in the stream")


@contextlib.asynccontextmanager
async def _somebody_else(storm: Storm) -> AsyncIterator[None]:
    """Have another client publish 40 small messages a second into the same stream."""
    publishing = asyncio.create_task(storm.publish_foreign())
    try:
        yield
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)


@contextlib.asynccontextmanager
async def _nobody() -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _stream(nats: Sequence[NatsServer], seed: int) -> AsyncIterator[Stream]:
    """Make a topic, and on several servers its replicated stream; the stream goes afterwards.

    Relays publish into it in each of the ways that they have, by turns.
    """
    topic = unique("t")
    urls = ",".join(server.url for server in nats)
    async with nats_client(urls) as client:
        jetstream = client.jetstream(timeout=5)
        if len(nats) > 1:
            config = StreamConfig(
                name=topic,
                subjects=[f"{topic}.*"],
                num_replicas=3,
                allow_batched=seed % 3 == 0,
                allow_atomic=seed % 3 == 1,
            )

            async def made() -> bool:
                with contextlib.suppress(Exception):  # until the cluster has chosen a leader
                    await jetstream.add_stream(config)
                    return True
                return False

            await eventually(made, timeout=60, pause=0.2)
        yield Stream(topic, urls, jetstream)
    async with nats_client(urls) as client:
        await client.jetstream(timeout=10).delete_stream(topic)
