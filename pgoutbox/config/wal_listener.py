"""What wal-listener's configuration has that pgoutbox's own doesn't.

Its file and variables work as they are (wal-listener 2.11, ``internal/config/config.go``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Keys that mean nothing without a replication slot, and those of other brokers. The ones with
# underscores stand in its example, where it doesn't read them.
IGNORED_KEYS = (
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

# Beginnings of keys of wal-listener 1, and what they are called since version 2.
VERSION_1_KEYS = {
    "nats.address": "publisher.address",
    "nats.streamname": "publisher.topic",
    "nats.topicprefix": "publisher.topicPrefix",
    "database.filter.tables": "listener.filter.tables",
}

# Keys, in lower case, that hold maps whose own keys are the user's.
MAPS = ("listener.topicsmap", "listener.filter.tables")

PUBLISHER_TYPE = "publisher.type"


def variable(key: str) -> str:
    """Return the environment variable for a key of the file."""
    return f"WAL_{key.replace('.', '_').upper()}"


def put_into_maps(environment: Mapping[str, str], document: dict[str, object]) -> None:
    """Apply variables that set one entry of a map, as WAL_LISTENER_FILTER_TABLES_USERS does."""
    for path in MAPS:
        stem = variable(path) + "_"
        for name, value in environment.items():
            if not name.startswith(stem) or not value:
                continue
            key = name.removeprefix(stem).lower()
            entries = document.get(path) or {}
            if isinstance(entries, dict):
                others = {old: entry for old, entry in entries.items() if str(old).lower() != key}
                document[path] = {**others, key: value}


def is_lenient(source: str) -> bool:
    """Return True if wal-listener takes any value in this place, and so must we."""
    return source.startswith(("logger.", "WAL_LOGGER_"))


def notes(environment: Mapping[str, str], document: Mapping[str, object]) -> Iterator[str]:
    """Yield one sentence about all settings that have no effect, as they should."""
    given = [key for key in IGNORED_KEYS if document.get(key.lower()) not in (None, "")]
    given += [name for key in IGNORED_KEYS if environment.get(name := variable(key))]
    if given:
        yield f"no effect in pgoutbox: {', '.join(given)}"


def other_publishers(
    environment: Mapping[str, str], document: Mapping[str, object]
) -> Iterator[str]:
    """Yield a sentence if the settings ask for another broker than NATS."""
    name = variable(PUBLISHER_TYPE)
    source, value = name, environment.get(name)
    if not value:
        source, value = PUBLISHER_TYPE, str(document.get(PUBLISHER_TYPE) or "")
    if value and value.lower() != "nats":
        yield f"{source} {value} isn't supported: pgoutbox publishes to nats only"
