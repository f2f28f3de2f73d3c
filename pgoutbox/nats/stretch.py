"""Batches sent to a stream one behind another, without waiting for each to be stored."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence

from pgoutbox.errors import Interrupted
from pgoutbox.messages.event import Message
from pgoutbox.nats import wire
from pgoutbox.nats.chain import ChainById
from pgoutbox.nats.client import NatsClient

_WRITE_SIZE = 500  # messages, so that the server stores the first while we format the others


class Stretch:
    """Messages in flight, each naming the one before by its id, and how many of them are stored.

    An acknowledgement counts only if the stream has grown by exactly as many messages as were sent
    since the beginning: then all up to that one are stored. Anything else breaks the stretch, and
    what isn't confirmed has to be published again, with more care.

    A stretch begins behind a message that was published alone and stored as new. ``start`` is the
    number of the first message; no number is used twice in the publisher's lifetime.
    """

    def __init__(
        self,
        client: NatsClient,
        chain: ChainById,
        *,
        start: int,
        inbox: str,
        confirmations: tuple[bytes, ...],
        window: int,
        ack_timeout: float,
        on_wait: Callable[[float], None],
        is_over: Callable[[], bool],
        takes: Callable[[str], bool],
    ) -> None:
        self._client = client
        self._chain = chain
        self._inbox = inbox
        self._confirmations = confirmations
        self._window = window
        self._ack_timeout = ack_timeout
        self._on_wait = on_wait
        self._is_over = is_over
        self._takes = takes
        self._previous, sequence = chain.begun()
        self._offset = sequence - start  # between our numbers and the stream's sequences
        self.confirmed = start  # all messages with lower numbers are stored
        self.end = start
        self.is_broken = False
        self._asking: deque[int] = deque()  # messages that ask for an answer and aren't confirmed
        self._batches: deque[tuple[int, Sequence[Message]]] = deque()  # by their first number
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 0

    def has_room(self, count: int) -> bool:
        """Return True if so many messages can be sent now, behind those that aren't confirmed."""
        is_open = not self.is_broken and not self._is_over()
        return is_open and self.end - self.confirmed + count <= self._window

    def send(self, messages: Sequence[Message]) -> int | None:
        """Send ``messages``; return the number after the last one.

        Sends nothing and returns None if one of them can't be sent as it is: see
        :func:`pgoutbox.nats.wire.fitting`.

        Raises:
            Interrupted: the connection has failed.
        """
        self._client.check()
        if wire.fitting(messages, self._client.max_payload, self._takes) < len(messages):
            return None
        first = self.end
        for begin in range(0, len(messages), _WRITE_SIZE):
            end = min(begin + _WRITE_SIZE, len(messages))
            asking = list(self._chain.asking(messages, begin, end))
            replies = [""] * (end - begin)
            for index in asking:
                replies[index - begin] = f"{self._inbox}.{first + index}"
                self._asking.append(first + index)
            chunk = messages[begin:end]
            expectations = self._chain.following(self._previous, chunk)
            self._client.write(wire.hpubs(chunk, replies, expectations))
            self._previous = chunk[-1]
        if messages:
            self._batches.append((first, messages))
        self.end += len(messages)
        return self.end

    async def confirm(self, number: int) -> bool:
        """Wait until all messages before ``number`` are stored; return False if one isn't.

        Raises:
            Interrupted: the connection has failed, or no answer came for too long.
        """
        while self.confirmed < number and not self.is_broken:
            self._client.check()
            before = self.confirmed
            self._on_wait(self._ack_timeout)
            self._awaited = number
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, self._ack_timeout)
            except TimeoutError:
                if self.confirmed == before:
                    raise no_answer(self._ack_timeout) from None
        return self.confirmed >= number

    def on_ack(self, number: int, ack: bytes) -> None:
        """Take an answer to the message with that number."""
        if number not in self._asking:
            return
        if self._is_exact(number, ack):
            while self._asking and self._asking[0] <= number:
                self._asking.popleft()
            self.confirmed = number + 1
            while len(self._batches) > 1 and self._batches[1][0] < self.confirmed:
                self._batches.popleft()
        else:
            self.is_broken = True
        if self.is_broken or self.confirmed >= self._awaited:
            self.wake()

    def _is_exact(self, number: int, ack: bytes) -> bool:
        if not ack.startswith(self._confirmations):
            return False
        answer = json.loads(ack)
        return bool(answer["seq"] == number + 1 + self._offset and not answer.get("duplicate"))

    def wake(self) -> None:
        """Have :meth:`confirm` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def last(self) -> tuple[Message, int] | None:
        """The last of its messages that is stored, and its sequence."""
        if not self._batches or self.confirmed <= self._batches[0][0]:
            return None
        first, messages = self._batches[0]
        return messages[self.confirmed - first - 1], self.confirmed + self._offset

    def close(self) -> int:
        """End the stretch; return the number before which all messages are stored."""
        last = self.last[0] if self.last else None
        self._chain.resume(last, self.confirmed + self._offset, self.end - self.confirmed)
        return self.confirmed


def no_answer(seconds: float) -> Interrupted:
    """Return the error for a stream that acknowledged nothing for so many seconds."""
    return Interrupted(
        f"no acknowledgement within {seconds:g} s",
        hint="Does the stream have a leader, and room on its disk?",
    )
