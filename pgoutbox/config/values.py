"""Types of values that settings accept: how each is parsed, checked, and shown in the help."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pgoutbox.config import conninfo
from pgoutbox.names import ACTIONS, MOST_SHARDS, Address, Hours, Shard, TableName, suggest
from pgoutbox.subjects import RESERVED, Template, is_reserved, is_subject


class InvalidValue(ValueError):
    """What a value should have been, as the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """The values that a setting accepts: how they are parsed, named in the help, and shown."""

    parse: Callable[[object], object]  # raises InvalidValue
    metavar: str
    show: Callable[[Any], str] = str


def parse_text(value: object) -> str:
    """Return the text of anything but a list or a map."""
    if isinstance(value, (dict, list)) or value is None:
        raise InvalidValue("must be text")
    return str(value)


def file_with(contents: ValueType) -> ValueType:
    """Return the type of files that hold one value of another type, perhaps with a line break."""

    def parse(value: object) -> object:
        path = Path(parse_text(value))
        try:
            text = path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it isn't UTF-8"
            raise InvalidValue(f"names {path}, which can't be read: {reason}") from error
        if not text:
            raise InvalidValue(f"names {path}, which is empty")
        try:
            return contents.parse(text)
        except InvalidValue as error:
            raise InvalidValue(f"names {path}, whose contents {error}") from None

    return ValueType(parse, "FILE")


TEXT = ValueType(parse_text, "TEXT")
FILE = ValueType(parse_text, "FILE")


_YES = ("1", "t", "true", "y", "yes", "on")
_NO = ("", "0", "f", "false", "n", "no", "off")


def _parse_lenient_bool(value: object) -> bool:
    """Return False for the usual words for no, True for anything else."""
    return str(value).strip().lower() not in _NO


def _parse_bool(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _YES + _NO:
        raise InvalidValue("must be true or false")
    return word in _YES


def _show_bool(value: bool) -> str:
    return str(value).lower()


LENIENT_BOOL = ValueType(_parse_lenient_bool, "BOOL", _show_bool)
BOOL = ValueType(_parse_bool, "BOOL", _show_bool)


def choice(*choices: str, aliases: Mapping[str, str] | None = None) -> ValueType:
    """Return the type of one of a few words, in upper or lower case."""

    def parse(value: object) -> str:
        word = str(value).lower()
        word = (aliases or {}).get(word, word)
        if word not in choices:
            raise InvalidValue(f"must be one of {', '.join(choices)}")
        return word

    return ValueType(parse, f"[{'|'.join(choices)}]")


def integer(lowest: int, highest: int) -> ValueType:
    """Return the type of whole numbers in a range."""

    def parse(value: object) -> int:
        digits = str(value).strip().replace("_", "")
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}", digits, re.ASCII):
            raise InvalidValue(f"must be a whole number from {lowest:,} to {highest:,}")
        if not lowest <= int(digits) <= highest:
            raise InvalidValue(f"must be from {lowest:,} to {highest:,}")
        return int(digits)

    return ValueType(parse, "N")


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?\s*", re.ASCII)


def duration(lowest: float, highest: float) -> ValueType:
    """Return the type of durations: seconds, or with units as in Go (500ms, 15m, 1m30s)."""

    def parse(value: object) -> float:
        written = str(value).strip()
        parts = _DURATION.findall(written)
        if isinstance(value, bool) or not parts or _DURATION.sub("", written):
            raise InvalidValue("must be a duration such as 500ms, 10s or 15m")
        seconds = math.fsum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
        if not lowest <= seconds <= highest:
            raise InvalidValue(f"must be from {show_duration(lowest)} to {show_duration(highest)}")
        return seconds

    return ValueType(parse, "DURATION", show_duration)


def show_duration(seconds: float) -> str:
    """Return a duration in the largest unit in which it is a whole number."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    unit = next((unit for unit in ("h", "m") if seconds and seconds % _SECONDS[unit] == 0), "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def parse_moment(value: object) -> datetime:
    """Parse a moment: a time of ISO 8601, in UTC unless it says otherwise, or how long ago it was.

    A duration is as :func:`duration` has it, with days (``2d``) beside.
    """
    written = parse_text(value).strip()
    days = re.fullmatch(r"(\d+)d", written, re.ASCII)
    try:
        ago = float(days[1]) * 86_400 if days else duration(0, 3_650 * 86_400).parse(written)
        return datetime.now(UTC) - timedelta(seconds=cast(float, ago))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise InvalidValue(
            "must be a time such as 2026-01-31T14:00Z, or how long ago, such as 10m or 2d"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_BYTES = {"": 1, "b": 1, "kib": 1024, "kb": 1024, "mib": 1024**2, "mb": 1024**2}


def size(lowest: int, highest: int) -> ValueType:
    """Return the type of sizes: bytes, or with a unit."""

    def parse(value: object) -> int:
        found = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).strip().lower(), re.ASCII)
        if not found or found[2] not in _BYTES:
            raise InvalidValue("must be a size such as 65536, 512KiB or 4MiB")
        number = int(found[1]) * _BYTES[found[2]]
        if not lowest <= number <= highest:
            raise InvalidValue(f"must be from {_show_size(lowest)} to {_show_size(highest)}")
        return number

    return ValueType(parse, "SIZE", _show_size)


def _show_size(number: int) -> str:
    unit = next((unit for unit in ("MiB", "KiB") if number % _BYTES[unit.lower()] == 0), "B")
    return f"{number // _BYTES[unit.lower()]}{unit}"


def _parse_relay_name(value: object) -> str:
    name = parse_text(value)
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidValue("must have 1 to 100 printable characters")
    return name


def _parse_beginning(value: object) -> int | str:
    """Return where a new relay begins: ``now``, ``oldest``, or a position."""
    written = parse_text(value).strip().lower()
    if written in ("now", "oldest"):
        return written
    if not re.fullmatch(r"\d{1,18}", written, re.ASCII) or int(written) < 1:
        raise InvalidValue("must be now, oldest, or a position, which is a number from 1")
    return int(written)


BEGINNING = ValueType(_parse_beginning, "now|oldest|POSITION")


RELAY_NAME = ValueType(_parse_relay_name, "NAME")


def _parse_relay_names(value: object) -> tuple[str, ...]:
    names = [name.strip() for text in _listed(value) for name in text.split(",")]
    return tuple(dict.fromkeys(map(_parse_relay_name, names)))


RELAY_NAMES = ValueType(_parse_relay_names, "NAMES")


_IDENTIFIER = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
_TABLE_NAMES = re.compile(rf"\s*({_IDENTIFIER})(?:\s*\.\s*({_IDENTIFIER}))?\s*(?:,|\Z)")


def _parse_tables(value: object) -> tuple[TableName, ...]:
    """Return the tables in a comma-separated list of SQL names."""
    text = ",".join(_listed(value))
    names: set[TableName] = set()
    end = 0
    while end < len(text):
        found = _TABLE_NAMES.match(text, end)
        if not found:
            raise InvalidValue(
                "must be a list of SQL names, such as users,billing.invoices,'\"Odd Name\"'"
            )
        parts = [_folded(part) for part in found.groups() if part]
        names.add(TableName(parts[0] if len(parts) > 1 else None, parts[-1]))
        end = found.end()
    return tuple(sorted(names, key=str))


def _listed(value: object) -> list[str]:
    return [parse_text(each) for each in value] if isinstance(value, list) else [parse_text(value)]


def _folded(identifier: str) -> str:
    """Return an identifier as PostgreSQL folds it."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()


TABLES = ValueType(_parse_tables, "LIST", lambda names: ",".join(map(str, names)))


def _parse_table(value: object) -> TableName:
    """Return the table of one SQL name; without a schema, that of ``public``."""
    tables = _parse_tables(parse_text(value))
    if len(tables) != 1:
        raise InvalidValue("must be the name of one table, such as users or billing.invoices")
    return TableName(tables[0].schema or "public", tables[0].table)


TABLE = ValueType(_parse_table, "TABLE")


def is_bucket_name(text: str) -> bool:
    """Return True if NATS accepts ``text`` as the name of a key-value bucket (ADR-8)."""
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", text, re.ASCII))


def _parse_bucket(value: object) -> str:
    name = parse_text(value)
    if not is_bucket_name(name):
        raise InvalidValue("must be a bucket's name: letters of ASCII, digits, _ and -")
    return name


BUCKET = ValueType(_parse_bucket, "NAME")


def _parse_shard(value: object) -> Shard:
    found = re.fullmatch(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", parse_text(value), re.ASCII)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of <= MOST_SHARDS:
        raise InvalidValue(
            f"must be a shard such as 2/8, from 1/N to N/N, where N is at most {MOST_SHARDS}"
        )
    return shard


SHARD = ValueType(_parse_shard, "I/N")


def _parse_hours(value: object) -> Hours:
    found = re.fullmatch(
        r"\s*([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)\s*",
        parse_text(value),
        re.ASCII,
    )
    hours = Hours(*(int(found[n]) * 60 + int(found[n + 1]) for n in (1, 3))) if found else None
    if hours is None or hours.begin == hours.end:
        raise InvalidValue("must be hours of the day in UTC, such as 02:00-05:00 or 22:30-01:00")
    return hours


HOURS = ValueType(_parse_hours, "HH:MM-HH:MM")


def _parse_address(value: object) -> Address:
    """Parse HOST:PORT; PORT alone is on loopback, ``:PORT`` on all interfaces, as in Go."""
    host, colon, port = str(value).strip().rpartition(":")
    is_port = re.fullmatch(r"\d{1,5}", port, re.ASCII) and 1 <= int(port) <= 65535
    if isinstance(value, bool) or not is_port or (":" in host and not host.startswith("[")):
        raise InvalidValue("must be an address to listen on, such as 8080, :8080 or 127.0.0.1:8080")
    return Address(host.strip("[]") if colon else "127.0.0.1", int(port))


def _parse_port(value: object) -> Address | None:
    """Parse a port to listen on, on all interfaces; 0 is none."""
    port = cast(int, integer(0, 65535).parse(value))
    return Address("", port) if port else None


ADDRESS = ValueType(_parse_address, "ADDRESS")
PORT = ValueType(_parse_port, "N")


def is_stream_name(text: str) -> bool:
    """Return True if NATS accepts ``text`` as the name of a stream."""
    return text.isprintable() and not re.search(r"[\s.*>/\\]", text) and bool(text)


def _parse_stream(value: object) -> str:
    name = parse_text(value)
    if not is_stream_name(name):
        raise InvalidValue("must be a stream name: not empty, without spaces or . * > / \\")
    return name


def _parse_topic(value: object) -> str:
    topic = parse_text(value)
    if not is_subject(topic) or re.search(r"[*>/\\]", topic) or not topic.isprintable():
        raise InvalidValue(
            "must be the beginning of a subject: not empty, without spaces or * > / \\"
        )
    if is_reserved(topic):
        raise InvalidValue(f"must not begin with {topic.partition('.')[0]}: {RESERVED}")
    return topic


def _parse_topic_prefix(value: object) -> str:
    prefix = parse_text(value)
    if not is_subject(f"{prefix}x"):
        raise InvalidValue(
            "must be part of a subject: no spaces, nothing empty before or between dots"
        )
    return prefix


STREAM = ValueType(_parse_stream, "NAME")
TOPIC = ValueType(_parse_topic, "NAME")
TOPIC_PREFIX = ValueType(_parse_topic_prefix, "TEXT")


def _parse_inbox_prefix(value: object) -> str:
    prefix = parse_text(value).removesuffix(".")
    if not is_subject(prefix) or re.search(r"(^|\.)[*>](\.|$)", prefix):
        raise InvalidValue("must be a subject such as _INBOX_pgoutbox, without wildcards")
    return prefix


INBOX_PREFIX = ValueType(_parse_inbox_prefix, "SUBJECT")


def _parse_template(value: object) -> str:
    text = parse_text(value)
    try:
        Template(text)
    except ValueError as error:
        raise InvalidValue(str(error)) from None
    return text


TEMPLATE = ValueType(_parse_template, "TEMPLATE")


def _parse_nats_url(value: object) -> str:
    urls = [_one_nats_url(url.strip()) for url in re.split(r",\s*(?=\S)", parse_text(value))]
    return ",".join(urls)


def _one_nats_url(text: str) -> str:
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # its text may hold a part of the password
        is_good = False
    if not is_good or parts.scheme not in ("nats", "tls"):
        raise InvalidValue("must be a URL such as nats://localhost:4222")
    return url


NATS_URL = ValueType(_parse_nats_url, "URL")


def _parse_dsn(value: object) -> str:
    """Return a URL, or libpq's ``keyword=value …``, that :mod:`conninfo` can read."""
    text = parse_text(value).strip()
    try:
        conninfo.read(text)
    except conninfo.Unreadable as error:
        raise InvalidValue(f"{error}. {conninfo.ENCODE}") from error
    except conninfo.ConninfoError as error:
        raise InvalidValue(str(error)) from error
    return text


DSN = ValueType(_parse_dsn, "URL")


def _parse_topics_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidValue(
            "must map schema_table to the last part of a subject, such as public_users: notifier"
        )
    # wal-listener's loader turns all keys into lower case, and working set-ups rely on that.
    return {str(key).lower(): parse_text(subject) for key, subject in value.items()}


def _parse_filter_tables(value: object) -> dict[str, tuple[str, ...]]:
    """Parse wal-listener's filter; like wal-listener, leave out unknown actions."""
    if not isinstance(value, dict):
        raise InvalidValue("must map each table to its actions, such as users: [insert, update]")
    tables = {str(table): _action_names(names, f" of {table}") for table, names in value.items()}
    return {table: _in_order(names) for table, names in tables.items()}


def unknown_actions(value: object) -> Iterator[str]:
    """Yield a sentence about each unknown action in wal-listener's filter."""
    for table, names in value.items() if isinstance(value, dict) else ():
        for action in _action_names(names, ""):
            if action not in ACTIONS:
                yield f"has an unknown action {action!r} of {table}{suggest(action, ACTIONS)}"


TOPICS_MAP = ValueType(_parse_topics_map, "MAP")


def qualified_names(value: object) -> Iterator[str]:
    """Yield a sentence about each name in wal-listener's filter that seems to have a schema."""
    for name in value if isinstance(value, dict) else ():
        schema, dot, table = str(name).partition(".")
        if dot:
            yield (
                f"has {name}, and its names have no schema: write {table}, which stands for every"
                f" table of that name, not only the one in {schema}"
            )


FILTER_TABLES = ValueType(_parse_filter_tables, "MAP")


def parse_actions(value: object) -> tuple[str, ...]:
    """Parse a list of actions, or a comma-separated one, into upper case, each action once."""
    actions = _action_names(value, "")
    for action in actions:
        if action not in ACTIONS:
            raise InvalidValue(f"has an unknown action {action!r}{suggest(action, ACTIONS)}")
    return _in_order(actions)


def _action_names(value: object, of: str) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise InvalidValue(f"must list the actions{of}: insert, update, delete, truncate")
    return [action for name in names if (action := str(name).strip().upper())]


def _in_order(actions: list[str]) -> tuple[str, ...]:
    return tuple(action for action in ACTIONS if action in actions)
