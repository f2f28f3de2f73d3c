"""What each message says it must follow, so that none is stored behind a later one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from pgoutbox.messages.event import Message
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.window import Window
from pgoutbox.nats.wire import message_id

log = logging.getLogger("pgoutbox.nats")

_MAX_ALONE = 1_024  # messages in a row, after the chain has broken again and again
_BREAKS_BEFORE_WARNING = 3
_BYTES_PER_ACK = 64 * 1024
_BYTES_OF_HEADERS = 200  # of a message, about
_MAX_MISSES = 8  # in a row


class Chain:
    """Messages of which each names the one before it; the first is published alone.

    The first one names the stream's last sequence, if that is known. So a message that a dead or
    frozen relay left in the network is refused if its successor has published meanwhile, possibly
    part of a transaction.
    """

    method: str  # for the log
    in_batches = False  # messages that don't go alone form a batch of nats-server

    def __init__(self, stream: StreamInfo) -> None:
        self._stream = stream
        self._alone = 0  # number of messages still to be published one at a time
        self._misses = 0  # refusals in a row because the stream's end was another one
        self.end: int | None = stream.end  # the stream's last sequence, None if unknown

    def limit(self, count: int) -> int:
        """Return how many of the next ``count`` messages may be in flight together."""
        return 1 if self.goes_alone else count

    @property
    def goes_alone(self) -> bool:
        """Whether the next message must be confirmed before others are sent."""
        # A repeat begins no chain: messages stored after the original would let later ones through.
        return self._alone > 0 or not self._is_begun

    @property
    def wants_end(self) -> bool:
        """Whether the stream's last sequence must be looked up before anything is published."""
        return False

    @property
    def header_room(self) -> int:
        """Bytes that the headers of a server batch need beyond those of a message alone."""
        return 0

    def go_alone(self) -> None:
        """Publish the next message alone."""
        self._alone = max(1, self._alone)

    @property
    def is_contended(self) -> bool:
        """Whether another publisher has just moved the stream's end."""
        return self._misses > 0

    def expectations(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Yield the header lines that say what each of ``messages[first:end]`` must follow."""
        raise NotImplementedError

    def asking(self, messages: Sequence[Message], first: int, end: int) -> Iterable[int]:
        """Return the indexes of those of ``messages[first:end]`` that ask for an acknowledgement.

        They include the last one.
        """
        return range(first, end)

    def learn(self, window: Window, messages: Sequence[Message]) -> None:
        """Decide from a window what the next one must follow, and whether it goes alone."""
        if window.is_unclear:
            self._look_closer(window, messages)
            return
        is_whole = window.confirmed == len(messages)
        is_stored_last = is_whole and not window.is_repeat
        if is_stored_last:
            self.end, self._misses = window.sequence, 0
        elif not window.confirmed and window.stream_end is not None and self._begins:
            # Another publisher moved the stream's end before there was a chain to break.
            self._misses += 1
            self.end = window.stream_end if self._misses < _MAX_MISSES else None
            self.go_alone()
            return
        self._alone = max(0, self._alone - 1)
        self._go_on(window, messages[-1] if is_stored_last else None, is_whole=is_whole)

    @property
    def _is_begun(self) -> bool:
        raise NotImplementedError

    @property
    def _begins(self) -> bool:
        """Whether the next message names the stream's end instead of our last message."""
        raise NotImplementedError

    def _go_on(self, window: Window, last: Message | None, *, is_whole: bool) -> None:
        """Note the ``last`` message, None unless the whole window is stored and it is no repeat."""
        raise NotImplementedError

    def _look_closer(self, window: Window, messages: Sequence[Message]) -> None:
        """Ask for an answer to each message that was sent and isn't confirmed."""
        raise NotImplementedError

    def _at_end(self) -> str:
        return "" if self.end is None else after_sequence(self.end)

    def _warn_of_others(self) -> None:
        log.warning(
            "others publish into the stream; publishing one message at a time",
            extra={"stream": self._stream.name},
        )


def _some(messages: Sequence[Message], first: int, end: int, closely: int) -> Iterator[int]:
    """Yield indexes so close that acknowledgements keep coming over a slow connection, too."""
    size = 0
    for index in range(first, end):
        size += len(messages[index].payload) + _BYTES_OF_HEADERS
        if size > _BYTES_PER_ACK or index < closely or index == end - 1:
            yield index
            size = 0


def _after_message(message: Message) -> str:
    return f"Nats-Expected-Last-Msg-Id: {message_id(message)}\r\n"


def after_sequence(sequence: int) -> str:
    """Return the header line of a message that must follow the stream's ``sequence``."""
    return f"Nats-Expected-Last-Sequence: {sequence}\r\n"


class ChainById(Chain):
    """Names the message before by its id (``Nats-Expected-Last-Msg-Id``): for one replica.

    On a replicated stream a change of leader could then break the stream for good.

    An acknowledgement costs the server half as much as the message, and us more than anything
    else. A message is accepted only if the one before is the stream's last, so one acknowledgement
    covers many. If it doesn't come, the messages are sent again, each asking for an answer.
    """

    method = "pipelined, chained by message id"

    def __init__(self, stream: StreamInfo) -> None:
        super().__init__(stream)
        self._last: Message | None = None
        self._breaks = 0  # since a window was stored whole
        self._closely = 0  # number of messages of the next window that must all ask

    @property
    def _is_begun(self) -> bool:
        return self._last is not None

    @property
    def _begins(self) -> bool:
        return self._last is None

    @property
    def is_established(self) -> bool:
        """Whether batches may follow one another, each before the one in front is confirmed."""
        is_known = self._last is not None and self.end is not None
        return is_known and not self._closely and not self.goes_alone and not self.is_contended

    def begun(self) -> tuple[Message, int]:
        """Return the last message stored, and its sequence, if :attr:`is_established`."""
        assert self._last is not None  # noqa: S101 - it is established
        assert self.end is not None  # noqa: S101
        return self._last, self.end

    def resume(self, last: Message | None, end: int, unconfirmed: int) -> None:
        """Go on after a stretch: its ``last`` message stored, if any, and the stream's end.

        ``unconfirmed`` messages of it may be stored or not.
        """
        self._last, self.end, self._closely = last or self._last, end, unconfirmed

    def expectations(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Name the message before; see :meth:`Chain.expectations`."""
        previous = messages[first - 1] if first else self._last
        return self.following(previous, messages[first:end])

    def following(self, previous: Message | None, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the header line for each of ``messages``, the first of which follows another."""
        for message in messages:
            yield self._at_end() if previous is None else _after_message(previous)
            previous = message

    def asking(self, messages: Sequence[Message], first: int, end: int) -> Iterable[int]:
        """Return some of them; see :meth:`Chain.asking`."""
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
            if self._breaks == _BREAKS_BEFORE_WARNING:
                self._warn_of_others()


class ChainBySequence(Chain):
    """Names the stream's sequence (``Nats-Expected-Last-Sequence``): for a stream of ours alone.

    Another publisher's message can take the sequence of one of ours that was refused, and the next
    of ours is then accepted. Once such a publisher is noticed, messages go one at a time.
    """

    method = "pipelined, chained by sequence"

    def __init__(self, stream: StreamInfo) -> None:
        super().__init__(stream)
        self._is_single = False  # always one message at a time
        self._last: int | None = None  # sequence of the stream, after our last message
        self._before_break: int | None = None  # the same, before the chain broke

    @property
    def goes_alone(self) -> bool:
        """Whether the next message goes alone; see :meth:`Chain.goes_alone`."""
        return self._is_single or super().goes_alone

    @property
    def _is_begun(self) -> bool:
        return self._last is not None

    @property
    def _begins(self) -> bool:
        return self.goes_alone

    def expectations(self, messages: Sequence[Message], first: int, end: int) -> Iterator[str]:
        """Name a sequence; see :meth:`Chain.expectations`."""
        last = None if self.goes_alone else self._last
        for index in range(first, end):
            yield self._at_end() if last is None else after_sequence(last + index)

    def _go_on(self, window: Window, last: Message | None, *, is_whole: bool) -> None:
        if is_whole and len(window) == 1:
            # After a break: with another publisher's message in between, ours would be further on.
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
