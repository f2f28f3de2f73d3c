"""Publishing methods of replicated streams, beside others, with a stream of one server.

A stream's replicas don't matter here: which method they lead to is tested in test_cluster.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StreamConfig

from pgoutbox.errors import Refused
from pgoutbox.messages.event import Message
from pgoutbox.nats.batches import AtomicBatches, Batches, FastBatches, OneByOne
from pgoutbox.nats.chain import Chain, ChainById, ChainBySequence
from pgoutbox.nats.connect import connect
from pgoutbox.nats.jetstream import JetStreamPublisher
from tests.support.proxy import port_of, proxy, through
from tests.support.settings import nats_settings
from tests.support.streams import Stream
from tests.support.waiting import eventually

Between = Callable[[int], Awaitable[None]]


@pytest.fixture(params=[FastBatches, AtomicBatches, OneByOne], ids=lambda kind: kind.method)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Batches]:
    """A method that keeps the order whoever else publishes; it is the one that is used."""
    use(request.param, monkeypatch)
    kind: type[Batches] = request.param
    return kind


def use(kind: type[Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgoutbox.nats.jetstream.kind_of_chain", lambda *_: kind)


@pytest.fixture
async def _accepting(stream: Stream, jetstream: JetStreamContext) -> None:
    await make(stream, jetstream)


async def make(stream: Stream, jetstream: JetStreamContext, **settings: Any) -> None:
    version = jetstream._nc.connected_server_version
    await jetstream.add_stream(
        StreamConfig(
            name=stream.topic,
            subjects=[f"{stream.topic}.>"],
            allow_batched=(version.major, version.minor) >= (2, 14) or None,
            allow_atomic=(version.major, version.minor) >= (2, 12) or None,
            **settings,
        )
    )


@asynccontextmanager
async def publishing(stream: Stream, *, window: int = 40) -> AsyncIterator[JetStreamPublisher]:
    config = nats_settings(stream.url, topic=stream.topic, window=window)
    async with connect(*config) as publisher:
        assert isinstance(publisher, JetStreamPublisher)
        yield publisher


def messages_of(stream: Stream, count: int, *, first: int = 0) -> list[Message]:
    return [
        Message(f"{stream.topic}.t{number % 3}", f"id-{number}", b"%d" % number)
        for number in range(first, first + count)
    ]


async def stored_ids(stream: Stream) -> list[str]:
    return [stored.id for stored in await stream.messages() if stored.headers]


def interrupted_by(publisher: JetStreamPublisher, between: Between) -> None:
    """Have ``between`` called with its number before each piece that the publisher sends."""
    send, numbers = publisher._client.send, itertools.count()

    async def send_behind(lines: bytes) -> None:
        await between(next(numbers))
        await send(lines)

    publisher._client.send = send_behind  # type: ignore[method-assign]


def stranger(stream: Stream, nats: Client, subject: str, pieces: set[int]) -> Between:
    """Publish a message of somebody else before the pieces of these numbers."""

    async def between(number: int) -> None:
        if number in pieces:
            await stream.jetstream.publish(f"{stream.topic}.{subject}", b"")

    return between


@pytest.mark.usefixtures("_accepting")
async def test_message_of_another_keeps_the_order_of_ours(
    stream: Stream, nats: Client, kind: type[Batches]
) -> None:
    """It is in front of a batch, of a message alone, and of the first one."""
    async with publishing(stream) as publisher:
        interrupted_by(publisher, stranger(stream, nats, "foreign", {0, 2, 3, 5, 6, 7}))
        await publisher.publish(messages_of(stream, 60))
    assert await stored_ids(stream) == [f"id-{number}" for number in range(60)]


@pytest.mark.usefixtures("_accepting")
async def test_chain_by_sequence_breaks_beside_another_without_a_change_of_leader(
    stream: Stream, nats: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why it is used only where ``--mode window`` says that there is no other.

    The message of another takes the sequence that our second one names. That one is refused, and
    the third, which names exactly that sequence, is stored.
    """
    use(ChainBySequence, monkeypatch)
    async with publishing(stream, window=4_000) as publisher:
        await publisher.publish(messages_of(stream, 1))
        interrupted_by(publisher, stranger(stream, nats, "foreign", {0}))
        await publisher.publish(messages_of(stream, 10, first=1))
    stored = await stored_ids(stream)
    assert set(stored) == {f"id-{number}" for number in range(11)}
    assert stored.index("id-1") > stored.index("id-2")


@pytest.mark.usefixtures("_accepting")
async def test_chain_by_id_holds_beside_another(
    stream: Stream, nats: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(ChainById, monkeypatch)
    async with publishing(stream) as publisher:
        interrupted_by(publisher, stranger(stream, nats, "foreign", {0, 2, 3, 5, 6, 7}))
        await publisher.publish(messages_of(stream, 60))
    assert await stored_ids(stream) == [f"id-{number}" for number in range(60)]


@pytest.mark.usefixtures("_accepting")
async def test_batch_names_the_subject_only_while_others_crowd_it_out(
    stream: Stream, nats: Client, kind: type[Batches]
) -> None:
    """From then on others' messages refuse nothing any more."""
    if nats.connected_server_version.minor < 11:
        pytest.skip("nats-server compares with another subject's sequence from 2.11 on")
    async with publishing(stream) as publisher:
        await publisher.publish(messages_of(stream, 30))
        interrupted_by(publisher, stranger(stream, nats, "foreign", set(range(100))))
        await publisher.publish(messages_of(stream, 30, first=30))
    stored = {s.id: s.headers for s in await stream.messages() if s.headers}
    assert list(stored) == [f"id-{number}" for number in range(60)]
    by_subject = [id for id, headers in stored.items() if any("Subject" in h for h in headers)]
    assert by_subject[0] == "id-30"
    subject = stored["id-30"]["Nats-Expected-Last-Subject-Sequence-Subject"]
    assert subject == f"{stream.topic}.t2"


@pytest.mark.usefixtures("_accepting")
async def test_late_batch_of_a_predecessor_is_refused_whatever_its_subject(
    stream: Stream, nats: Client, kind: type[Batches]
) -> None:
    """Also beside others: the stream's sequence keeps it out once its successor has published."""
    before, held, begun, rest = (messages_of(stream, 3, first=first) for first in (0, 3, 6, 9))
    async with proxy(port_of(stream.url)) as network:
        late_config = nats_settings(through(stream.url, network), topic=stream.topic)
        async with connect(*late_config) as late, publishing(stream) as successor:
            interrupted_by(cast(JetStreamPublisher, late), stranger(stream, nats, "foreign", {1}))
            await late.publish(before)
            network.stall()
            sending = asyncio.create_task(late.publish(held))
            await eventually(lambda: network.held > 0)
            await successor.publish(begun)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            network.flow()
            await eventually(lambda: network.held == 0)
            await successor.publish(rest)
    expected = [message.id for message in (*before, *begun, *rest)]
    assert await stored_ids(stream) == expected


async def test_last_message_that_is_gone_is_not_named(
    stream: Stream, nats: Client, jetstream: JetStreamContext, kind: type[Batches]
) -> None:
    """A work queue's consumers remove what they have done; the subject then has no sequence."""
    await make(stream, jetstream, retention=RetentionPolicy.WORK_QUEUE)
    seen: list[str] = []
    consumer = await jetstream.pull_subscribe(f"{stream.topic}.>", "worker")
    async with publishing(stream) as publisher:
        for first in range(0, 60, 10):
            interrupted_by(publisher, stranger(stream, nats, "foreign", set(range(20))))
            await publisher.publish(messages_of(stream, 10, first=first))
            for message in await consumer.fetch(100, timeout=2):
                if message.headers:
                    seen.append(message.headers["Nats-Msg-Id"].partition(".")[0])
                await message.ack_sync()
    assert seen == [f"id-{number}" for number in range(60)]


@pytest.mark.usefixtures("_accepting")
async def test_another_on_our_very_subject(
    stream: Stream, nats: Client, kind: type[Batches]
) -> None:
    async with publishing(stream) as publisher:
        for subject in ("t0", "t1", "t2"):
            interrupted_by(publisher, stranger(stream, nats, subject, {1, 2, 4, 5, 7}))
        await publisher.publish(messages_of(stream, 90))
    assert await stored_ids(stream) == [f"id-{number}" for number in range(90)]


@pytest.mark.usefixtures("_accepting")
async def test_repeats_are_dropped_and_what_follows_is_stored(
    stream: Stream, kind: type[Batches]
) -> None:
    async with publishing(stream) as publisher:
        await publisher.publish(messages_of(stream, 40))
    async with publishing(stream) as publisher:
        await publisher.publish(messages_of(stream, 60, first=20))
    assert await stored_ids(stream) == [f"id-{number}" for number in range(80)]


@pytest.mark.usefixtures("_accepting")
async def test_repeat_inside_a_batch(stream: Stream, kind: type[Batches]) -> None:
    """Such as what a successor has published of a frozen relay's events; all of it is there."""
    messages = messages_of(stream, 30)
    async with publishing(stream) as one, publishing(stream) as other:
        await one.publish(messages[:11])
        await other.publish(messages[15:16])
        await one.publish(messages[11:])
    stored = await stored_ids(stream)
    assert stored[:11] == [f"id-{number}" for number in range(11)]
    assert stored[11:] == ["id-15", *(f"id-{n}" for n in range(11, 30) if n != 15)]


async def test_message_that_the_stream_refuses_is_found_in_its_batch(
    stream: Stream, jetstream: JetStreamContext, kind: type[Batches]
) -> None:
    await make(stream, jetstream, max_msg_size=400)
    messages = messages_of(stream, 60)
    for number in (2, 35):
        messages[number] = messages[number]._replace(payload=b"x" * 500)
    async with publishing(stream) as publisher:
        for first, refused_one in ((0, 2), (3, 35)):
            with pytest.raises(Refused, match="message size exceeds") as refused:
                await publisher.publish(messages[first:])
            assert refused.value.confirmed == refused_one - first
        await publisher.publish(messages[36:])
    assert await stored_ids(stream) == [f"id-{n}" for n in range(60) if n not in (2, 35)]


@pytest.mark.usefixtures("_accepting")
async def test_largest_message_fits_beside_the_headers_of_a_batch(
    stream: Stream, nats: Client, kind: type[Batches]
) -> None:
    """What just fits alone is published alone; no event is parked for a batch's headers."""
    messages = messages_of(stream, 60)
    for number in (0, 25, 26, 47):
        largest = b"x" * (nats.max_payload - 118 - len(messages[number].id))
        messages[number] = messages[number]._replace(payload=largest)
    async with publishing(stream) as publisher:
        interrupted_by(publisher, stranger(stream, nats, "foreign", set(range(1, 60))))
        await publisher.publish(messages)
        larger = messages[0]._replace(id="id-x", payload=messages[0].payload + b"x")
        with pytest.raises(Refused, match="max_payload"):
            await publisher.publish([larger])
    assert await stored_ids(stream) == [f"id-{number}" for number in range(60)]
