"""What a leader remembers from one connection to NATS to the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_LATE_ARRIVAL = 10.0  # seconds after which nats-server ends a batch that isn't continued


@dataclass
class Tenure:
    """The time of one relay as the leader, from when it takes the lead.

    ``guarded_until`` (by :func:`time.monotonic`) is until when a predecessor's messages may still
    arrive. ``has_stored`` says that a message was stored that the stream didn't have before, so
    that later repeats aren't a predecessor's.
    """

    guarded_until: float = field(default_factory=lambda: time.monotonic() + _LATE_ARRIVAL)
    has_stored: bool = False
    may_read: bool = True  # messages of the stream
    conflict: str | None = None  # id of the last event that another's message has kept out
