"""All settings: each declared once, in the section that it belongs to.

Names, help, ``docs/settings.md`` and what :mod:`pgoutbox.config.load` returns follow from here.
Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Literal

from pgoutbox.config import values
from pgoutbox.config.declare import Setting, own, setting, settings_of, wal_listeners
from pgoutbox.names import Address, Hours, Shard, TableName
from pgoutbox.sql_files import ring
from pgoutbox.subjects import PLACEHOLDERS, WAL_LISTENER_TEMPLATE

Mode = Literal["auto", "window", "fast"]

# Seconds. A slot of the outbox's ring rests before it is used again; it has to be found and
# emptied within that.
LONGEST_RETENTION = ring().rest - 300.0


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to connect to PostgreSQL; what isn't set is left to libpq's ``PG*`` variables."""

    dsn: str | None = setting(
        None,
        own(
            "--dsn",
            values.DSN,
            "PostgreSQL connection string: a URL, or keywords and values.",
            also_variable="DATABASE_URL",
        ),
        own(
            "--dsn-file",
            values.file_with(values.DSN),
            "File with that connection string, which keeps a password out of the process list.",
        ),
        is_secret=True,
    )
    # What a DSN replaces as a whole.
    host: str | None = setting(
        None, wal_listeners("database.host", values.TEXT, "PostgreSQL host, without a DSN.")
    )
    port: int | None = setting(
        None, wal_listeners("database.port", values.integer(1, 65535), "PostgreSQL port.")
    )
    name: str | None = setting(
        None, wal_listeners("database.name", values.TEXT, "Name of the database.")
    )
    user: str | None = setting(
        None, wal_listeners("database.user", values.TEXT, "Role to connect as.")
    )
    password: str | None = setting(
        None,
        wal_listeners("database.password", values.TEXT, "Password of that role."),
        is_secret=True,
    )
    ssl_mode: str | None = setting(
        None,
        wal_listeners(
            "database.sslMode",
            values.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
            "libpq's `sslmode`.",
        ),
    )
    enable_tls: bool | None = setting(
        None,
        wal_listeners(
            "database.enableTLS", values.LENIENT_BOOL, "Require TLS, or leave `sslMode` aside."
        ),
    )
    schema_owner: str | None = setting(
        None,
        own(
            "--schema-owner",
            values.TEXT,
            "Role that is trusted to own the schema pgoutbox, beside this one, its members, the"
            " database's owner and superusers; what it put there runs with this role's rights.",
        ),
    )
    source: str = field(default="the defaults", compare=False)  # of all this, in words


DATABASE_PARTS = tuple(
    f"database.{name}"
    for name in DatabaseConfig.__dataclass_fields__
    if name not in ("dsn", "schema_owner", "source")
)


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """How to connect to NATS."""

    url: str = setting(
        "nats://localhost:4222",
        own(
            "--nats-url",
            values.NATS_URL,
            "NATS server URLs, comma-separated.",
            wal_listener_key="publisher.address",
            fallback="NATS_URL",
        ),
        is_secret=True,
    )
    user: str | None = setting(
        None, own("--nats-user", values.TEXT, "User, unless the URL names one.")
    )
    password: str | None = setting(
        None,
        own("--nats-password", values.TEXT, "Password of that user; rather use a file."),
        own("--nats-password-file", values.file_with(values.TEXT), "File with that password."),
        is_secret=True,
    )
    token: str | None = setting(
        None,
        own("--nats-token", values.TEXT, "Token, instead of a user; rather use a file."),
        own("--nats-token-file", values.file_with(values.TEXT), "File with that token."),
        is_secret=True,
    )
    nkey: str | None = setting(None, own("--nats-nkey", values.FILE, "File with an nkey seed."))
    creds: str | None = setting(
        None, own("--nats-creds", values.FILE, "Credentials file, with a JWT and its seed.")
    )
    enable_tls: bool = setting(
        False,
        own(
            "--nats-tls",
            values.BOOL,
            "Require TLS, as tls:// in the URL does.",
            wal_listener_key="publisher.enableTLS",
        ),
    )
    ca_cert: str | None = setting(
        None,
        own(
            "--nats-ca-cert",
            values.FILE,
            "CA certificate of the server, in PEM; default: the system's.",
            wal_listener_key="publisher.caCert",
        ),
    )
    client_cert: str | None = setting(
        None,
        own(
            "--nats-client-cert",
            values.FILE,
            "Client certificate for mutual TLS, in PEM.",
            wal_listener_key="publisher.clientCert",
        ),
    )
    client_key: str | None = setting(
        None,
        own(
            "--nats-client-key",
            values.FILE,
            "Private key of the client certificate.",
            wal_listener_key="publisher.clientKey",
        ),
    )
    inbox_prefix: str = setting(
        "_INBOX", own("--inbox-prefix", values.INBOX_PREFIX, "Prefix of the reply subjects.")
    )


@dataclass(frozen=True, slots=True)
class MessageConfig:
    """What messages look like, and their subjects."""

    topic: str = setting(
        "wal_listener",
        own(
            "--topic",
            values.TOPIC,
            "First part of every subject, and name of a stream that has to be created.",
            wal_listener_key="publisher.topic",
        ),
    )
    topic_prefix: str = setting(
        "",
        own(
            "--topic-prefix",
            values.TOPIC_PREFIX,
            "Prefix of schema_table in every subject.",
            wal_listener_key="publisher.topicPrefix",
        ),
    )
    topics_map: dict[str, str] = setting(
        {},
        wal_listeners(
            "listener.topicsMap", values.TOPICS_MAP, "What replaces `schema_table` in subjects."
        ),
    )
    subject: str = setting(
        WAL_LISTENER_TEMPLATE,
        own(
            "--subject",
            values.TEMPLATE,
            f"Template for subjects, from {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}.",
            also_key="publisher.subject",
        ),
    )
    headers: bool = setting(
        False,
        own(
            "--headers",
            values.BOOL,
            "Also put table, action and transaction into headers.",
            also_key="publisher.headers",
        ),
    )
    context_field: bool = setting(
        False,
        own(
            "--context-field",
            values.BOOL,
            "Also put the context of the transaction into the payload, as context.",
            also_key="publisher.contextField",
        ),
    )
    content: Literal["wal-listener", "cloudevents", "cloudevents-structured"] = setting(
        "wal-listener",
        own(
            "--content",
            values.choice("wal-listener", "cloudevents", "cloudevents-structured"),
            "Message format: wal-listener's JSON, the same with CloudEvents attributes in headers,"
            " or the same inside a CloudEvents envelope.",
            also_key="publisher.content",
        ),
    )
    bucket: str = ""  # that is filled instead; see RelayConfig.kv


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Which stream messages are published to, and how."""

    jetstream: bool = setting(
        True,
        own(
            "--jetstream",
            values.BOOL,
            "Store messages in a stream; without one, subscribers that are offline miss them.",
            also_key="publisher.jetstream",
        ),
    )
    name: str | None = setting(
        None,
        own(
            "--stream",
            values.STREAM,
            "Stream to publish to; default: the one that has our subjects, or a new one.",
            also_key="publisher.stream",
        ),
    )
    domain: str | None = setting(
        None, own("--js-domain", values.STREAM, "JetStream domain of the stream.")
    )
    replicas: int = setting(
        1,
        own(
            "--stream-replicas",
            values.integer(1, 5),
            "Replicas of a stream that has to be created.",
            also_key="publisher.streamReplicas",
        ),
    )
    mode: Mode = setting(
        "auto",
        own(
            "--mode",
            values.choice("auto", "window", "fast"),
            "How to publish to the stream: with a window of unacknowledged messages, or in"
            " fast-ingest batches (nats-server 2.14). auto picks the fastest method that keeps"
            " order, whoever else publishes into the stream; window keeps it in a replicated"
            " stream only if nobody does.",
            also_key="publisher.mode",
        ),
    )
    window: int = setting(
        4_000,
        own("--window", values.integer(1, 100_000), "Maximum number of unacknowledged messages."),
    )
    ack_timeout: float = setting(
        5.0,
        own(
            "--ack-timeout",
            values.duration(0.1, 600),
            "Publish again after this long without an acknowledgement.",
        ),
    )


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What the relay publishes, and how it goes about it."""

    name: str = setting(
        "default",
        own(
            "--name",
            values.RELAY_NAME,
            "Name of the relay. Relays of one name share their progress; one of them leads.",
            wal_listener_key="listener.slotName",
        ),
    )
    tables: tuple[TableName, ...] = setting(
        (),
        own(
            "--tables",
            values.TABLES,
            "Publish only these tables; a name without a schema means that table in every schema."
            " Needs a --name of its own.",
        ),
    )
    except_tables: tuple[TableName, ...] = setting(
        (),
        own(
            "--except-tables",
            values.TABLES,
            "Publish all tables but these. Needs a --name of its own.",
        ),
    )
    kv: TableName | None = setting(
        None,
        own(
            "--kv",
            values.TABLE,
            "Keep a NATS key-value bucket equal to this table, and publish nothing else; without a"
            " schema it is one of public. Needs a --name of its own.",
        ),
    )
    kv_bucket: str | None = setting(
        None,
        own(
            "--kv-bucket",
            values.BUCKET,
            "Name of that bucket; default: schema_table. It is made if it is missing.",
        ),
    )
    shard: Shard | None = setting(
        None,
        own(
            "--shard",
            values.SHARD,
            "Publish only rows whose key hashes to part I of N; the relay's name becomes"
            " NAME-I-of-N.",
        ),
    )
    begin_after: tuple[str, ...] = setting(
        (),
        own(
            "--begin-after",
            values.RELAY_NAMES,
            "Relays that a new relay takes over from: it begins where they ended.",
        ),
    )
    begin_at: int | str = setting(
        "oldest",
        own(
            "--begin-at",
            values.BEGINNING,
            "Where a new relay begins: with the oldest event in the outbox, with what is committed"
            " from now on, or with a position.",
        ),
    )
    install: bool = setting(
        False,
        own(
            "--install",
            values.BOOL,
            "First run `pgoutbox install` for the tables of listener.filter.",
        ),
    )
    batch_events: int = setting(
        2_000, own("--batch-events", values.integer(1, 100_000), "Maximum events per read.")
    )
    batch_bytes: int = setting(
        4 * 1024 * 1024,
        own(
            "--batch-bytes",
            values.size(1024, 256 * 1024**2),
            "Approximate maximum of row data per read.",
        ),
    )
    poll_interval: float = setting(
        1.0,
        own(
            "--poll-interval",
            values.duration(0.01, 3600),
            "How often to look for events if no notification arrives.",
        ),
    )
    record_interval: float = setting(
        0.1,
        own(
            "--record-interval",
            values.duration(0, 60),
            "How long sent events may go unrecorded, to be sent again after a crash; 0 records each"
            " batch at once.",
        ),
    )
    query_timeout: float = setting(
        60.0,
        own(
            "--query-timeout",
            values.duration(1, 3600),
            "How long to wait for PostgreSQL's answer before connecting again.",
        ),
    )
    retention: float = setting(
        900.0,
        own(
            "--retention",
            values.duration(0, LONGEST_RETENTION),
            "How long sent events stay in the outbox; at most 55m.",
        ),
    )
    rotate_between: Hours | None = setting(
        None,
        own(
            "--rotate-between",
            values.HOURS,
            "Empty slots of the outbox at these hours of the day only, in UTC, such as"
            " 02:00-05:00.",
        ),
    )
    grace_period: float = setting(
        10.0,
        own(
            "--grace-period",
            values.duration(0, 3600),
            "How long to wait for acknowledgements when stopping.",
        ),
    )
    on_oversize: Literal["auto", "park", "stop"] = setting(
        "auto",
        own(
            "--on-oversize",
            values.choice("auto", "park", "stop"),
            "What to do with an event that is too large for NATS: set it aside, unless the limit"
            " looks like a mistake; set it aside in any case; or stop.",
        ),
    )
    parked_retention: float = setting(
        0.0,
        own(
            "--parked-retention",
            values.duration(0, 3650 * 86_400),
            "How long to keep events that were set aside, with people's data in them; 0: for good.",
        ),
    )

    @property
    def share(self) -> str:
        """What it publishes of the outbox, as flags; empty if that is everything."""
        flags = {
            "--kv": str(self.kv or ""),
            "--tables": values.TABLES.show(self.tables),
            "--except-tables": values.TABLES.show(self.except_tables),
            "--shard": str(self.shard or ""),
        }
        return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)

    @property
    def shards(self) -> str:
        """Name of the set of shards that this one belongs to, such as default-of-8."""
        if self.shard is None:
            return ""
        return f"{self.name.removesuffix(shard_suffix(self.shard))}-of-{self.shard.of}"


def shard_suffix(shard: Shard) -> str:
    """Return what the name of a shard's relay ends in."""
    return f"-{shard.number}-of-{shard.of}"


@dataclass(frozen=True, slots=True)
class MonitoringConfig:
    """Where the relay reports on itself."""

    health_addr: Address | None = setting(
        None,
        own(
            "--health-addr",
            values.ADDRESS,
            "Serve /healthz and /ready on this address: PORT on loopback, :PORT on all interfaces.",
        ),
        wal_listeners(
            "listener.serverPort", values.PORT, "Port of these probes, on all interfaces."
        ),
    )
    metrics_addr: Address | None = setting(
        None,
        own(
            "--metrics-addr",
            values.ADDRESS,
            "Serve Prometheus metrics on this address.",
            wal_listener_key="monitoring.promAddr",
        ),
    )
    sentry_dsn: str | None = setting(
        None,
        own(
            "--sentry-dsn",
            values.TEXT,
            "Report errors to this Sentry project.",
            wal_listener_key="monitoring.sentryDSN",
        ),
        is_secret=True,
    )


@dataclass(frozen=True, slots=True)
class InstallConfig:
    """What is captured, and how long `install` and `uninstall` wait for locks."""

    tables: dict[str, tuple[str, ...]] = setting(
        {},
        wal_listeners(
            "listener.filter.tables",
            values.FILTER_TABLES,
            "Tables, each with its actions: what `install` without `--table` captures, and what"
            " the relay publishes.",
        ),
    )
    old_values: Literal["full", "identity"] | None = setting(
        None,
        own(
            "--old-values",
            values.choice("full", "identity"),
            "Old values to capture: the full row, or the columns of its REPLICA IDENTITY;"
            " default: unchanged; for a new table, full.",
        ),
    )
    lock_timeout: float = setting(
        2.0,
        own(
            "--lock-timeout",
            values.duration(0.01, 60),
            "How long one attempt at a table's lock may hold up the application.",
        ),
    )
    lock_wait: float = setting(
        60.0,
        own("--lock-wait", values.duration(0, 86_400), "How long to keep trying to lock a table."),
    )

    @property
    def actions_by_name(self) -> dict[str, tuple[str, ...]]:
        """Actions of the filter by a table's bare name, in any schema; empty without a filter.

        wal-listener's loader turns all names into lower case, so each stands for itself and for
        itself in lower case.
        """
        return {name.lower(): actions for name, actions in self.tables.items()} | self.tables


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        own(
            "--log-level",
            values.choice("debug", "info", "warning", "error", aliases={"warn": "warning"}),
            "Minimum log level.",
            wal_listener_key="logger.level",
        ),
    )
    format: Literal["text", "json"] = setting(
        "text",
        own(
            "--log-format",
            values.choice("text", "json"),
            "Log format.",
            wal_listener_key="logger.fmt",
        ),
    )


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
    log: LogConfig = LogConfig()
    notes: tuple[str, ...] = ()  # what has no effect, as it should be
    warnings: tuple[str, ...] = ()  # what has no effect, and is probably a mistake


DEFAULTS = Config()
SETTINGS = tuple(settings_of(DEFAULTS))


def flags_of(*paths: str) -> tuple[Setting, ...]:
    """Return the settings with a flag that are in these sections, or are these fields."""
    return tuple(
        each
        for path in paths
        for each in SETTINGS
        if each.flag and f"{each.path}.".startswith(f"{path}.")
    )
