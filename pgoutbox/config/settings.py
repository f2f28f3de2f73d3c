"""What can be set: each setting, its default, and its names in flags, environment and file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

from pgoutbox.config import kinds
from pgoutbox.config.kinds import Kind
from pgoutbox.names import Address, Shard, TableName
from pgoutbox.subjects import PLACEHOLDERS, WAL_LISTENER_TEMPLATE

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
class NatsConfig:
    """How to connect to NATS."""

    url: str = field(default="nats://localhost:4222", repr=False)  # may hold a password
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


@dataclass(frozen=True, slots=True)
class MessageConfig:
    """What messages look like, and on which subjects they go."""

    topic: str = "wal_listener"
    topic_prefix: str = ""
    topics_map: dict[str, str] = field(default_factory=dict)
    subject: str = WAL_LISTENER_TEMPLATE
    headers: bool = False
    content: Literal["wal-listener", "cloudevents", "cloudevents-structured"] = "wal-listener"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Which stream messages go into, and how."""

    jetstream: bool = True  # else core NATS: at most once
    name: str | None = None  # else the one that takes our subjects, else one named like the topic
    domain: str | None = None  # of JetStream
    replicas: int = 1  # of a stream that has to be created
    mode: Mode = "auto"  # see pgoutbox.nats.chain
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
        return f"{self.name.removesuffix(shard_suffix(self.shard))}-of-{self.shard.of}"


def shard_suffix(shard: Shard) -> str:
    """Return what the name of a shard's relay ends in."""
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
    nats: NatsConfig = NatsConfig()
    messages: MessageConfig = MessageConfig()
    stream: StreamConfig = StreamConfig()
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
        variables = (*variables, their_variable(theirs))
    return Setting(
        path,
        help_text,
        kind,
        flag,
        ("PGOUTBOX_" + "_".join(words).upper(), *variables),
        (f"pgoutbox.{key}", *keys),
    )


def theirs(path: str, key: str, kind: Kind) -> Setting:
    """Return a setting that only wal-listener's file and variables have; no variable has a map."""
    variables = () if kind.metavar == "MAP" else (their_variable(key),)
    return Setting(path, "", kind, None, variables, (key,))


def their_variable(key: str) -> str:
    """Return wal-listener's environment variable for a key of its file."""
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
DATABASE_PARTS = (
    theirs("database.host", "database.host", kinds.TEXT),
    theirs("database.port", "database.port", kinds.whole(1, 65535)),
    theirs("database.name", "database.name", kinds.TEXT),
    theirs("database.user", "database.user", kinds.TEXT),
    theirs("database.password", "database.password", kinds.TEXT),
    theirs(
        "database.ssl_mode",
        "database.sslMode",
        kinds.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    ),
    theirs("database.enable_tls", "database.enableTLS", kinds.TRUTH),
)

# The driver reads these itself; as part of the environment they come before the file.
LIBPQ_VARIABLES = {
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
        "nats.url",
        "--nats-url",
        kinds.NATS_URL,
        "NATS; several addresses with commas.",
        theirs="publisher.address",
    ),
    _own("nats.user", "--nats-user", kinds.TEXT, "User, where the URL names none."),
    _own("nats.password", "--nats-password", kinds.TEXT, "That user's password."),
    _own("nats.token", "--nats-token", kinds.TEXT, "Token, instead of a user."),
    _own("nats.nkey", "--nats-nkey", kinds.FILE, "File with an nkey's seed."),
    _own("nats.creds", "--nats-creds", kinds.FILE, "Credentials file: a JWT and its seed."),
    _own(
        "nats.enable_tls",
        "--nats-tls",
        kinds.BOOL,
        "Insist on TLS, as a URL with tls:// does.",
        theirs="publisher.enableTLS",
    ),
    _own(
        "nats.ca_cert",
        "--nats-ca-cert",
        kinds.FILE,
        "CA of the server's certificate, in PEM; else the system's.",
        theirs="publisher.caCert",
    ),
    _own(
        "nats.client_cert",
        "--nats-client-cert",
        kinds.FILE,
        "Our own certificate, for mutual TLS.",
        theirs="publisher.clientCert",
    ),
    _own(
        "nats.client_key",
        "--nats-client-key",
        kinds.FILE,
        "Its private key.",
        theirs="publisher.clientKey",
    ),
    _own(
        "nats.inbox_prefix",
        "--inbox-prefix",
        kinds.INBOX_PREFIX,
        "Beginning of the subjects that answers come to.",
    ),
    _own("stream.domain", "--js-domain", kinds.STREAM, "JetStream domain of the stream."),
)

_MESSAGE_SETTINGS = (
    _own(
        "messages.topic",
        "--topic",
        kinds.TOPIC,
        "First part of each subject, and name of a stream that has to be created.",
        theirs="publisher.topic",
    ),
    _own(
        "messages.topic_prefix",
        "--topic-prefix",
        kinds.TOPIC_PREFIX,
        "Put before schema_table in each subject.",
        theirs="publisher.topicPrefix",
    ),
    _own(
        "messages.subject",
        "--subject",
        kinds.TEMPLATE,
        f"Template of the subjects, with {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}.",
        keys=("publisher.subject",),
    ),
    _own(
        "messages.headers",
        "--headers",
        kinds.BOOL,
        "Tell table, action and transaction in headers, too.",
        keys=("publisher.headers",),
    ),
    _own(
        "messages.content",
        "--content",
        kinds.choice("wal-listener", "cloudevents", "cloudevents-structured"),
        "What a message is: wal-listener's JSON, the same as a CloudEvent (attributes in headers),"
        " or inside one.",
        keys=("publisher.content",),
    ),
    _own(
        "stream.jetstream",
        "--jetstream",
        kinds.BOOL,
        "Store messages in a stream; without, subscribers that are away miss them.",
        keys=("publisher.jetstream",),
    ),
    _own(
        "stream.name",
        "--stream",
        kinds.STREAM,
        "Stream to publish into; else the one that takes our subjects, else a new one.",
        keys=("publisher.stream",),
    ),
    _own(
        "stream.replicas",
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
        "stream.mode",
        "--mode",
        kinds.choice("auto", "window", "fast"),
        "How messages go to the stream: with a window of unacknowledged ones, or in fast-ingest"
        " batches (nats-server 2.14); else what is cheaper.",
        keys=("publisher.mode",),
    ),
    _own(
        "stream.window",
        "--window",
        kinds.whole(1, 100_000),
        "Messages that may be unacknowledged.",
    ),
    _own(
        "stream.ack_timeout",
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
    theirs("monitoring.health_addr", "listener.serverPort", kinds.PORT),
    theirs("messages.topics_map", "listener.topicsMap", kinds.TOPICS_MAP),
    theirs("install.tables", "listener.filter.tables", kinds.FILTER_TABLES),
)

# Where two settings have the same place in Config, the first that is given counts.
SETTINGS = (
    *DATABASE_SETTINGS,
    *DATABASE_PARTS,
    *RELAY_SETTINGS,
    *INSTALL_SETTINGS,
    *LOCK_SETTINGS,
    *LOG_SETTINGS,
    *_OTHERS,
)
