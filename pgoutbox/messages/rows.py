"""Rows of the outbox as events, with what messages may say about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from pgoutbox.messages.envelope import Envelope
from pgoutbox.messages.event import Event, EventNumber, Transaction

Rows = Sequence[Iterable[Any]]


def events(rows: Rows, envelope: Envelope, numbers: Sequence[EventNumber]) -> Iterator[Event]:
    """Yield the event of each row of ``pgoutbox.next_batch_described``."""
    transaction = Transaction(0, 0, "", None)
    each = zip(rows, envelope.around(rows), numbers or repeat(EventNumber(0, 0)), strict=False)
    for row, (event_id, payload, time, schema, table, action, emitted), number in each:
        position, *others = row
        traceparent, key, context, *old_key = others[11:15]
        if position != transaction.position:
            transaction = Transaction.of(position, number.size, time, traceparent, context)
        yield Event(
            event_id,
            schema,
            table,
            action,
            key,
            payload,
            transaction,
            number.number,
            emitted,
            others[4],
            *old_key,
        )
