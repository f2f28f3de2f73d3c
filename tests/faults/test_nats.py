"""nats-server is killed, loses its store, refuses, and loses acknowledgements."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamConfig

from pgoutbox.demo.nats_server import NatsServer
from tests.conftest import Connect, Servers
from tests.integration.test_nats_connection import Papers, papers
from tests.support import ledger
from tests.support.cluster import Database
from tests.support.nursery import Nursery
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene, Watcher
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique

__all__ = ["papers"]

FAILS = "NATS unavailable; retrying"
WORKS = "NATS available again"


each_mode = pytest.mark.parametrize(
    "mode", ["window", pytest.param("fast", marks=pytest.mark.long)]
)


class Own(Scene):
    """A scene on a nats-server of its own."""

    server: NatsServer


@pytest.fixture
async def own(
    servers: Servers, database: Database, nursery: Nursery, seed: int
) -> AsyncIterator[Own]:
    await ledger.prepare(database)
    server = servers.nats("max_payload: 65536")
    topic = unique("t")
    async with _stream(server, topic) as stream:
        own = Own(database, stream, nursery, seed)
        own.server = server
        yield own


@asynccontextmanager
async def _stream(server: NatsServer, topic: str) -> AsyncIterator[Stream]:
    async with nats_client(server.url) as client:
        yield Stream(topic, server.url, client.jetstream())


def said(lines: list[str], part: str) -> int:
    """Count log lines."""
    return sum(part in line for line in lines)


async def _check(own: Own) -> int:
    """Check over a connection of now; earlier ones have seen the server die."""
    async with _stream(own.server, own.stream.topic) as own.stream:
        return await own.check()


async def test_killed_under_load(own: Own) -> None:
    """The store is on disk: nothing is lost, and each outage is one line at either end."""
    relay = await own.relay()
    await relay.line("leading")
    async with own.load():
        for outage in range(1, 7):
            await own.pause(0.2, 0.6)
            if own.draw.random() < 0.5:
                own.server.kill()
            else:
                own.server.stop()
            await relay.line(FAILS, count=outage)
            await own.pause(0, 0.5)
            own.server.start()
            await relay.line(WORKS, count=outage, timeout=30)
    await own.all_sent()
    assert await relay.stop() == 0

    await _check(own)
    assert said(relay.lines, FAILS) == said(relay.lines, WORKS) == 6
    assert len(relay.lines) == 7 + 2 * 6, relay.output


async def test_a_server_gets_jetstream_later(
    servers: Servers, database: Database, nursery: Nursery, seed: int
) -> None:
    """The relay says once what is missing, and publishes nothing into nothing."""
    await ledger.prepare(database)
    server = servers.nats("jetstream: disabled")
    async with _stream(server, unique("t")) as stream:
        own = Own(database, stream, nursery, seed)
        own.server = server
    relay = await own.relay()
    async with own.load():
        line = await relay.line(FAILS)
        assert "JetStream is not available" in line
        await own.pause(0.5, 1.0)
        assert said(relay.lines, FAILS) == 1
        server.config_text = ""
        server.restart()
        await relay.line(WORKS, timeout=30)
    await own.all_sent()
    assert await relay.stop() == 0

    await _check(own)
    assert len(relay.lines) <= 12, relay.output


async def test_comes_back_with_an_empty_store(own: Own) -> None:
    """The stream is made again, and all that the outbox has is in it."""
    relay = await own.relay()
    async with own.load():
        await own.pause(0.3, 0.6)
    await own.all_sent()
    own.server.stop()
    shutil.rmtree(own.server.folder / "jetstream")
    own.server.start()

    await relay.line("stream created", count=2)
    async with own.load():
        await own.pause(0.3, 0.6)
    await own.all_sent()
    assert await relay.stop() == 0

    assert await _check(own)


async def test_stream_deleted_while_running(scene: Scene) -> None:
    """Nothing is published into nothing: the relay says so once and makes the stream again."""
    relay = await scene.relay()
    async with scene.load():
        await scene.pause(0.3, 0.6)
    await scene.all_sent()
    await scene.stream.jetstream.delete_stream(scene.stream.topic)
    async with scene.load():
        await scene.pause(0.3, 0.6)
        await relay.line(WORKS)
    await scene.all_sent()
    assert await relay.stop() == 0

    assert await scene.check()
    assert said(relay.lines, FAILS) == said(relay.lines, WORKS) == 1


async def test_a_certificate_that_has_expired(
    servers: Servers, database: Database, nursery: Nursery, seed: int, papers: Papers
) -> None:
    """It waits for another one, says so once, and names no password."""
    await ledger.prepare(database)
    plain = "\nallow_non_tls: true"
    server = servers.nats(papers.server_config("expired-server") + plain)
    async with _stream(server, unique("t")) as stream:
        own = Own(database, stream, nursery, seed)
        own.nats_url = server.url.replace("nats://", "nats://relay:s3cret@")
        relay = await own.relay("--nats-ca-cert", papers.file("ca.pem"))
        assert "certificate has expired" in await relay.line(FAILS)
        async with own.load():
            await own.pause(0.5, 1.0)
        server.config_text = papers.server_config() + plain
        server.restart()
        await relay.line(WORKS)
        await own.all_sent()
        assert await relay.stop() == 0

    async with _stream(server, own.stream.topic) as own.stream:
        assert await own.check()
    assert said(relay.lines, FAILS) <= 2, relay.output
    assert said(relay.lines, WORKS) == 1
    assert "s3cret" not in relay.output


async def test_started_before_nats_is_there(own: Own) -> None:
    """It waits, says so once, and begins by itself; writers notice nothing."""
    own.server.stop()
    relay = await own.relay()
    await relay.line(FAILS)
    async with own.load():
        await own.pause(0.5, 1.0)
    assert said(relay.lines, FAILS) == 1
    own.server.start()
    await relay.line(WORKS, timeout=20)
    await own.all_sent()
    assert await relay.stop() == 0

    await _check(own)


@each_mode
async def test_acknowledgements_and_messages_get_lost(scene: Scene, mode: str) -> None:
    """One in a hundred, each alone: repeats carry the same ids, nothing stands out of order."""
    draw = random.Random(scene.seed)
    is_over = False

    def loses(frame: bytes) -> bool:
        is_ours = frame.startswith(b"HPUB") or b'"seq"' in frame
        return is_ours and not is_over and draw.random() < 0.01

    async with (
        proxy(port_of(scene.stream.url), loses) as lossy,
        nats_client(scene.stream.url) as client,
    ):
        watcher = await Watcher.of(client, scene.stream.topic)
        scene.nats_url = through(scene.stream.url, lossy)
        relay = await scene.relay("--mode", mode, "--ack-timeout", "200ms")
        await relay.line("leading")
        async with scene.load(writers=2):
            await scene.pause(5, 6)
        is_over = True
        await scene.all_sent()
        assert await relay.stop() == 0

    await scene.check()
    print(f"{lossy.lost} lost, {watcher.repeats} published again")
    assert lossy.lost > 0
    assert watcher.changed == []


@each_mode
async def test_connection_cut_again_and_again(scene: Scene, mode: str) -> None:
    """In the middle of windows; what was buffered is thrown away, not sent after a hole."""
    async with proxy(port_of(scene.stream.url)) as network:
        scene.nats_url = through(scene.stream.url, network)
        relay = await scene.relay("--mode", mode, "--ack-timeout", "500ms", "--window", "200")
        await relay.line("leading")
        async with scene.load():
            for _ in range(12):
                await scene.pause(0.05, 0.3)
                if scene.draw.random() < 0.3:
                    network.stall()
                    await scene.pause(0, 0.8)
                    network.flow()
                network.cut()
        await scene.all_sent()
        assert await relay.stop() == 0
    await scene.check()
    assert said(relay.lines, FAILS) == said(relay.lines, WORKS) > 0


@each_mode
async def test_stream_is_full_for_a_while(scene: Scene, mode: str) -> None:
    """With ``discard: new`` the relay waits, and goes on when there is room."""
    topic, jetstream = scene.stream.topic, scene.stream.jetstream
    full = StreamConfig(
        name=topic,
        subjects=[f"{topic}.*"],
        max_msgs=40,
        discard=DiscardPolicy.NEW,
        allow_batched=True,
    )
    await jetstream.add_stream(full)
    relay = await scene.relay("--mode", mode)
    async with scene.load():
        for limit, room in ((40, 200), (200, 400), (400, -1)):
            await relay.line(FAILS)
            await eventually(partial(_holds, jetstream, topic, limit))
            await scene.pause(0.2, 0.5)
            await jetstream.update_stream(full.evolve(max_msgs=room))
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    outages = said(relay.lines, FAILS)
    assert 1 <= outages == said(relay.lines, WORKS) <= 3
    assert len(relay.lines) == 6 + 2 * outages, relay.output


async def _holds(jetstream: JetStreamContext, stream: str, messages: int) -> bool:
    return (await jetstream.stream_info(stream)).state.messages >= messages


@each_mode
async def test_somebody_else_publishes_into_the_stream(scene: Scene, mode: str) -> None:
    """The order of ours is kept, and so is theirs."""
    relay = await scene.relay("--mode", mode)
    await relay.line("leading")
    is_over = False

    async def publish() -> int:
        sent = 0
        while not is_over:
            await scene.stream.jetstream.publish(f"{scene.stream.topic}.foreign", b"%d" % sent)
            sent += 1
            await asyncio.sleep(scene.draw.choice([0, 0, 0.001, 0.01]))
        return sent

    async with scene.load():
        await relay.line("stream created")
        foreigner = asyncio.create_task(publish())
        await scene.pause(2, 3)
    await scene.all_sent()
    is_over = True
    sent = await foreigner
    assert await relay.stop() == 0

    await scene.check()
    assert sent > 0


async def test_event_above_max_payload_is_parked(own: Own, connect: Connect) -> None:
    """It blocks nobody, and its transaction's other events come in their places."""
    owner = await connect()
    relay = await own.relay()
    await relay.line("leading")
    async with own.load():
        await own.pause(0.3, 0.6)
    label = own.book.label()
    own.book.issue(label)
    await owner.execute(f"""
        begin;
        insert into ledger_transaction (label) values ({label});
        insert into bulk values (1, 'before');
        insert into bulk values (2, repeat('x', 100000));
        insert into bulk values (3, 'after');
        delete from bulk where id = 2 and body like 'xxx%';
        commit
    """)
    own.book.confirm(label)
    async with own.load():
        await relay.line("event parked")
        await own.pause(0.3, 0.6)
    await own.all_sent()
    assert await relay.stop() == 0
    assert relay.output.count("event parked") == 1  # a minute

    parked = await owner.fetch("select event_id::text, reason, action from pgoutbox.parked")
    assert {row["action"] for row in parked} == {"INSERT", "DELETE"}
    assert all("max_payload" in row["reason"] for row in parked)
    marks = await owner.fetch(
        "delete from ledger where length(coalesce(new_row, old_row) ->> 'body') > 90000 returning 1"
    )
    assert len(marks) == len(parked) == 2
    await _check(own)


async def test_event_above_max_payload_stops_a_relay_that_is_told_to(
    own: Own, connect: Connect
) -> None:
    """All before it is sent; the exit code says that publishing is the problem."""
    owner = await connect()
    await owner.execute("insert into bulk values (1, 'before')")
    await owner.execute("insert into bulk values (2, repeat('x', 100000))")
    await owner.execute("insert into bulk values (3, 'after')")

    for _ in range(2):
        relay = await own.relay("--on-oversize", "stop")
        assert await relay.wait() == 5, relay.output
        assert "max_payload" in relay.lines[-1] + relay.lines[-2]

    messages = [json.loads(message.data) for message in await own.stream.messages()]
    assert [message["data"]["body"] for message in messages] == ["before"]


@each_mode
async def test_what_a_dead_relay_left_in_the_network_arrives_late(
    scene: Scene, connect: Connect, mode: str
) -> None:
    """Its message reaches the server while its successor is in the middle of a transaction."""
    owner, preparing = [await connect(**{"pgoutbox.notify": "off"}) for _ in range(2)]
    # Of a lower position, and visible only after the other one was read.
    large, small = scene.book.label(), scene.book.label()
    await preparing.execute(f"""
        begin;
        insert into ledger_transaction (label) values ({large});
        insert into bulk select n, 'large' from generate_series(1, 5000) n;
    """)
    scene.book.issue(large)
    await preparing.execute("prepare transaction 'large'")

    async with proxy(port_of(scene.stream.url)) as network:
        direct, scene.nats_url = scene.nats_url, through(scene.stream.url, network)
        dead = await scene.relay("--mode", mode, "--poll-interval", "20ms")
        await dead.line("stream created")
        network.stall()
        scene.book.issue(small)
        await owner.execute(
            f"insert into ledger_transaction (label) values ({small});"
            "insert into bulk values (0, 'small')"
        )
        scene.book.confirm(small)
        await eventually(lambda: network.held > 0)
        await dead.kill()

        await preparing.execute("commit prepared 'large'")
        scene.book.confirm(large)
        scene.nats_url = direct
        relay = await scene.relay("--mode", mode, "--batch-events", "20", "--window", "4")

        async def is_in_the_middle() -> bool:
            return await scene.stream.count() > 100

        await eventually(is_in_the_middle, pause=0.005)
        network.flow()
        assert await scene.stream.count() < 4_000
        await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
