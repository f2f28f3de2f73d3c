"""What is read of the outbox is on PostgreSQL's disk before it may be published."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.resends import Resend
from tests.conftest import Connect
from tests.support.cluster import ADMIN
from tests.support.leading import lead

Open = Callable[[], Awaitable[Outbox]]

WRITTEN = "select pg_current_wal_insert_lsn()::text"
IS_FLUSHED = "select pg_current_wal_flush_lsn() >= $1::text::pg_lsn"
LATE = "set constraints all immediate; set local synchronous_commit = off; commit"
PARK = """
insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason, retries)
values ('default', $1::text::uuid, $2, $3, 9, 'refused', true)
"""
RESEND = """
insert into pgoutbox.resend (relay, first_position, last_position, events, asked_by)
values ('default', $1, $1, 1, 'a test')
"""
TRIES = 5  # by chance something is on disk in time


@pytest.fixture
async def begun(connection: asyncpg.Connection, connect: Connect) -> Open:
    """Open the outbox as a leader that reads single events, with table ``t`` captured."""
    await connection.execute("create table t (id integer)")
    await connection.execute("select pgoutbox.capture_table('t')")

    async def begin() -> Outbox:
        session = await connect()
        outbox = Outbox(
            session,
            format_of(MessageConfig(), "app"),
            relay="default",
            batch_events=1,
            batch_bytes=2**20,
        )
        await lead(outbox, session)
        return outbox

    return begin


@pytest.mark.parametrize("tells", [True, False], ids=["server tells", "server doesn't tell"])
@pytest.mark.parametrize("end", ["set local synchronous_commit = off; commit", LATE])
async def test_an_event_is_on_disk_before_it_is_published(
    connection: asyncpg.Connection, connect: Connect, begun: Open, *, end: str, tells: bool
) -> None:
    admin = await connect(ADMIN)
    if not tells:
        await admin.execute("revoke execute on function pg_current_wal_flush_lsn() from public")
    outbox, progress = await begun(), Progress()
    for number in range(TRIES):
        await connection.execute(f"begin; insert into t values ({number}); {end}")
        written = await connection.fetchval(WRITTEN)

        batch = await outbox.next_batch(progress)
        await outbox.begin(batch, progress, ())

        assert len(batch) == 1
        assert await admin.fetchval(IS_FLUSHED, written)
        progress = batch.after


async def test_a_parked_event_is_on_disk_before_it_is_published(
    connection: asyncpg.Connection, connect: Connect, begun: Open
) -> None:
    outbox, progress = await begun(), Progress()
    for number in range(TRIES):
        await connection.execute(f"begin; insert into t values ({number}); {LATE}")
        batch = await outbox.next_batch(progress)
        await connection.execute("set synchronous_commit = off")
        await connection.execute(PARK, batch.messages[0].id, *batch.keys[0])
        written = await connection.fetchval(WRITTEN)

        retry = await outbox.next_retry()

        assert retry is not None
        assert await connection.fetchval(IS_FLUSHED, written)
        await outbox.unpark(retry.id)
        progress = batch.after


async def test_events_are_on_disk_before_they_are_sent_again(
    connection: asyncpg.Connection, begun: Open
) -> None:
    outbox, progress = await begun(), Progress()
    await connection.execute("set synchronous_commit = off")
    for number in range(1, TRIES + 1):
        await connection.execute("insert into t values ($1)", number)
        progress = (await outbox.next_batch(progress)).after
        await outbox.advance(progress)
        await connection.execute(RESEND, progress.high)
        written = await connection.fetchval(WRITTEN)

        some = await outbox.read_again(Resend(number, 1, 0, Key(0, 0)))

        assert len(some.messages) == 1
        assert await connection.fetchval(IS_FLUSHED, written)


async def test_an_older_transaction_that_ends_later_is_waited_for(
    connection: asyncpg.Connection, connect: Connect, begun: Open
) -> None:
    """Its id is lower than that of one that is known to be on disk."""
    outbox, progress = await begun(), Progress()
    older = await connect()
    for number in range(TRIES):
        await older.execute(
            "begin; select pg_current_xact_id(); set local synchronous_commit = off"
        )
        await connection.execute(f"insert into t values ({number})")
        batch = await outbox.next_batch(progress)
        await outbox.begin(batch, progress, ())
        await older.execute(f"insert into t values ({number}); commit")
        written = await older.fetchval(WRITTEN)

        late = await outbox.next_batch(batch.after)
        await outbox.begin(late, batch.after, ())

        assert len(batch) == len(late) == 1
        assert await connection.fetchval(IS_FLUSHED, written)
        progress = late.after


async def test_a_backlog_that_is_on_disk_waits_for_nobody(
    connection: asyncpg.Connection, connect: Connect, begun: Open
) -> None:
    """However far the log has got since."""
    outbox = await begun()
    for number in range(3):
        await connection.execute(f"insert into t values ({number})")
    first = await outbox.next_batch(Progress())
    await outbox.begin(first, Progress(), ())
    await connection.execute("set synchronous_commit = off; create table other ()")

    second = await outbox.next_batch(first.after)

    assert second.unflushed is None


async def test_few_events_wait_for_nobody_who_writes_and_does_not_commit(
    connection: asyncpg.Connection, connect: Connect, begun: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather the relay writes its progress synchronously."""
    monkeypatch.setattr("pgoutbox.outbox.disk._PATIENCE", 3600.0)
    outbox, progress, rows = await begun(), Progress(), set()
    open_one = await connect()
    await open_one.execute("begin")
    for number in range(TRIES):
        await connection.execute(f"insert into t values ({number})")
        await open_one.execute("insert into t select generate_series(1, 100)")
        batch = await outbox.next_batch(progress)

        await outbox.begin(batch, progress, ())

        rows.add(await connection.fetchval("select xmin::text from pgoutbox.progress"))
        progress = batch.after
    assert len(rows) > 1
