"""One log line when something fails, one when it works again."""

from __future__ import annotations

import logging
import time

from pgoutbox.monitoring.monitor import Server

log = logging.getLogger("pgoutbox.relay")

# Seconds until another reason is news: until then one cause shows in many ways. Doubled each
# time, so that reasons that alternate fill no log.
_NEW_REASON_AFTER = 30.0


class Outage:
    """Logs ``failure`` once, however often something is retried, and ``recovery`` once.

    Where a ``server`` is what fails, the monitor's view of it follows.
    """

    def __init__(self, failure: str, recovery: str, server: Server | None = None) -> None:
        self._failure = failure
        self._recovery = recovery
        self._server = server or Server()
        self._since: float | None = None
        self._said, self._said_at = "", 0.0
        self._patience = _NEW_REASON_AFTER

    @property
    def is_on(self) -> bool:
        """Whether it has begun and not ended."""
        return self._since is not None

    def begin(self, error: Exception) -> None:
        """Log ``error`` if this is news: an outage, or after a while another reason for it."""
        details = {name: getattr(error, name, None) for name in ("subject", "hint")}
        now = time.monotonic()
        is_news = self._since is None or (
            str(error) != self._said and now - self._said_at > self._patience
        )
        log.log(
            logging.WARNING if is_news else logging.DEBUG,
            self._failure,
            extra={"error": str(error)} | {name: said for name, said in details.items() if said},
        )
        if is_news:
            self._patience *= 1 if self._since is None else 2
            self._said, self._said_at = str(error), now
        if self._since is None:
            self._since = time.monotonic()
            self._server.is_out = True
            self._server.outages += 1

    def end(self) -> None:
        """Log that it works again, if it didn't."""
        if self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            log.info(self._recovery, extra={"seconds": seconds})
            self._since = None
            self._patience = _NEW_REASON_AFTER
            self._server.is_out = False
