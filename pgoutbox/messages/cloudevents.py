"""Messages that differ from wal-listener's: other subjects, headers, CloudEvents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.messages.event import Event, Message
from pgoutbox.messages.headers import header_value, transaction_headers
from pgoutbox.messages.subjects import (
    WAL_LISTENER_TEMPLATE,
    Subjects,
    Template,
    bounded,
    percent_encoded,
)


class Described:
    """Messages that differ from wal-listener's: in their subjects, with headers, as CloudEvents.

    ``source`` is where events come from: the beginning of the attribute of that name, a
    URI-reference.
    """

    def __init__(self, config: PublisherConfig, source: str) -> None:
        subjects = Subjects(config.topic, config.topic_prefix, config.topics_map)
        template = config.subject or WAL_LISTENER_TEMPLATE
        self._subject_of = Template(template, subjects).of
        self._source = source
        self._parts: list[Callable[[Event], str]] = []
        if config.headers:
            self._parts.append(transaction_headers)
        if config.content == "cloudevents":
            self._parts.append(self._cloudevents_headers)
        elif config.content == "cloudevents-structured":
            self._parts.append(lambda _: "Content-Type: application/cloudevents+json\r\n")
        self._is_structured = config.content == "cloudevents-structured"
        self.needs_keys = "{key}" in template or config.content != "wal-listener"
        self.needs_places = config.headers

    def message(self, event: Event) -> Message:
        """Return ``event`` as it is published."""
        return Message(
            self._subject_of(event),
            event.id,
            self._envelope(event) if self._is_structured else event.payload,
            "".join(part(event) for part in self._parts),
            event.table,
        )

    def _cloudevents_headers(self, event: Event) -> str:
        """Return the attributes in headers: binary mode of CloudEvents' NATS protocol binding."""
        attributes = self._attributes(event)
        return "".join(f"ce-{name}: {header_value(text)}\r\n" for name, text in attributes.items())

    def _envelope(self, event: Event) -> bytes:
        """Return attributes and data in CloudEvents' JSON format, version 1.0."""
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


def form(config: PublisherConfig, database: str) -> Subjects | Described:
    """Return what makes messages: :class:`Subjects` alone where they are wal-listener's."""
    if config.subject or config.headers or config.content != "wal-listener":
        return Described(config, f"/postgresql/{_segment(database)}")
    return Subjects(config.topic, config.topic_prefix, config.topics_map)


# What a String of CloudEvents can't have: control characters and what isn't a character.
_NO_CHARACTERS = "".join(f"{chr(n + 0xFFFE)}{chr(n + 0xFFFF)}" for n in range(0, 0x110000, 0x10000))
_UNSAFE_IN_ATTRIBUTE = re.compile(f"[\x00-\x1f\x7f-\x9f,%\ufdd0-\ufdef{_NO_CHARACTERS}]")


@lru_cache
def _segment(name: str) -> str:
    """Return ``name`` as one segment of a URI's path."""
    return quote(name, safe="")
