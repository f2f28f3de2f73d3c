"""What commands ask of a running relay, by rows in the database: to pause, to send again."""

from __future__ import annotations

import logging
import time

from pgoutbox.database import pauses
from pgoutbox.database.pauses import Pause
from pgoutbox.errors import Paused
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.reader import Outbox
from pgoutbox.relay.resending import Resending
from pgoutbox.relay.wakeup import WakeUp

log = logging.getLogger("pgoutbox.relay")

_LOOK_INTERVAL = 5.0  # seconds, should a notification get lost


class Steering:
    """Looks at what is asked of the relay: at once when a command notifies, else now and then."""

    def __init__(self, outbox: Outbox, wake_up: WakeUp, monitor: Monitor) -> None:
        self._outbox = outbox
        self._wake_up = wake_up
        self._monitor = monitor
        self._due = 0.0  # of the monotonic clock
        self._pause: Pause | None = None
        self.resending = Resending(outbox)

    @property
    def is_paused(self) -> bool:
        """Whether the relay was to publish nothing when that was last looked at."""
        return self._pause is not None

    def refusal(self, relay: str) -> Paused:
        """Return the error for a relay that is to drain, and is paused."""
        assert self._pause is not None  # noqa: S101 - the caller has asked
        return pauses.refusal(relay, self._pause)

    async def look_if_due(self) -> bool:
        """Look where there may be news; return True if that was so."""
        is_due = self._wake_up.is_asked or time.monotonic() >= self._due
        if is_due:
            await self.look()
        return is_due

    async def look(self) -> None:
        """Look now."""
        self._wake_up.listen_up()
        before, self._pause = self._pause, await self._outbox.pause()
        self._due = time.monotonic() + _LOOK_INTERVAL
        await self.resending.look()
        self._monitor.pause(self.is_paused)
        if self._pause is not None and before is None:
            said = {"by": self._pause.by, "reason": self._pause.reason or "none given"}
            log.info("paused; events wait", extra={"since": self._pause.since.isoformat()} | said)
        elif before is not None and self._pause is None:
            log.info("resumed")
