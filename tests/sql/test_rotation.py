"""A slot is emptied when everything in it is sent, and not a moment earlier."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support.cluster import WRITER

from .conftest import Capture
from .outbox import Outbox


@pytest.fixture(autouse=True)
async def _table(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", "id int primary key")
    await connection.execute("select * from pgoutbox.lead('a')")


async def rotate(connection: asyncpg.Connection) -> bool:
    """Try every slot; tell whether one was emptied."""
    return any([await connection.fetchval("select pgoutbox.rotate($1)", n) for n in range(5)])


async def left(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("select count(*) from pgoutbox.event"))


async def test_only_what_is_sent(connection: asyncpg.Connection) -> None:
    await connection.execute("insert into t values (1)")
    await connection.execute("insert into t values (2)")
    for sent in (
        "high = 0",
        "high = 1",
        "high = 2, partial_position = 2, partial_seq = 1",
        "partial_position = null, gap_first = '{2}', gap_last = '{2}'",
    ):
        await connection.execute(f"update pgoutbox.progress set {sent}")
        assert not await rotate(connection)
    assert await left(connection) == 2

    await connection.execute("update pgoutbox.progress set gap_first = '{}', gap_last = '{}'")
    assert await rotate(connection)
    assert await left(connection) == 0
    assert not await rotate(connection)


async def test_every_relay_counts(connection: asyncpg.Connection) -> None:
    await connection.execute("insert into t values (1); select * from pgoutbox.lead('b')")
    await connection.execute("update pgoutbox.progress set high = 1 where relay = 'a'")
    assert not await rotate(connection)
    await connection.execute("update pgoutbox.progress set high = 1")
    assert await rotate(connection)


async def test_without_a_relay_nothing_is_emptied(connection: asyncpg.Connection) -> None:
    await connection.execute("insert into t values (1); delete from pgoutbox.progress")
    assert not await rotate(connection)


@pytest.mark.parametrize("stage", ["open", "staged", "prepared"])
async def test_not_under_an_open_transaction(
    connection: asyncpg.Connection, connect: Connect, stage: str
) -> None:
    writer = await connect()
    await connection.execute("insert into t values (1)")
    await connection.execute("update pgoutbox.progress set high = 1000")
    name = await connection.fetchval("select current_database()")
    await writer.execute("begin; insert into t values (2)")
    if stage == "staged":
        await writer.execute("set constraints all immediate")
    elif stage == "prepared":
        await writer.execute(f"set pgoutbox.notify = off; prepare transaction '{name}'")
    assert not await rotate(connection)

    await writer.execute(f"commit prepared '{name}'" if stage == "prepared" else "commit")
    assert await left(connection) == 2
    assert await rotate(connection)


async def test_writers_elsewhere_are_not_held_up(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """An open transaction that wrote nothing captured keeps no slot."""
    bystander = await connect(WRITER)
    await bystander.execute("begin isolation level repeatable read; select count(*) from t")
    await connection.execute("insert into t values (1)")
    await connection.execute("update pgoutbox.progress set high = 1000")

    assert await rotate(connection)


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_gap_holders_are_those_who_drew_a_position(
    connection: asyncpg.Connection, connect: Connect, end: str
) -> None:
    """By the id of the whole transaction, whatever savepoints it has."""
    drew, wrote, bystander = await connect(), await connect(), await connect()
    await bystander.execute("begin; select pg_current_xact_id()")
    await wrote.execute("begin; insert into t values (1)")
    assert await _holders(connection) == []

    await drew.execute("begin; savepoint s; insert into t values (2);set constraints all immediate")
    await drew.execute("savepoint s2; insert into t values (3)")
    xid = await drew.fetchval("select pg_current_xact_id()::text::bigint")
    assert await _holders(connection) == [(xid, None)]
    await drew.execute(end)
    assert await _holders(connection) == []


async def test_a_prepared_gap_holder_draws_no_more(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    drew = await connect()
    await drew.execute("begin; insert into t values (1)")
    xid = await drew.fetchval("select pg_current_xact_id()::text::bigint")
    await drew.execute("prepare transaction 'p'")
    position = await connection.fetchval("select last_value from pgoutbox.position_seq")

    assert await _holders(connection) == [(xid, position)]

    await connection.execute("rollback prepared 'p'")
    assert await _holders(connection) == []


async def test_savepoint_that_is_rolled_back_holds_no_gap(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    drew = await connect()
    await drew.execute("begin; savepoint s; insert into t values (2);set constraints all immediate")
    await drew.execute("rollback to s")
    assert await _holders(connection) == []


async def test_a_stranger_cannot_pass_for_a_gap_holder(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    stranger = await connect(WRITER)
    await stranger.execute("begin; select pg_advisory_xact_lock_shared(1885826914, 0)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stranger.execute("lock table pgoutbox.transaction_0 in row exclusive mode")
    assert await _holders(connection) == []


async def test_events_survive_a_rotation_that_came_too_early(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox
) -> None:
    """Committed between the relay's look and the lock: still there afterwards."""
    writer = await connect()
    await connection.execute("insert into t values (1)")
    await outbox.events()
    await connection.execute("update pgoutbox.progress set high = 1")
    await writer.execute("insert into t values (2)")

    assert not await rotate(connection)
    assert [event.new["id"] for event in await outbox.events()] == [2]


async def test_how_long_a_slot_rests_outlives_whoever_looks(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """Relays whose connections live for shorter than the retention empty slots all the same."""
    await connection.execute("insert into t values (1)")
    slot = await _slot(connection)
    await _write_into(connection, (slot + 1) % 5)
    look = "select slot, position from pgoutbox.resting_slots('1 hour')"
    assert await (await connect()).fetch(look) == []

    await connection.execute("update pgoutbox.slot_rest set since = since - interval '1 hour'")

    assert [tuple(row) for row in await (await connect()).fetch(look)] == [(slot, 1)]


async def test_slot_that_changes_begins_to_rest_anew(connection: asyncpg.Connection) -> None:
    look = "select slot from pgoutbox.resting_slots('0')"
    await connection.execute("insert into t values (1)")
    slot = await _slot(connection)
    await connection.fetch(look)
    before = await _since(connection, slot)

    await _write_into(connection, (slot + 1) % 5)
    assert [row["slot"] for row in await connection.fetch(look)] == [slot]
    first = await _since(connection, slot)
    await connection.execute(
        f"update pgoutbox.transaction_{slot} set position = position + 1"  # as if one had come late
    )
    await connection.fetch(look)

    assert before is None, "it was written to"
    assert await _since(connection, slot) > first


async def test_what_the_clock_has_jumped_ahead_is_no_rest(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """Two relays notice it; the slot rests on from where it was."""
    await connection.execute("insert into t values (1)")
    slot = await _slot(connection)
    await _write_into(connection, (slot + 1) % 5)
    look = "select slot from pgoutbox.resting_slots('15 min', $1, $2)"
    ten = timedelta(minutes=10)
    assert await connection.fetch(look, None, None) == []
    # As if that had been ten minutes ago, and the clock had been set ahead by two hours since.
    looked = await connection.fetchval("select clock_timestamp() - interval '2 h 10 min'")
    await connection.execute(
        "update pgoutbox.slot_rest set since = $1 where slot = $2",
        looked - timedelta(seconds=1),
        slot,
    )

    for relay in (connection, await connect()):
        assert await relay.fetch(look, looked, ten) == []
    assert [tuple(row) for row in await connection.fetch(look, None, None)] == []
    await connection.execute("update pgoutbox.slot_rest set since = since - interval '5 min'")
    assert [tuple(row) for row in await connection.fetch(look, None, None)] == [(slot,)]


async def test_a_slot_rests_from_now_on_where_the_clock_was_set_back(
    connection: asyncpg.Connection,
) -> None:
    """It was found changed at a time that has yet to come again."""
    await connection.execute("insert into t values (1)")
    slot = await _slot(connection)
    await _write_into(connection, (slot + 1) % 5)
    look = "select slot from pgoutbox.resting_slots('15 min')"
    assert await connection.fetch(look) == []
    await connection.execute("update pgoutbox.slot_rest set since = since + interval '1 day'")

    assert await connection.fetch(look) == []

    await connection.execute("update pgoutbox.slot_rest set since = since - interval '20 min'")
    assert [tuple(row) for row in await connection.fetch(look)] == [(slot,)]


async def test_look_for_resting_slots_writes_only_what_has_changed(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("select pgoutbox.resting_slots('0')")
    async with connection.transaction():
        await connection.execute("select pgoutbox.resting_slots('0')")
        assert await connection.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_last_event_is_told_apart(connection: asyncpg.Connection) -> None:
    """Also of a transaction whose row was missing: a batch that ends before it goes on there."""
    await connection.execute("insert into t values (1), (2), (3)")
    assert await _ends(connection) == [False, False, True]
    slot = await _slot(connection)
    await connection.execute(
        "delete from pgoutbox.transaction; update pgoutbox.progress set high = 1"
    )

    assert not await connection.fetchval("select pgoutbox.rotate($1)", slot)

    assert await _ends(connection) == [False, False, True]


async def _ends(connection: asyncpg.Connection) -> list[bool]:
    rows = await connection.fetch(
        "select * from pgoutbox.next_batch(0, '{}', '{}', null, null, 10, 1000000)"
    )
    return [row["is_last"] for row in rows]


async def _holders(connection: asyncpg.Connection) -> list[tuple[int, int | None]]:
    rows = await connection.fetch("select xid::text::bigint, upto from pgoutbox.gap_holders()")
    return [(row["xid"], row["upto"]) for row in rows]


async def _write_into(connection: asyncpg.Connection, slot: int) -> None:
    """Have time go on, to where transactions begin in ``slot``."""
    await connection.execute(
        "create or replace function pgoutbox.slot(began timestamptz) returns smallint"
        f" language sql stable as 'select {slot}::smallint'"
    )


async def _slot(connection: asyncpg.Connection) -> int:
    slot = await connection.fetchval("select tableoid::regclass::text from pgoutbox.transaction")
    return int(slot.rpartition("_")[2])


async def _since(connection: asyncpg.Connection, slot: int) -> Any:
    return await connection.fetchval("select since from pgoutbox.slot_rest where slot = $1", slot)


async def test_what_is_parked_by_reference_survives_its_slot(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    """And is gone once nobody has parked it any more."""
    await capture("large", "id int primary key, body text")
    await connection.execute("insert into large values (1, repeat('x', 100000)), (2, 'y')")
    await connection.execute("update pgoutbox.progress set high = 1")
    await connection.execute("""
        insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason)
        select r.name, gen_random_uuid(), o.position, o.seq, 9, 'too large'
        from pgoutbox.outbox o cross join (values ('a'), ('gone')) r (name)
        where o.data ->> 'id' = '1'
    """)
    parked = """
        select r.* from pgoutbox.parked k
        cross join pgoutbox.parked_row(k.position, k.seq, true, 200000) r
    """
    before = await connection.fetch(parked)

    assert await rotate(connection)

    assert await left(connection) == 0
    assert await connection.fetch(parked) == before
    assert len(before) == 2
    assert json.loads(before[0]["new_row"]) == {"id": 1, "body": "x" * 100_000}
    assert before[0]["key"] == ["1"]
    for relay in ("a", "gone"):
        await connection.execute("delete from pgoutbox.parked where relay = $1", relay)
        await connection.execute("select pgoutbox.tidy_parked()")
        kept = await connection.fetchval("select count(*) from pgoutbox.parked_event")
        assert kept == (relay == "a")


async def test_looks_under_the_lock_do_not_grow_with_the_slot(
    connection: asyncpg.Connection,
) -> None:
    """Relays wait meanwhile. Of its indexes it reads what gaps and their holders point to."""
    await connection.execute("""
        do $$ begin for n in 1..500 loop insert into t values (n); commit; end loop; end $$
    """)
    await connection.execute("insert into t select generate_series(501, 1000)")
    slot = await _slot(connection)
    await connection.execute("""
        update pgoutbox.progress set
            high = 5000, gap_first = '{600, 900}', gap_last = '{700, 999}',
            holders = '{9000000001, 9000000002}', holder_since = '{600, 600}'
    """)

    async with connection.transaction():
        assert await connection.fetchval("select pgoutbox.rotate($1)", slot)
        read = await connection.fetch(
            "select relname, pg_stat_get_xact_tuples_returned(oid) as count from pg_class where"
            f" relkind = 'i' and relname ~ '^(transaction|first_event|event)_{slot}_'"
        )

    assert {name for name, _ in read} == {
        f"transaction_{slot}_position",
        f"first_event_{slot}_xid_seq",
        f"event_{slot}_xid_seq",
    }
    assert all(count < 20 for _, count in read), read
