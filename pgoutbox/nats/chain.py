"""What each message says it must follow, so that none is stored behind its successor."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from pgoutbox.config.settings import Mode
from pgoutbox.messages.event import Message
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.window import Window

log = logging.getLogger("pgoutbox.nats")

_MAX_ALONE = 1_024  # messages one at a time, after the chain broke again and again
_BREAKS_WORTH_A_WARNING = 3
_BYTES_AN_ACK = 64 * 1024
_BYTES_OF_HEADERS = 200  # of a message, about
_MAX_MISSES = 8  # of the stream's sequence, by a message that begins a chain


class Chain:
    """Messages of which each names the one before, begun by one that is published alone.

    That one says which sequence of the stream it must follow, as far as that is known. So what
    a dead or frozen relay left in the network is refused when it arrives after its successor has
    begun to publish, maybe in the middle of a transaction.
    """

    way: str  # in words, for the log
    in_batches = False  # of fast ingest, what isn't published alone

    def __init__(self, stream: StreamInfo, *, end: int | None, is_single: bool) -> None:
        self._stream = stream
        self._is_single = is_single  # always one message at a time
        self._alone = 0  # messages still to be published one at a time
        self._misses = 0  # of the stream's end, in a row
        self.end = end  # the stream's last sequence, as far as we know

    @property
    def goes_alone(self) -> bool:
        """Whether the next message is to be published alone, and confirmed before others go."""
        # Not even by id from a repeat: what was stored after it would let its successors through.
        return self._alone > 0 or self._is_single or not self._is_begun

    @property
    def is_missed(self) -> bool:
        """Whether somebody else has published since we looked where the stream ends."""
        return self._misses > 0

    def places(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Yield the header for what each of ``messages[first:end]`` of a window has to follow."""
        raise NotImplementedError

    def asking(self, messages: Sequence[Message], first: int, end: int) -> Iterable[int]:
        """Return which of ``messages[first:end]`` of a window are to ask for an acknowledgement.

        The last one always is.
        """
        return range(first, end)

    def learn(self, window: Window, messages: Sequence[Message]) -> None:
        """Note what the next window is chained to, and whether it had better be a single one."""
        if window.is_unclear:
            self._look_closer(window, messages)
            return
        is_whole = window.confirmed == len(messages)
        is_stored_last = is_whole and not window.is_repeat
        if is_stored_last:
            self.end, self._misses = window.sequence, 0
        elif not window.confirmed and window.stream_end is not None and self._begins:
            # Others have published meanwhile: not a break of the chain, there was none yet.
            self._misses += 1
            self.end = window.stream_end if self._misses < _MAX_MISSES else None
            self._alone = max(1, self._alone)
            return
        self._alone = max(0, self._alone - 1)
        self._go_on(window, messages[-1] if is_stored_last else None, is_whole=is_whole)

    @property
    def _is_begun(self) -> bool:
        raise NotImplementedError

    @property
    def _begins(self) -> bool:
        """Whether the next message follows no message of ours, but the end of the stream."""
        raise NotImplementedError

    def _go_on(self, window: Window, last: Message | None, *, is_whole: bool) -> None:
        """Note the ``last`` message if all before it are stored, and it was not there before."""
        raise NotImplementedError

    def _look_closer(self, window: Window, messages: Sequence[Message]) -> None:
        """Have each message ask, of those that were sent and aren't confirmed."""
        raise NotImplementedError

    def _at_end(self) -> str:
        return "" if self.end is None else _after(self.end)

    def _warn_of_others(self) -> None:
        log.warning(
            "somebody else publishes into the stream; messages go one at a time",
            extra={"stream": self._stream.name},
        )


def _some(messages: Sequence[Message], first: int, end: int, closely: int) -> Iterator[int]:
    """Yield indexes with so few bytes in between that a slow line doesn't look like a dead one."""
    size = 0
    for index in range(first, end):
        size += len(messages[index].payload) + _BYTES_OF_HEADERS
        if size > _BYTES_AN_ACK or index < closely or index == end - 1:
            yield index
            size = 0


def _after(sequence: int) -> str:
    return f"Nats-Expected-Last-Sequence: {sequence}\r\n"


class ChainById(Chain):
    """By the id of the message before (``Nats-Expected-Last-Msg-Id``): for one replica.

    nats-server must not be asked for that on a replicated stream, which a change of leader could
    then break for good.

    An acknowledgement costs the server half as much as the message, and us more than all else. As
    a message is taken only where the one before is the stream's last, one acknowledgement covers
    many. When it doesn't come, the messages are sent again, each to be answered for itself.
    """

    way = "pipelined, chained by message id"

    def __init__(self, stream: StreamInfo, *, end: int | None, is_single: bool) -> None:
        super().__init__(stream, end=end, is_single=is_single)
        self._last: Message | None = None
        self._breaks = 0  # since a window was stored whole
        self._closely = 0  # messages of the next window that all have to ask

    @property
    def _is_begun(self) -> bool:
        return self._last is not None

    @property
    def _begins(self) -> bool:
        return self._last is None

    def places(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Yield headers that name the message before; see :meth:`Chain.places`."""
        previous = messages[first - 1] if first else self._last
        for message in messages[first:end]:
            yield f"Nats-Expected-Last-Msg-Id: {previous.id}\r\n" if previous else self._at_end()
            previous = message

    def asking(self, messages: Sequence[Message], first: int, end: int) -> Iterable[int]:
        """Return some, and the last; see :meth:`Chain.asking`."""
        return _some(messages, first, end, self._closely)

    def _look_closer(self, window: Window, messages: Sequence[Message]) -> None:
        self._closely = len(window) - window.confirmed
        self.end = window.sequence
        if window.confirmed:
            self._last = messages[window.confirmed - 1]

    def _go_on(self, window: Window, last: Message | None, *, is_whole: bool) -> None:
        self._last = last
        self._closely = 0
        if is_whole and len(window) > 1:
            self._breaks = 0
        elif not is_whole and window.is_chain_broken:
            self._breaks += 1
            self._alone = min(2**self._breaks, _MAX_ALONE)
            if self._breaks == _BREAKS_WORTH_A_WARNING:
                self._warn_of_others()


class ChainBySequence(Chain):
    """By the stream's sequence (``Nats-Expected-Last-Sequence``): for a replicated stream.

    It has a weakness: somebody else's message can take the place of ours. Once one has been
    seen, messages go one at a time.
    """

    way = "pipelined, chained by sequence"

    def __init__(self, stream: StreamInfo, *, end: int | None, is_single: bool) -> None:
        super().__init__(stream, end=end, is_single=is_single)
        self._last: int | None = None  # sequence of the stream, after our last message
        self._before_break: int | None = None  # the same, before the chain broke

    @property
    def _is_begun(self) -> bool:
        return self._last is not None

    @property
    def _begins(self) -> bool:
        return self.goes_alone

    def places(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Yield headers that name a sequence; see :meth:`Chain.places`."""
        last = None if self.goes_alone else self._last
        for index in range(first, end):
            yield self._at_end() if last is None else _after(last + index)

    def _go_on(self, window: Window, last: Message | None, *, is_whole: bool) -> None:
        if is_whole and len(window) == 1:
            # After a break: had somebody else's message come between, ours would be further on.
            if self._before_break is not None and window.sequence != self._before_break + 1:
                self._go_single()
            self._before_break = None if last else window.sequence
        elif not is_whole and self._last is not None:
            self._before_break = self._last + window.confirmed
        self._last = window.sequence if last else None

    def _go_single(self) -> None:
        if not self._is_single:
            self._warn_of_others()
        self._is_single = True


class BatchesBySequence(ChainBySequence):
    """By the stream's sequence, in fast-ingest batches (see :mod:`pgoutbox.nats.ingest`).

    A refused message ends its batch, so nobody else's can take its place.
    """

    way = "fast-ingest batches, chained by sequence"
    in_batches = True

    def _go_single(self) -> None:
        pass


def kind_of_chain(stream: StreamInfo, mode: Mode) -> type[Chain]:
    """Return the cheapest kind that keeps the order in the stream; ``mode`` may name another."""
    if mode == "fast" or (mode == "auto" and stream.replicas > 1 and stream.takes_batches):
        return BatchesBySequence
    return ChainBySequence if stream.replicas > 1 else ChainById
