"""A relay that somebody has paused publishes nothing until it is resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from pgoutbox.demo.process import free_port
from tests.conftest import StartDaemon
from tests.integration.test_monitoring import capture, watched
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.http import ask
from tests.support.streams import Stream
from tests.support.waiting import eventually

WHY = "the consumer is being migrated"


@asynccontextmanager
async def writing(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Insert rows, one transaction after another, inside a ``with`` block."""

    async def write() -> None:
        number = 1000
        while True:
            await connection.execute("insert into notes values ($1)", number := number + 1)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pause_holds_a_busy_relay_across_a_restart_until_it_is_resumed(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    await capture(database, "notes")
    writer = await database.connect()
    relay = await watched(daemon, database.dsn, stream.url, stream.topic)

    async with writing(writer):
        await eventually(lambda: _has(stream, 10))
        done = pgoutbox("pause", "default", "--reason", WHY, "--dsn", database.dsn)
        assert (done.returncode, done.stdout) == (0, "")
        assert "relay default: paused since " in done.stderr
        await relay.process.line("paused; events wait")
        published = await stream.count()
        before = await _written(database)
        await eventually(lambda: _has_written(database, before + 20))
        assert await stream.count() == published

    answer = await ask(relay.health, "/ready")
    assert (answer.status, answer.body) == (200, "paused")
    assert await relay.value("pgoutbox_paused") == 1
    unsent = await _written(database) - published
    await eventually(relay.has("pgoutbox_backlog_events", lambda count: count == unsent))

    found = json.loads(pgoutbox("status", "--json", "--dsn", database.dsn).stdout)["relays"][0]
    assert (found["backlog"], found["pause"]["reason"]) == (unsent, WHY)
    said = pgoutbox("status", "--dsn", database.dsn).stdout
    assert f": {WHY}" in next(line for line in said.splitlines() if "default is paused for" in line)

    drain = pgoutbox("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url)
    assert (drain.returncode, drain.stdout) == (1, "")
    assert "error: the relay default is paused since " in drain.stderr
    assert "hint: Run: pgoutbox resume default" in drain.stderr

    assert await relay.process.stop() == 0
    nowhere = f"nats://127.0.0.1:{free_port()}"
    again = await watched(daemon, database.dsn, nowhere, stream.topic)
    await again.process.line("paused; events wait")
    await again.become(200, 200)
    assert "NATS" not in again.process.output
    assert await again.process.stop() == 0

    last = await watched(daemon, database.dsn, stream.url, stream.topic)
    await last.process.line("paused; events wait")
    resumed = pgoutbox("resume", "default", "--json", "--dsn", database.dsn)
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout) == {
        "relay": "default",
        "paused": False,
        "since": None,
        "by": None,
        "reason": None,
        "changed": True,
    }
    await eventually(lambda: _has(stream, published + unsent))
    assert "resumed" in last.process.output
    await eventually(last.has("pgoutbox_paused", lambda value: value == 0))
    await last.become(200, 200)
    assert (await ask(last.health, "/ready")).body == "ok"


async def test_pausing_twice_keeps_the_first_moment_and_takes_the_new_reason(
    database: Database,
) -> None:
    owner = await database.connect()
    await owner.execute("select pgoutbox.lead('default')")

    first, second, third = [
        json.loads(pgoutbox("pause", "default", *why, "--json", "--dsn", database.dsn).stdout)
        for why in ((), ("--reason", WHY), ())
    ]

    assert [answer["changed"] for answer in (first, second, third)] == [True, True, False]
    assert (first["reason"], second["reason"], third["reason"]) == (None, WHY, WHY)
    assert first["since"] == second["since"] == third["since"]
    assert first["by"].startswith("role ")
    assert pgoutbox("resume", "default", "--dsn", database.dsn).returncode == 0
    again = pgoutbox("resume", "default", "--dsn", database.dsn)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (0, "relay default: not paused")


async def test_relay_that_is_unknown_is_not_paused(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("select pgoutbox.lead('default')")

    done = pgoutbox("pause", "defualt", "--dsn", database.dsn)

    assert (done.returncode, done.stdout) == (2, "")
    assert "error: there is no relay defualt in this database; did you mean default?" in done.stderr
    assert await owner.fetchval("select count(*) from pgoutbox.relay_pause") == 0


def test_pausing_needs_the_schema(empty_database: Database) -> None:
    done = pgoutbox("pause", "default", "--dsn", empty_database.dsn)

    assert (done.returncode, done.stdout) == (3, "")
    assert "hint: Run: pgoutbox install" in done.stderr or "pgoutbox install" in done.stderr


async def test_relay_that_is_forgotten_is_not_paused_when_it_comes_back(
    database: Database, stream: Stream
) -> None:
    await capture(database, "notes")
    drain = ("--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    assert pgoutbox("relay", "--name", "other", *drain).returncode == 0
    assert pgoutbox("pause", "other", "--dsn", database.dsn).returncode == 0
    assert pgoutbox("relay", "--name", "other", *drain).returncode == 1

    assert pgoutbox("uninstall", "--relay", "other", "--dsn", database.dsn).returncode == 0

    assert pgoutbox("relay", "--name", "other", *drain).returncode == 0


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() >= count


async def _written(database: Database) -> int:
    reader = await database.connect()
    count: int = await reader.fetchval("select count(*) from notes")
    await reader.close()
    return count


async def _has_written(database: Database, count: int) -> bool:
    return await _written(database) >= count
