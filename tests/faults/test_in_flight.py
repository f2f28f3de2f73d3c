"""A backlog goes out with two batches in flight; what fails, fails in the middle of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client

from tests.conftest import Connect
from tests.support.nursery import Relay
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene, Watcher
from tests.support.streams import nats_client

FLAGS = ("--batch-events", "20", "--window", "45", "--log-level", "debug")


@pytest.fixture
async def backlog(scene: Scene) -> Scene:
    """A scene in which a few thousand transactions wait, small and large, some asynchronous."""
    scene.flags = (*scene.flags, *FLAGS)
    async with scene.load(writers=4):
        await scene.pause(3, 4)
    return scene


@asynccontextmanager
async def watched(scene: Scene, nats: Client) -> AsyncIterator[Watcher]:
    watcher = await Watcher.of(nats, scene.stream.topic)
    yield watcher
    await scene.check()
    print(f"{watcher.repeats} of {len(watcher.payloads)} published again")
    assert watcher.changed == []


async def drained(scene: Scene, relay: Relay) -> None:
    await scene.all_sent()
    assert await relay.stop() == 0


async def test_killed_again_and_again(backlog: Scene, nats: Client) -> None:
    """What was sent beyond the recorded progress comes again, batch by batch, with the same ids."""
    async with watched(backlog, nats):
        async with backlog.load(writers=1):  # also what becomes visible late
            for _ in range(25):
                relay = await backlog.relay()
                await relay.line("connected to NATS")
                await backlog.pause(0, 0.08)
                await relay.kill()
        await drained(backlog, await backlog.relay())


async def test_connection_cut_again_and_again(backlog: Scene, nats: Client) -> None:
    async with proxy(port_of(backlog.stream.url)) as network, watched(backlog, nats):
        backlog.nats_url = through(backlog.stream.url, network)
        relay = await backlog.relay("--ack-timeout", "500ms")
        async with backlog.load(writers=1):
            for _ in range(15):
                await backlog.pause(0, 0.15)
                network.cut()
        await drained(backlog, relay)
    print(f"{network.connections} connections")
    assert network.connections > 1


@pytest.mark.parametrize(
    ("lost", "share"), [(b"HPUB", 0.02), (b'"seq"', 0.2)], ids=["messages", "acknowledgements"]
)
async def test_some_are_lost(backlog: Scene, lost: bytes, share: float) -> None:
    """What was sent behind a message that is missing is refused, and sent again."""
    losing = True

    def loses(frame: bytes) -> bool:
        return losing and lost in frame and backlog.draw.random() < share

    async with proxy(port_of(backlog.stream.url), loses) as lossy:
        async with nats_client(backlog.stream.url) as client, watched(backlog, client):
            backlog.nats_url = through(backlog.stream.url, lossy)
            relay = await backlog.relay("--ack-timeout", "200ms")
            async with backlog.load(writers=1):
                await backlog.pause(2, 3)
            losing = False
            await drained(backlog, relay)
        assert lossy.lost > 0


async def test_oversized_events_are_parked(backlog: Scene, connect: Connect, nats: Client) -> None:
    """Each by itself: those behind it, in flight already, go out in their order."""
    owner = await connect()
    await owner.execute("create table large (id integer, body text)")
    await owner.execute("select pgoutbox.capture_table('large')")
    async with watched(backlog, nats):
        async with backlog.load(writers=2):
            for number in range(5):
                await owner.execute(f"insert into large values ({number}, repeat('x', 2000000))")
                await backlog.pause(0, 0.1)
            relay = await backlog.relay()
            await relay.line("event parked", timeout=30)
        await drained(backlog, relay)
    assert await owner.fetchval("select count(*) from pgoutbox.parked") == 5
