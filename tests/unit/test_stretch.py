"""Batches in flight: what an acknowledgement covers, and what it must not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

import pytest

from pgoutbox.errors import Interrupted
from pgoutbox.messages.event import Message
from pgoutbox.nats.chain import ChainById
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.stretch import Stretch

STREAM = StreamInfo("t", ["t.*"], 1, 10, None)
LAST = Message("t.a", "m0", b"{}")  # stored as new, at sequence 10, before the stretch began
START = 5  # its first number


class Client:
    """Takes protocol lines."""

    max_payload = 1_000

    def __init__(self) -> None:
        self.lines = b""
        self.is_lost = False

    def check(self) -> None:
        if self.is_lost:
            raise Interrupted("the connection was lost")

    def write(self, lines: bytes) -> None:
        self.lines += lines

    @property
    def asking(self) -> list[int]:
        return [int(number) for number in re.findall(rb"HPUB \S+ inbox\.(\d+) ", self.lines)]


class Scene:
    """A stretch of which a test gives the answers."""

    def __init__(self, *, window: int = 8, ack_timeout: float = 0.05) -> None:
        self.client = Client()
        self.chain = ChainById(STREAM)
        self.chain.resume(LAST, 10, 0)
        self.stretch = Stretch(
            self.client,  # type: ignore[arg-type]
            self.chain,
            start=START,
            inbox="inbox",
            confirmations=STREAM.confirmations,
            window=window,
            ack_timeout=ack_timeout,
            on_wait=lambda _: None,
            is_over=lambda: False,
            takes=STREAM.takes,
        )

    def send(self, *names: str) -> int:
        mark = self.stretch.send(messages(*names))
        assert mark is not None
        return mark

    def ack(self, number: int, seq: int, **more: object) -> None:
        answer = {"stream": "t", "seq": seq} | more
        self.stretch.on_ack(number, json.dumps(answer, separators=(",", ":")).encode())


def messages(*names: str) -> Sequence[Message]:
    return [Message("t.a", name, b"{}") for name in names]


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_each_message_names_the_one_before(scene: Scene) -> None:
    """Also the first of a batch: the last one of the batch in front of it, confirmed or not."""
    scene.send("m1", "m2")
    scene.send("m3")

    named = re.findall(rb"Expected-Last-Msg-Id: (\w+)\.", scene.client.lines)
    assert named == [b"m0", b"m1", b"m2"]


async def test_one_acknowledgement_covers_a_batch(scene: Scene) -> None:
    first, second = scene.send("m1", "m2", "m3"), scene.send("m4")
    assert scene.client.asking == [START + 2, START + 3]

    scene.ack(START + 2, 13)

    assert await scene.stretch.confirm(first)
    assert scene.stretch.confirmed == first == START + 3
    scene.ack(START + 3, 14)
    assert await scene.stretch.confirm(second)


async def test_later_acknowledgement_covers_earlier_batches(scene: Scene) -> None:
    scene.send("m1", "m2")
    mark = scene.send("m3")

    scene.ack(START + 2, 13)

    assert await scene.stretch.confirm(mark)


@pytest.mark.parametrize(
    ("seq", "more"),
    [
        (12, {}),  # one of ours is missing
        (14, {}),  # somebody else's came between
        (13, {"duplicate": True}),  # it was there before
        (13, {"stream": "other"}),  # another stream's word
    ],
)
async def test_stretch_ends_with_any_other_answer(
    scene: Scene, seq: int, more: dict[str, object]
) -> None:
    mark = scene.send("m1", "m2", "m3")

    scene.ack(START + 2, seq, **more)

    assert not await scene.stretch.confirm(mark)
    assert not scene.stretch.has_room(1)
    assert scene.stretch.close() == START


async def test_refusal_ends_the_stretch(scene: Scene) -> None:
    mark = scene.send("m1")

    scene.stretch.on_ack(START, b'{"error":{"code":400,"err_code":10070,"description":"x"}}')

    assert not await scene.stretch.confirm(mark)


async def test_answers_to_others_messages_are_ignored(scene: Scene) -> None:
    mark = scene.send("m1")

    scene.ack(START - 1, 99)  # late, of an earlier window
    scene.ack(START + 7, 99)
    scene.ack(START, 11)
    scene.ack(START, 11)

    assert await scene.stretch.confirm(mark)


async def test_chain_goes_on_behind_what_was_confirmed(scene: Scene) -> None:
    scene.send("m1", "m2")
    scene.send("m3", "m4")
    scene.ack(START + 1, 12)
    scene.ack(START + 3, 99)

    assert scene.stretch.close() == START + 2

    (header,) = scene.chain.expectations(messages("m3"), 0, 1)
    assert "m2." in header
    assert scene.chain.end == 12
    assert not scene.chain.is_established, "what may be stored has to be asked for first"


async def test_chain_goes_on_where_it_was_if_nothing_was_confirmed(scene: Scene) -> None:
    scene.send("m1")

    scene.stretch.close()

    (header,) = scene.chain.expectations(messages("m1"), 0, 1)
    assert "m0." in header
    assert scene.chain.end == 10


async def test_no_more_than_the_window_is_unconfirmed(scene: Scene) -> None:
    scene.send("m1", "m2", "m3", "m4", "m5")

    assert not scene.stretch.has_room(4)
    assert scene.stretch.has_room(3)
    scene.ack(START + 4, 15)
    assert scene.stretch.has_room(8)


async def test_nothing_of_a_batch_is_sent_that_has_an_oversized_message(scene: Scene) -> None:
    batch = [*messages("m1"), Message("t.a", "m2", b"x" * 2_000)]

    assert scene.stretch.send(batch) is None
    assert scene.client.lines == b""


async def test_nothing_of_a_batch_is_sent_that_the_stream_does_not_take(scene: Scene) -> None:
    batch = [*messages("m1"), Message("t.a.b", "m2", b"x", is_emitted=True)]

    assert scene.stretch.send(batch) is None
    assert scene.client.lines == b""


async def test_silence_and_a_lost_connection_are_interruptions(scene: Scene) -> None:
    mark = scene.send("m1")
    with pytest.raises(Interrupted, match="no acknowledgement"):
        await scene.stretch.confirm(mark)

    waiting = asyncio.create_task(scene.stretch.confirm(mark))
    await asyncio.sleep(0)
    scene.client.is_lost = True
    scene.stretch.wake()
    with pytest.raises(Interrupted, match="lost"):
        await waiting
    with pytest.raises(Interrupted, match="lost"):
        scene.stretch.send(messages("m2"))
