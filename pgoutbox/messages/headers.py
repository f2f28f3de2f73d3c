"""Headers that describe an event."""

from __future__ import annotations

import re

from pgoutbox.messages.event import Event
from pgoutbox.messages.subjects import percent_encoded


def transaction_headers(event: Event) -> str:
    """Return the headers that name an event's table, action and transaction."""
    transaction = event.transaction
    lines = (
        f"Pgoutbox-Schema: {header_value(event.schema)}\r\n"
        f"Pgoutbox-Table: {header_value(event.table)}\r\n"
        f"Pgoutbox-Action: {event.action}\r\n"
        f"Pgoutbox-Transaction: {transaction.position}\r\n"
        f"Pgoutbox-Transaction-Event: {event.place}\r\n"
        f"Pgoutbox-Transaction-Size: {transaction.size}\r\n"
        f"Pgoutbox-Commit-Time: {transaction.time}\r\n"
    )
    if transaction.traceparent:
        lines += f"traceparent: {transaction.traceparent}\r\n"
    return lines


# CloudEvents' NATS protocol binding, section 3.1.3.2: good for any header.
_UNSAFE_IN_HEADER = re.compile(r'[^\x21-\x7e]|["%]')


def header_value(text: str) -> str:
    """Return ``text`` in visible ASCII; reversible with :func:`urllib.parse.unquote`."""
    return percent_encoded(text, _UNSAFE_IN_HEADER)
