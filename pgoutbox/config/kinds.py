"""What values a setting may have: how each kind is read, checked, and shown in the help."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from pgoutbox.config import conninfo
from pgoutbox.names import ACTIONS, MOST_SHARDS, Address, Shard, TableName, suggest
from pgoutbox.subjects import Template, is_subject


class Wrong(ValueError):
    """What a value should have been."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a setting may have, and how they are shown in the help."""

    read: Callable[[object], object]  # raises Wrong
    metavar: str
    show: Callable[[Any], str] = str


def read_text(value: object) -> str:
    """Read anything but a list or a map."""
    if isinstance(value, (dict, list)) or value is None:
        raise Wrong("must be a text")
    return str(value)


TEXT = Kind(read_text, "TEXT")
FILE = Kind(read_text, "FILE")


_YES = ("1", "t", "true", "y", "yes", "on")
_NO = ("", "0", "f", "false", "n", "no", "off")


def _read_truth(value: object) -> bool:
    """Read what switches something on; what isn't plainly a no counts as a yes."""
    return str(value).strip().lower() not in _NO


def _read_bool(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _YES + _NO:
        raise Wrong("must be true or false")
    return word in _YES


def _show_bool(value: bool) -> str:
    return str(value).lower()


TRUTH = Kind(_read_truth, "BOOL", _show_bool)
BOOL = Kind(_read_bool, "BOOL", _show_bool)


def choice(*choices: str, aliases: Mapping[str, str] | None = None) -> Kind:
    """Return the kind of a setting that has one of a few values, whatever their case."""

    def read(value: object) -> str:
        word = str(value).lower()
        word = (aliases or {}).get(word, word)
        if word not in choices:
            raise Wrong(f"must be one of {', '.join(choices)}")
        return word

    return Kind(read, f"[{'|'.join(choices)}]")


def whole(lowest: int, highest: int) -> Kind:
    """Return the kind of a whole number in a range."""

    def read(value: object) -> int:
        digits = str(value).strip().replace("_", "")
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}", digits, re.ASCII):
            raise Wrong(f"must be a whole number from {lowest:,} to {highest:,}")
        if not lowest <= int(digits) <= highest:
            raise Wrong(f"must be from {lowest:,} to {highest:,}")
        return int(digits)

    return Kind(read, "N")


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?\s*", re.ASCII)


def duration(lowest: float, highest: float) -> Kind:
    """Return the kind of a duration: seconds, or as Go writes it, 500ms, 15m, 1m30s."""

    def read(value: object) -> float:
        written = str(value).strip()
        parts = _DURATION.findall(written)
        if isinstance(value, bool) or not parts or _DURATION.sub("", written):
            raise Wrong("must be a duration such as 500ms, 10s or 15m")
        seconds = math.fsum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
        if not lowest <= seconds <= highest:
            raise Wrong(f"must be from {show_duration(lowest)} to {show_duration(highest)}")
        return seconds

    return Kind(read, "DURATION", show_duration)


def show_duration(seconds: float) -> str:
    """Return a duration as one would write it: in the largest unit that leaves it whole."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    unit = next((unit for unit in ("h", "m") if seconds and seconds % _SECONDS[unit] == 0), "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


_BYTES = {"": 1, "b": 1, "kib": 1024, "kb": 1024, "mib": 1024**2, "mb": 1024**2}


def size(lowest: int, highest: int) -> Kind:
    """Return the kind of a number of bytes, with or without a unit."""

    def read(value: object) -> int:
        found = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).strip().lower(), re.ASCII)
        if not found or found[2] not in _BYTES:
            raise Wrong("must be a size such as 65536, 512KiB or 4MiB")
        number = int(found[1]) * _BYTES[found[2]]
        if not lowest <= number <= highest:
            raise Wrong(f"must be from {_show_size(lowest)} to {_show_size(highest)}")
        return number

    return Kind(read, "SIZE", _show_size)


def _show_size(number: int) -> str:
    unit = next((unit for unit in ("MiB", "KiB") if number % _BYTES[unit.lower()] == 0), "B")
    return f"{number // _BYTES[unit.lower()]}{unit}"


def _read_relay_name(value: object) -> str:
    name = read_text(value)
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise Wrong("must have 1 to 100 printable characters")
    return name


RELAY_NAME = Kind(_read_relay_name, "NAME")


def _read_relay_names(value: object) -> tuple[str, ...]:
    names = [name.strip() for text in _listed(value) for name in text.split(",")]
    return tuple(dict.fromkeys(map(_read_relay_name, names)))


RELAY_NAMES = Kind(_read_relay_names, "NAMES")


_IDENTIFIER = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
_TABLE_NAMES = re.compile(rf"\s*({_IDENTIFIER})(?:\s*\.\s*({_IDENTIFIER}))?\s*(?:,|\Z)")


def _read_tables(value: object) -> tuple[TableName, ...]:
    """Read tables as SQL names them, with commas between them."""
    text = ",".join(_listed(value))
    names: set[TableName] = set()
    end = 0
    while end < len(text):
        found = _TABLE_NAMES.match(text, end)
        if not found:
            raise Wrong("must be tables as in SQL: users,billing.invoices,'\"Odd Name\"'")
        parts = [_folded(part) for part in found.groups() if part]
        names.add(TableName(parts[0] if len(parts) > 1 else None, parts[-1]))
        end = found.end()
    return tuple(sorted(names, key=str))


def _listed(value: object) -> list[str]:
    return [read_text(each) for each in value] if isinstance(value, list) else [read_text(value)]


def _folded(identifier: str) -> str:
    """Return the name that PostgreSQL takes an identifier for."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()


TABLES = Kind(_read_tables, "LIST", lambda names: ",".join(map(str, names)))


def _read_shard(value: object) -> Shard:
    found = re.fullmatch(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", read_text(value), re.ASCII)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of <= MOST_SHARDS:
        raise Wrong(f"must be a shard such as 2/8: from 1/N to N/N, and N at most {MOST_SHARDS}")
    return shard


SHARD = Kind(_read_shard, "I/N")


def _read_address(value: object) -> Address:
    """Read HOST:PORT; a port alone is the loopback's, and ``:PORT``, as in Go, is everybody's."""
    host, colon, port = str(value).strip().rpartition(":")
    is_port = re.fullmatch(r"\d{1,5}", port, re.ASCII) and 1 <= int(port) <= 65535
    if isinstance(value, bool) or not is_port or (":" in host and not host.startswith("[")):
        raise Wrong("must be an address to listen at, such as 8080, :8080 or 127.0.0.1:8080")
    return Address(host.strip("[]") if colon else "127.0.0.1", int(port))


def _read_port(value: object) -> Address | None:
    """Read a port of all interfaces; 0 is none."""
    port = cast(int, whole(0, 65535).read(value))
    return Address("", port) if port else None


ADDRESS = Kind(_read_address, "ADDRESS")
PORT = Kind(_read_port, "N")


def is_stream_name(text: str) -> bool:
    """Tell whether NATS takes ``text`` for the name of a stream."""
    return text.isprintable() and not re.search(r"[\s.*>/\\]", text) and bool(text)


def _read_stream(value: object) -> str:
    name = read_text(value)
    if not is_stream_name(name):
        raise Wrong("must be a stream's name: not empty, without spaces and . * > / \\")
    return name


def _read_topic(value: object) -> str:
    topic = read_text(value)
    if not is_subject(topic) or re.search(r"[*>/\\]", topic) or not topic.isprintable():
        raise Wrong("must be the beginning of a subject: not empty, without spaces and * > / \\")
    return topic


def _read_topic_prefix(value: object) -> str:
    prefix = read_text(value)
    if not is_subject(f"{prefix}x"):
        raise Wrong("must be part of a subject: no spaces, no empty part before or between dots")
    return prefix


STREAM = Kind(_read_stream, "NAME")
TOPIC = Kind(_read_topic, "NAME")
TOPIC_PREFIX = Kind(_read_topic_prefix, "TEXT")


def _read_inbox_prefix(value: object) -> str:
    prefix = read_text(value).removesuffix(".")
    if not is_subject(prefix) or re.search(r"(^|\.)[*>](\.|$)", prefix):
        raise Wrong("must be a subject such as _INBOX_pgoutbox, without wildcards")
    return prefix


INBOX_PREFIX = Kind(_read_inbox_prefix, "SUBJECT")


def _read_template(value: object) -> str:
    text = read_text(value)
    try:
        Template(text)
    except ValueError as error:
        raise Wrong(str(error)) from None
    return text


TEMPLATE = Kind(_read_template, "TEMPLATE")


def _read_nats_url(value: object) -> str:
    urls = [_one_nats_url(url.strip()) for url in re.split(r",\s*(?=\S)", read_text(value))]
    return ",".join(urls)


def _one_nats_url(text: str) -> str:
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # its text may hold a part of the password
        is_good = False
    if not is_good or parts.scheme not in ("nats", "tls"):
        raise Wrong("must be a URL such as nats://localhost:4222")
    return url


NATS_URL = Kind(_read_nats_url, "URL")


def _read_dsn(value: object) -> str:
    """Return a URL, or libpq's ``keyword=value …``, that :mod:`conninfo` can read."""
    text = read_text(value).strip()
    try:
        conninfo.read(text)
    except conninfo.Unreadable as error:
        raise Wrong(f"{error}. {conninfo.ENCODE}") from error
    except conninfo.ConninfoError as error:
        raise Wrong(str(error)) from error
    return text


DSN = Kind(_read_dsn, "URL")


def _read_topics_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Wrong("must map schema_table to the last part of a subject")
    # wal-listener's loader lowers all keys, and working set-ups depend on it.
    return {str(key).lower(): read_text(subject) for key, subject in value.items()}


def _read_filter_tables(value: object) -> dict[str, tuple[str, ...]]:
    """Read wal-listener's filter, leaving out actions that there aren't, as its own reader does."""
    if not isinstance(value, dict):
        raise Wrong("must map each table to a list of actions")
    tables = {str(table): _action_names(names, f" of {table}") for table, names in value.items()}
    return {table: _in_order(names) for table, names in tables.items()}


def unknown_actions(value: object) -> Iterator[str]:
    """Yield a sentence for each action in wal-listener's filter that there isn't."""
    for table, names in value.items() if isinstance(value, dict) else ():
        for action in _action_names(names, ""):
            if action not in ACTIONS:
                yield f"has an unknown action {action!r} of {table}{suggest(action, ACTIONS)}"


TOPICS_MAP = Kind(_read_topics_map, "MAP")
FILTER_TABLES = Kind(_read_filter_tables, "MAP")


def read_actions(value: object) -> tuple[str, ...]:
    """Read a list of actions, or their names with commas; each once, in wal-listener's spelling."""
    actions = _action_names(value, "")
    for action in actions:
        if action not in ACTIONS:
            raise Wrong(f"has an unknown action {action!r}{suggest(action, ACTIONS)}")
    return _in_order(actions)


def _action_names(value: object, of: str) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise Wrong(f"must have a list of the actions{of}: insert, update, delete, truncate")
    return [action for name in names if (action := str(name).strip().upper())]


def _in_order(actions: list[str]) -> tuple[str, ...]:
    return tuple(action for action in ACTIONS if action in actions)
