"""Long work says how far it is: a drain, an install of many tables, an uninstall that drains."""

from __future__ import annotations

import logging

import pytest

from pgoutbox.config.settings import (
    Config,
    DatabaseConfig,
    MessageConfig,
    NatsConfig,
    RelayConfig,
)
from pgoutbox.relay import drain_log
from pgoutbox.relay.daemon import Daemon as Relay
from tests.conftest import StartDaemon
from tests.integration.test_monitoring import capture
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually


async def test_drain_says_how_far_it_is(
    database: Database,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await capture(database, "notes")
    owner = await database.connect()
    for first in range(0, 3000, 100):
        await owner.execute(f"insert into notes select generate_series({first}, {first + 99})")
    monkeypatch.setattr(drain_log, "INTERVAL", 0.01)
    config = Config(
        database=DatabaseConfig(dsn=database.dsn),
        nats=NatsConfig(url=stream.url),
        messages=MessageConfig(topic=stream.topic),
        relay=RelayConfig(batch_events=10),
    )

    with caplog.at_level(logging.INFO):
        await Relay(config, drain=True).serve()

    said = [record.__dict__ for record in caplog.records if record.message == "draining"]
    assert len(said) > 2
    (total,) = {line["done"] + line["left"] for line in said}
    assert 2000 < total <= 3000
    assert [line["done"] for line in said] == sorted(line["done"] for line in said)
    assert all(line["seconds_left"] >= 0 for line in said if "seconds_left" in line)


async def test_install_of_many_tables_counts_them(empty_database: Database) -> None:
    owner = await empty_database.connect()
    names = [f"t{number}" for number in range(10)]
    for name in names:
        await owner.execute(f"create table {name} (id int primary key)")
    flags = [word for name in names for word in ("--table", name)]

    done = pgoutbox("install", *flags, "--dsn", empty_database.dsn)

    assert done.returncode == 0
    assert "public.t0: captured (1 of 10)" in done.stderr
    assert "public.t9: captured (10 of 10)" in done.stderr


async def test_uninstall_waits_for_the_relay_that_runs(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """And for a transaction that is open: its events are sent, too, before all is dropped."""
    await capture(database, "notes")
    owner, writer = [await database.connect() for _ in range(2)]
    where = ("--dsn", database.dsn)
    await owner.execute("insert into notes values (1)")

    nobody = pgoutbox("uninstall", "--all", "--drain", *where)
    assert nobody.returncode == 6
    assert "nobody runs relay default, which has 1 unsent event" in nobody.stderr
    assert await owner.fetchval("select count(*) from pgoutbox.captured_table") == 1

    relay = await daemon("relay", *where, "--nats-url", stream.url, "--topic", stream.topic)
    await relay.line("leading")
    assert pgoutbox("pause", "default", *where).returncode == 0
    await relay.line("paused; events wait")
    await owner.execute("insert into notes values (2)")
    paused = pgoutbox("uninstall", "--all", "--drain", *where)
    assert paused.returncode == 6
    assert "error: relay default is paused, with" in paused.stderr
    assert "hint: Run: pgoutbox resume default" in paused.stderr
    assert pgoutbox("resume", "default", *where).returncode == 0

    await owner.execute("insert into notes select generate_series(3, 5000)")
    done = pgoutbox("uninstall", "--all", "--drain", *where)
    assert done.returncode == 0, done.stderr
    assert "schema pgoutbox: dropped" in done.stderr
    await eventually(lambda: _has(stream, 5000))
    await writer.execute("insert into notes values (6000)")
    assert await stream.count() == 5000


@pytest.mark.parametrize("flags", [("--table", "users"), ("--all", "--drop-unsent")])
def test_draining_goes_with_all_alone(flags: tuple[str, ...]) -> None:
    done = pgoutbox("uninstall", "--drain", *flags)

    assert done.returncode == 2
    assert "--drain goes with --all" in done.stderr


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() == count
