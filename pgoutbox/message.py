"""Events as they are published: subject, id, headers and payload."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from pgoutbox.config import PublisherConfig


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


class Enveloped(NamedTuple):
    """An event with wal-listener's JSON around its rows."""

    id: str
    payload: bytes
    time: str  # of its commit, as the payload has it


class Envelope:
    """Puts id, names and commit time around rendered rows, as wal-listener's JSON has them.

    Ids are made as ``sql/relay/event_id_prefix.sql`` says; ``installation`` goes into them.
    """

    def __init__(self, installation: UUID) -> None:
        self._installation = installation.bytes
        self._names: dict[tuple[str, str, str], bytes] = {}
        self._second: int | None = None  # that the latest text below is of
        self._second_text = ""

    def around(self, rows: Iterable[Iterable[Any]]) -> Iterator[Enveloped]:
        """Yield each of ``rows`` of ``pgoutbox.next_batch()`` in its envelope."""
        source = None
        for _, seq, schema, table, action, new_row, old_row, its_source, *_ in rows:
            if its_source != source:
                source = its_source
                digits = hashlib.sha256(self._installation + source).hexdigest()
                prefix = f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-"
                time = self._time(source)
                end = f',"commitTime":"{time}"}}'.encode()
            event_id = f"{prefix}{seq & 0xFFFFFFFFFFFF:012x}"
            names = self._names.get((schema, table, action)) or self._named(schema, table, action)
            payload = b"".join((
                b'{"id":"', event_id.encode(), names, new_row or b"{}",
                b',"dataOld":', old_row or b"{}", end,
            ))  # fmt: skip
            yield Enveloped(event_id, payload, time)

    def _named(self, *names: str) -> bytes:
        texts = (json.dumps(name, ensure_ascii=False) for name in names)
        named = '","schema":{},"table":{},"action":{},"data":'.format(*texts).encode()
        self._names[names] = named  # type: ignore[index]
        return named

    def _time(self, source: bytes) -> str:
        """Return the commit time as RFC 3339 has it: in UTC, without zeros at its end."""
        second, fraction = divmod(_microseconds(source), 1_000_000)
        if second != self._second:
            moment = _EPOCH + timedelta(seconds=second)
            self._second, self._second_text = second, f"{moment:%Y-%m-%dT%H:%M:%S}"
        if fraction % 10:  # as it mostly is
            return f"{self._second_text}.{fraction:06}Z"
        return f"{self._second_text}.{fraction:06}".rstrip("0").rstrip(".") + "Z"


def commit_time(source: bytes) -> float:
    """Return when the transaction of an ``id_source`` was committed: seconds, of Unix."""
    return _EPOCH.timestamp() + _microseconds(source) / 1e6


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's


def _microseconds(source: bytes) -> int:
    return int.from_bytes(source[16:], "big", signed=True)


class Subjects:
    """The subject of each table's events, as wal-listener builds it.

    ``topic + "." + topic_prefix + name``, where ``name`` is ``schema_table`` or what
    ``topics_map`` has for it (wal-listener ``internal/publisher/event.go``, ``SubjectName``).
    """

    def __init__(self, topic: str, topic_prefix: str, topics_map: Mapping[str, str]) -> None:
        self.topic = topic
        self.topic_prefix = topic_prefix
        self._topics_map = topics_map
        self._known: dict[tuple[str, str], str] = {}

    def of(self, schema: str, table: str) -> str:
        """Return the subject for events of ``schema.table``."""
        subject = self._known.get((schema, table))
        if subject is None:
            subject = f"{self.topic}.{self.topic_prefix}{self.name(schema, table)}"
            self._known[schema, table] = subject
        return subject

    def name(self, schema: str, table: str) -> str:
        """Return the last part of the subject."""
        name = f"{schema}_{table}"
        mapped = self._topics_map.get(name)
        return escape(name) if mapped is None else mapped


class Template:
    """Subjects from a template, whose placeholders are :data:`pgoutbox.kinds.PLACEHOLDERS`.

    What the configuration says (topic, prefix, an entry of the topics map) stands as it is;
    everything else becomes part of one token.
    """

    def __init__(self, template: str, subjects: Subjects) -> None:
        self._template = template
        self._subjects = subjects
        self._known: dict[tuple[str, str, str], list[str]] = {}

    def of(self, event: Event) -> str:
        """Return the subject of ``event``."""
        table = (event.schema, event.table, event.action)
        around_key = self._known.get(table)
        if around_key is None:
            around_key = self._known[table] = self._fill(*table)
        return around_key[0] if len(around_key) == 1 else key_token(event.key).join(around_key)

    def _fill(self, schema: str, table: str, action: str) -> list[str]:
        """Return the subject's parts before, between and after its keys."""
        return self._template.format(
            topic=self._subjects.topic,
            prefix=self._subjects.topic_prefix,
            name=self._subjects.name(schema, table),
            schema=token(schema),
            table=token(table),
            action=action,
            key="\0",
        ).split("\0")


class Described:
    """Messages that differ from wal-listener's: in their subjects, with headers, as CloudEvents.

    ``source`` is where events come from: the beginning of the attribute of that name, a
    URI-reference.
    """

    def __init__(self, config: PublisherConfig, source: str) -> None:
        subjects = Subjects(config.topic, config.topic_prefix, config.topics_map)
        template = config.subject or _WAL_LISTENER_SUBJECT
        self._subject_of = Template(template, subjects).of
        self._source = source
        self._parts: list[Callable[[Event], str]] = []
        if config.headers:
            self._parts.append(_headers)
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
        subject = _bounded(
            ",".join(_encoded(value, _UNSAFE_IN_ATTRIBUTE) for value in event.key or ())
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


def _headers(event: Event) -> str:
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


_WAL_LISTENER_SUBJECT = "{topic}.{prefix}{name}"

# Version 00 of W3C Trace Context (section 3.2.2), in which neither id is all zeros.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

# NATS takes white space and control characters for the end of a subject, and a dot would make
# two tokens of a name, which `topic.*` doesn't cover. A % that would read as an escape is one.
_UNSAFE = re.compile(r"[\x00-\x20\x7f.]|%(?=[0-9A-Fa-f]{2})")

# A comma stands between values, * and > alone are wildcards, _ alone says that there is no key,
# and subjects that begin with $ are the server's own.
_UNSAFE_IN_TOKEN = re.compile(r"[\x00-\x20\x7f.,%]|\A\$|\A[*>_]\Z")

# CloudEvents' NATS protocol binding, section 3.1.3.2: good for any header.
_UNSAFE_IN_HEADER = re.compile(r'[^\x21-\x7e]|["%]')

# What a String of CloudEvents can't have: control characters and what isn't a character.
_NO_CHARACTERS = "".join(f"{chr(n + 0xFFFE)}{chr(n + 0xFFFF)}" for n in range(0, 0x110000, 0x10000))
_UNSAFE_IN_ATTRIBUTE = re.compile(f"[\x00-\x1f\x7f-\x9f,%\ufdd0-\ufdef{_NO_CHARACTERS}]")

_NO_KEY = "_"
# Bytes. nats-server ends connections for lines of more than 4,096, and a stream refuses messages
# with more than 64 KiB of headers.
_LONGEST_KEY = 512
# No value of PostgreSQL's has a NUL in it.
_EMPTY_KEY = _DIGEST = "%00"


def escape(name: str) -> str:
    """Return ``name`` as one token of a subject.

    Percent-encodes what NATS would refuse or split at, and a ``%`` that would then read as an
    escape; other names, also those with ``*`` or ``>`` in them, stay as they are. Reversible
    with :func:`urllib.parse.unquote`.
    """
    return _encoded(name, _UNSAFE)


def token(value: str) -> str:
    """Return ``value`` as a token of a subject, or part of one, whatever stands beside it.

    Reversible with :func:`urllib.parse.unquote`. Never empty, unless ``value`` is.
    """
    return _encoded(value, _UNSAFE_IN_TOKEN)


def key_token(key: Sequence[str] | None) -> str:
    """Return a key's values as one token: each as :func:`token` gives it, commas between them.

    ``_`` where there is no key, ``%00`` for one that is empty, and for one that gets too long
    ``%00`` and the SHA-256 of the token that it would be, in hexadecimal.
    """
    if key is None:
        return _NO_KEY
    return _bounded(",".join(map(token, key))) or _EMPTY_KEY


def _bounded(key: str) -> str:
    encoded = key.encode()
    if len(encoded) > _LONGEST_KEY:
        return _DIGEST + hashlib.sha256(encoded).hexdigest()
    return key


def header_value(text: str) -> str:
    """Return ``text`` in visible ASCII; reversible with :func:`urllib.parse.unquote`."""
    return _encoded(text, _UNSAFE_IN_HEADER)


def _encoded(text: str, unsafe: re.Pattern[str]) -> str:
    """Percent-encode the UTF-8 of each character that is ``unsafe``."""
    return unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


@lru_cache
def _segment(name: str) -> str:
    """Return ``name`` as one segment of a URI's path."""
    return quote(name, safe="")
