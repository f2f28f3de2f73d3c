"""CloudEvents 1.0: an event's attributes, in headers or around its payload."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import quote

from pgoutbox.messages.event import Event, Headers
from pgoutbox.messages.headers import header_value
from pgoutbox.subjects import bounded, percent_encoded

STRUCTURED_HEADERS: Headers = (("Content-Type", "application/cloudevents+json"),)


class CloudEvents:
    """Describes the events of a database as CloudEvents' NATS protocol binding has it."""

    def __init__(self, database: str) -> None:
        self._source = f"/postgresql/{_segment(database)}"

    def headers(self, event: Event) -> Headers:
        """Return the attributes as headers: the binding's binary mode."""
        attributes = self._attributes(event)
        return tuple((f"ce-{name}", header_value(text)) for name, text in attributes.items())

    def envelope(self, event: Event) -> bytes:
        """Return attributes and payload in CloudEvents' JSON format: structured mode."""
        attributes = json.dumps(self._attributes(event), separators=(",", ":"))
        return b'%b,"data":%b}' % (attributes[:-1].encode(), event.payload)

    def _attributes(self, event: Event) -> dict[str, str]:
        """Return the attributes of CloudEvents 1.0 and of its extension for tracing."""
        attributes = {
            "specversion": "1.0",
            "id": event.id,
            "source": f"{self._source}/{_segment(event.schema)}/{_segment(event.table)}",
            "type": f"pgoutbox.{event.action.lower()}",
            "time": event.transaction.time,
            "datacontenttype": "application/json",
        }
        subject = bounded(
            ",".join(percent_encoded(value, _UNSAFE_IN_ATTRIBUTE) for value in event.key or ())
        )
        if subject:
            attributes["subject"] = subject
        if event.transaction.traceparent:
            attributes["traceparent"] = event.transaction.traceparent
        return attributes


# What a String of CloudEvents can't have: control characters and what isn't a character.
_NO_CHARACTERS = "".join(f"{chr(n + 0xFFFE)}{chr(n + 0xFFFF)}" for n in range(0, 0x110000, 0x10000))
_UNSAFE_IN_ATTRIBUTE = re.compile(f"[\x00-\x1f\x7f-\x9f,%\ufdd0-\ufdef{_NO_CHARACTERS}]")


@lru_cache
def _segment(name: str) -> str:
    """Return ``name`` as one segment of a URI's path."""
    return quote(name, safe="")
