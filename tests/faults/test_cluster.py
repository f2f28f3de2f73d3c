"""A stream with three replicas whose leader keeps changing, and into which others publish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig, SubjectTransform

from pgoutbox.config.settings import Mode
from pgoutbox.errors import Interrupted, PublishError
from pgoutbox.messages.event import Message
from pgoutbox.nats.connect import connect
from pgoutbox.nats.tenure import Tenure
from tests.conftest import Servers
from tests.support import ledger
from tests.support.cluster import Database
from tests.support.nats_cluster import Network, start_cluster
from tests.support.nursery import Nursery
from tests.support.scene import Scene
from tests.support.settings import NatsSettings, nats_settings
from tests.support.streams import Stored, Stream, nats_client
from tests.support.waiting import eventually

TOPIC = "wal_listener"


@pytest.fixture
async def cluster_urls(servers: Servers) -> list[str]:
    """Three servers that form a cluster with JetStream."""
    return [server.url for server in start_cluster(servers, Network())]


@pytest.fixture
async def replicated(
    request: pytest.FixtureRequest, cluster_urls: list[str]
) -> AsyncIterator[Stream]:
    """A stream of three replicas on that cluster, with the settings that a test gives."""
    async with replicated_stream(cluster_urls, getattr(request, "param", None)) as stream:
        yield stream


@contextlib.asynccontextmanager
async def replicated_stream(
    urls: list[str], settings: dict[str, Any] | None = None
) -> AsyncIterator[Stream]:
    async with nats_client(urls[0]) as client:
        jetstream = client.jetstream(timeout=5)
        accepts = {"allow_batched": True} if settings is None else settings
        config = StreamConfig(
            **{"name": TOPIC, "subjects": [f"{TOPIC}.>"], "num_replicas": 3} | accepts
        )

        async def made() -> bool:
            with contextlib.suppress(Exception):  # until the cluster has chosen a leader
                await jetstream.add_stream(config)
                return True
            return False

        await eventually(made, timeout=60, pause=0.2)
        yield Stream(TOPIC, ",".join(urls), jetstream)


async def change_leaders(client: Client, chance: random.Random, *, shortest: float = 0.1) -> None:
    """Make the stream's leader step down, again and again."""
    while True:
        with contextlib.suppress(Exception):  # there is no leader just now
            answer = await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{TOPIC}", b"", timeout=2)
            assert json.loads(answer.data).get("success")
        await asyncio.sleep(chance.uniform(shortest, 4 * shortest))


async def publish_foreign(urls: list[str], chance: random.Random) -> None:
    """Publish small messages into the same stream, 40 a second on the average."""
    client = await nats.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        while True:
            with contextlib.suppress(Exception):  # while it is being reconnected
                await client.publish(f"{TOPIC}.foreign", b"")
            await asyncio.sleep(chance.uniform(0, 0.05))
    finally:
        await client.close()


async def publish_all(config: NatsSettings, messages: list[Message]) -> set[str]:
    """Publish as a relay does: from the first unconfirmed message on, until all are stored.

    Returns the methods by which it did.
    """
    methods = set()
    done = 0
    tenure = Tenure()
    while done < len(messages):
        try:
            async with connect(*config, tenure=tenure) as publisher:
                methods.add(str(publisher.description["method"]))
                while done < len(messages):
                    batch = messages[done : done + 500]
                    await publisher.publish(batch)
                    done += len(batch)
        except Interrupted as error:
            done += error.confirmed
        except PublishError as error:
            print(f"after {done} messages: {error}")
        await asyncio.sleep(0.02)  # a relay's shortest backoff
    return methods


def messages_of(name: str, count: int, *, subjects: int = 1) -> list[Message]:
    return [
        Message(f"{TOPIC}.{name}{number % subjects}", f"{name}-{number}", b"x" * 300)
        for number in range(count)
    ]


async def messages_in(stream: Stream) -> list[Stored]:
    """Return a stream's messages, once the cluster has chosen a leader again."""

    async def read() -> list[Stored]:
        with contextlib.suppress(Exception):
            return await stream.messages()
        return []

    return await eventually(read, timeout=60, pause=0.2)


def first_copies(stored: list[Stored], name: str) -> list[str]:
    """Return the ids that begin with ``name``, each where it was stored first."""
    ours = (message.id for message in stored if message.headers)
    return list(dict.fromkeys(event for event in ours if event.startswith(f"{name}-")))


@pytest.mark.parametrize(
    ("replicated", "mode", "method", "count"),
    [
        ({}, "window", "pipelined, chained by sequence", 20_000),
        ({"allow_batched": True}, "auto", "fast-ingest batches", 20_000),
        ({"allow_atomic": True}, "auto", "atomic batches", 20_000),
        ({}, "auto", "one message at a time", 2_000),
    ],
    indirect=["replicated"],
)
async def test_no_message_gets_behind_its_successor_while_leaders_change(
    replicated: Stream, cluster_urls: list[str], seed: int, mode: Mode, method: str, count: int
) -> None:
    """With ``auto`` not even while another client and another relay publish, whatever it takes."""
    chance = random.Random(seed)
    urls = ",".join(cluster_urls)
    config = nats_settings(urls, topic=TOPIC, mode=mode, ack_timeout=2.0)
    ours, others = messages_of("our", count, subjects=3), messages_of("other", count // 4)
    async with nats_client(cluster_urls[1]) as client:
        disturbing = [asyncio.create_task(change_leaders(client, chance))]
        publishing = [publish_all(config, ours)]
        if mode == "auto":
            disturbing.append(asyncio.create_task(publish_foreign(cluster_urls, chance)))
            publishing.append(publish_all(config, others))
        methods = await asyncio.gather(*publishing)
        for task in disturbing:
            task.cancel()
        await asyncio.gather(*disturbing, return_exceptions=True)

    stored = await messages_in(replicated)
    assert first_copies(stored, "our") == [message.id for message in ours]
    if mode == "auto":
        assert first_copies(stored, "other") == [message.id for message in others]
    assert set.union(*methods) == {method}


@pytest.mark.parametrize(
    "fault",
    [
        "step-downs",
        pytest.param("kills", marks=pytest.mark.long),
        pytest.param("cuts", marks=pytest.mark.long),
    ],
)
async def test_transactions_stay_whole_beside_a_client_and_another_relay(
    servers: Servers, database: Database, nursery: Nursery, seed: int, fault: str
) -> None:
    """The ledger judges what each of two relays has put into the stream that they share."""
    await ledger.prepare(database)
    network = Network()
    async with contextlib.AsyncExitStack() as stack:
        if fault == "cuts":
            await network.interpose(stack)
        urls = [server.url for server in start_cluster(servers, network)]
        stream = await stack.enter_async_context(replicated_stream(urls))
        scene = Scene(database, stream, nursery, seed)
        one = await scene.relay("--ack-timeout", "2s")
        two = await scene.relay("--name", "two", "--subject", "{topic}.two.{schema}_{table}")
        await one.line("connected to NATS")
        disturbing = [asyncio.create_task(publish_foreign(urls, scene.draw))]
        if fault == "step-downs":
            client = await stack.enter_async_context(nats_client(urls[2]))
            disturbing.append(asyncio.create_task(change_leaders(client, scene.draw, shortest=0.3)))
        async with scene.load():
            for _ in range(3):
                await scene.pause(2, 3)
                await strike(fault, scene, servers, network)
        for task in disturbing:
            task.cancel()
        await asyncio.gather(*disturbing, return_exceptions=True)
        for relay in ("default", "two"):
            await ledger.all_sent(database, relay, timeout=120)
        assert [await relay.stop() for relay in (one, two)] == [0, 0]

        stored = await messages_in(stream)
        for name in ("", "two."):
            ours = OfRelay(stream.topic, stream.url, stream.jetstream, stored, name)
            await ledger.check(database, ours, scene.book)


async def strike(fault: str, scene: Scene, servers: Servers, network: Network) -> None:
    """Kill a server, or part it from the others, for a while; the first one is watched."""
    if fault == "kills":
        server = servers._servers[scene.draw.choice([1, 2])]
        server.kill()
        await scene.pause(0.5, 1.5)
        server.start()
    elif fault == "cuts":
        network.cut_off(scene.draw.choice([1, 2]))
        await scene.pause(3, 8)  # others choose a leader after some 4 s at least
        network.mend()


@dataclass(frozen=True)
class OfRelay(Stream):
    """What one relay has stored in a stream that others use, too."""

    stored: list[Stored]
    name: str  # after the topic in its subjects

    async def messages(self, first: int = 1) -> list[Stored]:
        """Return its messages, with the subjects that the ledger expects."""
        ours = re.compile(rf"{TOPIC}\.{self.name}(public_\w+)")
        found = [(message, ours.fullmatch(message.subject)) for message in self.stored]
        return [replace(m, subject=f"{TOPIC}.{match[1]}") for m, match in found if match]


async def test_method_follows_what_the_stream_accepts(
    replicated: Stream,
    cluster_urls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pgoutbox.nats.jetstream._STREAM_CHECK_INTERVAL", 0.0)
    config = nats_settings(",".join(cluster_urls), topic=TOPIC)
    stream = (await replicated.jetstream.stream_info(TOPIC)).config
    messages = messages_of("our", 300)
    accepted: list[dict[str, Any]] = [
        {"allow_batched": True, "allow_atomic": None},
        {"allow_batched": None, "allow_atomic": True},
        {"allow_batched": None, "allow_atomic": None},
    ]
    methods = []
    with caplog.at_level(logging.WARNING, "pgoutbox.nats"):
        async with connect(*config) as publisher:
            for first, settings in zip((0, 100, 200), accepted, strict=True):
                await replicated.jetstream.update_stream(stream.evolve(**settings))
                await publisher.publish(messages[first : first + 100])
                methods.append(publisher.description["method"])
        async with connect(*config):
            pass
    assert first_copies(await messages_in(replicated), "our") == [m.id for m in messages]
    assert methods == ["fast-ingest batches", "atomic batches", "one message at a time"]
    assert len(caplog.records) == 2  # when the stream changed, and at the second connection
    assert all("set its allow_batched to true" in record.message for record in caplog.records)


async def test_stream_that_is_created_has_the_replicas_that_were_asked_for(
    cluster_urls: list[str], servers: Servers
) -> None:
    """And accepts batches. It outlives a server; so does the relay, which goes to another one."""
    config = nats_settings(",".join(cluster_urls), topic=TOPIC, replicas=3)
    messages = [Message(f"{TOPIC}.t", f"id-{number}", b"{}") for number in range(200)]

    async def made() -> bool:
        with contextlib.suppress(PublishError):  # until the cluster has chosen a leader
            async with connect(*config) as publisher:
                assert publisher.description["replicas"] == 3
                assert publisher.description["method"] == "fast-ingest batches"
                return True
        return False

    await eventually(made, timeout=60, pause=0.2)
    await publish_all(config, messages[:100])
    servers._servers[0].kill()
    await publish_all(config, messages)

    async with nats_client(cluster_urls[1]) as client:
        stream = Stream(TOPIC, cluster_urls[1], client.jetstream(timeout=5))
        stored = [message.id for message in await messages_in(stream)]
    assert stored == [message.id for message in messages]


@pytest.mark.long
async def test_shards_share_a_replicated_stream_of_partitions(
    servers: Servers, database: Database, nursery: Nursery, seed: int
) -> None:
    """While its leaders change: each event once, and each row's in order, in one partition."""
    owner = await database.connect()
    await owner.execute("create table item (id int primary key, n int not null)")
    await owner.execute("select pgoutbox.capture_table('item')")
    await owner.execute("insert into item select n, 0 from generate_series(1, 200) n")
    partitioned = {
        "allow_batched": True,
        "subjects": [f"{TOPIC}.*.*"],
        "subject_transform": SubjectTransform(
            f"{TOPIC}.*.*",
            f"{TOPIC}.{{{{partition(4,1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
        ),
    }
    async with contextlib.AsyncExitStack() as stack:
        urls = [server.url for server in start_cluster(servers, Network())]
        stream = await stack.enter_async_context(replicated_stream(urls, partitioned))
        scene = Scene(database, stream, nursery, seed)
        flags = ("--subject", "{topic}.{table}.{key}", "--ack-timeout", "2s")
        relays = [await scene.relay(*flags, "--shard", f"{number}/2") for number in (1, 2)]
        client = await stack.enter_async_context(nats_client(urls[2]))
        changing = asyncio.create_task(change_leaders(client, scene.draw, shortest=0.3))
        for _ in range(100):
            await owner.execute(
                "update item set n = n + 1 where id % 3 = $1", scene.draw.randrange(3)
            )
            await owner.execute(
                "update item set n = n + 1 where id = $1", scene.draw.randint(1, 200)
            )
            await scene.pause(0, 0.1)
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        for number in (1, 2):
            await ledger.all_sent(database, f"default-{number}-of-2", timeout=120)
        assert [await relay.stop() for relay in relays] == [0, 0]
        stored = await messages_in(stream)

    written = await owner.fetch("select id::text from pgoutbox.outbox")
    assert sorted(message.id for message in stored) == sorted(row["id"] for row in written)
    latest: dict[int, tuple[int, str]] = {}  # of each row: its version, and the partition
    for message in stored:
        row = json.loads(message.data)["data"]
        partition = message.subject.split(".")[1]
        before = latest.get(row["id"], (-1, partition))
        assert (row["n"], partition) == (before[0] + 1, before[1])
        latest[row["id"]] = (row["n"], partition)
    assert {partition for _, partition in latest.values()} == set("0123")
