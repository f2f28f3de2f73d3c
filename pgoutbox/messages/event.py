"""An event from the outbox, and the message that is published for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Message(NamedTuple):
    """What goes to NATS for one event; ``id`` is its ``Nats-Msg-Id``.

    ``headers`` are further ones, as lines of the protocol: ``Name: value`` and CR LF each.
    ``table`` is the bare name of the event's table.
    """

    subject: str
    id: str
    payload: bytes
    headers: str = ""
    table: str = ""


class Transaction(NamedTuple):
    """What the events of one transaction share; see :meth:`of`."""

    position: int
    size: int  # events, those in other batches too; 0 where nobody asks
    time: str  # of its commit, RFC 3339 in UTC
    traceparent: str | None  # W3C Trace Context

    @classmethod
    def of(cls, position: int, size: int, time: str, traceparent: str | None) -> Transaction:
        """Return it; ``traceparent`` is what the writer has set, which is dropped unless valid."""
        is_valid = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
        return cls(position, size, time, traceparent if is_valid else None)


class Event(NamedTuple):
    """An event and what messages may tell of it."""

    id: str
    schema: str
    table: str
    action: str
    key: Sequence[str] | None  # values of the key's columns; None where no key is known
    payload: bytes  # wal-listener's JSON
    transaction: Transaction
    place: int  # in its transaction, from 1; 0 where nobody asks


# Version 00 of W3C Trace Context (section 3.2.2), in which neither id is all zeros.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
