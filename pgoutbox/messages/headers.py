"""Headers: those that describe an event, and how NATS writes any."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgoutbox.messages.event import Event, Headers
from pgoutbox.subjects import percent_encoded


def transaction_headers(event: Event) -> Headers:
    """Return the headers of ``--headers``: table, action, transaction, context and trace."""
    transaction = event.transaction
    table = (
        ("Pgoutbox-Schema", header_value(event.schema)),
        ("Pgoutbox-Table", header_value(event.table)),
    )
    of_transaction = (
        ("Pgoutbox-Transaction", str(transaction.position)),
        ("Pgoutbox-Transaction-Event", str(event.number)),
        ("Pgoutbox-Transaction-Size", str(transaction.size)),
    )
    headers: Headers = (
        *(table if event.emitted is None else ()),
        ("Pgoutbox-Action", event.action),
        *(of_transaction if event.number else ()),  # a snapshot's row belongs to none
        ("Pgoutbox-Commit-Time", transaction.time),
    )
    if transaction.context:
        headers += (("Pgoutbox-Context", transaction.context),)
    if transaction.traceparent:
        headers += (("traceparent", transaction.traceparent),)
    return headers


def without(headers: Iterable[tuple[str, str]], others: Headers) -> Headers:
    """Return ``headers`` but for those whose names are also in ``others``, in whatever case."""
    names = {name.lower() for name, _ in others}
    return tuple(header for header in headers if header[0].lower() not in names)


# CloudEvents' NATS protocol binding, section 3.1.3.2: good for any header.
_UNSAFE_IN_HEADER = re.compile(r'[^\x21-\x7e]|["%]')


def header_value(text: str) -> str:
    """Return ``text`` in visible ASCII; reversible with :func:`urllib.parse.unquote`."""
    return percent_encoded(text, _UNSAFE_IN_HEADER)


def header_lines(headers: Headers) -> str:
    """Return ``headers`` as NATS's client protocol has them: ``Name: value`` and CR LF each."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers)
