"""Batches of nats-server, one at a time: they keep order whoever else publishes into the stream.

In a chain by sequence another publisher's message can take the sequence that one of ours names;
ours is refused, and the next one of ours, which names exactly the sequence that the stranger's
message has got, is accepted. A batch has no such hole: what is lost or refused ends it, and the
messages of others between ours end nothing. So only a batch's first message names what it follows,
to keep out what a dead or frozen relay left in the network.

Batches follow a message that was published alone and wasn't in the stream before. The server counts
a repeat inside a batch as stored while its original may not be on the other servers yet, and a
change of leader can still lose that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, repeat

from pgoutbox.messages.event import Message
from pgoutbox.nats.chain import Chain
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.window import Window

_LIMIT = re.compile(r"atomic publish batch is too large: (\d+)")
_PATIENCE = 16  # refusals of the stream's sequence, without a success at the first try in between
_MEMORY = 60.0  # seconds for which others are expected to go on, and a subject to be of no use


class Batches(Chain):
    """One batch after another; its first message names the stream's last sequence.

    If others publish so much that this is refused again and again, it names our last message
    instead, by its subject's last sequence, until a minute has passed without others. That goes
    wrong if our last message may be removed, or others publish to its subject; then it is the
    stream's sequence again, or nothing. ``clock`` tells the time in seconds.
    """

    in_batches = True

    def __init__(
        self, stream: StreamInfo, *, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream)
        self._size = size  # messages in a batch, at most
        self._clock = clock
        self._is_fresh = False  # our last message was stored, and as new
        self._last: tuple[str, int] | None = None  # subject and sequence of our last message
        self._refusals = 0
        self._gives_up = False  # naming anything
        self._others_until = 0.0  # others are expected to publish
        self._no_subject_until = 0.0  # the subject's sequence is of no use
        self._named_subject = False  # by the last batch

    def limit(self, count: int) -> int:
        """Return how many messages the next batch may have; see :meth:`Chain.limit`."""
        return 1 if self.goes_alone else min(self._size, count)

    @property
    def wants_end(self) -> bool:
        """Whether the end must be looked up; see :attr:`Chain.wants_end`."""
        return self.end is None and not self._gives_up and not self._names_subject

    @property
    def header_room(self) -> int:
        """Bytes of a batch's headers; see :attr:`Chain.header_room`."""
        return len(self._after_subject()) if self._names_subject else 0

    @property
    def _is_begun(self) -> bool:
        return self._is_fresh

    @property
    def _names_subject(self) -> bool:
        now = self._clock()
        is_of_use = self._no_subject_until <= now < self._others_until
        return is_of_use and self._last is not None and self._alone == 0

    def expectations(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Name what the first one follows; see :meth:`Chain.expectations`."""
        self._named_subject = self._names_subject
        yield self._after_subject() if self._named_subject else self._at_end()
        yield from repeat("", end - first - 1)

    def learn(self, window: Window, messages: Sequence[Message]) -> None:
        """Note where the next batch begins; see :meth:`Chain.learn`."""
        if not len(window):  # none was sent
            return
        self._alone = max(0, self._alone - 1)
        was_fresh, self._is_fresh = self._is_fresh, False
        if window.confirmed == len(messages) and window.sequence and not window.is_repeat:
            self._is_fresh = True
            self._refusals = 0 if was_fresh else self._refusals
            self._stored(messages, window.sequence)
        elif window.confirmed:
            self.end = self.end if window.is_repeat else window.sequence
        elif window.is_misplaced and self._named_subject:
            self._no_subject_until = self._clock() + _MEMORY
            self.end = None
        elif window.stream_end is not None:
            self._refused(window.stream_end)
        elif window.is_chain_broken:
            self.end = None

    def _stored(self, messages: Sequence[Message], sequence: int) -> None:
        are_others_there = self.end is not None and sequence > self.end + len(messages)
        if self._named_subject and are_others_there:
            self._others_until = self._clock() + _MEMORY
        self._last = messages[-1].subject, sequence
        self.end, self._gives_up = sequence, False

    def _refused(self, stream_end: int) -> None:
        """Note the stream's end; after many refusals, which others caused, name something else."""
        self.end = stream_end
        self._refusals += 1
        if self._refusals >= _PATIENCE:
            self._refusals = 0
            self._others_until = self._clock() + _MEMORY
            if not self._names_subject:
                self.end, self._gives_up = None, True

    def _after_subject(self) -> str:
        subject, sequence = self._last or ("", 0)
        return (
            f"Nats-Expected-Last-Subject-Sequence: {sequence}\r\n"
            f"Nats-Expected-Last-Subject-Sequence-Subject: {subject}\r\n"
        )


class FastBatches(Batches):
    """Fast-ingest batches (see :mod:`pgoutbox.nats.ingest`): messages are stored as they come."""

    method = "fast-ingest batches"


class AtomicBatches(Batches):
    """Atomic batches of nats-server 2.12.1 and later: all messages are stored, or none.

    A batch that is refused for any other reason than what it follows is published message by
    message, which tells which one it was. See ADR-50 of nats-io/nats-architecture-and-design.
    """

    method = "atomic batches"
    LONGEST = 1_000  # messages; a server may be set to accept fewer

    def __init__(self, stream: StreamInfo, *, size: int, name: str) -> None:
        super().__init__(stream, size=min(size, self.LONGEST))
        self._name = name  # unique among all publishers
        self._numbers = count(1)

    @property
    def header_room(self) -> int:
        """Bytes of a batch's headers; see :attr:`Chain.header_room`."""
        longest = _batch_headers(f"{self._name}-{2**63}", self.LONGEST, is_last=True)
        return super().header_room + len(longest)

    def expectations(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Name what the first one follows, and the batch; see :meth:`Chain.expectations`."""
        following = super().expectations(messages, first, end)
        if end - first == 1:
            yield from following
            return
        name = f"{self._name}-{next(self._numbers)}"
        for position, expectation in enumerate(following, 1):
            yield expectation + _batch_headers(name, position, is_last=position == end - first)

    def asking(self, messages: Sequence[Message], first: int, end: int) -> Iterable[int]:
        """Return the last one; see :meth:`Chain.asking`."""
        return range(max(first, end - 1), end)

    def learn(self, window: Window, messages: Sequence[Message]) -> None:
        """Go alone through a batch that was refused; see :meth:`Chain.learn`."""
        super().learn(window, messages)
        if window.is_unclear and not window.is_misplaced:
            limit = _LIMIT.search(str(window.refusal))
            self._size = int(limit[1]) if limit else self._size
            self._alone = 1 if limit else len(messages)


class OneByOne(Batches):
    """One message at a time, where nothing else keeps the order, or ``--window 1`` asks for it."""

    method = "one message at a time"

    def __init__(self, stream: StreamInfo) -> None:
        super().__init__(stream, size=1)


def _batch_headers(name: str, position: int, *, is_last: bool) -> str:
    commit = "Nats-Batch-Commit: 1\r\n" if is_last else ""
    return f"Nats-Batch-Id: {name}\r\nNats-Batch-Sequence: {position}\r\n{commit}"
