"""An event from the outbox, and the message that is published for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

Headers = tuple[tuple[str, str], ...]  # names and values; visible ASCII, but for emitted events

SNAPSHOT_HEADER = "Pgoutbox-Snapshot"  # of a row that a snapshot has read


class Message(NamedTuple):
    """What is published for one event; ``id`` is the event's.

    ``headers`` are those beside ``Nats-Msg-Id``. ``table`` is the bare name of the event's table.
    The subject of an emitted event is the application's, and the stream may not have it.
    ``removes`` is, in a bucket, the subject of a key that goes first; see
    :class:`pgoutbox.messages.key_value.KeyValueFormat`.
    """

    subject: str
    id: str
    payload: bytes
    headers: Headers = ()
    table: str = ""
    is_emitted: bool = False
    removes: str = ""


TRUNCATE = "TRUNCATE"  # the action of an event without a row
EMIT = "EMIT"  # the action of an event that the application emits


class Emitted(NamedTuple):
    """An event of the application's own: what it gave to ``pgoutbox.emit``."""

    subject: str  # below the topic
    key: str | None
    headers: Headers
    payload: bytes

    @classmethod
    def of(cls, content: bytes) -> Emitted:
        """Return what ``sql/application/emit.sql`` puts into the outbox as an event's new row."""
        fields = json.loads(content)
        return cls(
            fields["subject"],
            fields["key"],
            tuple((fields["headers"] or {}).items()),
            fields["payload"].encode(),
        )


class LastStored(NamedTuple):
    """A message that a stream has confirmed, none of the relay's being behind it then.

    ``created`` is when the stream was, as nats-server writes it; ``id`` the ``Nats-Msg-Id``.
    """

    stream: str
    created: str
    sequence: int
    id: str


class EventNumber(NamedTuple):
    """Which of a transaction's events one is, from 1, and how many the transaction has."""

    number: int
    size: int


class Transaction(NamedTuple):
    """What the events of one transaction share; see :meth:`of`."""

    position: int
    size: int  # events, those in other batches included; 0 if no header needs it
    time: str  # of its commit, RFC 3339 in UTC
    traceparent: str | None  # W3C Trace Context
    context: str | None = None  # JSON, in ASCII

    @classmethod
    def of(
        cls,
        position: int,
        size: int,
        time: str,
        traceparent: str | None,
        context: str | None = None,
    ) -> Transaction:
        """Return it; ``traceparent`` is what the writer has set, which is dropped unless valid.

        ``context`` is JSON as PostgreSQL writes it.
        """
        is_valid = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
        return cls(
            position,
            size,
            time,
            traceparent if is_valid else None,
            context and _NOT_ASCII.sub(_escaped, context),
        )


class Event(NamedTuple):
    """An event, and what its message may say about it."""

    id: str
    schema: str
    table: str
    action: str
    key: Sequence[str] | None  # values of the key's columns; None if no key is known
    payload: bytes  # wal-listener's JSON, or the application's own
    transaction: Transaction
    number: int  # in its transaction, from 1; 0 if no header needs it, or there is none
    emitted: Emitted | None = None
    row: bytes | None = None  # its JSON after the change
    old_key: Sequence[str] | None = None  # as ``key``, before an UPDATE; where a format needs it


_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


def _escaped(character: re.Match[str]) -> str:
    """Return a character as JSON escapes it in a string; jsonb has others nowhere else."""
    return json.dumps(character[0])[1:-1]


# Version 00 of W3C Trace Context (section 3.2.2), in which neither id is all zeros.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
