"""Messages sent to a stream, and the answers to them."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pgoutbox.errors import Interrupted, Refused, TooLarge
from pgoutbox.messages.event import Message
from pgoutbox.nats.ingest import Answer, IngestBatch

# Error codes of nats-server (server/errors.json).
# The message before isn't the expected one; its batch has ended.
_BROKEN_CHAIN = {10070, 10071, 10164, 10208}
_TOO_LARGE = {10054: TooLarge, 10097: Refused}  # the message, its headers
_STREAM_END = re.compile(r"wrong last sequence: (\d+)")


class Repeat(NamedTuple):
    """A message that the stream dropped because it has one with the same id."""

    number: int  # in the window, from 0
    sequence: int  # of the one in the stream


class Window:
    """Messages sent to the stream, and its answers so far.

    Messages are numbered over the publisher's lifetime, so that late answers to an earlier window
    are recognised. ``confirmations`` are the possible beginnings of the stream's acknowledgements:
    any subscriber of our subjects can answer, and only the stream counts.

    Not every message asks for an answer. If each names the one before it, an acknowledgement
    covers those before it that didn't ask, provided the stream's sequence has grown by their
    number since the last one, which at first is ``sequence``. A refusal, or any other growth, says
    only that one of them is missing. Others' messages may stand between those of a batch, so there
    the growth may be larger.

    A repeat counts as stored, unless ``has_stored``: behind a message that was stored as new, it
    waits in :meth:`repeats` until it is accepted.
    """

    def __init__(
        self,
        start: int,
        confirmations: tuple[bytes, ...],
        messages: Sequence[Message],
        sequence: int | None = None,
        *,
        in_batches: bool = False,
        has_stored: bool = False,
    ) -> None:
        self._confirmations = confirmations
        self.messages = messages
        self._in_batches = in_batches
        self.has_stored = has_stored  # a message that wasn't in the stream before
        self._accepted = -1  # repeats up to this number count as stored
        self.has_repeats = False
        self.start = start
        self.end = start
        self.confirmed = 0  # messages stored, from the first without a hole
        self.refusal: Interrupted | Refused | None = None  # of the first message refused
        self.stream_end: int | None = None  # its last sequence, if it refused because of that
        self.signs = 0  # of life from the server, for unconfirmed messages
        self._before = sequence
        self._ack: bytes | None = None  # of the last message confirmed
        self._asking: deque[int] = deque()  # messages that ask for an answer and aren't confirmed
        self._refused = -1
        self._is_misplaced = False  # the refused message doesn't follow what it named
        self._batch: IngestBatch | None = None
        self._refusals: dict[int, bytes] = {}  # by position in the batch, from 1
        self._early: dict[int, bytes] = {}  # acknowledged before a predecessor was
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 0

    def __len__(self) -> int:
        return self.end - self.start

    def extend(self, count: int, asking: Iterable[int]) -> None:
        """Note that ``count`` more messages are sent; those at ``asking`` ask for answers."""
        self.end += count
        self._asking.extend(asking)

    def begin(self, batch: IngestBatch) -> None:
        """Note that the messages of ``batch`` are sent, all earlier ones being confirmed."""
        self.extend(batch.size, [batch.first + batch.size - 1])
        self._batch, self._refusals = batch, {}

    @property
    def sequence(self) -> int | None:
        """The stream's sequence of the last confirmed message."""
        return self._before if self._ack is None else _answer(self._ack)["seq"]

    @property
    def is_repeat(self) -> bool:
        """Whether the last confirmed message was in the stream before."""
        return self._ack is not None and _is_repeat(self._ack)

    def is_settled(self, count: int) -> bool:
        """Return True if the first ``count`` messages are stored, or no more will be."""
        return self.confirmed >= count or self.is_refused_next

    @property
    def is_refused_next(self) -> bool:
        """Whether the next awaited answer is a refusal.

        A refusal can overtake the acknowledgements of earlier messages.
        """
        return bool(self._asking) and self._asking[0] == self._refused

    @property
    def is_broken(self) -> bool:
        """Whether a message is refused, not necessarily the next one."""
        return self._refused >= 0

    @property
    def is_unclear(self) -> bool:
        """Whether the refused message is one of those that asked for no answer."""
        return self.is_refused_next and self._refused > self.confirmed

    @property
    def is_misplaced(self) -> bool:
        """Whether the first refused message doesn't follow what it named."""
        return self._is_misplaced

    @property
    def is_chain_broken(self) -> bool:
        """Whether messages are refused only because of what they must follow, as far as we know."""
        return self._is_misplaced or self.is_unclear

    def changed(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done when :meth:`is_settled` may have changed."""
        self._awaited = count
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Complete the future of :meth:`changed`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_ack(self, number: int, ack: bytes) -> None:
        """Take an answer to the message with that number."""
        index = number - self.start
        if index < self.confirmed:
            return
        if ack.startswith(self._confirmations):
            self._early[index] = ack
            self._confirm()
        else:
            self._refuse(index, ack)
        if self.confirmed >= self._awaited or self.is_refused_next or self.has_repeats:
            self.wake()

    def repeats(self) -> Iterator[Repeat]:
        """Yield the repeats that come next, in order."""
        for index in self._asking:
            ack = self._early.get(index)
            if ack is None or not _is_repeat(ack):
                return
            yield Repeat(index, _answer(ack)["seq"])

    def accept(self, number: int) -> None:
        """Count the repeats up to the message of that number in the window as stored."""
        self._accepted = number
        self.has_repeats = False
        self._confirm()

    def _confirm(self) -> None:
        while self._asking and self._asking[0] in self._early:
            index = self._asking[0]
            ack = self._early[index]
            if index > self.confirmed and not self._covers(ack, index + 1 - self.confirmed):
                self._refused, self._is_misplaced = index, True
                return
            if self.has_stored and index > self._accepted and _is_repeat(ack):
                self.has_repeats = True
                return
            self._take(index)

    def _take(self, index: int) -> None:
        """Count the messages up to ``index`` as stored."""
        self._ack = self._early.pop(index)
        self.has_stored = self.has_stored or not _is_repeat(self._ack)
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
            case {"type": "err", "seq": int(position)}:
                self._refusals.setdefault(position, data)
            case _:
                self._refusals.setdefault(answer.position, data)
                if answer.position == batch.size:
                    self._end_batch(batch, 0, data)

    def _end_batch(self, batch: IngestBatch, count: int, answer: bytes) -> None:
        """Note that the first ``count`` messages of ``batch`` are stored, and no others."""
        self._batch = None
        if count and self._covers(answer, count):
            self._ack = answer
            self.has_stored = True
            self.confirmed += count
        if self.confirmed == len(self):
            self._asking.clear()
        else:
            self._asking = deque([self.confirmed])
            self._refuse_in(batch)
        self.wake()

    def _refuse_in(self, batch: IngestBatch) -> None:
        position = self.confirmed - batch.first + 1
        if position in self._refusals:
            self._refuse(self.confirmed, self._refusals[position])
        else:
            self._refused, self._is_misplaced = self.confirmed, True

    def _covers(self, ack: bytes, count: int) -> bool:
        """Return True if ``ack`` shows that the last ``count`` messages are stored, in a row."""
        answer, before = _answer(ack), self.sequence
        if before is None or answer.get("duplicate") or answer.get("count", count) != count:
            return False
        growth = int(answer["seq"]) - before
        return growth >= count if self._in_batches else growth == count

    def _refuse(self, index: int, answer: bytes) -> None:
        if 0 <= self._refused <= index:
            return
        self._refused = index
        self.refusal, self._is_misplaced = _refusal(answer, self.messages[index].subject)
        found = _STREAM_END.search(str(self.refusal))
        self.stream_end = int(found[1]) if found else None


def _answer(ack: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ack)
    return answer


def _is_repeat(ack: bytes) -> bool:
    return b'"duplicate":' in ack and bool(_answer(ack).get("duplicate"))


def _refusal(answer: bytes, subject: str) -> tuple[Interrupted | Refused, bool]:
    """Return why a message was refused, and whether only what it must follow was wrong."""
    if not answer:
        return Interrupted(
            "no stream has the message's subject",
            hint="Was the stream deleted, or is this subject missing from it?",
            subject=subject,
        ), False
    match _parsed(answer):
        case {"error": {"err_code": int(code), "description": str(description)}}:
            if code in _TOO_LARGE:
                said = f"the stream rejects it: {description}"
                return _TOO_LARGE[code](said, subject=subject), False
            return Interrupted(f"the stream rejects messages: {description}"), code in _BROKEN_CHAIN
        case {"stream": str(name), "domain": str(domain)}:
            source = f": from stream {name!r} of domain {domain!r}"
        case {"stream": str(name)}:
            source = f": from stream {name!r}"
        case _:
            source = ""
    return Interrupted(
        f"an answer came from something other than the stream{source}",
        hint="Does another stream, or a service that replies, subscribe to the message's subject?",
        subject=subject,
    ), False


def _parsed(answer: bytes) -> object:
    """Return an answer's JSON, or None if it isn't JSON: anyone may have answered."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
