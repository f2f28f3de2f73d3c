"""What the status consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgoutbox.database.sessions import Whereabouts


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The version of pgoutbox that the database has, and whether it fits this one."""

    pgoutbox: str
    installed: str | None
    problem: str | None = None
    remedy: str | None = None

    @property
    def is_missing(self) -> bool:
        """There is no schema pgoutbox, or no whole one."""
        return self.installed is None


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A captured table, what is wrong with it, and what mends that.

    ``table`` is its present name; where that is gone or another table has taken it, the one under
    which it was captured. ``other_name`` is the other of the two where they differ. ``problem``
    is one of ``_PROBLEMS``.
    """

    table: str
    other_name: str | None
    actions: tuple[str, ...]
    old_values: str
    problem: str | None
    remedy: str | None
    locked_by: str | None = None  # who keeps us from looking, with the problem "locked"
    choice: str = ""  # which rows and columns are captured, in words; empty if all are


@dataclass(frozen=True, slots=True)
class UncapturedTable:
    """A table that isn't captured, though it matches a pattern that is kept."""

    table: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Leader:
    """The session that leads a relay."""

    pid: int
    application: str
    leading_s: float
    method: str | None  # how it publishes, in words


@dataclass(frozen=True, slots=True)
class PauseStatus:
    """Since when, by whom and why a relay is paused."""

    paused_s: float
    by: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class LossStatus:
    """Messages that a relay's stream had lost when it last did."""

    stream: str
    noticed_s: float  # how long ago
    events: int | None  # sent again; None while that goes on


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """What one relay has to do, and who does it."""

    relay: str
    backlog: int
    oldest_unsent_s: float | None
    gaps: int
    parked: int
    high: int
    leader: Leader | None
    is_idle: bool
    share: str  # what it publishes, as flags; empty where that is everything
    error: str | None = None  # why it publishes nothing
    error_s: float | None = None  # how long ago it said so
    polling: str | None = None  # why notifications don't reach it
    loss: LossStatus | None = None  # of its stream
    pause: PauseStatus | None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session that isn't ours and holds the sleep lock, so that commits notify."""

    pid: int
    application: str
    mode: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that is open after it was given positions, which relays then wait for.

    Its session; or none, where it is prepared.
    """

    pid: int | None
    application: str
    open_s: float | None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot of the ring."""

    slot: int
    bytes: int
    is_written: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot of a table that a relay reads, or is to read, or could not."""

    id: str
    table: str
    relay: str
    state: str
    rows: int
    estimated_rows: int | None  # of the whole table


@dataclass(frozen=True, slots=True)
class ResendStatus:
    """Sent events that a relay is to send again, and how far it is."""

    number: int
    relay: str
    events: int
    sent: int
    asked_s: float  # how long ago that was asked
    by: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one moment."""

    schema: SchemaStatus
    tables: tuple[TableStatus, ...] = ()
    relays: tuple[RelayStatus, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    holders: tuple[Holder, ...] = ()
    slots: tuple[SlotStatus, ...] = ()
    snapshots: tuple[Reading, ...] = ()  # those that haven't come to their end
    resends: tuple[ResendStatus, ...] = ()  # that haven't come to their end
    outbox_bytes: int = 0  # on disk
    patterns: tuple[str, ...] = ()  # that are kept for later tables
    uncaptured: tuple[UncapturedTable, ...] = ()
    event_trigger: Literal["enabled", "disabled"] | None = None  # that captures tables as made
    database: Whereabouts | None = None
