"""PostgreSQL's clock, by which events have their times."""

from __future__ import annotations

import time
from collections.abc import Callable


class ServerClock:
    """Tells PostgreSQL's time between two looks at its clock.

    Ages are the difference of two times of one clock. This machine's may be wrong, or be set while
    the relay runs; it is used only until PostgreSQL's is first known. ``clock`` is one that can't
    be set, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offset: float | None = None

    def told(self, moment: float, asked_at: float) -> None:
        """Note that PostgreSQL's clock said ``moment``, in seconds since the epoch.

        ``asked_at`` is when the question was sent, by the clock that can't be set.
        """
        lowest, highest = moment - self._clock(), moment - asked_at
        known = (lowest + highest) / 2 if self._offset is None else self._offset
        self._offset = min(max(lowest, known), highest)  # an answer that took long tells little

    def now(self) -> float:
        """Return PostgreSQL's time, in seconds since the epoch."""
        return time.time() if self._offset is None else self._clock() + self._offset

    def age(self, moment: float | None) -> float:
        """Return how many seconds ago ``moment`` was; 0 for None."""
        return max(0.0, self.now() - moment) if moment else 0.0
