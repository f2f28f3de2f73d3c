"""Settings: what they are, their defaults, and where each is read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to reach PostgreSQL; what is unset is left to libpq's ``PG*`` variables."""

    dsn: str | None = field(default=None, repr=False)  # may hold a password


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
    retention: float = 900.0  # seconds that sent events stay; at most 3,600
    grace_period: float = 10.0  # seconds for outstanding acknowledgements at a stop
    on_oversize: Literal["park", "stop"] = "park"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one run."""

    database: DatabaseConfig = DatabaseConfig()
    publisher: PublisherConfig = PublisherConfig()
    relay: RelayConfig = RelayConfig()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
