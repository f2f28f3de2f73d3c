"""CloudEvents 1.0: an event's attributes, in headers or around its payload."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import quote

from pgoutbox.messages.event import Emitted, Event, Headers
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
        data = event.payload
        if event.emitted is not None and not _is_json(data):
            data = json.dumps(data.decode()).encode()
        return b'%b,"data":%b}' % (attributes[:-1].encode(), data)

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
        if event.emitted is not None:
            attributes |= self._of_emitted(event.emitted)
        return attributes

    def _of_emitted(self, emitted: Emitted) -> dict[str, str]:
        """Return what is different for an event of the application's own."""
        is_json = _is_json(emitted.payload)
        given = {name.lower(): value for name, value in emitted.headers}
        traceparent = given.get("traceparent")
        return {
            "source": self._source,
            "type": percent_encoded(emitted.subject, _UNSAFE_IN_ATTRIBUTE),
            "datacontenttype": given.get(
                "content-type", "application/json" if is_json else "text/plain"
            ),
            **({"traceparent": traceparent} if traceparent else {}),
        }


def _is_json(payload: bytes) -> bool:
    try:
        json.loads(payload, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# What a String of CloudEvents can't have: control characters and what isn't a character.
_NO_CHARACTERS = "".join(f"{chr(n + 0xFFFE)}{chr(n + 0xFFFF)}" for n in range(0, 0x110000, 0x10000))
_UNSAFE_IN_ATTRIBUTE = re.compile(f"[\x00-\x1f\x7f-\x9f,%\ufdd0-\ufdef{_NO_CHARACTERS}]")


@lru_cache
def _segment(name: str) -> str:
    """Return ``name`` as one segment of a URI's path."""
    return quote(name, safe="")
