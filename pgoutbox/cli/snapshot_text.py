"""Snapshots in words: a table of them, and how far those are that somebody waits for."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TextIO

from pgoutbox.database.snapshots import ENDED, SnapshotStatus
from pgoutbox.database.tables import printable

_LINE_INTERVAL = 10.0  # seconds between lines where there is no terminal
_RATE_OVER = 10.0  # seconds


def table_of(found: Sequence[SnapshotStatus]) -> str:
    """Return a line for each, under a header."""
    rows = [("id", "table", "relay", "state", "rows", "of about", "")]
    for one in found:
        about = "-" if one.estimated_rows is None else f"{one.estimated_rows:,}"
        rows.append((
            one.id[:8],
            printable(one.table),
            printable(one.relay),
            one.state,
            f"{one.rows:,}",
            about,
            _note(one),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _note(one: SnapshotStatus) -> str:
    notes = []
    if one.state in ("running", "paused") and one.last_key:
        notes.append(f"at {printable(', '.join(one.last_key))}")
    if one.error:
        notes.append(printable(one.error))
    if one.detached:
        notes.append(f"detached meanwhile: {', '.join(map(printable, one.detached))}")
    return "; ".join(notes)


class Display:
    """Shows on stderr how far snapshots are: a bar on a terminal, else a line now and then."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._clock = clock
        self._ended: set[tuple[str, str]] = set()
        self._rated: tuple[str, str, str] | None = None  # what the samples are of
        self._samples: deque[tuple[float, int]] = deque()
        self._line_due = clock() + _LINE_INTERVAL
        self._width = 0  # of the bar's line that stands there

    def show(self, found: Sequence[SnapshotStatus]) -> None:
        """Show it."""
        for one in found:
            if one.state in (*ENDED, "paused") and (one.id, one.relay) not in self._ended:
                self._ended.add((one.id, one.relay))
                self._write_line(_ending(one))
        open_ones = [one for one in found if one.state in ("waiting", "running")]
        first = next((one for one in open_ones if one.state == "running"), None)
        first = first or next(iter(open_ones), None)
        if first is None:
            return
        rate = self._rate(first)
        if self._is_terminal:
            self._draw(_bar(first, rate))
        elif self._clock() >= self._line_due:
            self._line_due = self._clock() + _LINE_INTERVAL
            self._write_line(_words(first, rate))

    def _write_line(self, text: str) -> None:
        self._draw("")
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _draw(self, text: str) -> None:
        """Replace the last line of the terminal."""
        if self._is_terminal and (text or self._width):
            self._stream.write(f"\r{' ' * self._width}\r{text}")
            self._stream.flush()
            self._width = len(text)

    def _rate(self, one: SnapshotStatus) -> float:
        """Return rows a second, over the last seconds."""
        if self._rated != (one.id, one.relay, one.state):
            self._rated = (one.id, one.relay, one.state)
            self._samples.clear()
        now = self._clock()
        self._samples.append((now, one.rows))
        while now - self._samples[0][0] > _RATE_OVER:
            self._samples.popleft()
        began, rows = self._samples[0]
        return (one.rows - rows) / (now - began) if now > began else 0.0


def _words(one: SnapshotStatus, rate: float) -> str:
    if one.state == "waiting":
        return f"{printable(one.table)}: waiting for the relay {printable(one.relay)}"
    about = f" of about {one.estimated_rows:,}" if one.estimated_rows else ""
    parts = [f"{printable(one.table)}: {one.rows:,}{about} rows", f"{rate:,.0f}/s"]
    left = (one.estimated_rows or 0) - one.rows
    if rate and left > 0:
        minutes, seconds = divmod(int(left / rate), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)


def _bar(one: SnapshotStatus, rate: float) -> str:
    words = _words(one, rate)
    columns = shutil.get_terminal_size().columns
    room = min(40, columns - len(words) - 4)
    if one.state == "waiting" or not one.estimated_rows or room < 10:
        return words[: columns - 1]
    done = min(room, room * one.rows // one.estimated_rows)
    return f"[{'#' * done}{'.' * (room - done)}] {words}"


def _ending(one: SnapshotStatus) -> str:
    reason = f": {printable(one.error)}" if one.error else ""
    return (
        f"{printable(one.table)}: {one.state}, {one.rows:,} rows by {printable(one.relay)}{reason}"
    )
