"""A relay in fast motion: its pauses between attempts are short, and its clock tells long ones."""

from __future__ import annotations

import time
from pathlib import Path

FACTOR = 1000.0
VARIABLE = "PGOUTBOX_TEST_FAST_MOTION"  # the file that has the seconds that were left out so far


def begin(file: Path) -> None:
    """Shorten the pauses of this process's relay; its monotonic clock jumps on by the rest."""
    from pgoutbox.relay.daemon import Daemon

    left_out = 0.0
    now, pause = time.monotonic, Daemon._pause

    def leave_out(seconds: float) -> None:
        nonlocal left_out
        left_out += seconds
        file.write_text(str(left_out))

    async def pause_briefly(self: Daemon, seconds: float) -> bool:
        leave_out(seconds)
        return await pause(self, seconds / FACTOR)

    time.monotonic = lambda: now() + left_out
    Daemon._pause = pause_briefly  # type: ignore[method-assign]


def passed(file: Path) -> float:
    """Return how many seconds a relay has left out so far."""
    return float(file.read_text() or 0) if file.exists() else 0.0
