"""What the relay knows of itself, for those who look after it: probes and metrics read it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter

from pgoutbox.messages.event import Message
from pgoutbox.monitoring.server_clock import ServerClock
from pgoutbox.subjects import WAL_LISTENER_TEMPLATE, Template

# Seconds. Whatever the relay waits for, it gives up sooner; longer waits are announced.
STUCK_AFTER = 300.0

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


_SUBJECT_AND_TABLE = attrgetter("subject", "table", "is_emitted")
_EMITTED = "emitted"  # for the subjects of such events


class Role(Enum):
    """What a relay is doing as far as others of its name are concerned."""

    STARTING = "starting"  # it has no session in PostgreSQL, or not yet
    STANDBY = "standby"
    LEADER = "leader"


@dataclass(slots=True)
class Server:
    """PostgreSQL or NATS, as the relay fares with it."""

    is_out: bool = False
    outages: int = 0
    connections: int = 0


@dataclass(slots=True)
class Histogram:
    """How many observations there were up to each bound, the last of which is infinite."""

    bounds: tuple[float, ...] = LATENCY_BOUNDS
    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    sum: float = 0.0

    def observe(self, value: float, count: int) -> None:
        """Note ``count`` observations of ``value``."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count


@dataclass(slots=True)
class Lead:
    """What only the leader knows."""

    clock: ServerClock
    is_paused: bool = False
    has_passed: bool = False  # looked for events, and stored those that it found
    last_pass: float | None = None  # seconds since the epoch, by PostgreSQL's clock
    backlog: int = 0
    oldest: float | None = None  # commit time of the oldest unsent event, since the epoch
    gaps: int = 0
    parked: int = 0
    problem_tables: int = 0
    outbox_bytes: int | None = None
    others_oldest: Mapping[str, float | None] = field(default_factory=dict)  # as ``oldest``
    others_backlog: Mapping[str, int] = field(default_factory=dict)
    snapshot_rows: dict[str, int] = field(default_factory=dict)  # of each table's last snapshot


OnStored = Callable[[Sequence[Message]], object]


class Monitor:
    """Is told what happens, counts it, and judges whether the relay is alive and ready.

    Messages are counted by subject and table. Where the ``template`` of subjects has a row's key
    in it, the template stands for all of them, for nobody wants a time series for each row; nor for
    each subject that an application emits: these are counted together.
    """

    def __init__(
        self,
        *,
        relay: str = "default",
        counts_subjects: bool = False,
        template: str = WAL_LISTENER_TEMPLATE,
        clock: Callable[[], float] = time.monotonic,
        on_stored: OnStored | None = None,
    ) -> None:
        self.relay = relay  # its name
        self._on_stored = on_stored
        self._counts_subjects = counts_subjects
        self._subject = template if Template(template).needs_key else None
        self._clock = clock
        self._due = clock()  # when the next sign of life should come
        self.is_stopping = False
        self.role = Role.STARTING
        self.postgresql = Server()
        self.nats = Server()
        self.lead: Lead | None = None
        self.published: Counter[tuple[str, str]] = Counter()  # by subject and table
        self.skipped: Counter[str] = Counter()  # by the filter, by table; the outbox counts them
        self.sent = 0
        self.batches = 0
        self.parked = 0  # since the start
        self.resent = 0  # events, after the stream had lost them
        self.id_conflicts = 0  # of events with others' messages in the stream
        self.latency = Histogram()
        self.server_clock = ServerClock(clock)

    def step(self, pause: float = 0.0) -> None:
        """Take a sign of life; the next one will come after ``pause`` seconds at the latest."""
        self._due = self._clock() + pause

    @property
    def is_alive(self) -> bool:
        """Whether the relay still does something, be it only trying again."""
        return self._clock() < self._due + STUCK_AFTER

    @property
    def is_ready(self) -> bool:
        """Whether the relay leads and publishes, is paused, or stands by and could take over."""
        if self.is_stopping or self.postgresql.is_out:
            return False
        if self.role is Role.STANDBY or self.is_paused:
            return True
        return self.lead is not None and self.lead.has_passed and not self.nats.is_out

    @property
    def is_leading(self) -> bool:
        """Whether this relay leads."""
        return self.role is Role.LEADER

    @property
    def is_paused(self) -> bool:
        """Whether the relay leads, and publishes nothing because somebody has paused it."""
        return self.is_leading and self.lead is not None and self.lead.is_paused

    def pause(self, is_paused: bool) -> None:
        """Note whether somebody has paused this relay."""
        if self.lead is not None:
            self.lead.is_paused = is_paused

    def start_over(self) -> None:
        """Note that the sessions in PostgreSQL have ended; what was unsent still is."""
        self.role = Role.STARTING
        if self.lead is not None:
            self.lead.has_passed = False

    def stand_by(self) -> None:
        """Note that another relay leads, and knows better how far it is."""
        self.role = Role.STANDBY
        self.lead = None

    def take_lead(self) -> None:
        """Note that this relay leads."""
        self.role = Role.LEADER
        self.lead = self.lead or Lead(self.server_clock)

    def found(self, oldest: float | None) -> None:
        """Note when the first of the events that come next was committed; None: there is none."""
        if self.lead is not None:
            self.lead.oldest = oldest
            if oldest is None:
                self.lead.backlog = 0

    def stored(self, messages: Sequence[Message], oldest: float | None) -> None:
        """Note that the stream has confirmed ``messages``, the first of them from ``oldest``."""
        if not messages:
            return
        self.sent += len(messages)
        self.batches += 1
        if self.lead is not None:
            self.lead.backlog = max(0, self.lead.backlog - len(messages))
        if oldest is not None:
            self.latency.observe(self.server_clock.age(oldest), len(messages))
        if self._counts_subjects:
            counts = Counter(map(_SUBJECT_AND_TABLE, messages))
            for (subject, table, is_emitted), count in counts.items():
                shown = _EMITTED if is_emitted else self._subject or subject
                self.published[shown, table] += count
        if self._on_stored is not None:
            self._on_stored(messages)

    def read_rows(self, table: str, rows: int) -> None:
        """Note how many rows a snapshot of a table has sent."""
        if self.lead is not None:
            self.lead.snapshot_rows[table] = rows

    def set_aside(self) -> None:
        """Note that an event is parked."""
        self.parked += 1
        if self.lead is not None:
            self.lead.parked += 1

    def passed(self, gaps: int, pause: float) -> None:
        """Note that all that was found is stored; the next pass comes after ``pause`` seconds."""
        self.step(pause)
        if self.lead is not None:
            self.lead.has_passed = True
            self.lead.last_pass = self.server_clock.now()
            self.lead.gaps = gaps

    def found_problems(self, tables: int) -> None:
        """Note how many captured tables need attention."""
        if self.lead is not None:
            self.lead.problem_tables = tables

    def found_outbox(self, size: int, others: Mapping[str, float | None]) -> None:
        """Note the outbox's ``size`` in bytes, and what it keeps for each of the ``others``.

        That is when the oldest unsent event of that relay was committed, in seconds since the
        epoch; None where all are sent.
        """
        if self.lead is not None:
            self.lead.outbox_bytes, self.lead.others_oldest = size, others

    def counted_others(self, backlogs: Mapping[str, int]) -> None:
        """Note how many events each other relay has not sent."""
        if self.lead is not None:
            self.lead.others_backlog = backlogs

    def counted(self, backlog: int, oldest: float | None, parked: int) -> None:
        """Note what the outbox holds."""
        if self.lead is not None:
            self.lead.backlog, self.lead.oldest, self.lead.parked = backlog, oldest, parked
