"""One log line when something fails, one when it works again."""

from __future__ import annotations

import logging
import time

from pgoutbox.monitoring.monitor import Server

log = logging.getLogger("pgoutbox.relay")


class Outage:
    """Logs ``failure`` once, however often something is retried, and ``recovery`` once.

    Where a ``server`` is what fails, the monitor's view of it follows.
    """

    def __init__(self, failure: str, recovery: str, server: Server | None = None) -> None:
        self._failure = failure
        self._recovery = recovery
        self._server = server or Server()
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether it has begun and not ended."""
        return self._since is not None

    def begin(self, error: Exception) -> None:
        """Log ``error`` if this is news."""
        details = {name: getattr(error, name, None) for name in ("subject", "hint")}
        level = logging.DEBUG if self._since is not None else logging.WARNING
        log.log(
            level,
            self._failure,
            extra={"error": str(error)} | {name: said for name, said in details.items() if said},
        )
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
            self._server.is_out = False
