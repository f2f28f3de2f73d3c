"""Entries of a NATS key-value bucket: the row under its key, or a marker that it is gone."""

from __future__ import annotations

from collections.abc import Sequence

from pgoutbox.messages.envelope import Envelope
from pgoutbox.messages.event import TRUNCATE, Event, EventNumber, Headers, Message
from pgoutbox.messages.rows import Rows, events
from pgoutbox.subjects import bucket_key, bucket_subjects

# The markers of ADR-8. A purge also drops what the bucket keeps of the key's history.
DELETED: Headers = (("KV-Operation", "DEL"),)
PURGED: Headers = (("KV-Operation", "PURGE"), ("Nats-Rollup", "sub"))


class KeyValueFormat:
    """Messages that keep a bucket equal to a table, whose rows have a key.

    An UPDATE that changes the key ``removes`` the entry of the old one before it puts the new one.
    A TRUNCATE is no message of its own: it ``removes`` all that the bucket has by then. An event
    whose key isn't known has no subject, and can't be published.
    """

    needs_keys = True
    needs_numbers = False
    needs_context = False
    fills_bucket = True

    def __init__(self, bucket: str) -> None:
        self._all = bucket_subjects(bucket)
        self._prefix = self._all.removesuffix(">")

    def messages(
        self, rows: Rows, envelope: Envelope, numbers: Sequence[EventNumber] = ()
    ) -> list[Message]:
        """Return a message for each of ``rows``; see :class:`MessageFormat`."""
        return [self.message(event) for event in events(rows, envelope, numbers)]

    def message(self, event: Event) -> Message:
        """Return ``event`` as it is published."""
        if event.action == TRUNCATE:
            return Message(self._all, event.id, b"", PURGED, event.table, removes=self._all)
        if event.key is None:
            return Message("", event.id, b"", (), event.table)
        subject = self._prefix + bucket_key(event.key)
        if event.action == "DELETE":
            return Message(subject, event.id, b"", DELETED, event.table)
        has_moved = event.old_key is not None and event.old_key != event.key
        removes = self._prefix + bucket_key(event.old_key) if has_moved and event.old_key else ""
        return Message(subject, event.id, event.row or b"{}", (), event.table, removes=removes)


def entries_of(message: Message, attempt: str) -> list[Message]:
    """Return the entries that the message of an event with a row stands for, in order.

    Their ids are those of one ``attempt`` to publish them. If an attempt is repeated, all of them
    must be stored again. A bucket keeps no old values, and a restarted nats-server knows only ids
    of messages that it has: it would take an old value for new, and drop the last one as a repeat.
    """
    entry = message._replace(id=f"{message.id}.{attempt}", removes="")
    if not message.removes:
        return [entry]
    return [entry._replace(subject=message.removes, payload=b"", headers=DELETED), entry]


def purge_of(subject: str, message: Message, attempt: str) -> Message:
    """Return the marker by which a TRUNCATE's message purges one key; see :func:`entries_of`."""
    return message._replace(id=f"{message.id}.{attempt}", subject=subject, removes="")
