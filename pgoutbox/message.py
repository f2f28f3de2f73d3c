"""Events as they are published: subject, id and payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Message(NamedTuple):
    """What goes to NATS for one event; ``id`` is its ``Nats-Msg-Id``.

    ``headers`` are further ones, as lines of the protocol: ``Name: value`` and CR LF each.
    """

    subject: str
    id: str
    payload: bytes
    headers: str = ""
    table: str = ""


class Subjects:
    """The subject of each table's events, as wal-listener builds it.

    ``topic + "." + topic_prefix + name``, where ``name`` is ``schema_table`` or what
    ``topics_map`` has for it (wal-listener ``internal/publisher/event.go``, ``SubjectName``).
    """

    def __init__(self, topic: str, topic_prefix: str, topics_map: Mapping[str, str]) -> None:
        self._stem = f"{topic}.{topic_prefix}"
        self._topics_map = topics_map
        self._known: dict[tuple[str, str], str] = {}

    def of(self, schema: str, table: str) -> str:
        """Return the subject for events of ``schema.table``."""
        subject = self._known.get((schema, table))
        if subject is None:
            name = f"{schema}_{table}"
            mapped = self._topics_map.get(name)
            subject = self._stem + (escape(name) if mapped is None else mapped)
            self._known[schema, table] = subject
        return subject


# NATS takes white space and control characters for the end of a subject, and a dot would make
# two tokens of a name, which `topic.*` doesn't cover.
_UNSAFE = re.compile(r"[\x00-\x20\x7f.]")
_LOOKS_ESCAPED = re.compile(r"%(?=[0-9A-F]{2})")


def escape(name: str) -> str:
    """Return ``name`` as one token of a subject.

    Percent-encodes what NATS would refuse or split at, and a ``%`` that would then read as an
    escape; other names, also those with ``*`` or ``>`` in them, stay as they are. Reversible
    with :func:`urllib.parse.unquote`.
    """
    escaped = _LOOKS_ESCAPED.sub("%25", name)
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", escaped)
