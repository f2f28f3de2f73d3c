"""The publisher, and answers of a stream in orders that a real one seldom gives."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import nats.errors
import pytest

from pgoutbox.config.settings import Mode, StreamConfig
from pgoutbox.errors import IdConflict, Interrupted, Refused
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.failures import Denied
from pgoutbox.nats.jetstream import JetStreamPublisher
from pgoutbox.nats.streams import StreamInfo, Target
from pgoutbox.nats.wire import message_id
from tests.support.waiting import eventually

Answer = Callable[[list[str]], list[tuple[str, dict[str, Any]]]]

WRONG_LAST = {"error": {"code": 400, "err_code": 10070, "description": "wrong last msg ID: x"}}
TOO_LARGE = {"error": {"code": 400, "err_code": 10054, "description": "message size exceeds"}}


class Stream:
    """Answers to what is sent in one piece as a test says; takes all where it says nothing."""

    max_payload = 1_000

    def __init__(
        self,
        answers: list[Answer],
        *,
        name: str = "t",
        replicas: int = 1,
        window: int = 16,
        ack_timeout: float = 0.2,
        mode: Mode = "auto",
        on_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.stored: list[str] = []
        self.expectations: list[bytes] = []  # of messages, for what comes before them
        self.payload = b"x"  # of all messages in the stream
        self.reads: list[int] = []  # sequences of messages that were looked at
        self.denies_reading = False
        self._answers = answers
        self._name = name
        self.failed: asyncio.Future[Interrupted] = asyncio.get_running_loop().create_future()
        self.publisher = JetStreamPublisher(
            self,  # type: ignore[arg-type]
            Target(StreamConfig(mode=mode, window=window, ack_timeout=ack_timeout), name, []),
            StreamInfo(name, [f"{name}.*"], replicas, 0, None),
            self.verify,
            on_wait,
        )

    def check(self) -> None:
        pass

    async def verify(self) -> None:
        pass

    async def request(self, subject: str, body: bytes, timeout: float) -> SimpleNamespace:
        """Answer as JetStream's API does."""
        if subject == f"$JS.API.STREAM.INFO.{self._name}":
            state = {"first_seq": 1, "last_seq": len(self.stored)}
            info = {"config": {"allow_batched": True}, "state": state, "created": "then"}
            return SimpleNamespace(data=json.dumps(info).encode())
        assert subject == f"$JS.API.STREAM.MSG.GET.{self._name}"
        if self.denies_reading:
            raise Denied("this user may not publish to a subject", subject=subject)
        sequence = json.loads(body)["seq"]
        self.reads.append(sequence)
        name = dict(enumerate(self.stored, 1)).get(sequence, "another's")
        message_name = message_id(Message("t.a", name, b""))
        headers = f"NATS/1.0\r\nNats-Msg-Id: {message_name}\r\n\r\n".encode()
        message = {"hdrs": b64encode(headers), "data": b64encode(self.payload)}
        texts = {name: value.decode() for name, value in message.items()}
        return SimpleNamespace(data=json.dumps({"message": texts}).encode())

    async def unless_failed(self, waiting: Awaitable[Any], *, optional: str | None) -> Any:
        return await waiting

    async def send(self, lines: bytes) -> None:
        if b".$FI " in lines:
            return self._take_batch(lines)
        self.expectations += re.findall(rb"Nats-(Expected-\S+: \w+)", lines)
        numbers = {
            name.decode(): number
            for number, name in re.findall(
                rb"HPUB \S+ (?:\.(\d+))? .*\r\nNATS/1.0\r\nNats-Msg-Id: (\w+)\.", lines
            )
        }
        answer_to = self._answers.pop(0) if self._answers else self.all_stored
        for name, values in answer_to(list(numbers)):
            if "error" not in values and "duplicate" not in values:
                self.stored.append(name)
            answer = json.dumps(values, separators=(",", ":"))  # as nats-server writes it
            if numbers[name]:
                self.publisher._on_ack(b"." + numbers[name], answer.encode())

    def _take_batch(self, lines: bytes) -> None:
        """Answer to the batch as a whole what a test says of its last message."""
        found = re.findall(rb"HPUB \S+ (\S+) .*\r\nNATS/1.0\r\nNats-Msg-Id: (\w+)\.", lines)
        names = [name.decode() for _, name in found]
        answer_to = self._answers.pop(0) if self._answers else self.all_stored
        answers = answer_to(names)
        self.stored += [name for name, _ in answers if name not in self.stored]
        whole = {**answers[-1][1], "batch": "b", "count": len(names)}
        answer = json.dumps(whole, separators=(",", ":"))
        self.publisher._on_ack(found[-1][0], answer.encode())

    def all_stored(self, names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        known = {name: {"seq": n, "duplicate": True} for n, name in enumerate(self.stored, 1)}
        sequence = itertools.count(len(self.stored) + 1)
        return [
            (name, {"stream": self._name, **(known.get(name) or {"seq": next(sequence)})})
            for name in names
        ]


def _messages(*sizes: int) -> list[Message]:
    return [Message("t.a", f"m{n}", b"x" * size) for n, size in enumerate(sizes)]


async def test_break_of_the_chain_before_an_oversized_event_refuses_only_that_event() -> None:
    """Its neighbours, refused for their place alone, must not be taken for it and parked."""

    def somebody_came_between(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        return [*stream.all_stored(names[:1]), *((name, WRONG_LAST) for name in names[1:])]

    stream = Stream([lambda names: stream.all_stored(names), somebody_came_between])
    messages = _messages(1, 1, 1, 2_000, 1)  # what one piece holds, and one more

    with pytest.raises(Refused) as refusal:
        await stream.publisher.publish(messages)

    assert refusal.value.confirmed == 3
    assert stream.stored == ["m0", "m1", "m2"]


async def test_batch_counts_as_stored_only_if_the_stream_has_grown_by_it() -> None:
    """Whatever the server says of one that a change of leader has cut."""

    def one_is_missing(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        return stream.all_stored([name for name in names if name != "m2"])

    stream = Stream([lambda names: stream.all_stored(names), one_is_missing], mode="fast")

    await stream.publisher.publish(_messages(1, 1, 1, 1))

    assert sorted(stream.stored) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("is_repeat", [False, True])
async def test_acknowledgement_covers_no_message_that_the_stream_lacks(is_repeat: bool) -> None:
    """A message that a dead relay left in the network came in front of one that asks for none."""

    def one_is_missing(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        taken = [name for name in names if name != "m2"]
        *before, (last, values) = stream.all_stored(taken)
        return [*before, (last, values | {"duplicate": True} if is_repeat else values)]

    stream = Stream([lambda names: stream.all_stored(names), one_is_missing])

    await stream.publisher.publish(_messages(1, 1, 1, 1))

    assert sorted(stream.stored) == ["m0", "m1", "m2", "m3"]


async def test_refusal_that_overtakes_acknowledgements_is_of_its_own_message() -> None:
    """A replicated stream refuses at once what is too large, and stores the rest later."""

    def refused_first(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        answer = stream.publisher._on_ack
        asyncio.get_running_loop().call_later(0.02, answer, b".1", b'{"stream":"t","seq":2}')
        return [(names[1], TOO_LARGE)]

    stream = Stream(
        [lambda names: stream.all_stored(names), refused_first], replicas=3, mode="window", window=8
    )

    with pytest.raises(Refused) as refusal:
        await stream.publisher.publish(_messages(*[1] * 12))

    assert refusal.value.confirmed == 2


@pytest.mark.parametrize(("replicas", "kind"), [(1, b"Msg-Id: m"), (3, b"Sequence: ")])
async def test_each_message_says_what_it_follows(replicas: int, kind: bytes) -> None:
    """The first one the end of the stream, the others the one before."""
    stream = Stream([], replicas=replicas, mode="window")

    await stream.publisher.publish(_messages(1, 1, 1))

    number = 1 if kind == b"Sequence: " else 0
    assert stream.expectations == [
        b"Expected-Last-Sequence: 0",
        b"Expected-Last-%s%d" % (kind, number),
        b"Expected-Last-%s%d" % (kind, number + 1),
    ]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_oversized_event_may_be_the_first(replicas: int) -> None:
    stream = Stream([], replicas=replicas)

    with pytest.raises(Refused) as refusal:
        await stream.publisher.publish(_messages(2_000, 1))

    assert refusal.value.confirmed == 0
    await stream.publisher.publish(_messages(1, 1, 1))
    assert stream.stored == ["m0", "m1", "m2"]


async def test_relay_that_waits_for_acknowledgements_is_alive() -> None:
    """A supervisor that restarted it would have everything go out again."""
    now = 0.0
    monitor = Monitor(clock=lambda: now)
    stream = Stream([lambda _: []], ack_timeout=600.0, on_wait=monitor.step)
    publishing = asyncio.create_task(stream.publisher.publish(_messages(1)))
    await eventually(lambda: stream.expectations)

    now = 600.0

    assert monitor.is_alive
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)


@pytest.mark.parametrize("name", ["error", "duplicate", "seq"])
async def test_stream_may_have_any_name(name: str) -> None:
    stream = Stream([], name=name)

    await stream.publisher.publish(_messages(1, 1, 1))

    assert stream.stored == ["m0", "m1", "m2"]


async def test_refusal_for_another_reason_confirms_what_came_before() -> None:
    full = {"error": {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}}

    def fills_up(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
        return [*stream.all_stored(names[:1]), *((name, full) for name in names[1:])]

    stream = Stream([lambda names: stream.all_stored(names), fills_up, fills_up])

    with pytest.raises(Interrupted, match="maximum messages exceeded") as interruption:
        await stream.publisher.publish(_messages(1, 1, 1))

    assert not isinstance(interruption.value, Refused)
    assert interruption.value.confirmed == 2


async def test_connection_cut_before_the_subscription_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which the relay outlives, as it does any other cut."""

    async def subscribe(_: object, __: str) -> None:
        raise nats.errors.ConnectionClosedError

    monkeypatch.setattr(NatsClient, "subscribe", subscribe)

    with pytest.raises(Interrupted, match="connection was lost"):
        await NatsClient().listen("_INBOX.x.>", lambda *_: None)


def _taken_before(*names: str) -> Answer:
    """Answer that the stream has messages with the ids of these, and store the others."""

    def answer_to(sent: list[str]) -> list[tuple[str, dict[str, Any]]]:
        sequences = itertools.count(101)
        return [
            (
                name,
                {"stream": "t", "seq": next(sequences)}
                | ({"duplicate": True} if name in names else {}),
            )
            for name in sent
        ]

    return answer_to


async def test_repeat_is_not_looked_at_before_a_message_is_stored_as_new() -> None:
    """A predecessor has published it."""
    stream = Stream([_taken_before("m0"), _taken_before("m1")])

    await stream.publisher.publish(_messages(1, 1, 1))

    assert stream.reads == []


@pytest.mark.parametrize("window", [1, 16])
async def test_repeat_of_our_own_message_counts_as_stored(window: int) -> None:
    stream = Stream([lambda names: stream.all_stored(names)], window=window)
    stream._answers += [_taken_before("m1"), _taken_before("m1", "m2")] * 3

    await stream.publisher.publish(_messages(1, 1))

    assert stream.reads == [101]


async def test_message_of_another_with_the_id_of_ours_confirms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = Stream([lambda names: stream.all_stored(names)], window=1)
    stream._answers += [_taken_before("m1")] * 2
    stream.payload = b"forged"
    messages = _messages(1, 1, 1)

    for confirmed in (1, 0):
        with pytest.raises(IdConflict, match="has an event's id") as conflict:
            await stream.publisher.publish(messages)
        assert conflict.value.confirmed == confirmed
        messages = messages[confirmed:]

    (record,) = caplog.records  # once for an event, however often it is tried
    assert (record.levelname, record.__dict__["id"]) == ("ERROR", "m1")


async def test_repeat_counts_as_stored_where_the_stream_may_not_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which is said once."""
    stream = Stream([lambda names: stream.all_stored(names)], window=1)
    stream._answers += [_taken_before("m1"), _taken_before("m2")]
    stream.denies_reading = True

    await stream.publisher.publish(_messages(1, 1, 1))

    (record,) = caplog.records
    assert "can't check that repeats are the relay's own" in record.message
