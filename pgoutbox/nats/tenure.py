"""What a leader remembers from one connection to NATS to the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tenure:
    """The time of one relay as the leader, from when it takes the lead.

    ``has_stored`` says that a message was stored that the stream didn't have before, so that later
    repeats aren't a predecessor's.
    """

    has_stored: bool = False
    may_read: bool = True  # messages of the stream
    conflict: str | None = None  # id of the last event that another's message has kept out
