"""What systemd is told, on a socket as it has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pgoutbox.monitoring.monitor import STUCK_AFTER, Monitor
from pgoutbox.monitoring.systemd import reporting, status
from tests.support.systemd import Systemd


@asynccontextmanager
async def reported(monitor: Monitor, systemd: Systemd, **more: str) -> AsyncIterator[None]:
    async with reporting(monitor, {"NOTIFY_SOCKET": systemd.address, **more}):
        yield


async def test_from_start_to_stop(systemd: Systemd) -> None:
    monitor = Monitor()

    async with reported(monitor, systemd):
        await systemd.hears("READY=1")
        await systemd.hears("STATUS=Starting")
        monitor.take_lead()
        await systemd.hears("STATUS=Leading; 0 events unsent")
        monitor.is_stopping = True
        await systemd.hears("STOPPING=1")

    assert "WATCHDOG=1" not in systemd.heard()


async def test_end_without_a_signal_is_a_stop(systemd: Systemd) -> None:
    async with reported(Monitor(), systemd):
        await systemd.hears("STATUS=Starting")

    assert systemd.heard() == ["STOPPING=1"]


async def test_watchdog_hears_of_a_relay_for_as_long_as_it_is_alive(systemd: Systemd) -> None:
    now = 0.0
    monitor = Monitor(clock=lambda: now)

    async with reported(monitor, systemd, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid())):
        await systemd.hears("WATCHDOG=1")
        await systemd.hears("WATCHDOG=1")
        now = STUCK_AFTER
        monitor.take_lead()  # with the news comes a report
        await systemd.hears("STATUS=Leading; 0 events unsent")
        assert systemd.heard() == []
        monitor.step()
        await systemd.hears("WATCHDOG=1")


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_watchdog_of_somebody_else_hears_nothing(
    systemd: Systemd, environment: dict[str, str]
) -> None:
    monitor = Monitor()

    async with reported(monitor, systemd, **environment):
        await systemd.hears("STATUS=Starting")
        monitor.stand_by()
        await systemd.hears("STATUS=Standing by")

    assert "WATCHDOG=1" not in systemd.heard()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1234", "notify"])
async def test_nobody_need_listen(address: str) -> None:
    async with reporting(Monitor(), {"NOTIFY_SOCKET": address}):
        await asyncio.sleep(0)

    async with reporting(Monitor(), {}):
        await asyncio.sleep(0)


def test_status_tells_what_keeps_events_back() -> None:
    monitor = Monitor()
    monitor.take_lead()
    monitor.counted(backlog=1234, oldest=0.0, parked=0)
    assert status(monitor) == "Leading; 1,234 events unsent"

    monitor.nats.is_out = True
    assert status(monitor) == "NATS unavailable; retrying; 1,234 events unsent"

    monitor.postgresql.is_out = True
    assert status(monitor) == "PostgreSQL unavailable; retrying"

    monitor.postgresql.is_out = False
    monitor.stand_by()
    assert status(monitor) == "Standing by"

    monitor.is_stopping = True
    assert status(monitor) == "Stopping"
