"""The outbox keeps events for a relay that nobody runs any more: those that run say so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.relay import chores
from pgoutbox.relay.chores import Chores
from pgoutbox.relay.wakeup import WakeUp
from tests.conftest import StartDaemon
from tests.integration.test_monitoring import watched
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.leading import led_once
from tests.support.streams import Stream
from tests.support.waiting import eventually

WARNING = "nobody runs a relay, and the outbox keeps its events"
AN_HOUR_AGO = """
update pgoutbox.progress set started_at = started_at - interval '1 hour';
update pgoutbox.transaction set committed_at = committed_at - interval '1 hour';
"""


async def test_name_that_was_mistyped_once_is_seen_until_it_is_forgotten(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await database.connect()
    await owner.execute("create table notes (id int primary key)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "notes").returncode == 0
    where = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    assert pgoutbox("relay", *where, "--name", "it's", "--drain").returncode == 0
    await owner.execute("insert into notes select generate_series(1, 3)")
    await owner.execute(AN_HOUR_AGO)

    relay = await watched(daemon, database.dsn, stream.url, stream.topic)
    line = await relay.process.line(WARNING)

    command = """pgoutbox uninstall --relay 'it'"'"'s'"""
    text = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "relay=it's" in line
    assert command.replace('"', '\\"') in line
    assert command in text
    await eventually(relay.has("pgoutbox_relay_backlog_events", lambda n: n == 3, relay="it's"))
    assert await relay.has("pgoutbox_relay_oldest_unsent_seconds", is_an_hour, relay="it's")()
    assert await relay.has("pgoutbox_outbox_bytes", lambda size: size > 8192)()
    assert await relay.value("pgoutbox_relay_oldest_unsent_seconds") is None
    await eventually(lambda: _has(stream, 3))

    assert pgoutbox("uninstall", "--dsn", database.dsn, "--relay", "it's").returncode == 0
    assert "uninstall" not in pgoutbox("status", "--dsn", database.dsn).stdout
    assert await relay.process.stop() == 0
    assert relay.process.output.count(WARNING) == 1


async def test_relay_is_abandoned_with_unsent_events_and_no_leader_for_a_quarter_of_an_hour(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chores, "_OTHERS_INTERVAL", 0.0)
    owner, leader, working, listening = [await database.connect() for _ in range(4)]
    monitor = Monitor()
    monitor.take_lead()
    work = await chores_of(working, listening, monitor)
    await owner.execute("create table notes (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('notes')")
    await led_once(owner, "mine", "other")

    async def look() -> int:
        await work.do(Progress())
        return caplog.text.count(WARNING)

    await owner.execute(AN_HOUR_AGO)
    assert await look() == 0, "it has sent everything"

    await owner.execute("insert into notes values (1), (2)")
    assert await look() == 0, "its oldest event is new"

    await owner.execute(AN_HOUR_AGO)
    await led_once(owner, "other")
    assert await look() == 0, "it had a leader just now"

    await leader.execute("select pgoutbox.lead('other')")
    await owner.execute(AN_HOUR_AGO)
    assert await look() == 0, "it has a leader"

    await leader.close()
    await eventually(lambda: _is(look, 1))
    assert await look() == 1, "it says so once"

    await led_once(owner, "other")
    assert await look() == 1
    await owner.execute(AN_HOUR_AGO)
    assert await look() == 2, "it is abandoned again"
    assert monitor.lead is not None
    assert set(monitor.lead.others_oldest) == {"other"}


async def chores_of(
    working: asyncpg.Connection, listening: asyncpg.Connection, monitor: Monitor
) -> Chores:
    """Return the chores of relay mine."""
    wake_up = WakeUp(listening, "mine", lambda: nullcontext(listening))
    await wake_up.start()
    outbox = Outbox(
        working,
        format_of(MessageConfig(), "app"),
        relay="mine",
        batch_events=1,
        batch_bytes=1024,
    )
    return Chores(
        outbox,
        wake_up,
        monitor,
        retention=900.0,
        parked_retention=0.0,
        find=None,
        found=lambda: None,
        empty=lambda slots: None,
    )


def is_an_hour(seconds: float) -> bool:
    return 3600 <= seconds < 3700


async def _is(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() == wanted


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() == count
