"""A transaction that stays open behind its commit stage keeps no relay from being notified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from pgoutbox.locks import SLEEP_LOCK
from pgoutbox.relay import sleep_queue
from pgoutbox.relay.wakeup import WakeUp
from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.streams import Stream
from tests.support.waiting import eventually

Connecting = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]

HOLD = "begin; insert into t values (0); set constraints all immediate"
LOSE = "savepoint s; insert into t values (-1); rollback to s; release s"
SHARE = f"select pg_advisory_lock_shared({SLEEP_LOCK[0]}, {SLEEP_LOCK[1]})"
SLEEPS = """
select exists (
    select from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and l.classid = $1 and l.objid = $2
      and l.mode = 'ExclusiveLock' and l.granted and d.datname = current_database()
)
"""
IS_WAITED_FOR = """
select exists (
    select from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and not l.granted and d.datname = current_database()
)
"""


@pytest_asyncio.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """A connection to a database in which table t is captured."""
    owner = await database.connect()
    await owner.execute("create table t (id int)")
    await owner.execute("select pgoutbox.capture_table('t')")
    return owner


@pytest.fixture
def connecting(database: Database) -> Connecting:
    """Opens a connection that is closed again."""

    @asynccontextmanager
    async def connecting() -> AsyncIterator[asyncpg.Connection]:
        connection = await database.connect()
        try:
            yield connection
        finally:
            await connection.close()

    return connecting


@pytest_asyncio.fixture
async def wake_up(database: Database, connecting: Connecting) -> AsyncIterator[WakeUp]:
    """What listens for a relay."""
    wake_up = WakeUp(await database.connect(), "r", connecting)
    await wake_up.start()
    yield wake_up
    await wake_up.close()


def dozes(wake_up: WakeUp) -> Callable[[], Awaitable[bool]]:
    """Return what tells whether it sleeps beside somebody who shares the lock."""

    async def dozes() -> bool:
        return await wake_up.fall_asleep() and wake_up.has_stragglers

    return dozes


async def test_writers_notify_beside_one_that_stays_open_behind_its_commit_stage(
    database: Database, owner: asyncpg.Connection, wake_up: WakeUp
) -> None:
    holder = await database.connect()
    await holder.execute(HOLD)
    assert not await wake_up.fall_asleep()
    await eventually(dozes(wake_up))

    for number in (1, 2):
        await owner.execute("insert into t values ($1)", number)
        assert await wake_up.wait(10), "a writer that comes notifies"
    assert wake_up.is_asleep
    await holder.execute("commit")

    assert await wake_up.wait(4), "the end of the last one that doesn't notify is a hint, too"
    assert not wake_up.is_asleep
    assert await wake_up.fall_asleep()
    assert not wake_up.has_stragglers


async def test_a_relay_that_gets_up_lets_writers_commit_without_notifying(
    database: Database, owner: asyncpg.Connection, wake_up: WakeUp
) -> None:
    holder = await database.connect()
    await holder.execute(HOLD)
    await eventually(dozes(wake_up))
    await wake_up.get_up()
    assert not wake_up.is_asleep
    await holder.execute("commit")
    await eventually(lambda: _is(owner.fetchval(IS_WAITED_FOR), False))

    heard: list[str] = []
    listener = await database.connect()
    await listener.add_listener("pgoutbox", lambda *arguments: heard.append(arguments[-1]))
    await owner.execute("insert into t values (1)")
    await owner.execute("notify pgoutbox, 'last'")
    await eventually(lambda: heard)
    assert heard == ["last"]


async def test_a_request_keeps_no_snapshot_for_long_and_is_made_anew(
    owner: asyncpg.Connection, database: Database, wake_up: WakeUp
) -> None:
    await owner.execute("alter function pgoutbox.await_sleep_lock() set lock_timeout = '100ms'")
    await (await database.connect()).execute(HOLD)
    await eventually(dozes(wake_up))

    assert await wake_up.wait(10), "its end is a hint to look, for writers didn't notify then"
    assert not wake_up.is_asleep
    await eventually(dozes(wake_up))


async def test_beside_a_relay_that_sleeps_nothing_is_waited_for(
    database: Database, owner: asyncpg.Connection, wake_up: WakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has writers notify already."""
    monkeypatch.setattr("pgoutbox.relay.wakeup._PATIENCE", 0.0)
    other = await database.connect()
    await other.fetchval("select pg_try_advisory_lock(1885826914, 0)")
    for _ in range(3):
        assert not await wake_up.fall_asleep()
    assert not await owner.fetchval(IS_WAITED_FOR)


async def test_without_a_further_connection_a_relay_looks_by_itself(
    database: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgoutbox.relay.wakeup._PATIENCE", 0.0)
    attempts: list[int] = []

    @asynccontextmanager
    async def refused() -> AsyncIterator[asyncpg.Connection]:
        attempts.append(1)
        raise asyncpg.TooManyConnectionsError("sorry, too many clients already")
        yield owner

    wake_up = WakeUp(await database.connect(), "r", refused)
    await wake_up.start()
    await (await database.connect()).execute(HOLD)
    await eventually(lambda: _is(_attempted(wake_up, attempts), True))
    for _ in range(3):
        assert not await wake_up.fall_asleep()
    assert len(attempts) == 1, f"it tries again after {sleep_queue._RETRY:g} s"
    await wake_up.close()


async def _attempted(wake_up: WakeUp, attempts: list[int]) -> bool:
    assert not await wake_up.fall_asleep()
    return bool(attempts)


async def _is(question: Awaitable[object], expected: object) -> bool:
    return await question == expected


async def test_a_relay_sends_what_comes_beside_such_a_transaction_and_then_its_own(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    holder = await database.connect()
    await holder.execute(HOLD)
    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic,
        "--poll-interval", "1h",
    )  # fmt: skip
    await eventually(lambda: owner.fetchval(IS_WAITED_FOR))

    async def arrived(count: int) -> bool:
        return await stream.count() == count

    for number in range(1, 4):
        await owner.execute("insert into t values ($1)", number)
        await eventually(lambda: arrived(number))  # noqa: B023
    await holder.execute("commit")
    await eventually(lambda: arrived(4))
    rows = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert rows == [1, 2, 3, 0]
    assert await relay.stop() == 0


async def test_a_relay_sleeps_on_beside_positions_that_nobody_fills(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic,
        "--poll-interval", "1h",
    )  # fmt: skip
    await eventually(lambda: owner.fetchval(SLEEPS, *SLEEP_LOCK))
    # It gets the lock as soon as the relay gives it up, for however short a time.
    waiting = asyncio.create_task((await database.connect()).execute(SHARE))
    await eventually(lambda: owner.fetchval(IS_WAITED_FOR))
    holder = await database.connect()
    await holder.execute(HOLD)

    async def arrived(count: int) -> bool:
        return await stream.count() == count

    for number in range(1, 6):
        await holder.execute(LOSE)
        await owner.execute("insert into t values ($1)", number)
        await eventually(lambda: arrived(number))  # noqa: B023
    await holder.execute("commit")
    await eventually(lambda: arrived(6))
    assert not waiting.done()

    assert await relay.stop() == 0
    await waiting
