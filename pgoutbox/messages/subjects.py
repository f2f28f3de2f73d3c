"""Subjects: wal-listener's, or from a template; names and keys as tokens of one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from pgoutbox.messages.event import Event


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
    """Subjects from a template, whose placeholders are :data:`pgoutbox.config.kinds.PLACEHOLDERS`.

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


WAL_LISTENER_TEMPLATE = "{topic}.{prefix}{name}"


# NATS takes white space and control characters for the end of a subject, and a dot would make
# two tokens of a name, which `topic.*` doesn't cover. A % that would read as an escape is one.
_UNSAFE = re.compile(r"[\x00-\x20\x7f.]|%(?=[0-9A-Fa-f]{2})")

# A comma stands between values, * and > alone are wildcards, _ alone says that there is no key,
# and subjects that begin with $ are the server's own.
_UNSAFE_IN_TOKEN = re.compile(r"[\x00-\x20\x7f.,%]|\A\$|\A[*>_]\Z")


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
    return percent_encoded(name, _UNSAFE)


def token(value: str) -> str:
    """Return ``value`` as a token of a subject, or part of one, whatever stands beside it.

    Reversible with :func:`urllib.parse.unquote`. Never empty, unless ``value`` is.
    """
    return percent_encoded(value, _UNSAFE_IN_TOKEN)


def key_token(key: Sequence[str] | None) -> str:
    """Return a key's values as one token: each as :func:`token` gives it, commas between them.

    ``_`` where there is no key, ``%00`` for one that is empty, and for one that gets too long
    ``%00`` and the SHA-256 of the token that it would be, in hexadecimal.
    """
    if key is None:
        return _NO_KEY
    return bounded(",".join(map(token, key))) or _EMPTY_KEY


def bounded(key: str) -> str:
    """Return ``key``, or its SHA-256 where it is longer than 512 bytes of UTF-8."""
    encoded = key.encode()
    if len(encoded) > _LONGEST_KEY:
        return _DIGEST + hashlib.sha256(encoded).hexdigest()
    return key


def percent_encoded(text: str, unsafe: re.Pattern[str]) -> str:
    """Percent-encode the UTF-8 of each character that is ``unsafe``."""
    return unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
