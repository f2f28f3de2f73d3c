"""What the log says of events that are parked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("pgoutbox.relay")

_INTERVAL = 60.0  # seconds between two lines about one kind of reason


@dataclass(slots=True)
class _Kind:
    due: float  # of the clock, the next line
    unsaid: int = 0  # events


class ParkingLog:
    """Logs the first event that is parked, and how many follow it: a line a minute for each kind.

    ``kind`` is what many events have in common, such as the limit that they exceed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def say(self, kind: str, **details: object) -> None:
        """Log an event that is parked, or count it."""
        found = self._kinds.get(kind)
        if found is not None and self._clock() < found.due:
            found.unsaid += 1
            return
        self.say_rest()
        log.error("event parked: it cannot be published", extra=details)
        self._kinds[kind] = _Kind(self._clock() + _INTERVAL)

    def say_rest(self) -> None:
        """Log how many more there were, where the minute is over."""
        now = self._clock()
        for kind, found in list(self._kinds.items()):
            if now < found.due:
                continue
            if not found.unsaid:
                del self._kinds[kind]
                continue
            log.error(
                "more events parked: they cannot be published",
                extra={
                    "events": found.unsaid,
                    "reason": kind,
                    "hint": "Run: pgoutbox parked list",
                },
            )
            self._kinds[kind] = _Kind(now + _INTERVAL)
