"""Delays between attempts."""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts: growing, capped, each between half and all of it."""

    def __init__(self, first: float = 0.1, longest: float = 5.0, growth: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._growth = growth
        self._next = first

    def next(self) -> float:
        """Return the next delay in seconds, and have those after it grow."""
        delay = self.delay()
        self.grow()
        return delay

    def delay(self) -> float:
        """Return a delay in seconds, and leave those after it as long."""
        return self._next * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing

    def grow(self) -> None:
        """Have the next delays be longer."""
        self._next = min(self._next * self._growth, self._longest)

    def reset(self) -> None:
        """Begin with the shortest delay again."""
        self._next = self._first
