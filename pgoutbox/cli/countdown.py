"""How far long work is: one line that changes on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_LINE_INTERVAL = 10.0  # seconds between lines where there is no terminal
_CLEAR = "\r\x1b[K"


class Countdown:
    """Says on stderr how many events are left, how fast they go, and how long it will take."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._said_at = float("-inf")

    def show(self, left: int) -> None:
        """Say that so many events are left; with 0 it is over."""
        now = self._clock()
        if self._first is None:
            self._first = now, left
        if self._is_terminal:
            self._write(f"{_CLEAR}{self._sentence(now, left)}" if left else _CLEAR)
        elif left and now - self._said_at >= _LINE_INTERVAL:
            self._said_at = now
            self._write(f"{self._sentence(now, left)}\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody can be told; the work goes on
            self._stream.write(text)
            self._stream.flush()

    def _sentence(self, now: float, left: int) -> str:
        began, total = self._first or (now, left)
        said = f"{left:,} events left"
        if now > began and left < total:
            rate = (total - left) / (now - began)
            said += f", {rate:,.0f}/s, {_duration(left / rate)} to go"
        return said


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
