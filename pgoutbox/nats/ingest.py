"""Fast-ingest batches of nats-server 2.14 and later, into streams with ``allow_batched``.

Messages of a batch are stored one by one as they arrive. When one is lost or refused, the batch
ends in front of it, and the rest is dropped. All that makes a batch stands in the subjects for
answers, so consumers see nothing of it. See ADR-50 of nats-io/nats-architecture-and-design.

The server tells how far it has come only now and then, and in these answers it doesn't give its
name. They count as signs of life; what is stored is what the answer to the batch as a whole says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgoutbox.messages.event import Message

_BEGIN, _APPEND, _COMMIT = range(3)  # operations
_BYTES_A_SIGN = 64 * 1024  # of payload, between two signs of life


class Batch(NamedTuple):
    """A batch on its way: its messages are ``size`` ones of a window, from ``first`` on."""

    first: int
    size: int

    def replies(self, inbox: str, number: int, messages: Sequence[Message]) -> list[str]:
        """Return the subject for answers to each of ``messages``; there are at least two.

        ``number`` is that of the first one. The batch's id, the token that begins with it, is
        unique as the inbox is.
        """
        size = sum(len(message.payload) for message in messages)
        flow = max(1, _BYTES_A_SIGN * self.size // (size + 1))
        begin = f"{inbox}.{number}-{inbox.rpartition('.')[2]}.{flow}.fail."
        replies = [f"{begin}{place}.{_APPEND}.$FI" for place in range(1, self.size + 1)]
        replies[0] = f"{begin}1.{_BEGIN}.$FI"
        replies[-1] = f"{begin}{self.size}.{_COMMIT}.$FI"
        return replies


class Answer(NamedTuple):
    """An answer of the stream, or of somebody else, to a message of a batch."""

    number: int  # of the batch's first message
    place: int  # in the batch, from 1, of the message that it is about

    @classmethod
    def of(cls, tokens: list[bytes]) -> Answer:
        """Return what is known from the subject's ``tokens`` after the inbox."""
        return cls(int(tokens[0].partition(b"-")[0]), int(tokens[3]))
