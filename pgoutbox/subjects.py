"""Subjects: templates and their placeholders, and names and keys as tokens of a subject."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from string import Formatter
from typing import NamedTuple


class Naming(NamedTuple):
    """What the settings and the database contribute to each subject of a relay."""

    topic: str
    prefix: str = ""
    topics_map: Mapping[str, str] = {}  # by schema_table
    database: str = ""


class Origin(NamedTuple):
    """What an event contributes to its subject; ``key`` has the values of the key's columns."""

    schema: str
    table: str
    action: str
    key: Sequence[str] | None = None


class Placeholder(NamedTuple):
    """What a template of subjects may have between braces."""

    name: str
    meaning: str  # in Markdown
    value: Callable[[Naming, Origin], str]
    # What replaces it in the subjects of a stream that has to store every value.
    wildcards: Callable[[Naming], Sequence[str]] = lambda _: ["*"]
    needs_key: bool = False  # its value depends on the row's key


def _name(naming: Naming, origin: Origin) -> str:
    name = f"{origin.schema}_{origin.table}"
    mapped = naming.topics_map.get(name)
    return escape(name) if mapped is None else mapped


# Settings (topic, prefix, an entry of the topics map) are used as they are; everything else is
# encoded into part of one token.
PLACEHOLDERS = {
    placeholder.name: placeholder
    for placeholder in (
        Placeholder(
            "topic",
            "the setting `topic`, as it is",
            lambda naming, _: naming.topic,
            wildcards=lambda naming: [naming.topic],
        ),
        Placeholder(
            "prefix",
            "the setting `topicPrefix`, as it is",
            lambda naming, _: naming.prefix,
            wildcards=lambda naming: [naming.prefix],
        ),
        Placeholder(
            "name",
            "`schema_table`, or what `topicsMap` has for it, as it is",
            _name,
            wildcards=lambda naming: ["*", *naming.topics_map.values()],
        ),
        Placeholder("database", "the database's name", lambda naming, _: token(naming.database)),
        Placeholder("schema", "as in the payload", lambda _, origin: token(origin.schema)),
        Placeholder("table", "as in the payload", lambda _, origin: token(origin.table)),
        Placeholder("action", "as in the payload", lambda _, origin: origin.action),
        Placeholder(
            "key",
            "the row's key, [see below](#the-key)",
            lambda _, origin: key_token(origin.key),
            needs_key=True,
        ),
    )
}

WAL_LISTENER_TEMPLATE = "{topic}.{prefix}{name}"

_SAMPLE = "x"  # of any placeholder's value, to check a template


class Template:
    """A subject with placeholders between braces, as :meth:`str.format` has them.

    Raises:
        ValueError: it can't make a subject; the text continues a sentence about it.
    """

    def __init__(self, text: str) -> None:
        self.parts = tuple(_parts(text))
        sample = "".join(part if isinstance(part, str) else _SAMPLE for part in self.parts)
        if not is_subject(sample) or re.search(r"(^|\.)[*>](\.|$)", sample):
            raise ValueError("must make a subject: no spaces, no empty part, no wildcard")
        if is_reserved(sample):
            raise ValueError(f"must not begin with {sample.partition('.')[0]}: {RESERVED}")

    @property
    def needs_key(self) -> bool:
        """Whether subjects differ by the key of the row."""
        return any(part.needs_key for part in self.parts if isinstance(part, Placeholder))

    def patterns(self, naming: Naming) -> list[str]:
        """Return subjects with ``*`` for whatever depends on the event.

        Together they match every subject that the template makes. A token of which only a part
        depends on the event is ``*`` as a whole.
        """
        placeholders = dict.fromkeys(part for part in self.parts if isinstance(part, Placeholder))
        choices = [
            [(placeholder, wildcard) for wildcard in placeholder.wildcards(naming)]
            for placeholder in placeholders
        ]
        found = []
        for chosen in map(dict, product(*choices)):
            parts = (part if isinstance(part, str) else chosen[part] for part in self.parts)
            found.append(re.sub(r"[^.]*\*[^.]*", "*", "".join(parts)))
        return list(dict.fromkeys(found))


def _parts(template: str) -> Iterator[str | Placeholder]:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        raise ValueError("must have its braces in pairs") from None
    for literal, name, spec, conversion in parsed:
        if literal:
            yield literal
        if name is None:
            continue
        if name not in PLACEHOLDERS or spec or conversion:
            known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
            raise ValueError(f"has an unknown {{{name}}}; there are {known}")
        yield PLACEHOLDERS[name]


class Subjects:
    """The subjects of a relay's messages.

    By default wal-listener's: ``topic + "." + prefix + name``, where ``name`` is ``schema_table``
    or what ``topics_map`` has for it (wal-listener ``internal/publisher/event.go``,
    ``SubjectName``).
    """

    def __init__(self, naming: Naming, template: str = WAL_LISTENER_TEMPLATE) -> None:
        self._naming = naming
        self._template = Template(template)
        self._of_rows = [
            (index, part)
            for index, part in enumerate(self._template.parts)
            if isinstance(part, Placeholder) and part.needs_key
        ]
        self._known: dict[tuple[str, str, str], list[str]] = {}

    @property
    def needs_key(self) -> bool:
        """Whether subjects differ by the key of the row."""
        return bool(self._of_rows)

    def of(self, schema: str, table: str, action: str, key: Sequence[str] | None = None) -> str:
        """Return the subject of an event; ``key`` counts where :attr:`needs_key` is true."""
        parts = self._known.get((schema, table, action))
        if parts is None:
            parts = self._known[schema, table, action] = self._fill(schema, table, action)
        if not self._of_rows:
            return parts[0]
        parts, origin = parts.copy(), Origin(schema, table, action, key)
        for index, placeholder in self._of_rows:
            parts[index] = placeholder.value(self._naming, origin)
        return "".join(parts)

    def below(self, subject: str) -> str:
        """Return the subject of an emitted event: topic and prefix before the given one."""
        return f"{self._naming.topic}.{self._naming.prefix}{subject}"

    def _fill(self, *table: str) -> list[str]:
        """Return what is the same in all such events of a table, in one piece where that is all."""
        origin = Origin(*table)
        parts = [
            part if isinstance(part, str) else part.value(self._naming, origin)
            for part in self._template.parts
        ]
        return parts if self._of_rows else ["".join(parts)]


# White space and control characters end a subject, and a part between two dots can't be empty.
_PART = r"[^\x00-\x20\x7f\ud800-\udfff.]+"
_SUBJECT = re.compile(rf"{_PART}(\.{_PART})*")


def is_subject(text: str) -> bool:
    """Return True if NATS accepts ``text`` as a subject."""
    return bool(_SUBJECT.fullmatch(text))


RESERVED = "subjects that begin so are the NATS server's own"


def is_reserved(subject: str) -> bool:
    """Return True if the server itself answers on ``subject``."""
    return subject.partition(".")[0] in ("$JS", "$SYS")


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
_EMPTY_VALUE = "=00"


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
    """Return ``key``, or its SHA-256 if it is longer than 512 bytes of UTF-8."""
    encoded = key.encode()
    if len(encoded) > _LONGEST_KEY:
        return _DIGEST + hashlib.sha256(encoded).hexdigest()
    return key


# Characters that a key of NATS's key-value store may have (ADR-8) but for what we write between
# columns and before an escape. Keys that begin with _kv are the store's own.
_UNSAFE_IN_BUCKET = re.compile(r"[^A-Za-z0-9/_-]|\A_(?=kv)")


def bucket_stream(bucket: str) -> str:
    """Return the name of the stream that a key-value bucket is."""
    return f"KV_{bucket}"


def bucket_subjects(bucket: str) -> str:
    """Return what matches the subjects of all keys of a bucket."""
    return f"$KV.{bucket}.>"


def bucket_key(key: Sequence[str]) -> str:
    """Return a row's key as NATS's key-value store takes it: its values, dots between them.

    Of each value the UTF-8 of what isn't an ASCII letter, digit, ``/``, ``_`` or ``-`` is ``=`` and
    two hexadecimal digits, so :func:`urllib.parse.unquote` reverses it once ``=`` is ``%``. An
    empty value is ``=00``, and a key that gets longer than 512 bytes is ``=00`` and the SHA-256 of
    what it would be, in hexadecimal: no value has a NUL in it.
    """
    values = (
        percent_encoded(value, _UNSAFE_IN_BUCKET).replace("%", "=") or _EMPTY_VALUE for value in key
    )
    text = ".".join(values)
    if len(text) > _LONGEST_KEY:
        return _EMPTY_VALUE + hashlib.sha256(text.encode()).hexdigest()
    return text


def percent_encoded(text: str, unsafe: re.Pattern[str]) -> str:
    """Percent-encode the UTF-8 of each character that is ``unsafe``."""
    return unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
