"""What each kind of chain has messages follow, by what became of those before."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pgoutbox.messages.event import Message
from pgoutbox.nats.batches import AtomicBatches, Batches, FastBatches, OneByOne
from pgoutbox.nats.chain import Chain, ChainById, ChainBySequence
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.window import Window
from pgoutbox.nats.wire import message_id

STREAM = StreamInfo("s", ["s.*"], 1, 100, None)
MESSAGES = [Message(f"s.t{number}", f"m{number}", b"{}") for number in range(50)]
WRONG_SEQUENCE = 10071


@dataclass
class Clock:
    """Says the time that a test sets."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def answer(number: int, window: Window, **values: Any) -> None:
    text = json.dumps({"stream": "s", **values}, separators=(",", ":"))
    if "error" in values:
        text = json.dumps(values)
    window.on_ack(number, text.encode())


def send(chain: Chain, messages: Sequence[Message]) -> tuple[Window, list[str]]:
    """Put the messages in flight that the chain lets; return them, and what each must follow."""
    following = messages[: chain.limit(len(messages))]
    window = Window(
        0, STREAM.confirmations, following, chain.end, in_batches=chain.in_batches, has_stored=True
    )
    expectations = list(chain.expectations(following, 0, len(following)))
    window.extend(len(following), chain.asking(following, 0, len(following)))
    return window, [line.strip() for line in expectations]


def store(chain: Chain, messages: Sequence[Message], sequence: int) -> list[str]:
    """Have the next window stored, its last message at ``sequence``; return what each followed."""
    window, expectations = send(chain, messages)
    count = len(window)
    for number in range(count):
        more = {"count": count} if chain.in_batches and count > 1 else {}
        if number in chain.asking(messages, 0, count):
            answer(number, window, seq=sequence - count + 1 + number, **more)
    assert window.confirmed == count
    chain.learn(window, messages[:count])
    return expectations


def refuse(chain: Chain, messages: Sequence[Message], description: str) -> list[str]:
    """Have the next window refused for what its first message follows."""
    window, expectations = send(chain, messages)
    error = {"err_code": WRONG_SEQUENCE, "description": description}
    for number in chain.asking(messages, 0, len(window)):
        answer(number, window, error=error)
    chain.learn(window, messages[: len(window)])
    return expectations


def after(sequence: int) -> str:
    return f"Nats-Expected-Last-Sequence: {sequence}"


def test_chain_by_id_begins_with_a_message_alone_and_names_each_before() -> None:
    chain = ChainById(STREAM)
    assert store(chain, MESSAGES, 101) == [after(100)]
    assert store(chain, MESSAGES[1:4], 104) == [
        f"Nats-Expected-Last-Msg-Id: {message_id(message)}" for message in MESSAGES[:3]
    ]


def test_chain_by_sequence_begins_with_a_message_alone_and_counts_on() -> None:
    chain = ChainBySequence(STREAM)
    assert store(chain, MESSAGES, 101) == [after(100)]
    assert store(chain, MESSAGES[1:4], 104) == [after(101), after(102), after(103)]


@pytest.mark.parametrize("kind", [ChainById, ChainBySequence])
def test_repeat_begins_no_chain(kind: type[ChainById | ChainBySequence]) -> None:
    """What was stored behind the original would let later messages through."""
    chain = kind(STREAM)
    window, _ = send(chain, MESSAGES)
    window.has_stored = False
    answer(0, window, seq=42, duplicate=True)
    chain.learn(window, MESSAGES[:1])
    assert chain.goes_alone
    assert store(chain, MESSAGES[1:], 101) == [after(100)]


@pytest.mark.parametrize("kind", [ChainById, ChainBySequence, FastBatches, OneByOne])
def test_first_message_goes_behind_the_end_that_its_refusal_tells(kind: type[Chain]) -> None:
    chain = FastBatches(STREAM, size=10) if kind is FastBatches else kind(STREAM)
    assert refuse(chain, MESSAGES, "wrong last sequence: 107") == [after(100)]
    assert store(chain, MESSAGES, 108) == [after(107)]


def test_chain_by_sequence_goes_alone_for_good_once_others_publish(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chain = ChainBySequence(STREAM)
    store(chain, MESSAGES, 101)
    refuse(chain, MESSAGES[1:5], "wrong last sequence: 102")
    with caplog.at_level(logging.WARNING, "pgoutbox.nats"):
        refuse(chain, MESSAGES[1:], "wrong last sequence: 102")
        store(chain, MESSAGES[1:], 103)
    assert "others publish into the stream" in caplog.text
    assert store(chain, MESSAGES[2:], 104) == [after(103)]
    assert chain.goes_alone


def batches(kind: type[Batches], clock: Clock) -> Batches:
    if kind is AtomicBatches:
        chain: Batches = AtomicBatches(STREAM, size=10, name="b")
    elif kind is OneByOne:
        chain = OneByOne(STREAM)
    else:
        chain = FastBatches(STREAM, size=10)
    chain._clock = clock
    return chain


def crowd_out(chain: Batches, messages: Sequence[Message], end: int) -> int:
    """Have others move the stream's end whenever the chain names it; return the last one."""
    for _ in range(16):
        assert refuse(chain, messages, f"wrong last sequence: {end + 5}")[0] == after(end)
        end += 5
    return end


def by_subject(sequence: int, message: Message) -> str:
    return (
        f"Nats-Expected-Last-Subject-Sequence: {sequence}\r\n"
        f"Nats-Expected-Last-Subject-Sequence-Subject: {message.subject}"
    )


def test_batch_follows_a_message_stored_alone_and_only_its_first_names_anything() -> None:
    chain = batches(FastBatches, Clock())
    assert store(chain, MESSAGES, 101) == [after(100)]
    assert store(chain, MESSAGES[1:], 111) == [after(101), *[""] * 9]
    assert store(chain, MESSAGES[11:15], 115) == [after(111), "", "", ""]


def test_batch_that_others_refuse_is_tried_again_behind_the_end() -> None:
    chain = batches(FastBatches, Clock())
    store(chain, MESSAGES, 101)
    assert refuse(chain, MESSAGES[1:], "wrong last sequence: 105")[0] == after(101)
    assert store(chain, MESSAGES[1:], 106) == [after(105)]
    assert store(chain, MESSAGES[2:12], 116)[0] == after(106)


def test_batch_names_the_subject_once_crowded_out_and_until_a_minute_without_others() -> None:
    clock = Clock()
    chain = batches(FastBatches, clock)
    store(chain, MESSAGES, 101)
    crowd_out(chain, MESSAGES[1:], 101)
    assert store(chain, MESSAGES[1:], 187) == [by_subject(101, MESSAGES[0])]
    clock.now += 59
    assert store(chain, MESSAGES[2:12], 198)[0] == by_subject(187, MESSAGES[1])
    clock.now += 59  # one message of others was among those
    assert store(chain, MESSAGES[12:22], 208)[0] == by_subject(198, MESSAGES[11])
    clock.now += 2
    assert store(chain, MESSAGES[22:32], 218)[0] == after(208)


def test_refusals_count_only_until_a_batch_is_stored_at_the_first_try() -> None:
    chain = batches(FastBatches, Clock())
    store(chain, MESSAGES, 101)
    for number in range(1, 40, 2):
        end = 100 + 10 * number
        refuse(chain, MESSAGES[number:], f"wrong last sequence: {end}")
        assert store(chain, MESSAGES[number:], end + 1) == [after(end)]
        assert store(chain, MESSAGES[number + 1 : number + 2], end + 2) == [after(end + 1)]


def test_subject_that_fails_is_left_alone_for_a_minute() -> None:
    """Our last message was removed, or others publish to its subject."""
    clock = Clock()
    chain = batches(FastBatches, clock)
    store(chain, MESSAGES, 101)
    crowd_out(chain, MESSAGES[1:], 101)
    followed = refuse(chain, MESSAGES[1:], "wrong last sequence: 0")
    assert followed == [by_subject(101, MESSAGES[0])]
    assert chain.wants_end
    chain.end = 200  # as looked up
    assert store(chain, MESSAGES[1:], 201) == [after(200)]
    assert store(chain, MESSAGES[2:5], 204)[0] == after(201)
    clock.now += 61
    crowd_out(chain, MESSAGES[5:], 204)
    assert store(chain, MESSAGES[5:], 300) == [by_subject(204, MESSAGES[4])]


def test_first_message_that_others_crowd_out_names_nothing_in_the_end() -> None:
    chain = batches(FastBatches, Clock())
    crowd_out(chain, MESSAGES, 100)
    assert not chain.wants_end
    assert store(chain, MESSAGES, 190) == [""]


def test_atomic_batch_refused_for_another_reason_goes_message_by_message() -> None:
    chain = batches(AtomicBatches, Clock())
    store(chain, MESSAGES, 101)
    window, expectations = send(chain, MESSAGES[1:5])
    assert "Nats-Batch-Commit: 1" in expectations[-1]
    answer(3, window, error={"err_code": 10201, "description": "contains a repeat"})
    chain.learn(window, MESSAGES[1:5])
    chain.end = 101  # as looked up
    for number in range(1, 5):
        assert chain.limit(40) == 1
        store(chain, MESSAGES[number:], 101 + number)
    assert chain.limit(40) == 10


def test_atomic_batches_are_as_long_as_the_server_accepts() -> None:
    chain = batches(AtomicBatches, Clock())
    store(chain, MESSAGES, 101)
    window, _ = send(chain, MESSAGES[1:9])
    description = "atomic publish batch is too large: 4"
    answer(7, window, error={"err_code": 10199, "description": description})
    chain.learn(window, MESSAGES[1:9])
    chain.end = 101  # as looked up
    store(chain, MESSAGES[1:], 102)
    assert chain.limit(40) == 4


def test_atomic_batches_have_names_of_their_own_and_numbered_messages() -> None:
    chain = batches(AtomicBatches, Clock())
    store(chain, MESSAGES, 101)
    _, one = send(chain, MESSAGES[1:4])
    _, other = send(chain, MESSAGES[1:4])
    assert [line.split("\r\n")[-2:] for line in one[:2]] == [
        ["Nats-Batch-Id: b-1", "Nats-Batch-Sequence: 1"],
        ["Nats-Batch-Id: b-1", "Nats-Batch-Sequence: 2"],
    ]
    assert "b-2" in other[0]


def test_one_by_one_is_one_message_always() -> None:
    chain = batches(OneByOne, Clock())
    for number in range(5):
        assert chain.limit(45) == 1
        assert store(chain, MESSAGES[number:], 101 + number) == [after(100 + number)]
