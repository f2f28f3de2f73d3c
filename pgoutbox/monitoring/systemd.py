"""Reports to systemd: that the relay is ready, that it is alive, and what it does.

The protocol is sd_notify(3): datagrams of lines ``NAME=value`` to a socket that the environment
names. A report that can't be delivered is dropped, for it is no reason to keep events back.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from pgoutbox.monitoring.monitor import Monitor, Role

_INTERVAL = 1.0  # seconds between two looks at the monitor


@asynccontextmanager
async def reporting(monitor: Monitor, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Report what ``monitor`` knows to the systemd that ``environment`` names, if it names one.

    Ready is a relay that has started, whether or not PostgreSQL and NATS can be reached: it waits
    for them, and systemd should neither end it for that nor keep other units waiting.
    """
    address = _address(environment)
    if address is None:
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        reporter = Reporter(monitor, channel, address, _watchdog(environment))
        reporter.send("READY=1")
        reports = asyncio.create_task(reporter.run())
        try:
            yield
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)
            reporter.send("STOPPING=1")


class Reporter:
    """Sends what is news about one relay, and a sign of life while it is alive."""

    def __init__(
        self, monitor: Monitor, channel: socket.socket, address: str, watchdog: float | None
    ) -> None:
        self._monitor = monitor
        self._channel = channel
        self._address = address
        self._watchdog = watchdog  # seconds that may pass between two signs of life
        self._said: set[str] = set()

    def send(self, *lines: str) -> None:
        """Send one datagram."""
        with suppress(OSError):
            self._channel.sendto("\n".join(lines).encode(), self._address)

    async def run(self) -> None:
        """Report until cancelled; a relay that is stuck gives no sign of life."""
        while True:
            news = {f"STATUS={status(self._monitor)}"}
            if self._monitor.is_stopping:
                news.add("STOPPING=1")
            lines = sorted(news - self._said)
            self._said = news
            if self._watchdog and self._monitor.is_alive:
                lines.append("WATCHDOG=1")
            if lines:
                self.send(*lines)
            await asyncio.sleep(min(_INTERVAL, (self._watchdog or _INTERVAL) / 2))


def status(monitor: Monitor) -> str:
    """Return what the relay does, in a line for ``systemctl status``."""
    if monitor.is_stopping:
        return "Stopping"
    if monitor.postgresql.is_out:
        return "PostgreSQL unavailable; retrying"
    if monitor.role is Role.STANDBY:
        return "Standing by"
    if monitor.role is Role.STARTING or monitor.lead is None:
        return "Starting"
    what = "NATS unavailable; retrying" if monitor.nats.is_out else "Leading"
    if monitor.is_paused:
        what = "Paused"
    return f"{what}; {monitor.lead.backlog:,} events unsent"


def _address(environment: Mapping[str, str]) -> str | None:
    """Return the socket's address; None where there is none, or one of another kind."""
    address = environment.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return f"\0{address[1:]}"
    return address if address.startswith("/") else None


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time in seconds, if it watches this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
