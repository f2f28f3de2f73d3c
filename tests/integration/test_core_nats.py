"""Publishing without JetStream, to whoever listens."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.errors import DatabaseError, Interrupted, PublishError, Refused
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.connect import connect
from tests.conftest import Connect, Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.proxy import proxy, through
from tests.support.settings import NatsSettings, nats_settings
from tests.support.streams import event_id, nats_client
from tests.support.waiting import eventually

NO_JETSTREAM = "jetstream: disabled"


class Subscriber:
    """Notes what arrives."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []

    @classmethod
    async def of(cls, client: Client, subject: str) -> Subscriber:
        subscriber = cls()
        await client.subscribe(subject, cb=subscriber._note)
        await client.flush()
        return subscriber

    async def _note(self, message: Msg) -> None:
        self.messages.append(message)

    @property
    def ids(self) -> list[str]:
        return [event_id(message.headers) for message in self.messages if message.headers]


def config_of(server: NatsServer | str, **settings: object) -> NatsSettings:
    return nats_settings(
        server if isinstance(server, str) else server.url,
        topic="shop",
        jetstream=False,
        **settings,
    )


def messages_of(count: int) -> list[Message]:
    return [Message("shop.public_users", f"id-{n}", b"%d" % n, (("x", "y"),)) for n in range(count)]


@pytest.fixture
def server(servers: Servers) -> NatsServer:
    return servers.nats(NO_JETSTREAM)


@pytest.mark.parametrize("window", [1, 7, 4_000])
async def test_messages_arrive_in_order_with_their_headers(server: NatsServer, window: int) -> None:
    messages = messages_of(2_000)
    async with nats_client(server.url) as client:
        subscription = await client.subscribe("shop.>")
        await client.flush()
        async with connect(*config_of(server, window=window)) as publisher:
            assert "at most once" in str(publisher.description["method"])
            await publisher.publish(messages)
            await client.flush()
            assert subscription.pending_msgs == 2_000
        arrived = [await subscription.next_msg() for _ in range(2_000)]
    assert [event_id(m.headers) for m in arrived] == [m.id for m in messages]
    assert {(m.headers or {})["x"] for m in arrived} == {"y"}
    assert arrived[7].data == b"7"


async def test_question_whether_the_server_has_read_all_comes_after_all(servers: Servers) -> None:
    server = servers.nats(f"{NO_JETSTREAM}\ntrace: true")
    async with connect(*config_of(server)) as publisher:
        await publisher.publish(messages_of(100))
    said = [line for line in server.log.read_text().splitlines() if "<<- [" in line]
    kinds = [line.partition("<<- [")[2].split()[0].strip("]") for line in said]
    assert kinds == ["CONNECT", "PING", *["HPUB"] * 100, "PING"]


async def test_oversized_message_is_refused_after_those_before_it(server: NatsServer) -> None:
    messages = messages_of(10)
    messages[4] = messages[4]._replace(payload=b"x" * (1024 * 1024))
    async with nats_client(server.url) as client:
        subscriber = await Subscriber.of(client, "shop.>")
        async with connect(*config_of(server, window=3)) as publisher:
            with pytest.raises(Refused, match="max_payload of 1048576") as refused:
                await publisher.publish(messages)
            assert refused.value.confirmed == 4
            await publisher.publish(messages[5:])
        await eventually(lambda: len(subscriber.messages) == 9)


async def test_denied_subject_confirms_nothing_of_its_chunk(servers: Servers) -> None:
    server = servers.nats(
        f"{NO_JETSTREAM}\nauthorization: {{users: [{{user: shop, password: x,"
        ' permissions: {publish: {deny: "shop.orders"}}}]}'
    )
    messages = messages_of(8)
    messages[5] = messages[5]._replace(subject="shop.orders")
    config = config_of(server, user="shop", password="x", window=4)
    async with connect(*config) as publisher:
        with pytest.raises(Interrupted, match="may not publish to a subject") as denied:
            await publisher.publish(messages)
        assert denied.value.confirmed == 4
        with pytest.raises(Interrupted, match="may not publish to a subject") as still_denied:
            publisher.check()
        assert denied.value.subject == still_denied.value.subject == "shop.orders"


@pytest.mark.parametrize("size", [1, 900_000], ids=["all is written", "the network is full"])
async def test_server_that_does_not_answer_confirms_nothing(server: NatsServer, size: int) -> None:
    messages = [message._replace(payload=b"x" * size) for message in messages_of(40)]
    async with proxy(server.port) as network:
        config = config_of(through(server.url, network), ack_timeout=2.0)
        async with connect(*config) as publisher:
            network.stall()
            with pytest.raises(Interrupted, match=r"didn't answer within 2 s") as silent:
                await publisher.publish(messages)
            assert silent.value.confirmed == 0
            network.flow()


async def test_relay_that_waits_for_the_server_is_alive(server: NatsServer) -> None:
    """First for the messages to be written, then for the server to have read them."""
    now = 0.0
    monitor = Monitor(clock=lambda: now)
    config = config_of(server, ack_timeout=600.0)
    async with connect(*config, on_wait=monitor.step) as publisher:
        await publisher.publish(messages_of(1))

    now = 1200.0

    assert monitor.is_alive


async def test_relay_that_leads_no_more_ends_in_the_middle_of_a_batch(server: NatsServer) -> None:
    """As one does that was frozen there: no server would keep out what it sends then."""
    leads = iter([True, True, False])

    async def verify() -> None:
        if not next(leads):
            raise DatabaseError("the connection to PostgreSQL was lost")

    async with nats_client(server.url) as client:
        subscriber = await Subscriber.of(client, "shop.>")
        async with connect(*config_of(server, window=3), verify=verify) as publisher:
            with pytest.raises(DatabaseError):
                await publisher.publish(messages_of(12))
        await client.flush()
        await eventually(lambda: len(subscriber.messages) == 6)


async def test_server_that_goes_away_confirms_nothing_more(server: NatsServer) -> None:
    lost = asyncio.Event()
    async with connect(*config_of(server), on_lost=lost.set) as publisher:
        await publisher.publish(messages_of(3))
        server.kill()
        with pytest.raises(PublishError) as gone:
            await publisher.publish(messages_of(3))
        assert getattr(gone.value, "confirmed", 0) == 0
        await asyncio.wait_for(lost.wait(), 10)


async def test_relay_goes_on_with_what_the_server_has_not_read(
    server: NatsServer, database: Database, connect: Connect, daemon: StartDaemon
) -> None:
    """Who listens all the time gets every event; who comes late gets what is left."""
    owner = await connect()
    await owner.execute("create table users (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('users')")
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", server.url, "--topic", "shop"),
        *("--no-jetstream", "--ack-timeout", "500ms"),
    )
    connected = await relay.line("connected to NATS")
    assert f"server=127.0.0.1:{server.port}" in connected
    assert "at most once" in connected

    async with nats_client(server.url) as client:
        subscriber = await Subscriber.of(client, "shop.>")
        await owner.execute("insert into users select generate_series(1, 50)")
        await eventually(lambda: len(subscriber.messages) == 50)
    server.kill()
    await owner.execute("insert into users select generate_series(51, 60)")
    await relay.line("unavailable; retrying")
    server.restart()
    async with nats_client(server.url) as client:
        late = await Subscriber.of(client, "shop.>")
        await relay.line("NATS available again")
        await owner.execute("insert into users values (61)")
        await eventually(lambda: b'"id":61' in late.messages[-1].data if late.messages else False)
    assert len(set(subscriber.ids)) == 50
    assert set(late.ids).isdisjoint(subscriber.ids)
    assert await relay.stop() == 0
    assert len([line for line in relay.stderr if "connected to NATS" in line]) == 1
