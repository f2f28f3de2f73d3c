"""From rows of the outbox to messages: wal-listener's, or described by keys and headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.cloudevents import STRUCTURED_HEADERS, CloudEvents
from pgoutbox.messages.envelope import Envelope
from pgoutbox.messages.event import Emitted, Event, EventNumber, Headers, Message
from pgoutbox.messages.headers import transaction_headers, without
from pgoutbox.messages.key_value import KeyValueFormat
from pgoutbox.messages.rows import Rows, events
from pgoutbox.subjects import Naming, Subjects


class MessageFormat(Protocol):
    """Turns rows of the outbox into messages.

    It takes rows of ``pgoutbox.next_batch``, or of ``pgoutbox.next_batch_described`` if it needs
    keys, numbers or contexts.
    """

    needs_keys: bool  # the values of each row's key
    needs_numbers: bool  # of the events in their transactions
    needs_context: bool  # of the transactions
    fills_bucket: bool  # of NATS's key-value store

    def messages(
        self, rows: Rows, envelope: Envelope, numbers: Sequence[EventNumber] = ()
    ) -> list[Message]:
        """Return a message for each of ``rows``; ``numbers`` are theirs, if needed."""

    def message(self, event: Event) -> Message:
        """Return ``event`` as it is published."""


def format_of(config: MessageConfig, database: str) -> MessageFormat:
    """Return the format that the settings ask for, for events of the named database."""
    if config.bucket:
        return KeyValueFormat(config.bucket)
    naming = Naming(config.topic, config.topic_prefix, config.topics_map, database)
    subjects = Subjects(naming, config.subject)
    is_plain = config.content == "wal-listener" and not config.headers
    if is_plain and not config.context_field and not subjects.needs_key:
        return PlainFormat(subjects)
    return DescribedFormat(subjects, config, database)


class PlainFormat:
    """wal-listener's payload, no headers, no keys: the default, and as cheap as can be."""

    needs_keys = False
    needs_numbers = False
    needs_context = False
    fills_bucket = False

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects

    def messages(
        self, rows: Rows, envelope: Envelope, numbers: Sequence[EventNumber] = ()
    ) -> list[Message]:
        """Return a message for each of ``rows``; see :class:`MessageFormat`."""
        subject_of = self._subjects.of
        return [
            Message(subject_of(schema, table, action), event_id, payload, (), table)
            if emitted is None
            else Message(
                self._subjects.below(emitted.subject),
                event_id,
                payload,
                emitted.headers,
                is_emitted=True,
            )
            for event_id, payload, _, schema, table, action, emitted in envelope.around(rows)
        ]

    def message(self, event: Event) -> Message:
        """Return ``event`` as it is published."""
        subject = self._subjects.of(event.schema, event.table, event.action)
        return Message(subject, event.id, event.payload, (), event.table)


class DescribedFormat:
    """Messages with a key in their subjects, with headers, or as CloudEvents."""

    fills_bucket = False

    def __init__(self, subjects: Subjects, config: MessageConfig, database: str) -> None:
        cloudevents = CloudEvents(database)
        self._subjects = subjects
        self._headers: list[Callable[[Event], Headers]] = []
        self._payload: Callable[[Event], bytes] = lambda event: event.payload
        self._has_context_field = config.context_field
        if config.headers:
            self._headers.append(transaction_headers)
        if config.content == "cloudevents":
            self._headers.append(cloudevents.headers)
        elif config.content == "cloudevents-structured":
            self._headers.append(lambda _: STRUCTURED_HEADERS)
            self._payload = cloudevents.envelope
        self.needs_keys = subjects.needs_key or config.content != "wal-listener"
        self.needs_numbers = config.headers
        self.needs_context = config.headers or config.context_field

    def messages(
        self, rows: Rows, envelope: Envelope, numbers: Sequence[EventNumber] = ()
    ) -> list[Message]:
        """Return a message for each of ``rows``; see :class:`MessageFormat`."""
        return [self.message(event) for event in events(rows, envelope, numbers)]

    def message(self, event: Event) -> Message:
        """Return ``event`` as it is published."""
        if event.emitted is not None:
            return self._emitted(event, event.emitted)
        if self._has_context_field and event.transaction.context:
            field = b',"context":%b}' % event.transaction.context.encode()
            event = event._replace(payload=event.payload[:-1] + field)
        return Message(
            self._subjects.of(event.schema, event.table, event.action, event.key),
            event.id,
            self._payload(event),
            tuple(header for headers_of in self._headers for header in headers_of(event)),
            event.table,
        )

    def _emitted(self, event: Event, emitted: Emitted) -> Message:
        """Return an emitted event as it is published.

        Its own headers replace ours, but for what says that the payload is an envelope.
        """
        ours = [header for headers_of in self._headers for header in headers_of(event)]
        fixed = STRUCTURED_HEADERS if STRUCTURED_HEADERS[0] in ours else ()
        given = without(emitted.headers, fixed)
        return Message(
            self._subjects.below(emitted.subject),
            event.id,
            self._payload(event),
            (*without(ours, given), *given),
            is_emitted=True,
        )
