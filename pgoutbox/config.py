"""Settings: what they are, their defaults, and where each is read from.

A flag comes before the environment, that before the configuration file, that before the
default. The file is wal-listener's, with pgoutbox's own settings under ``pgoutbox:``.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pgoutbox import kinds
from pgoutbox.errors import ConfigError, one_a_line
from pgoutbox.kinds import Address, Kind, Shard, TableName, Wrong, suggest

Mode = Literal["auto", "window", "fast"]

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
    enable_tls: bool | None = None  # ssl_mode is "require" at least


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """How to reach NATS, and how to publish."""

    nats_url: str = field(default="nats://localhost:4222", repr=False)  # may hold a password
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey: str | None = None  # file of a seed
    creds: str | None = None  # file of a JWT and its seed
    enable_tls: bool = False  # never without, even where the server would let us
    ca_cert: str | None = None  # files in PEM
    client_cert: str | None = None
    client_key: str | None = None
    inbox_prefix: str = "_INBOX"
    js_domain: str | None = None
    jetstream: bool = True  # else core NATS: at most once
    stream: str | None = None  # else the one that takes our subjects, else one named like topic
    stream_replicas: int = 1  # of a stream that has to be created
    topic: str = "wal_listener"
    topic_prefix: str = ""
    topics_map: dict[str, str] = field(default_factory=dict)
    subject: str | None = None  # template; else wal-listener's subjects
    headers: bool = False
    content: Literal["wal-listener", "cloudevents", "cloudevents-structured"] = "wal-listener"
    mode: Mode = "auto"  # how messages go to the stream; see pgoutbox.chain
    window: int = 4_000  # messages that may be unacknowledged
    ack_timeout: float = 5.0  # seconds without any acknowledgement, then publish again


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """How the relay works."""

    name: str = "default"  # relays of one name share one progress; one of them leads
    tables: tuple[TableName, ...] = ()  # what it publishes; else all but those of except_tables
    except_tables: tuple[TableName, ...] = ()
    shard: Shard | None = None  # of these tables' rows; the name then ends in -I-of-N
    begin_after: tuple[str, ...] = ()  # relays whose end is the beginning of one that is new
    install: bool = False  # the schema, and the tables of the filter, before it starts
    batch_events: int = 2_000
    batch_bytes: int = 4 * 1024 * 1024
    poll_interval: float = 1.0  # seconds; the fallback when no notification comes
    retention: float = 900.0  # seconds that sent events stay; at most LONGEST_RETENTION
    grace_period: float = 10.0  # seconds for outstanding acknowledgements at a stop
    on_oversize: Literal["park", "stop"] = "park"

    @property
    def share(self) -> str:
        """What it publishes of the outbox, as flags; empty where that is all of it."""
        flags = {
            "--tables": kinds.TABLES.show(self.tables),
            "--except-tables": kinds.TABLES.show(self.except_tables),
            "--shard": str(self.shard or ""),
        }
        return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)

    @property
    def shards(self) -> str:
        """Name of the set of shards that this one is of, such as default-of-8."""
        if self.shard is None:
            return ""
        return f"{self.name.removesuffix(_shard_suffix(self.shard))}-of-{self.shard.of}"


def _shard_suffix(shard: Shard) -> str:
    return f"-{shard.number}-of-{shard.of}"


@dataclass(frozen=True, slots=True)
class MonitoringConfig:
    """Where the relay tells how it does."""

    health_addr: Address | None = None
    metrics_addr: Address | None = None
    sentry_dsn: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class InstallConfig:
    """What is captured, and how patiently `install` and `uninstall` wait for locks."""

    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # filter.tables: actions

    @property
    def actions_by_name(self) -> dict[str, tuple[str, ...]]:
        """Actions of the filter by a table's bare name, in any schema; empty without a filter.

        wal-listener's loader lowers all names, so each stands for itself and for itself in lower
        case.
        """
        return {name.lower(): actions for name, actions in self.tables.items()} | self.tables

    old_values: Literal["full", "identity"] | None = None  # as installed, else full
    lock_timeout: float = 2.0  # seconds a try may hold up the application
    lock_wait: float = 60.0  # seconds for all tries at one table


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one run."""

    database: DatabaseConfig = DatabaseConfig()
    publisher: PublisherConfig = PublisherConfig()
    relay: RelayConfig = RelayConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    install: InstallConfig = InstallConfig()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    notes: tuple[str, ...] = ()  # what in the file has no effect, as it should be
    warnings: tuple[str, ...] = ()  # what in the file has no effect, and is probably a mistake


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
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.kind is kinds.BOOL

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
    theirs: str | None = None,
    keys: tuple[str, ...] = (),
    variables: tuple[str, ...] = (),
) -> Setting:
    """Return a setting of pgoutbox's own: its variable and its key follow from its flag.

    ``theirs`` is wal-listener's key for the same.
    """
    words = flag.removeprefix("--").split("-")
    key = words[0] + "".join(word.capitalize() for word in words[1:])
    if theirs:
        keys = (*keys, theirs)
        variables = (*variables, _their_variable(theirs))
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
    variables = () if kind.metavar == "MAP" else (_their_variable(key),)
    return Setting(path, "", kind, None, variables, (key,))


def _their_variable(key: str) -> str:
    return "WAL_" + key.replace(".", "_").upper()


DATABASE_SETTINGS = (
    _own(
        "database.dsn",
        "--dsn",
        kinds.DSN,
        "PostgreSQL, as a URL or as keywords.",
        variables=("DATABASE_URL",),
    ),
)

# What a DSN replaces as a whole.
_DATABASE_PARTS = (
    _theirs("database.host", "database.host", kinds.TEXT),
    _theirs("database.port", "database.port", kinds.whole(1, 65535)),
    _theirs("database.name", "database.name", kinds.TEXT),
    _theirs("database.user", "database.user", kinds.TEXT),
    _theirs("database.password", "database.password", kinds.TEXT),
    _theirs(
        "database.ssl_mode",
        "database.sslMode",
        kinds.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    ),
    _theirs("database.enable_tls", "database.enableTLS", kinds.TRUTH),
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
        kinds.choice("debug", "info", "warning", "error", aliases={"warn": "warning"}),
        "Least level of a log line.",
        theirs="logger.level",
    ),
    _own(
        "log_format",
        "--log-format",
        kinds.choice("text", "json"),
        "How log lines look.",
        theirs="logger.fmt",
    ),
)

_NATS_SETTINGS = (
    _own(
        "publisher.nats_url",
        "--nats-url",
        kinds.NATS_URL,
        "NATS; several addresses with commas.",
        theirs="publisher.address",
    ),
    _own("publisher.user", "--nats-user", kinds.TEXT, "User, where the URL names none."),
    _own("publisher.password", "--nats-password", kinds.TEXT, "That user's password."),
    _own("publisher.token", "--nats-token", kinds.TEXT, "Token, instead of a user."),
    _own("publisher.nkey", "--nats-nkey", kinds.FILE, "File with an nkey's seed."),
    _own("publisher.creds", "--nats-creds", kinds.FILE, "Credentials file: a JWT and its seed."),
    _own(
        "publisher.enable_tls",
        "--nats-tls",
        kinds.BOOL,
        "Insist on TLS, as a URL with tls:// does.",
        theirs="publisher.enableTLS",
    ),
    _own(
        "publisher.ca_cert",
        "--nats-ca-cert",
        kinds.FILE,
        "CA of the server's certificate, in PEM; else the system's.",
        theirs="publisher.caCert",
    ),
    _own(
        "publisher.client_cert",
        "--nats-client-cert",
        kinds.FILE,
        "Our own certificate, for mutual TLS.",
        theirs="publisher.clientCert",
    ),
    _own(
        "publisher.client_key",
        "--nats-client-key",
        kinds.FILE,
        "Its private key.",
        theirs="publisher.clientKey",
    ),
    _own(
        "publisher.inbox_prefix",
        "--inbox-prefix",
        kinds.INBOX_PREFIX,
        "Beginning of the subjects that answers come to.",
    ),
    _own("publisher.js_domain", "--js-domain", kinds.STREAM, "JetStream domain of the stream."),
)

_MESSAGE_SETTINGS = (
    _own(
        "publisher.topic",
        "--topic",
        kinds.TOPIC,
        "First part of each subject, and name of a stream that has to be created.",
        theirs="publisher.topic",
    ),
    _own(
        "publisher.topic_prefix",
        "--topic-prefix",
        kinds.TOPIC_PREFIX,
        "Put before schema_table in each subject.",
        theirs="publisher.topicPrefix",
    ),
    _own(
        "publisher.subject",
        "--subject",
        kinds.TEMPLATE,
        "Subject instead of wal-listener's, which is {topic}.{prefix}{name};"
        " also {schema}, {table}, {action}, {key}.",
        keys=("publisher.subject",),
    ),
    _own(
        "publisher.headers",
        "--headers",
        kinds.BOOL,
        "Tell table, action and transaction in headers, too.",
        keys=("publisher.headers",),
    ),
    _own(
        "publisher.content",
        "--content",
        kinds.choice("wal-listener", "cloudevents", "cloudevents-structured"),
        "What a message is: wal-listener's JSON, the same as a CloudEvent (attributes in headers),"
        " or inside one.",
        keys=("publisher.content",),
    ),
    _own(
        "publisher.jetstream",
        "--jetstream",
        kinds.BOOL,
        "Store messages in a stream; without, subscribers that are away miss them.",
        keys=("publisher.jetstream",),
    ),
    _own(
        "publisher.stream",
        "--stream",
        kinds.STREAM,
        "Stream to publish into; else the one that takes our subjects, else a new one.",
        keys=("publisher.stream",),
    ),
    _own(
        "publisher.stream_replicas",
        "--stream-replicas",
        kinds.whole(1, 5),
        "Replicas of a stream that has to be created.",
        keys=("publisher.streamReplicas",),
    ),
)

_MONITORING_SETTINGS = (
    _own(
        "monitoring.health_addr",
        "--health-addr",
        kinds.ADDRESS,
        "Answer GET /healthz and /ready there: PORT on loopback, :PORT on all interfaces.",
    ),
    _own(
        "monitoring.metrics_addr",
        "--metrics-addr",
        kinds.ADDRESS,
        "Serve metrics for Prometheus there.",
        theirs="monitoring.promAddr",
    ),
    _own(
        "monitoring.sentry_dsn",
        "--sentry-dsn",
        kinds.TEXT,
        "Send errors to this Sentry project.",
        theirs="monitoring.sentryDSN",
    ),
)

RELAY_SETTINGS = (
    *_NATS_SETTINGS,
    *_MESSAGE_SETTINGS,
    _own(
        "relay.name",
        "--name",
        kinds.RELAY_NAME,
        "Relays of one name share their progress; one of them leads.",
        theirs="listener.slotName",
    ),
    _own(
        "relay.tables",
        "--tables",
        kinds.TABLES,
        "Publish only these, for a relay with a name of its own; without a schema, in any.",
    ),
    _own(
        "relay.except_tables",
        "--except-tables",
        kinds.TABLES,
        "Publish all but these, for a relay beside those with --tables.",
    ),
    _own(
        "relay.shard",
        "--shard",
        kinds.SHARD,
        "Publish only rows whose key's hash is in part I of N; the name becomes NAME-I-of-N.",
    ),
    _own(
        "relay.begin_after",
        "--begin-after",
        kinds.RELAY_NAMES,
        "Relays to go on after, for one that is new: it begins where they have ended.",
    ),
    _own(
        "relay.install",
        "--install",
        kinds.BOOL,
        "First do what `pgoutbox install` does, for the tables of listener.filter.",
    ),
    _own(
        "relay.batch_events",
        "--batch-events",
        kinds.whole(1, 100_000),
        "Events read at once, at most.",
    ),
    _own(
        "relay.batch_bytes",
        "--batch-bytes",
        kinds.size(1024, 256 * 1024**2),
        "Size of the row data read at once, roughly.",
    ),
    _own(
        "relay.poll_interval",
        "--poll-interval",
        kinds.duration(0.01, 3600),
        "How often to look when no notification comes.",
    ),
    _own(
        "relay.retention",
        "--retention",
        # The ring has five slots of 15 minutes; one is being written.
        kinds.duration(0, LONGEST_RETENTION),
        "How long sent events stay in the outbox; 55m at most.",
    ),
    _own(
        "relay.grace_period",
        "--grace-period",
        kinds.duration(0, 3600),
        "How long to wait for acknowledgements at a stop.",
    ),
    _own(
        "publisher.mode",
        "--mode",
        kinds.choice("auto", "window", "fast"),
        "How messages go to the stream: with a window of unacknowledged ones, or in fast-ingest"
        " batches (nats-server 2.14); else what is cheaper.",
        keys=("publisher.mode",),
    ),
    _own(
        "publisher.window",
        "--window",
        kinds.whole(1, 100_000),
        "Messages that may be unacknowledged.",
    ),
    _own(
        "publisher.ack_timeout",
        "--ack-timeout",
        kinds.duration(0.1, 600),
        "Publish again after so long without any acknowledgement.",
    ),
    _own(
        "relay.on_oversize",
        "--on-oversize",
        kinds.choice("park", "stop"),
        "What to do with an event that NATS can never take.",
    ),
    *_MONITORING_SETTINGS,
)

INSTALL_SETTINGS = (
    _own(
        "install.old_values",
        "--old-values",
        kinds.choice("full", "identity"),
        "Old values: the full row, or what REPLICA IDENTITY gives; as installed, else full.",
    ),
)

LOCK_SETTINGS = (
    _own(
        "install.lock_timeout",
        "--lock-timeout",
        kinds.duration(0.01, 60),
        "How long one try at a table's lock may hold up the application.",
    ),
    _own(
        "install.lock_wait",
        "--lock-wait",
        kinds.duration(0, 86_400),
        "How long to keep trying for a table's lock.",
    ),
)

_OTHERS = (
    _theirs("monitoring.health_addr", "listener.serverPort", kinds.PORT),
    _theirs("publisher.topics_map", "listener.topicsMap", kinds.TOPICS_MAP),
    _theirs("install.tables", "listener.filter.tables", kinds.FILTER_TABLES),
)

# Where two settings have the same place in Config, the first that is given counts.
SETTINGS = (
    *DATABASE_SETTINGS,
    *_DATABASE_PARTS,
    *RELAY_SETTINGS,
    *INSTALL_SETTINGS,
    *LOCK_SETTINGS,
    *LOG_SETTINGS,
    *_OTHERS,
)

_PUBLISHER_TYPE = _theirs("", "publisher.type", kinds.TEXT)

# Keys of wal-listener's file that mean nothing without a replication slot, and those for the other
# brokers that it knows; the ones with underscores stand in its example, where it doesn't read them.
_IGNORED_KEYS = (
    "listener.refreshConnection",
    "listener.heartbeatInterval",
    "listener.ackTimeout",
    "database.debug",
    "logger.caller",
    "publisher.messageKeyFrom",
    "publisher.exchangeKind",
    "publisher.pubSubProjectID",
    "publisher.enable_tls",
    "publisher.client_cert",
    "publisher.client_key",
    "publisher.ca_cert",
)
# What keys of wal-listener 1 have become.
_VERSION_1 = {
    "nats.address": "publisher.address",
    "nats.streamname": "publisher.topic",
    "nats.topicprefix": "publisher.topicPrefix",
    "database.filter.tables": "listener.filter.tables",
}
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
    unknown = dict(_unknown_keys(document))
    problems += [said for key, said in unknown.items() if _is_refused(key)]
    problems += _flat_sections(document)
    problems += _other_publishers(environment, document)
    _put_into_maps(environment, document)
    replaced = [
        variable
        for variable, key in _LIBPQ_VARIABLES.items()
        if environment.get(variable) and document.pop(key, None) is not None
    ]
    found: dict[str, Any] = {}
    warnings = [redact(said) for key, said in unknown.items() if not _is_refused(key)]
    warnings += _misspelt_variables(environment)
    for path, value in _read_all(flags, environment, document, problems, warnings):
        found.setdefault(path, value)
    if any(key.startswith("logger.") for key in document):
        found.setdefault("log_format", "json")  # wal-listener's default
    problems += _wrong_subjects(found)
    problems += _half_credentials(found)
    problems += _wrong_share(found)
    if problems:
        raise _config_error(problems)
    if shard := found.get("relay.shard"):
        name = found.get("relay.name", Config().relay.name)
        found["relay.name"] = f"{name}{_shard_suffix(shard)}"
    if "database.dsn" in found:
        parts = [found.pop(part.path) for part in _DATABASE_PARTS if part.path in found]
        if parts or replaced:
            replaced = ["the DSN"]
    if replaced:
        warnings.append(f"{', '.join(replaced)} comes before the database of the file")
    if found.get("database.enable_tls") is False:
        # wal-listener looks at sslMode only with enableTLS, and its example has both.
        found.pop("database.ssl_mode", None)
    warnings += _unknown_actions(document)
    notes = _notes(environment, document)
    return _build({**found, "notes": tuple(notes), "warnings": tuple(warnings)})


def _read_all(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
    problems: list[str],
    warnings: list[str],
) -> Iterator[tuple[str, object]]:
    """Yield the path and the value of each setting that is given."""
    for setting in SETTINGS:
        for source, value in _given(setting, flags, environment, document):
            try:
                yield setting.path, setting.kind.read(value)
            except Wrong as wrong:
                # wal-listener takes any level and format of log lines for one that it has.
                is_overlooked = source.startswith(("logger.", "WAL_LOGGER_"))
                (warnings if is_overlooked else problems).append(f"{source} {wrong}")
            break


def _given(
    setting: Setting,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
) -> Iterator[tuple[str, object]]:
    """Yield where the setting is given and what as, the most important first.

    Nothing, or an empty text, in a variable or the file counts as not given.
    """
    if flags.get(setting.parameter) is not None:
        yield setting.flag or "", flags[setting.parameter]
    for variable in setting.variables:
        if environment.get(variable):
            yield variable, environment[variable]
    for key in setting.keys:
        if document.get(key.lower()) not in (None, ""):
            yield key, document[key.lower()]


def _put_into_maps(environment: Mapping[str, str], document: dict[str, object]) -> None:
    """Let variables such as WAL_LISTENER_FILTER_TABLES_USERS replace an entry of a map."""
    for path in _MAPS:
        stem = _their_variable(path) + "_"
        for variable, value in environment.items():
            if not variable.startswith(stem) or not value:
                continue
            name = variable.removeprefix(stem).lower()
            entries = document.get(path) or {}
            if isinstance(entries, dict):
                others = {key: old for key, old in entries.items() if str(key).lower() != name}
                document[path] = {**others, name: value}


def _notes(environment: Mapping[str, str], document: Mapping[str, object]) -> Iterator[str]:
    given = [key for key in _IGNORED_KEYS if document.get(key.lower()) not in (None, "")]
    given += [name for key in _IGNORED_KEYS if environment.get(name := _their_variable(key))]
    if given:
        yield f"without effect here: {', '.join(given)}"


def _unknown_actions(document: Mapping[str, object]) -> Iterator[str]:
    for unknown in kinds.unknown_actions(document.get("listener.filter.tables")):
        yield f"listener.filter.tables {unknown}"


def _wrong_subjects(found: Mapping[str, Any]) -> Iterator[str]:
    prefix = found.get("publisher.topic_prefix", "")
    for table, name in found.get("publisher.topics_map", {}).items():
        if not kinds.is_subject(prefix + name):
            yield f"listener.topicsMap makes {prefix + name!r} of {table}, which is no subject"
    topic, stream = found.get("publisher.topic"), found.get("publisher.stream")
    needs_stream = found.get("publisher.jetstream", True) and not stream
    if topic and needs_stream and not kinds.is_stream_name(topic):
        yield f"the topic {topic!r} can't be a stream's name, too: name the stream with --stream"
    template = found.get("publisher.subject")
    if template:
        varying = dict.fromkeys(("name", "schema", "table", "action", "key"), "x")
        filled = template.format(topic=topic or "x", prefix=prefix, **varying)
        if not kinds.is_subject(filled):
            yield f"--subject {template!r} with the topic prefix {prefix!r} makes no subject"


def _half_credentials(found: Mapping[str, Any]) -> Iterator[str]:
    ways = ("user", "token", "nkey", "creds")
    given = [f"--nats-{way}" for way in ways if found.get(f"publisher.{way}")]
    if len(given) > 1:
        yield f"{' and '.join(given)} exclude each other"
    for one, other in (("user", "password"), ("client-cert", "client-key")):
        pair = [found.get(f"publisher.{name.replace('-', '_')}") for name in (one, other)]
        if any(pair) and not all(pair):
            yield f"--nats-{one} and --nats-{other} need each other"


def _wrong_share(found: Mapping[str, Any]) -> Iterator[str]:
    flags = [flag for flag in ("tables", "except_tables") if found.get(f"relay.{flag}")]
    if len(flags) > 1:
        yield "--tables and --except-tables exclude each other"
    elif flags and "relay.name" not in found:
        flag = flags[0].replace("_", "-")
        yield f"--{flag} needs a --name of its own: relays of one name share one progress"


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

    class Loader(yaml.SafeLoader):
        """Takes 12:34:56, 0123, yes and 1e3 for the texts they are; settings know their kind."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first: [(tag, form) for tag, form in resolvers if tag.endswith((":null", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        document = yaml.load(file.read_text("utf-8"), Loader)  # noqa: S506 - a safe one
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
    keys = [key for setting in (*SETTINGS, _PUBLISHER_TYPE) for key in setting.keys]
    keys += _IGNORED_KEYS
    return {key.lower(): key for key in keys}


def _is_refused(key: str) -> bool:
    """Tell whether an unknown key is refused.

    wal-listener 2 overlooks keys that it doesn't know, so its set-ups may have some and work. A
    file of wal-listener 1 can't work.
    """
    return key.startswith(tuple(_VERSION_1)) or bool(suggest(key.partition(".")[0], ["pgoutbox"]))


def _unknown_keys(document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each key that there isn't, and a sentence that says so."""
    known = _known_keys()
    sections = {key.rpartition(".")[0] for key in known}
    for key, value in document.items():
        is_empty_section = value is None and key in sections
        if key not in known and not is_empty_section:
            yield key, f"the file has an unknown key {key}{_suggest_key(key, known)}"


def _flat_sections(document: Mapping[str, object]) -> Iterator[str]:
    sections = {key.partition(".")[0] for key in _known_keys()}
    for key, value in document.items():
        if key in sections and value is not None:
            yield f"{key} in the file must hold keys and values"


def _misspelt_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that is almost one of ours; others may be anything's."""
    known = {variable for setting in (*SETTINGS, _PUBLISHER_TYPE) for variable in setting.variables}
    for variable in environment:
        if variable.startswith(("PGOUTBOX_", "WAL_")) and variable not in known:
            meant = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if meant:
                yield f"there is no variable {variable}; did you mean {meant[0]}?"


def _suggest_key(wrong: str, known: Mapping[str, str]) -> str:
    """Suggest a key that looks like it, or one that ends like it in another section."""
    for old, new in _VERSION_1.items():
        if wrong.startswith(old):
            return f"; since wal-listener 2 it is {new}"
    section, _, name = wrong.rpartition(".")
    in_section = {key.rpartition(".")[2]: key for key in known if key.startswith(f"{section}.")}
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    close = suggest(name, in_section, {short: known[key] for short, key in in_section.items()})
    return close or suggest(wrong, elsewhere or known, known)


def _other_publishers(
    environment: Mapping[str, str], document: Mapping[str, object]
) -> Iterator[str]:
    for source, kind in _given(_PUBLISHER_TYPE, {}, environment, document):
        if str(kind).lower() != "nats":
            yield f"{source} {kind} isn't supported: pgoutbox publishes to nats only"
        break


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
