"""The outbox as its leader sees it, and as one that has lost the lead does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.errors import LeadershipLost
from pgoutbox.messages.event import LastStored, Message
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox import marks, parked
from pgoutbox.outbox.marks import Mark
from pgoutbox.outbox.parked import Retry
from pgoutbox.outbox.progress import Key, Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.upkeep import Upkeep
from tests.conftest import Connect
from tests.support.leading import lead
from tests.support.waiting import eventually

IS_WAITED_FOR = """
select exists (
    select from pg_locks l join pg_stat_activity a using (pid)
    where not l.granted and a.datname = current_database()
)
"""


def _outbox(connection: asyncpg.Connection) -> Outbox:
    return Outbox(
        connection,
        format_of(MessageConfig(), "app"),
        relay="default",
        batch_events=100,
        batch_bytes=2**20,
    )


async def test_former_leader_cannot_move_the_progress(connect: Connect) -> None:
    """Frozen while another one took over, it is told so and changes nothing."""
    connections = [await connect() for _ in range(3)]
    former, leader, next_one = map(_outbox, connections)
    await lead(former, connections[0])
    await former.advance(Progress(5))
    await connections[0].execute("select pg_advisory_unlock_all()")
    assert await lead(leader, connections[1]) == Progress(5)
    await leader.advance(Progress(7))

    with pytest.raises(LeadershipLost):
        await former.advance(Progress(6))

    await connections[1].execute("select pg_advisory_unlock_all()")
    assert await lead(next_one, connections[2]) == Progress(7)


async def test_nothing_that_a_look_for_resting_slots_notes_is_later_than_its_time(
    connection: asyncpg.Connection,
) -> None:
    """From there on a jump of the clock is counted."""
    moment, _ = await Upkeep(connection, "default").resting_slots(900.0)

    assert moment >= await connection.fetchval("select max(since) from pgoutbox.slot_rest")


async def test_a_plan_is_recorded_before_its_batch_goes_out(connect: Connect) -> None:
    """What gets a lower place meanwhile isn't read before what the plan has."""
    former, earlier, next_one = [await connect() for _ in range(3)]
    await former.execute("create table t (id integer); select pgoutbox.capture_table('t')")
    outbox = _outbox(former)
    await lead(outbox, former)
    await earlier.execute("begin; insert into t values (0); set constraints all immediate")
    await former.execute("insert into t values (1), (2)")
    batch = await outbox.next_batch(Progress())

    # Nothing that it holds has to reach the disk first, which would take the plan with it.
    await outbox.begin(replace(batch, unflushed=None), Progress(), ())

    await earlier.execute("commit")
    await former.execute("select pg_advisory_unlock_all()")
    successor = _outbox(next_one)
    again = await successor.next_batch(await lead(successor, next_one))
    assert len(batch) == 2
    assert again.keys == batch.keys


async def test_a_mark_has_the_progress_that_was_recorded_with_its_message(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_INTERVAL", 0.0)
    outbox = _outbox(connection)
    await lead(outbox, connection)
    confirmed = [LastStored("s", "then", number, str(number)) for number in range(1, 4)]

    for last in confirmed:
        outbox.record_with(lambda last=last: last)  # type: ignore[misc]
        await outbox.advance(Progress(10 * last.sequence))

    assert await outbox.marks.newest_first() == [
        Mark(Progress(20), confirmed[1]),
        Mark(Progress(10), confirmed[0]),
        Mark(Progress(0), None),
    ]


async def test_a_parked_event_that_somebody_drops_is_not_published(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it hold up others meanwhile."""
    session, operator = [await connect() for _ in range(2)]
    await session.execute("set lock_timeout = '20s'")
    outbox = _outbox(session)
    await lead(outbox, session)
    event = Message("s", str(uuid4()), b"{}")
    await outbox.park(Key(1, 1), event, "refused")
    await operator.execute("update pgoutbox.parked set retries = true")
    assert await outbox.next_retry() == Retry(event.id, event)

    await operator.execute("begin; delete from pgoutbox.parked")
    assert await outbox.next_retry() is None
    monkeypatch.setattr(parked, "_BRIEFLY_AND_FLUSHED", "set local lock_timeout = '20s'")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(outbox.next_retry())
        await eventually(lambda: operator.fetchval(IS_WAITED_FOR))
        await operator.execute("commit")
    assert waiting.result() is None
