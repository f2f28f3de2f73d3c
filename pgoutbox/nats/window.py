"""Messages on their way to a stream, and what comes back for them."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from pgoutbox.errors import Interrupted, Refused
from pgoutbox.messages.event import Message
from pgoutbox.nats.ingest import Answer, Batch

# Error codes of nats-server (server/errors.json).
# The message before isn't the expected one; its batch has ended.
_WRONG_PLACE = {10070, 10071, 10164, 10208}
_TOO_LARGE = {10054, 10097}  # the message, its headers
_STREAM_END = re.compile(r"wrong last sequence: (\d+)")


class Window:
    """Messages on their way to the stream, and what came back for them.

    Messages are numbered through the publisher's life, so that late answers to an earlier
    window are recognised. ``confirmations`` are how the stream's word begins; whoever hears our
    messages can answer them, and only the stream's word counts.

    Not every message asks for an answer. Where each names the one before, an acknowledgement
    covers those before it that didn't ask, if the stream's sequence has moved by as many since
    the last one, whose sequence is ``sequence`` at the beginning. A refusal, or any other count,
    says of them only that one is missing.
    """

    def __init__(
        self,
        start: int,
        confirmations: tuple[bytes, ...],
        messages: Sequence[Message],
        sequence: int | None = None,
    ) -> None:
        self._confirmations = confirmations
        self._messages = messages
        self.start = start
        self.end = start
        self.confirmed = 0  # messages stored, counted from the first without a hole
        self.refusal: Interrupted | None = None  # of the lowest message refused
        self.stream_end: int | None = None  # its last sequence, where that is why it refused
        self.signs = 0  # of life, for messages that aren't confirmed
        self._before = sequence
        self._ack: bytes | None = None  # of the last message confirmed
        self._asking: deque[int] = deque()  # messages that ask for an answer and aren't confirmed
        self._refused = -1
        self._is_misplaced = False  # the refused message doesn't follow the one that it named
        self._batch: Batch | None = None
        self._refusals: dict[int, bytes] = {}  # by their places in the batch
        self._early: dict[int, bytes] = {}  # acknowledged before one of their predecessors
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 0

    def __len__(self) -> int:
        return self.end - self.start

    def extend(self, count: int, asking: Iterable[int]) -> None:
        """Note that ``count`` more messages are sent, and which of the window's ask for answers."""
        self.end += count
        self._asking.extend(asking)

    def begin(self, batch: Batch) -> None:
        """Note that the messages of ``batch`` are sent, and all before them confirmed."""
        self.extend(batch.size, [batch.first + batch.size - 1])
        self._batch, self._refusals = batch, {}

    @property
    def sequence(self) -> int | None:
        """In the stream, of the last message confirmed."""
        return self._before if self._ack is None else _answer(self._ack)["seq"]

    @property
    def is_repeat(self) -> bool:
        """Whether the stream had the last message confirmed already."""
        return self._ack is not None and _answer(self._ack).get("duplicate", False)

    def is_settled(self, count: int) -> bool:
        """Tell whether the first ``count`` messages are stored, or as many as will be."""
        return self.confirmed >= count or self.is_refused_next

    @property
    def is_refused_next(self) -> bool:
        """Whether the next answer is a refusal.

        A refusal can overtake the acknowledgements of earlier messages.
        """
        return bool(self._asking) and self._asking[0] == self._refused

    @property
    def is_broken(self) -> bool:
        """Whether one of the messages is refused, maybe none of the next."""
        return self._refused >= 0

    @property
    def is_unclear(self) -> bool:
        """Whether one is refused without a word, among the messages that didn't ask."""
        return self.is_refused_next and self._refused > self.confirmed

    @property
    def is_chain_broken(self) -> bool:
        """Whether messages are refused for their place alone, as far as we know."""
        return self._is_misplaced or self.is_unclear

    def changed(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done when :meth:`is_settled` has something new to say."""
        self._awaited = count
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Let :meth:`changed` say that there is something new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_ack(self, number: int, ack: bytes) -> None:
        """Take an answer of the stream to the message of that number."""
        index = number - self.start
        if index < self.confirmed:
            return
        if ack.startswith(self._confirmations):
            self._early[index] = ack
            self._confirm()
        else:
            self._refuse(index, ack)
        if self.confirmed >= self._awaited or self.is_refused_next:
            self.wake()

    def _confirm(self) -> None:
        while self._asking and self._asking[0] in self._early:
            index = self._asking[0]
            ack = self._early.pop(index)
            if index > self.confirmed and not self._covers(ack, index + 1 - self.confirmed):
                self._refused, self._is_misplaced = index, True
                return
            self._ack = ack
            self.confirmed = index + 1
            self._asking.popleft()

    def on_batch(self, answer: Answer, data: bytes) -> None:
        """Take an answer to a message of a batch."""
        batch = self._batch
        if batch is None or answer.number != self.start + batch.first:
            return
        if data.startswith(self._confirmations):
            self._end_batch(batch, _answer(data).get("count", 0), data)
            return
        match _parsed(data):
            case {"type": "ack", "seq": int(count)}:
                self.signs = batch.first + count
            case {"type": "gap"}:
                pass  # the answer to the batch as a whole follows
            case {"type": "err", "seq": int(place)}:
                self._refusals.setdefault(place, data)
            case _:
                self._refusals.setdefault(answer.place, data)
                if answer.place == batch.size:
                    self._end_batch(batch, 0, data)

    def _end_batch(self, batch: Batch, count: int, answer: bytes) -> None:
        """Note that the first ``count`` messages of ``batch`` are stored, and no others."""
        self._batch = None
        if count and self._covers(answer, count):
            self._ack = answer
            self.confirmed += count
        if self.confirmed == len(self):
            self._asking.clear()
        else:
            self._asking = deque([self.confirmed])
            self._refuse_in(batch)
        self.wake()

    def _refuse_in(self, batch: Batch) -> None:
        place = self.confirmed - batch.first + 1
        if place in self._refusals:
            self._refuse(self.confirmed, self._refusals[place])
        else:
            self._refused, self._is_misplaced = self.confirmed, True

    def _covers(self, ack: bytes, count: int) -> bool:
        """Tell whether ``ack`` says that the last ``count`` messages are stored, one by one."""
        answer, before = _answer(ack), self.sequence
        is_new = not answer.get("duplicate", False)
        return is_new and before is not None and answer["seq"] == before + count

    def _refuse(self, index: int, answer: bytes) -> None:
        if 0 <= self._refused <= index:
            return
        self._refused = index
        self.refusal, self._is_misplaced = _refusal(answer, self._messages[index].subject)
        found = _STREAM_END.search(str(self.refusal))
        self.stream_end = int(found[1]) if found else None


def _answer(ack: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ack)
    return answer


def _refusal(answer: bytes, subject: str) -> tuple[Interrupted, bool]:
    """Return why a message was refused, and whether only its place in the chain was wrong."""
    if not answer:
        return Interrupted(
            "no stream takes a message's subject",
            hint="Has the stream been deleted, or do its subjects leave out this one?",
            subject=subject,
        ), False
    match _parsed(answer):
        case {"error": {"err_code": int(code), "description": str(said)}}:
            if code in _TOO_LARGE:
                return Refused(f"the stream refuses it: {said}", subject=subject), False
            return Interrupted(f"the stream refuses messages: {said}"), code in _WRONG_PLACE
        case {"stream": str(name), "domain": str(domain)}:
            who = f": the stream {name!r} of the domain {domain!r}"
        case {"stream": str(name)}:
            who = f": the stream {name!r}"
        case _:
            who = ""
    return Interrupted(
        f"somebody else than the stream answers a message{who}",
        hint="Does another stream, or a service that replies, listen to its subject?",
        subject=subject,
    ), False


def _parsed(answer: bytes) -> object:
    """Return an answer's JSON; None where it is none, for anybody may have answered."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
