"""The publisher against a real nats-server."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from pgoutbox.config.settings import Mode
from pgoutbox.errors import Interrupted, PublishError, Refused
from pgoutbox.messages.event import Message
from pgoutbox.nats.connect import connect
from tests.conftest import Servers
from tests.support.proxy import port_of, proxy, through
from tests.support.settings import NatsSettings, nats_settings
from tests.support.streams import Stream, event_id
from tests.support.waiting import eventually


@pytest.fixture(params=["window", "fast"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each way of publishing several messages at once."""
    mode: Mode = request.param
    return mode


def config_of(stream: Stream, mode: Mode = "auto", *, window: int = 100) -> NatsSettings:
    return nats_settings(stream.url, topic=stream.topic, mode=mode, window=window)


def limited(stream: Stream, mode: Mode, **limits: Any) -> StreamConfig:
    """Return the settings of a stream that takes what this mode publishes."""
    return StreamConfig(
        name=stream.topic,
        subjects=[f"{stream.topic}.*"],
        allow_batched=mode == "fast" or None,
        **limits,
    )


def messages_of(stream: Stream, count: int, *, first: int = 0) -> list[Message]:
    return [
        Message(f"{stream.topic}.t", f"id-{n}", f"payload {n}".encode())
        for n in range(first, first + count)
    ]


async def stored_ids(stream: Stream) -> list[str]:
    return [stored.id for stored in await stream.messages()]


async def test_stream_is_created_over_the_topic_when_missing(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    async with connect(*config_of(stream)):
        info = await jetstream.stream_info(stream.topic)
    assert [f"{stream.topic}.*"] == info.config.subjects


async def test_existing_stream_is_left_as_it_is(
    stream: Stream, jetstream: JetStreamContext
) -> None:
    subjects = [f"{stream.topic}.>", f"{stream.topic}_other"]
    await jetstream.add_stream(StreamConfig(name=stream.topic, subjects=subjects, max_msgs=7))
    async with connect(*config_of(stream)) as publisher:
        await publisher.publish(messages_of(stream, 3))
    info = await jetstream.stream_info(stream.topic)
    assert (subjects, 7, 3) == (info.config.subjects, info.config.max_msgs, info.state.messages)


@pytest.mark.parametrize("window", [1, 2, 7, 100, 4_000])
async def test_messages_are_stored_once_and_in_order(
    stream: Stream, mode: Mode, window: int
) -> None:
    messages = messages_of(stream, 250)
    async with connect(*config_of(stream, mode, window=window)) as publisher:
        await publisher.publish(messages[:100])
        await publisher.publish(messages[100:])
    stored = await stream.messages()
    assert [(m.id, m.payload) for m in messages] == [(s.id, s.data) for s in stored]


async def test_one_acknowledgement_stands_for_many_messages(stream: Stream, nats: Client) -> None:
    answers = 0

    async def count(_: Msg) -> None:
        nonlocal answers
        answers += 1

    async with connect(*config_of(stream, window=4_000)) as publisher:
        await publisher.publish(messages_of(stream, 1))  # the one that begins the chain
        await nats.subscribe("_INBOX.>", cb=count)
        await nats.flush()
        await publisher.publish(messages_of(stream, 1_000, first=1))
        await nats.flush()
        # A thousand of about 11 bytes, and as many headers: 200 KiB.
        assert 1 <= answers <= 4
        await publisher.publish(messages_of(stream, 1, first=1_001))
    assert [f"id-{n}" for n in range(1_002)] == await stored_ids(stream)


async def test_repeats_are_dropped_and_what_follows_is_stored(stream: Stream, mode: Mode) -> None:
    async with connect(*config_of(stream, mode)) as publisher:
        await publisher.publish(messages_of(stream, 40))
    async with connect(*config_of(stream, mode)) as publisher:
        await publisher.publish(messages_of(stream, 60, first=20))
    assert [f"id-{n}" for n in range(80)] == await stored_ids(stream)


async def test_message_between_repeats_is_stored_before_its_successors(
    stream: Stream, mode: Mode
) -> None:
    """A relay died before its progress moved, and a transaction between became visible since.

    Others depend on that one, so it must not come last.
    """
    first, between, repeat, *successors = messages_of(stream, 5)
    async with connect(*config_of(stream, mode)) as publisher:
        await publisher.publish([first, repeat])
    async with connect(*config_of(stream, mode)) as publisher:
        await publisher.publish([first, between, repeat, *successors])
    assert await stored_ids(stream) == ["id-0", "id-2", "id-1", "id-3", "id-4"]


async def test_order_is_kept_while_somebody_else_publishes(
    stream: Stream, mode: Mode, nats: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The chain of sequences breaks again and again, and no message gets behind its successor."""
    is_done = asyncio.Event()

    async def disturb() -> None:
        while not is_done.is_set():
            await nats.publish(f"{stream.topic}.foreign", b"")
            await nats.flush()

    async with connect(*config_of(stream, mode)) as publisher:
        disturbing = asyncio.create_task(disturb())
        with caplog.at_level(logging.WARNING, "pgoutbox.nats"):
            for first in range(0, 600, 100):
                await publisher.publish(messages_of(stream, 100, first=first))
        is_done.set()
        await disturbing
    ours = [s.id for s in await stream.messages() if s.headers]
    assert [f"id-{n}" for n in range(600)] == ours
    said = ["others publish into the stream; publishing one message at a time"]
    assert [record.message for record in caplog.records] == (said if mode == "window" else [])


async def test_what_was_held_up_in_the_network_is_not_stored_behind_others(
    stream: Stream, mode: Mode, nats: Client
) -> None:
    """A relay is dead or frozen, and its successor publishes what doesn't follow its messages."""
    seen: set[str] = set()

    async def see(message: Msg) -> None:
        seen.add(event_id(message.headers))

    await nats.subscribe(f"{stream.topic}.*", cb=see)
    await nats.flush()
    first, *held, other, last = messages_of(stream, 103)
    async with proxy(port_of(stream.url)) as network:
        config = config_of(stream, mode, window=4_000)
        late_config = config._replace(nats=replace(config.nats, url=through(stream.url, network)))
        async with connect(*late_config) as late, connect(*config) as successor:
            await late.publish([first])
            network.stall()
            publishing = asyncio.create_task(late.publish(held))
            await eventually(lambda: network.held > 0)
            await successor.publish([other])
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            network.flow()
            await eventually(lambda: len(seen) == 102)
            await successor.publish([last])
    assert await stored_ids(stream) == [first.id, other.id, last.id]


async def test_batches_are_asked_for_by_name(stream: Stream, jetstream: JetStreamContext) -> None:
    await jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"])
    with pytest.raises(PublishError, match="doesn't accept fast-ingest batches"):
        async with connect(*config_of(stream, "fast")):
            pass
    await jetstream.update_stream(limited(stream, "fast"))
    async with connect(*config_of(stream, "fast")) as publisher:
        assert publisher.description["method"] == "fast-ingest batches"
    async with connect(*config_of(stream)) as publisher:
        assert publisher.description["method"] == "pipelined, chained by message id"


async def test_oversized_message_is_refused_after_those_before_it(
    stream: Stream, mode: Mode
) -> None:
    messages = messages_of(stream, 5)
    messages[3] = messages[3]._replace(payload=b"x" * (1024 * 1024 + 1))
    async with connect(*config_of(stream, mode)) as publisher:
        with pytest.raises(Refused, match="exceeds the server's max_payload of 1048576") as refused:
            await publisher.publish(messages)
        assert refused.value.confirmed == 3
        await publisher.publish(messages[4:])
    assert await stored_ids(stream) == ["id-0", "id-1", "id-2", "id-4"]


async def test_message_larger_than_the_stream_takes_is_refused(
    stream: Stream, mode: Mode, jetstream: JetStreamContext
) -> None:
    await jetstream.add_stream(limited(stream, mode, max_msg_size=200))
    messages = messages_of(stream, 90)
    messages[2] = messages[2]._replace(payload=b"x" * 300)
    messages[50] = messages[50]._replace(payload=b"x" * 300)
    async with connect(*config_of(stream, mode)) as publisher:
        for first, refused_one in ((0, 2), (3, 50)):
            with pytest.raises(Refused, match="message size exceeds") as refused:
                await publisher.publish(messages[first:])
            assert refused.value.confirmed == refused_one - first
        await publisher.publish(messages[51:])
    assert [f"id-{n}" for n in range(90) if n not in (2, 50)] == await stored_ids(stream)


async def test_message_with_more_headers_than_a_stream_takes_is_refused(
    stream: Stream, mode: Mode
) -> None:
    messages = messages_of(stream, 5)
    messages[2] = messages[2]._replace(headers=(("x", "x" * 70_000),))
    async with connect(*config_of(stream, mode)) as publisher:
        with pytest.raises(Refused, match="header size") as refused:
            await publisher.publish(messages)
        assert refused.value.confirmed == 2
        await publisher.publish(messages[3:])
    assert await stored_ids(stream) == ["id-0", "id-1", "id-3", "id-4"]


async def test_full_stream_interrupts_and_goes_on_when_there_is_room(
    stream: Stream, mode: Mode, jetstream: JetStreamContext
) -> None:
    await jetstream.add_stream(limited(stream, mode, max_msgs=10, discard="new"))
    messages = messages_of(stream, 25)
    async with connect(*config_of(stream, mode)) as publisher:
        with pytest.raises(Interrupted, match="maximum messages exceeded") as interrupted:
            await publisher.publish(messages)
        assert not isinstance(interrupted.value, Refused)
        assert interrupted.value.confirmed == 10
        await jetstream.update_stream(limited(stream, mode))
        await publisher.publish(messages[10:])
    assert [f"id-{n}" for n in range(25)] == await stored_ids(stream)


async def test_deleted_stream_interrupts(
    stream: Stream, mode: Mode, jetstream: JetStreamContext
) -> None:
    async with connect(*config_of(stream, mode)) as publisher:
        await publisher.publish(messages_of(stream, 3))
        await jetstream.delete_stream(stream.topic)
        with pytest.raises(Interrupted, match=r"no stream has|has been deleted"):
            await publisher.publish(messages_of(stream, 3, first=3))


async def test_lost_connection_interrupts_and_tells(servers: Servers, stream: Stream) -> None:
    server = servers.nats()
    lost = asyncio.Event()
    config = nats_settings(server.url, topic="wal_listener")
    async with connect(*config, on_lost=lost.set) as publisher:
        await publisher.publish([Message("wal_listener.t", "1", b"{}")])
        server.kill()
        await asyncio.wait_for(lost.wait(), 10)
        with pytest.raises(Interrupted, match="connection was lost"):
            publisher.check()
        with pytest.raises(Interrupted, match="connection was lost"):
            await publisher.publish([Message("wal_listener.t", "2", b"{}")])


async def test_absent_server_is_one_sentence(servers: Servers) -> None:
    server = servers.nats()
    server.kill()
    expected = f"NATS at 127.0.0.1:{server.port} refused the connection: nothing is listening there"
    with pytest.raises(PublishError, match=expected):
        async with connect(*nats_settings(server.url)):
            pass


async def test_rejected_user_is_one_sentence_without_the_password(servers: Servers) -> None:
    server = servers.nats('authorization: {user: "shop", password: "right"}')
    url = server.url.replace("nats://", "nats://shop:wrong@")
    with pytest.raises(PublishError, match="rejected the credentials") as refused:
        async with connect(*nats_settings(url)):
            pass
    assert "wrong" not in str(refused.value)


async def test_server_without_jetstream_is_one_sentence(servers: Servers) -> None:
    server = servers.nats("jetstream: disabled")
    with pytest.raises(PublishError, match="JetStream is not available"):
        async with connect(*nats_settings(server.url)):
            pass


async def test_late_answers_to_an_interrupted_window_are_ignored(
    stream: Stream, mode: Mode, jetstream: JetStreamContext
) -> None:
    """Messages are numbered through the publisher's life, so no answer counts for another."""
    await jetstream.add_stream(limited(stream, mode))
    messages = messages_of(stream, 300)
    async with connect(*config_of(stream, mode)) as publisher:
        for _ in range(5):
            publishing = asyncio.create_task(publisher.publish(messages))
            await eventually(stream.count)
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        await publisher.publish(messages)
    assert [m.id for m in messages] == await stored_ids(stream)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"ok":true,"seq":1}',
        b'{"error":"unknown request"}',
        b'{"error":null}',
        b'{"error":{"err_code":"10054"}}',
        b'{"error":oops',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=["no error", "text", "null", "no code", "no JSON", "no text", "no end"],
)
async def test_answers_of_others_confirm_nothing(
    stream: Stream, mode: Mode, jetstream: JetStreamContext, nats: Client, answer: bytes
) -> None:
    """A service that replies to the subjects is not the stream."""

    async def reply(request: Msg) -> None:
        await request.respond(answer)

    await jetstream.add_stream(limited(stream, mode).evolve(subjects=[f"{stream.topic}.other"]))
    await nats.subscribe(f"{stream.topic}.*", cb=reply)
    await nats.flush()
    async with connect(*config_of(stream, mode)) as publisher:
        with pytest.raises(Interrupted, match="something other than the stream") as interrupted:
            await publisher.publish(messages_of(stream, 3))
    assert interrupted.value.confirmed == 0
    assert interrupted.value.subject == f"{stream.topic}.t"
