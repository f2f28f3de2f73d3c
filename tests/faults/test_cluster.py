"""A stream with three replicas whose leader keeps changing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from pgoutbox.config.settings import Mode
from pgoutbox.demo.process import free_port
from pgoutbox.errors import Interrupted, PublishError
from pgoutbox.messages.event import Message
from pgoutbox.nats.connect import connect
from tests.conftest import Servers
from tests.support.settings import NatsSettings, nats_settings
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique

TOPIC = "wal_listener"


@pytest.fixture
async def cluster_urls(servers: Servers) -> list[str]:
    """Three servers that form a cluster with JetStream."""
    name = unique("c")
    routes = [free_port() for _ in range(3)]
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    return [
        servers.nats(
            f"server_name: {name}-{number}\n"
            f'cluster {{ name: {name}, listen: "127.0.0.1:{port}", routes: [{listed}] }}'
        ).url
        for number, port in enumerate(routes)
    ]


@pytest.fixture
async def replicated(cluster_urls: list[str]) -> AsyncIterator[Stream]:
    """A stream of three replicas on that cluster."""
    async with nats_client(cluster_urls[0]) as client:
        jetstream = client.jetstream(timeout=5)
        config = StreamConfig(
            name=TOPIC, subjects=[f"{TOPIC}.*"], num_replicas=3, allow_batched=True
        )

        async def made() -> bool:
            with contextlib.suppress(Exception):  # until the cluster has chosen a leader
                await jetstream.add_stream(config)
                return True
            return False

        await eventually(made, timeout=60, pause=0.2)
        yield Stream(TOPIC, ",".join(cluster_urls), jetstream)


async def change_leaders(
    client: Client, jetstream: JetStreamContext, chance: random.Random
) -> None:
    """Make the stream's leader step down, again and again."""
    while True:
        with contextlib.suppress(Exception):  # there is no leader just now
            answer = await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{TOPIC}", b"", timeout=2)
            assert json.loads(answer.data).get("success")
        await asyncio.sleep(chance.uniform(0.1, 0.4))


async def publish_foreign(client: Client, chance: random.Random) -> None:
    """Publish into the same stream, again and again."""
    while True:
        await client.publish(f"{TOPIC}.foreign", b"")
        await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.05]))


async def publish_all(config: NatsSettings, messages: list[Message]) -> set[str]:
    """Publish as a relay does: from the first unconfirmed message on, until all are stored.

    Returns the methods in which it did.
    """
    methods = set()
    done = 0
    while done < len(messages):
        try:
            async with connect(*config) as publisher:
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


@pytest.mark.parametrize(("mode", "method"), [("window", "pipelined"), ("auto", "fast-ingest")])
async def test_no_message_gets_behind_its_successor_while_leaders_change(
    replicated: Stream, cluster_urls: list[str], mode: Mode, method: str
) -> None:
    """In batches not even while somebody else publishes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    messages = [Message(f"{TOPIC}.t", f"id-{number}", b"x" * 300) for number in range(20_000)]
    config = nats_settings(",".join(cluster_urls), topic=TOPIC, mode=mode, ack_timeout=2.0)
    async with nats_client(cluster_urls[1]) as client:
        disturbing = [
            asyncio.create_task(change_leaders(client, replicated.jetstream, chance)),
            *([asyncio.create_task(publish_foreign(client, chance))] if mode == "auto" else []),
        ]
        methods = await publish_all(config, messages)
        for task in disturbing:
            task.cancel()
        await asyncio.gather(*disturbing, return_exceptions=True)

    ours = [s.id for s in await replicated.messages() if s.headers]
    assert list(dict.fromkeys(ours)) == [message.id for message in messages]
    assert all(said.startswith(method) for said in methods)


async def test_relay_goes_over_to_batches_when_the_stream_takes_them(
    replicated: Stream, cluster_urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgoutbox.nats.jetstream._LOOK_AGAIN_AFTER", 0.0)
    config = nats_settings(",".join(cluster_urls), topic=TOPIC)
    stream = (await replicated.jetstream.stream_info(TOPIC)).config
    messages = [Message(f"{TOPIC}.t", f"id-{number}", b"{}") for number in range(300)]
    await replicated.jetstream.update_stream(stream.evolve(allow_batched=None))
    async with connect(*config) as publisher:
        methods = [publisher.description["method"]]
        for first, takes_batches in ((0, True), (100, None), (200, True)):
            await publisher.publish(messages[first : first + 100])
            await replicated.jetstream.update_stream(stream.evolve(allow_batched=takes_batches))
            methods.append(publisher.description["method"])
    stored = [stored.id for stored in await replicated.messages()]
    assert stored == [message.id for message in messages]
    by_sequence, in_batches = (
        "pipelined, chained by sequence",
        "fast-ingest batches, chained by sequence",
    )
    assert methods == [by_sequence, by_sequence, in_batches, by_sequence]


async def test_stream_that_is_created_has_the_replicas_that_were_asked_for(
    cluster_urls: list[str], servers: Servers
) -> None:
    """It outlives a server, and so does the relay, which goes to another one."""
    config = nats_settings(",".join(cluster_urls), topic=TOPIC, replicas=3)
    messages = [Message(f"{TOPIC}.t", f"id-{number}", b"{}") for number in range(200)]

    async def made() -> bool:
        with contextlib.suppress(PublishError):  # until the cluster has chosen a leader
            async with connect(*config) as publisher:
                assert publisher.description["replicas"] == 3
                assert publisher.description["method"] == "pipelined, chained by sequence"
                return True
        return False

    await eventually(made, timeout=60, pause=0.2)
    await publish_all(config, messages[:100])
    servers._servers[0].kill()
    await publish_all(config, messages)

    async with nats_client(cluster_urls[1]) as client:
        stream = Stream(TOPIC, cluster_urls[1], client.jetstream(timeout=5))

        async def read() -> list[str]:
            with contextlib.suppress(Exception):  # until the cluster has chosen a leader again
                return [stored.id for stored in await stream.messages()]
            return []

        stored = await eventually(read, timeout=60, pause=0.2)
    assert stored == [message.id for message in messages]
