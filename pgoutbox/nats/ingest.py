"""Fast-ingest batches of nats-server 2.14 and later, into streams with ``allow_batched``.

Messages of a batch are stored one by one as they arrive. If one is lost or refused, the batch ends
in front of it, and the rest is dropped. A batch is described by its messages' reply subjects alone,
so consumers see nothing of it. See ADR-50 of nats-io/nats-architecture-and-design.

The server reports its progress now and then, in answers that don't name the stream. They count as
signs of life; how much is stored is what the answer to the whole batch says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgoutbox.messages.event import Message

_BEGIN, _APPEND, _COMMIT = range(3)  # operations
_BYTES_A_SIGN = 64 * 1024  # of payload, between two progress reports


class IngestBatch(NamedTuple):
    """A batch that is being sent: ``size`` messages of a window, starting with its ``first``."""

    first: int
    size: int

    def replies(self, inbox: str, number: int, messages: Sequence[Message]) -> list[str]:
        """Return the reply subject of each of ``messages``, of which there are at least two.

        ``number`` is the first one's. It begins the batch's id, which is as unique as the inbox.
        """
        size = sum(len(message.payload) for message in messages)
        flow = max(1, _BYTES_A_SIGN * self.size // (size + 1))
        begin = f"{inbox}.{number}-{inbox.rpartition('.')[2]}.{flow}.fail."
        replies = [f"{begin}{position}.{_APPEND}.$FI" for position in range(1, self.size + 1)]
        replies[0] = f"{begin}1.{_BEGIN}.$FI"
        replies[-1] = f"{begin}{self.size}.{_COMMIT}.$FI"
        return replies


class Answer(NamedTuple):
    """What an answer to a message of a batch is about, according to its subject."""

    number: int  # of the batch's first message
    position: int  # of the message in the batch, from 1

    @classmethod
    def of(cls, tokens: list[bytes]) -> Answer:
        """Parse the subject's ``tokens`` after the inbox."""
        return cls(int(tokens[0].partition(b"-")[0]), int(tokens[3]))
