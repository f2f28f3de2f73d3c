"""Settings: what they are, their defaults, and where each is read from.

A flag comes before the environment, that before the configuration file, that before the
default. The file is wal-listener's, with pgoutbox's own settings under ``pgoutbox:``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlencode, urlsplit

from pgoutbox.errors import ConfigError, one_a_line

ACTIONS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")


# Seconds. A slot of the outbox's ring rests for an hour before it is used again; it has to be
# found and emptied within that.
LONGEST_RETENTION = 3_300.0


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to reach PostgreSQL; what is unset is left to libpq's ``PG*`` variables."""

    dsn: str | None = field(default=None, repr=False)  # may hold a password
    host: str | None = None
    port: int | None = None
    name: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_mode: str | None = None
    enable_tls: bool = False  # ssl_mode is "require" at least


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """How to reach NATS, and under which subjects to publish."""

    nats_url: str = field(default="nats://localhost:4222", repr=False)  # may hold a password
    topic: str = "wal_listener"
    topic_prefix: str = ""
    topics_map: dict[str, str] = field(default_factory=dict)
    window: int = 4_000  # messages that may be unacknowledged
    ack_timeout: float = 5.0  # seconds without any acknowledgement, then publish again


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """How the relay works."""

    name: str = "default"  # relays of one name share one progress; one of them leads
    batch_events: int = 2_000
    batch_bytes: int = 4 * 1024 * 1024
    poll_interval: float = 1.0  # seconds; the fallback when no notification comes
    retention: float = 900.0  # seconds that sent events stay; at most LONGEST_RETENTION
    grace_period: float = 10.0  # seconds for outstanding acknowledgements at a stop
    on_oversize: Literal["park", "stop"] = "park"


@dataclass(frozen=True, slots=True)
class InstallConfig:
    """What is captured, and how patiently `install` and `uninstall` wait for locks."""

    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # filter.tables: actions
    old_values: Literal["full", "identity"] | None = None  # as installed, else full
    lock_timeout: float = 2.0  # seconds a try may hold up the application
    lock_wait: float = 60.0  # seconds for all tries at one table


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one run."""

    database: DatabaseConfig = DatabaseConfig()
    publisher: PublisherConfig = PublisherConfig()
    relay: RelayConfig = RelayConfig()
    install: InstallConfig = InstallConfig()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class _Wrong(ValueError):
    """What a value should have been."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a setting may have, and how they are shown in the help."""

    read: Callable[[object], object]  # raises _Wrong
    metavar: str
    show: Callable[[Any], str] = str


def _text(value: object) -> str:
    if isinstance(value, (dict, list)) or value is None:
        raise _Wrong("must be a text")
    return str(value)


def _truth(value: object) -> bool:
    """Read what switches something on; what isn't plainly a no counts as a yes."""
    return str(value).strip().lower() not in ("", "0", "f", "false", "n", "no", "off")


def _choice(*choices: str) -> Kind:
    def read(value: object) -> str:
        if str(value).lower() not in choices:
            raise _Wrong(f"must be one of {', '.join(choices)}")
        return str(value).lower()

    return Kind(read, f"[{'|'.join(choices)}]")


def _whole(lowest: int, highest: int) -> Kind:
    def read(value: object) -> int:
        text = str(value).strip().replace("_", "")
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
            raise _Wrong(f"must be a whole number from {lowest:,} to {highest:,}")
        if not lowest <= int(text) <= highest:
            raise _Wrong(f"must be from {lowest:,} to {highest:,}")
        return int(text)

    return Kind(read, "N")


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?\s*", re.ASCII)


def _duration(lowest: float, highest: float) -> Kind:
    """Read seconds, or a number with a unit as Go writes it: 500ms, 15m, 1m30s."""

    def read(value: object) -> float:
        text = str(value).strip()
        parts = _DURATION.findall(text)
        if isinstance(value, bool) or not parts or _DURATION.sub("", text):
            raise _Wrong("must be a duration such as 500ms, 10s or 15m")
        seconds = math.fsum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
        if not lowest <= seconds <= highest:
            raise _Wrong(f"must be from {show_duration(lowest)} to {show_duration(highest)}")
        return seconds

    return Kind(read, "DURATION", show_duration)


def show_duration(seconds: float) -> str:
    """Return a duration as one would write it: in the largest unit that leaves it whole."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    unit = next((unit for unit in ("h", "m") if seconds and seconds % _SECONDS[unit] == 0), "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


_BYTES = {"": 1, "b": 1, "kib": 1024, "kb": 1024, "mib": 1024**2, "mb": 1024**2}


def _size(lowest: int, highest: int) -> Kind:
    def read(value: object) -> int:
        found = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).strip().lower(), re.ASCII)
        if not found or found[2] not in _BYTES:
            raise _Wrong("must be a size such as 65536, 512KiB or 4MiB")
        size = int(found[1]) * _BYTES[found[2]]
        if not lowest <= size <= highest:
            raise _Wrong(f"must be from {_show_size(lowest)} to {_show_size(highest)}")
        return size

    return Kind(read, "SIZE", _show_size)


def _show_size(size: int) -> str:
    unit = next((unit for unit in ("MiB", "KiB") if size % _BYTES[unit.lower()] == 0), "B")
    return f"{size // _BYTES[unit.lower()]}{unit}"


def _relay_name(value: object) -> str:
    name = _text(value)
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise _Wrong("must have 1 to 100 printable characters")
    return name


def _topic(value: object) -> str:
    # NATS takes the topic as the stream's name, too.
    topic = _text(value)
    if not topic or not topic.isprintable() or re.search(r"[\s.*>/\\]", topic):
        raise _Wrong("must be a stream's name: not empty, without spaces and . * > / \\")
    return topic


# White space and control characters end a subject, and a part between two dots can't be empty.
_PART = r"[^\x00-\x20\x7f\ud800-\udfff.]+"
_SUBJECT = re.compile(rf"{_PART}(\.{_PART})*")


def _topic_prefix(value: object) -> str:
    prefix = _text(value)
    if not _SUBJECT.fullmatch(f"{prefix}x"):
        raise _Wrong("must be part of a subject: no spaces, no empty part before or between dots")
    return prefix


def _nats_url(value: object) -> str:
    urls = [_one_nats_url(url.strip()) for url in re.split(r",\s*(?=\S)", _text(value))]
    return ",".join(urls)


def _one_nats_url(text: str) -> str:
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # its text may hold a part of the password
        is_good = False
    if not is_good or parts.scheme not in ("nats", "tls", "ws", "wss"):
        raise _Wrong("must be a URL such as nats://localhost:4222")
    return url


_KEYWORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|\Z)")


def _dsn(value: object) -> str:
    """Read a URL, or libpq's ``keyword=value …``, which asyncpg doesn't know."""
    text = _text(value).strip()
    if not re.match(r"\w+://", text) and _KEYWORD.match(text):
        if _KEYWORD.sub("", text).strip():
            raise _Wrong("must be a URL, or keywords and values as libpq has them")
        pairs = [(key, re.sub(r"\\(.)", r"\1", _unquoted(val))) for key, val in _keywords(text)]
        return f"postgresql://?{urlencode(pairs)}"
    try:
        scheme = urlsplit(text).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("postgresql", "postgres"):
        raise _Wrong("must be a URL such as postgresql://user@localhost:5432/name")
    return text


def _keywords(text: str) -> list[tuple[str, str]]:
    return cast(list[tuple[str, str]], _KEYWORD.findall(text))


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] == "'" else value


def _topics_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Wrong("must map schema_table to the last part of a subject")
    # wal-listener's loader lowers all keys, and working set-ups depend on it.
    return {str(key).lower(): _text(subject) for key, subject in value.items()}


def _filter_tables(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _Wrong("must map each table to a list of actions")
    return {
        str(table).lower(): read_actions(actions, of=f" of {table}")
        for table, actions in value.items()
    }


def read_actions(value: object, *, of: str = "") -> tuple[str, ...]:
    """Read a list of actions, or their names with commas; each once, in wal-listener's spelling."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise _Wrong(f"must have a list of the actions{of}: insert, update, delete, truncate")
    actions = [action for name in names if (action := str(name).strip().upper())]
    for action in actions:
        if action not in ACTIONS:
            raise _Wrong(f"has an unknown action {action!r}{of}{_suggest(action, ACTIONS)}")
    return tuple(action for action in ACTIONS if action in actions)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its place in Config, and what it is called where it is read from."""

    path: str  # section.field of Config
    help: str
    kind: Kind
    flag: str | None = None
    variables: tuple[str, ...] = ()  # the first that is set counts
    keys: tuple[str, ...] = ()  # in the file; the first that is there counts

    @property
    def parameter(self) -> str:
        """Its name among the flags."""
        return (self.flag or "").removeprefix("--").replace("-", "_")

    @property
    def default(self) -> Any:
        """What it is where nobody sets it."""
        found: Any = Config()
        for name in self.path.split("."):
            found = getattr(found, name)
        return found

    @property
    def shown_default(self) -> str:
        """The default as one would write it; empty where there is none."""
        return self.kind.show(self.default) if self.default else ""


def _own(
    path: str,
    flag: str,
    kind: Kind,
    help_text: str,
    *,
    variables: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
) -> Setting:
    """Return a setting of pgoutbox's own: its variable and its key follow from its flag."""
    words = flag.removeprefix("--").split("-")
    key = words[0] + "".join(word.capitalize() for word in words[1:])
    return Setting(
        path,
        help_text,
        kind,
        flag,
        ("PGOUTBOX_" + "_".join(words).upper(), *variables),
        (f"pgoutbox.{key}", *keys),
    )


def _theirs(path: str, key: str, kind: Kind) -> Setting:
    """Return a setting that only wal-listener's file and variables have; no variable has a map."""
    variables = () if kind.metavar == "MAP" else ("WAL_" + key.replace(".", "_").upper(),)
    return Setting(path, "", kind, None, variables, (key,))


DATABASE_SETTINGS = (
    _own(
        "database.dsn",
        "--dsn",
        Kind(_dsn, "URL"),
        "PostgreSQL, as a URL or as keywords.",
        variables=("DATABASE_URL",),
    ),
)

# What a DSN replaces as a whole.
_DATABASE_PARTS = (
    _theirs("database.host", "database.host", Kind(_text, "TEXT")),
    _theirs("database.port", "database.port", _whole(1, 65535)),
    _theirs("database.name", "database.name", Kind(_text, "TEXT")),
    _theirs("database.user", "database.user", Kind(_text, "TEXT")),
    _theirs("database.password", "database.password", Kind(_text, "TEXT")),
    _theirs(
        "database.ssl_mode",
        "database.sslMode",
        _choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    ),
    _theirs("database.enable_tls", "database.enableTLS", Kind(_truth, "BOOL")),
)

# The driver reads these itself; as part of the environment they come before the file.
_LIBPQ_VARIABLES = {
    "PGHOST": "database.host",
    "PGPORT": "database.port",
    "PGDATABASE": "database.name",
    "PGUSER": "database.user",
    "PGPASSWORD": "database.password",
    "PGSSLMODE": "database.sslmode",
}

LOG_SETTINGS = (
    _own(
        "log_level",
        "--log-level",
        _choice("debug", "info", "warning", "error"),
        "Least level of a log line.",
        keys=("logger.level",),
        variables=("WAL_LOGGER_LEVEL",),
    ),
    _own(
        "log_format",
        "--log-format",
        _choice("text", "json"),
        "How log lines look.",
        keys=("logger.fmt",),
        variables=("WAL_LOGGER_FMT",),
    ),
)

RELAY_SETTINGS = (
    _own(
        "publisher.nats_url",
        "--nats-url",
        Kind(_nats_url, "URL"),
        "NATS; several addresses with commas.",
        keys=("publisher.address",),
        variables=("WAL_PUBLISHER_ADDRESS",),
    ),
    _own(
        "publisher.topic",
        "--topic",
        Kind(_topic, "NAME"),
        "Stream, and first part of each subject.",
        keys=("publisher.topic",),
        variables=("WAL_PUBLISHER_TOPIC",),
    ),
    _own(
        "publisher.topic_prefix",
        "--topic-prefix",
        Kind(_topic_prefix, "TEXT"),
        "Put before schema_table in each subject.",
        keys=("publisher.topicPrefix",),
        variables=("WAL_PUBLISHER_TOPICPREFIX",),
    ),
    _own(
        "relay.name",
        "--name",
        Kind(_relay_name, "NAME"),
        "Relays of one name share their progress; one of them leads.",
    ),
    _own(
        "relay.batch_events", "--batch-events", _whole(1, 100_000), "Events read at once, at most."
    ),
    _own(
        "relay.batch_bytes",
        "--batch-bytes",
        _size(1024, 256 * 1024**2),
        "Size of the row data read at once, roughly.",
    ),
    _own(
        "relay.poll_interval",
        "--poll-interval",
        _duration(0.01, 3600),
        "How often to look when no notification comes.",
    ),
    _own(
        "relay.retention",
        "--retention",
        # The ring has five slots of 15 minutes; one is being written.
        _duration(0, LONGEST_RETENTION),
        "How long sent events stay in the outbox; 55m at most.",
    ),
    _own(
        "relay.grace_period",
        "--grace-period",
        _duration(0, 3600),
        "How long to wait for acknowledgements at a stop.",
    ),
    _own(
        "publisher.window",
        "--window",
        _whole(1, 100_000),
        "Messages that may be unacknowledged.",
    ),
    _own(
        "publisher.ack_timeout",
        "--ack-timeout",
        _duration(0.1, 600),
        "Publish again after so long without any acknowledgement.",
    ),
    _own(
        "relay.on_oversize",
        "--on-oversize",
        _choice("park", "stop"),
        "What to do with an event that NATS can never take.",
    ),
)

INSTALL_SETTINGS = (
    _own(
        "install.old_values",
        "--old-values",
        _choice("full", "identity"),
        "Old values: the full row, or what REPLICA IDENTITY gives; as installed, else full.",
    ),
)

LOCK_SETTINGS = (
    _own(
        "install.lock_timeout",
        "--lock-timeout",
        _duration(0.01, 60),
        "How long one try at a table's lock may hold up the application.",
    ),
    _own(
        "install.lock_wait",
        "--lock-wait",
        _duration(0, 86_400),
        "How long to keep trying for a table's lock.",
    ),
)

_OTHERS = (
    _theirs("publisher.topics_map", "listener.topicsMap", Kind(_topics_map, "MAP")),
    _theirs("install.tables", "listener.filter.tables", Kind(_filter_tables, "MAP")),
)

SETTINGS = (
    *DATABASE_SETTINGS,
    *_DATABASE_PARTS,
    *RELAY_SETTINGS,
    *INSTALL_SETTINGS,
    *LOCK_SETTINGS,
    *LOG_SETTINGS,
    *_OTHERS,
)

# What asks for TLS to NATS, which must not be taken for granted.
_NATS_TLS = tuple(
    _theirs("", f"publisher.{key}", Kind(_truth, "BOOL"))
    for key in ("enableTLS", "clientCert", "clientKey", "caCert")
)

# Keys of wal-listener's file that mean nothing without a replication slot, or not yet.
_IGNORED_KEYS = (
    "listener.slotName",
    "listener.refreshConnection",
    "listener.heartbeatInterval",
    "listener.ackTimeout",
    "listener.serverPort",
    "database.debug",
    "publisher.type",
    "monitoring.promAddr",
    "monitoring.sentryDSN",
)
_MAPS = ("listener.topicsmap", "listener.filter.tables")  # their keys are the user's


def load(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> Config:
    """Return all settings; ConfigError names everything that is wrong with them at once.

    ``flags`` are by parameter name; None stands for a flag that wasn't given.
    """
    problems: list[str] = []
    document = _read_file(file, problems) if file else {}
    problems += _unknown_keys(document)
    problems += _other_publishers(document)
    for variable, key in _LIBPQ_VARIABLES.items():
        if environment.get(variable):
            document.pop(key, None)
    found: dict[str, object] = {}
    for setting in SETTINGS:
        for source, value in _given(setting, flags, environment, document):
            try:
                found[setting.path] = setting.kind.read(value)
            except _Wrong as wrong:
                problems.append(f"{source} {wrong}")
            break
    problems += _tls_for_nats(environment, document)
    problems += _wrong_subjects(found)
    if problems:
        raise _config_error(problems)
    if "database.dsn" in found:
        for part in _DATABASE_PARTS:
            found.pop(part.path, None)
    return _build(found)


def _given(
    setting: Setting,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
) -> Iterator[tuple[str, object]]:
    """Yield where the setting is given and what as, the most important first."""
    if flags.get(setting.parameter) is not None:
        yield setting.flag or "", flags[setting.parameter]
    for variable in setting.variables:
        if environment.get(variable):
            yield variable, environment[variable]
    for key in setting.keys:
        if document.get(key.lower()) is not None:
            yield key, document[key.lower()]


def _tls_for_nats(environment: Mapping[str, str], document: Mapping[str, object]) -> Iterator[str]:
    for setting in _NATS_TLS:
        source, value = next(_given(setting, {}, environment, document), ("", False))
        if setting.kind.read(value):
            yield f"{source}: this release doesn't support TLS for NATS yet"


def _wrong_subjects(found: Mapping[str, Any]) -> Iterator[str]:
    prefix = found.get("publisher.topic_prefix", "")
    for table, name in found.get("publisher.topics_map", {}).items():
        if not _SUBJECT.fullmatch(prefix + name):
            yield f"listener.topicsMap makes {prefix + name!r} of {table}, which is no subject"


def _build(found: Mapping[str, object]) -> Config:
    sections: dict[str, dict[str, object]] = {}
    top: dict[str, Any] = {}
    for path, value in found.items():
        section, _, name = path.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            top[name] = value
    defaults = Config()
    for entry in fields(Config):
        if entry.name in sections:
            top[entry.name] = type(getattr(defaults, entry.name))(**sections[entry.name])
    return Config(**top)


def _config_error(problems: Iterable[str]) -> ConfigError:
    return ConfigError(one_a_line(map(redact, problems), "settings are wrong"))


def _read_file(file: Path, problems: list[str]) -> dict[str, object]:
    """Return the file as dotted lower-case keys; the spelling of keys doesn't count."""
    import yaml  # slow to import, and most commands have no file

    try:
        document = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ConfigError(f"the configuration file {file} can't be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        # Not the parser's own text, which quotes the line: it may hold a password.
        raise ConfigError(f"the configuration file {file} is not YAML{where}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        problems.append(f"the configuration file {file} must hold keys and values")
        return {}
    return dict(_flatten(document))


def _flatten(document: Mapping[object, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f"{above}{key}".lower()
        if isinstance(value, dict) and path not in _MAPS:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _known_keys() -> dict[str, str]:
    keys = [key for setting in (*SETTINGS, *_NATS_TLS) for key in setting.keys]
    keys += _IGNORED_KEYS
    return {key.lower(): key for key in keys}


def _unknown_keys(document: Mapping[str, object]) -> Iterator[str]:
    known = _known_keys()
    sections = {key.rpartition(".")[0] for key in known}
    for key, value in document.items():
        is_empty_section = value is None and key in {*sections, "monitoring", "listener"}
        if key not in known and not is_empty_section:
            yield f"the file has an unknown key {key}{_suggest(key, known, known)}"


def _suggest(wrong: str, known: Iterable[str], spelling: Mapping[str, str] | None = None) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    if not close:
        return ""
    return f"; did you mean {(spelling or {}).get(close[0], close[0])}?"


def _other_publishers(document: Mapping[str, object]) -> Iterator[str]:
    kind = document.get("publisher.type")
    if kind is not None and str(kind).lower() != "nats":
        yield f"publisher.type {kind} isn't there: pgoutbox publishes to nats only"


_URL_SECRET = re.compile(r"(\w[\w+.-]*)://([^\s]*)@")
_KEY_SECRET = re.compile(
    r"(\b\w*(?:password|passwd|token|secret))(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|[^\s&'\",]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return ``text`` with the secrets of connection strings and URLs masked.

    Rather too much than too little: all between :// and the last @ is taken for credentials.
    """
    parts = re.split(r"(,\s*(?=\w[\w+.-]*://))", text)
    masked = "".join(_URL_SECRET.sub(_mask_url, part) for part in parts)
    return _KEY_SECRET.sub(r"\1\2***", masked)


def _mask_url(found: re.Match[str]) -> str:
    scheme, credentials = found[1], found[2]
    user, colon, _ = credentials.partition(":")
    if colon:
        return f"{scheme}://{user}:***@"
    # Before an @ alone stands a user for PostgreSQL, and a token for NATS.
    return f"{scheme}://{user if scheme.startswith('postgres') else '***'}@"
