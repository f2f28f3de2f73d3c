"""Which stream is published into: one that is there, or one that is made for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from pgoutbox.demo.process import free_port
from pgoutbox.errors import Interrupted, PublishError, Refused
from pgoutbox.messages.event import Message
from pgoutbox.nats.connect import connect
from tests.conftest import Servers
from tests.support.settings import NatsSettings, nats_settings
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique


def config_of(where: Stream, **settings: object) -> NatsSettings:
    return nats_settings(
        where.url,
        topic=where.topic,
        **settings,
    )


def to(subject: str, count: int = 1) -> list[Message]:
    return [Message(subject, f"{subject}-{number}", b"{}") for number in range(count)]


async def stored_in(jetstream: JetStreamContext, name: str) -> int:
    return (await jetstream.stream_info(name)).state.messages


@pytest.fixture
async def other(jetstream: JetStreamContext) -> AsyncIterator[str]:
    """The name of another stream than the topic's; removed after the test."""
    name = unique("other")
    yield name
    with contextlib.suppress(NotFoundError):
        await jetstream.delete_stream(name)


async def test_stream_that_takes_our_subjects_is_used_whatever_its_name(
    stream: Stream, jetstream: JetStreamContext, other: str
) -> None:
    topic = stream.topic
    await jetstream.add_stream(name=other, subjects=[f"{topic}.>"], num_replicas=1)
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(to(f"{topic}.public_users", 5))
        assert publisher.description["stream"] == other
    assert await stored_in(jetstream, other) == 5
    with pytest.raises(NotFoundError):
        await jetstream.stream_info(topic)


async def test_stream_of_the_topics_name_with_other_subjects_is_not_ours(
    stream: Stream, jetstream: JetStreamContext, other: str
) -> None:
    topic = stream.topic
    await jetstream.add_stream(name=topic, subjects=[f"{topic}x.*"])
    expected = f"the stream '{topic}' has the subjects {topic}x.*, not {topic}.*"
    with pytest.raises(PublishError, match=expected.replace("*", r"\*")) as refused:
        async with connect(*config_of(stream)):
            pass
    assert "--stream" in str(refused.value.hint)

    await jetstream.add_stream(name=other, subjects=[f"{topic}.*"])
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(to(f"{topic}.public_users"))
    assert await stored_in(jetstream, other) == 1


async def test_named_stream_is_used_and_created_when_missing(
    stream: Stream, jetstream: JetStreamContext, other: str
) -> None:
    for _ in range(2):
        async with connect(*config_of(stream, name=other)) as publisher:
            await publisher.publish(to(f"{stream.topic}.public_users"))
    info = await jetstream.stream_info(other)
    assert info.config.subjects == [f"{stream.topic}.*"]
    assert info.state.messages == 1


async def test_it_is_not_guessed_which_of_several_streams_is_meant(
    stream: Stream, jetstream: JetStreamContext, other: str
) -> None:
    topic, names = stream.topic, [f"{other}a", f"{other}b"]
    for name in names:
        await jetstream.add_stream(name=name, subjects=[f"{topic}.{name}"])
    try:
        with pytest.raises(PublishError, match=f"several streams.*: {', '.join(names)}"):
            async with connect(*config_of(stream)):
                pass
        async with connect(*config_of(stream, name=names[1])) as publisher:
            await publisher.publish(to(f"{topic}.{names[1]}"))
            with pytest.raises(Interrupted, match=f"other than .*: from stream '{names[0]}'"):
                await publisher.publish(to(f"{topic}.{names[0]}"))
    finally:
        for name in names:
            await jetstream.delete_stream(name)


async def test_stream_that_acknowledges_nothing_is_named(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    await jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"], no_ack=True)
    with pytest.raises(PublishError, match=f"'{stream.topic}' sends no acknowledgements"):
        async with connect(*config_of(stream)):
            pass


async def test_event_outside_the_streams_subjects_waits_with_all_behind_it(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    topic = stream.topic
    await jetstream.add_stream(name=topic, subjects=[f"{topic}.public_users"])
    messages = [*to(f"{topic}.public_users", 3), *to(f"{topic}.orders"), *to(f"{topic}.public_x")]
    async with connect(*config_of(stream)) as publisher:
        with pytest.raises(Interrupted, match="no stream has the message's subject") as interrupted:
            await publisher.publish(messages)
    assert interrupted.value.subject == f"{topic}.orders"
    assert await stored_in(jetstream, topic) == 3

    await jetstream.update_stream(name=topic, subjects=[f"{topic}.*"])
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(messages)
    assert [stored.subject for stored in await stream.messages()] == [m.subject for m in messages]


async def test_stream_that_was_deleted_is_made_again_with_the_next_connection(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    messages = to(f"{stream.topic}.public_users", 3)
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(messages)
        await jetstream.delete_stream(stream.topic)
        with pytest.raises(Interrupted, match=r"no stream has|has been deleted"):
            await publisher.publish(messages)
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(messages)
    assert await stream.count() == 3


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"topic_prefix": "app.", "topics_map": {"x": "a.b"}}, ["app.public_users", "app.a.b"]),
        ({"topics_map": {"public_users": "users.all"}}, ["users.all", "public_orders"]),
        ({"subject": "{topic}.{schema}.{table}"}, ["public.users", "public.orders"]),
    ],
)
async def test_stream_that_is_created_takes_subjects_with_dots(
    stream: Stream, settings: dict[str, object], ends: list[str]
) -> None:
    """wal-listener creates ``<topic>.*``, which takes none of these, and exits at the first."""
    messages = [message for end in ends for message in to(f"{stream.topic}.{end}")]
    async with connect(*config_of(stream, **settings)) as publisher:
        await publisher.publish(messages)
    assert [stored.subject for stored in await stream.messages()] == [m.subject for m in messages]


async def test_stream_that_is_created_takes_one_subject_for_all(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    subject = f"{stream.topic}_app"
    async with connect(*config_of(stream, subject=subject)) as publisher:
        await publisher.publish(to(subject, 3))
    assert (await jetstream.stream_info(stream.topic)).config.subjects == [subject]
    assert await stream.count() == 3


async def test_headers_of_a_message_arrive_and_count_as_part_of_it(
    stream: Stream, nats: Client
) -> None:
    headers = (("pgoutbox-table", "public.größen"), ("ce-type", "row"))
    name = f"{stream.topic}.public_users"
    messages = [
        Message(name, "1", b"{}", headers),
        Message(name, "2", b"x" * (nats.max_payload - 154)),
        Message(name, "3", b"x" * (nats.max_payload - 154), headers),
    ]
    async with connect(*config_of(stream)) as publisher:
        with pytest.raises(Refused, match="max_payload") as refused:
            await publisher.publish(messages)
    assert refused.value.confirmed == 2
    stored, _ = await stream.messages()
    assert stored.headers["pgoutbox-table"] == "public.größen"
    assert stored.headers["ce-type"] == "row"
    assert stored.id == "1"


async def test_account_without_jetstream_is_one_sentence(servers: Servers) -> None:
    server = servers.nats(
        "accounts: {SHOP: {users: [{user: shop, password: x}], jetstream: enabled},"
        " OTHER: {users: [{user: other, password: x}]}}"
    )
    shop = nats_settings(server.url, user="shop", password="x")
    async with connect(*shop) as publisher:
        await publisher.publish(to("wal_listener.t"))
    other = nats_settings(server.url, user="other", password="x")
    with pytest.raises(PublishError, match="JetStream is not available") as refused:
        async with connect(*other):
            pass
    assert "enable it for the account" in str(refused.value.hint)


async def test_domain_of_another_server_is_published_into(servers: Servers, tmp_path: Path) -> None:
    """From a leaf node, whose own JetStream has a stream of the same name."""
    port = free_port()
    hub = servers.nats(
        f'jetstream: {{domain: hub, store_dir: "{tmp_path}/hub"}}\nserver_name: hub\n'
        f'leafnodes: {{listen: "127.0.0.1:{port}"}}'
    )
    leaf = servers.nats(
        f'jetstream: {{domain: leaf, store_dir: "{tmp_path}/leaf"}}\nserver_name: leaf\n'
        f'leafnodes: {{remotes: [{{url: "nats-leaf://127.0.0.1:{port}"}}]}}'
    )
    config = nats_settings(leaf.url, topic="shop", domain="hub")

    async def publishes() -> bool:
        with contextlib.suppress(PublishError):  # until the leaf node has found its hub
            async with connect(*config) as publisher:
                await publisher.publish(to("shop.public_users", 20))
                assert publisher.description["domain"] == "hub"
                return True
        return False

    await eventually(publishes, timeout=30)
    async with nats_client(hub.url) as client:
        assert await stored_in(client.jetstream(), "shop") == 20

    async with connect(*config) as publisher:
        async with nats_client(leaf.url) as client:
            await client.jetstream(domain="hub").delete_stream("shop")
            await client.jetstream(domain="leaf").add_stream(name="shop", subjects=["shop.*"])
        with pytest.raises(Interrupted, match="something other than the stream") as interrupted:
            await publisher.publish(to("shop.public_orders", 5))
    assert "from stream 'shop' of domain 'leaf'" in str(interrupted.value)
    assert interrupted.value.confirmed == 0

    nowhere = nats_settings(leaf.url, topic="shop", domain="nowhere")
    with pytest.raises(PublishError, match="can't reach a JetStream domain 'nowhere'"):
        async with connect(*nowhere):
            pass


@pytest.mark.parametrize(
    ("permissions", "verb", "subject"),
    [
        ('publish: {deny: "shop.Orders"}', "publish", "shop.Orders"),
        ('publish: {deny: "$JS.API.>"}', "publish", "$JS.API.STREAM.INFO.shop"),
        ('subscribe: "_INBOX_other.>"', "subscribe", "_INBOX."),
    ],
)
async def test_denied_permission_is_named_at_once(
    servers: Servers, permissions: str, verb: str, subject: str
) -> None:
    """The server only reports it aside, and no answer ever comes."""
    server = servers.nats(
        f"authorization: {{users: [{{user: shop, password: x, permissions: {{{permissions}}}}}]}}"
    )
    config = nats_settings(server.url, user="shop", password="x", topic="shop", ack_timeout=600.0)
    messages = [*to("shop.public_users", 3), *to("shop.Orders"), *to("shop.public_x", 3)]
    lost = asyncio.Event()
    with pytest.raises(PublishError) as denied:
        async with connect(*config, on_lost=lost.set) as publisher:
            await publisher.publish(messages)
    assert str(denied.value) == f"this user may not {verb} to a subject"
    assert str(denied.value.subject).startswith(subject)
    assert "docs/nats.md" in str(denied.value.hint)
    assert getattr(denied.value, "confirmed", 0) <= 3


async def test_stream_that_keeps_less_than_its_duplicate_window_is_named(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    """And it may store repeats, as is said of it, once the server has restarted."""
    caplog.set_level("INFO", "pgoutbox.nats")
    server = servers.nats()
    config = nats_settings(server.url, topic="t")
    messages = to("t.public_users", 3)

    async def publish(count: int) -> int:
        async with connect(*config) as publisher:
            await publisher.publish(messages[:count])
        async with nats_client(server.url) as client:
            return int((await client.jetstream().stream_info("t")).state.last_seq)

    async with nats_client(server.url) as client:
        await client.jetstream().add_stream(name="t", subjects=["t.*"], max_msgs=1)
    assert await publish(3) == 3
    assert "duplicate window" not in caplog.text
    assert await publish(1) == 3
    assert "keeps messages for less than its duplicate window" in caplog.text
    server.stop()
    server.start()

    assert await publish(1) == 4
