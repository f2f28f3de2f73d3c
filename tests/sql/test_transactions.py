"""The commit stage: one row a transaction, whatever the transaction does before its end."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from itertools import chain
from uuid import RFC_4122, UUID

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support.cluster import WRITER
from tests.support.waiting import eventually

from .conftest import Capture
from .outbox import Event, Outbox


@pytest.fixture(autouse=True)
async def _tables(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", "id int primary key, v text")
    await capture("audit", "about int")


async def ids(outbox: Outbox) -> list[list[int]]:
    """Return the ids or `about` of the events of each transaction."""
    return [
        [next(iter((event.new or event.old).values())) for event in transaction]
        for transaction in await outbox.transactions()
    ]


AUDIT = """
create function write_audit() returns trigger language plpgsql as
    $$ begin insert into audit values (new.id); return null; end $$;
create constraint trigger {name} after insert on t deferrable initially deferred
    for each row execute function write_audit();
"""


@pytest.mark.parametrize("name", ["a", "zz"])
async def test_deferred_triggers_that_write_captured_tables(
    connection: asyncpg.Connection, outbox: Outbox, name: str
) -> None:
    """They run after the commit stage, which then runs again and replaces its row."""
    await connection.execute(AUDIT.format(name=name))
    await connection.execute(
        "begin; insert into t values (1), (2); insert into t values (3); commit"
    )

    assert await ids(outbox) == [[1, 2, 3, 1, 2, 3]]
    assert await connection.fetchval("select count(*) from pgoutbox.transaction") == 1


async def test_writes_after_set_constraints(connection: asyncpg.Connection, outbox: Outbox) -> None:
    await connection.execute("""
        begin; insert into t values (1); set constraints all immediate; insert into t values (2);
        insert into t values (3); set constraints all deferred; insert into t values (4);
        savepoint s; insert into t values (5); set constraints all immediate; rollback to s;
        insert into t values (6); commit
    """)
    await connection.execute("insert into t values (7)")

    assert await ids(outbox) == [[1, 2, 3, 4, 6], [7]]
    assert await connection.fetchval("select count(*) from pgoutbox.transaction") == 2


async def test_a_replaced_row_is_a_gap_without_holders(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("""
        begin; insert into t values (1); set constraints all immediate; insert into t values (2);
        commit
    """)

    rows = await outbox.rows()

    assert {row["position"] for row in rows} == {2}
    assert len({row["id_source"] for row in rows}) == 1
    assert len({row["seq"] for row in rows}) == 2
    assert await connection.fetch("select pgoutbox.gap_holders()") == []


@pytest.mark.parametrize("reset", ["reset all", "set pgoutbox.transaction = ''"])
async def test_losing_the_settings_in_the_middle(
    connection: asyncpg.Connection, outbox: Outbox, reset: str
) -> None:
    """The transaction opens twice; nothing is told twice."""
    await connection.execute(
        f"begin; insert into t values (1); {reset}; insert into t values (2); commit"
    )
    await connection.execute(f"""
        begin; insert into t values (3); set constraints all immediate; insert into t values (4);
        {reset}; insert into t values (5); set constraints all deferred; insert into t values (6);
        commit
    """)

    transactions = await ids(outbox)

    assert sorted(chain.from_iterable(transactions)) == [1, 2, 3, 4, 5, 6]
    assert transactions[0] == [1, 2]


async def test_discard_all_between_transactions(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("insert into t values (1)")
    await connection.execute("discard all")
    await connection.execute("insert into t values (2)")

    assert await ids(outbox) == [[1], [2]]


@pytest.mark.parametrize(
    "state",
    ["1", "1 1", "1 2 again", "99999999999999999999 1", "done", "off", "x", "on 1 again", " "],
)
async def test_forged_state(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox, state: str
) -> None:
    """Whatever a writer puts there, it takes back nobody else's row."""
    await connection.execute("insert into t values (1)")
    writer = await connect(WRITER)
    await writer.execute(f"set pgoutbox.transaction = '{state}'")
    await writer.execute("insert into t values (2)")
    await writer.execute("begin; insert into t values (3); insert into t values (4); commit")
    await writer.execute(f"begin; set local pgoutbox.transaction = '{state}'")
    await writer.execute("insert into t values (5); commit")

    assert await ids(outbox) == [[1], [2], [3, 4], [5]]


@pytest.mark.parametrize("state", ["2", "7 again", "1 again", "999999999"])
async def test_forged_state_of_the_transaction_itself(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox, state: str
) -> None:
    writer = await connect(WRITER)
    await writer.execute("begin; insert into t values (1), (2)")
    xid = await writer.fetchval("select pg_current_xact_id()::text")
    await writer.execute(f"set local pgoutbox.transaction = '{xid} {state}'")
    await writer.execute("update t set id = id + 2; commit")

    assert await ids(outbox) == [[1, 2, 3, 4]]


@pytest.mark.parametrize("state", ["1", "2", "1 again"])
async def test_events_hidden_by_a_forged_setting_are_adopted(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox, state: str
) -> None:
    """A session-level setting that names its next transaction: late, never lost."""
    writer = await connect(WRITER)
    await writer.execute("insert into t values (1)")
    xid = await writer.fetchval("select pg_current_xact_id()::text::bigint")
    await writer.execute(f"set pgoutbox.transaction = '{xid + 1} {state}'")
    await writer.execute("insert into t values (2), (3)")
    await writer.execute("insert into t values (4)")
    assert await ids(outbox) == [[1], [4]]

    await connection.execute("select * from pgoutbox.lead('default')")
    await connection.execute("update pgoutbox.progress set high = 1000")
    slots = [await connection.fetchval("select pgoutbox.rotate($1)", slot) for slot in range(5)]

    assert slots == [False] * 5
    assert await ids(outbox) == [[2, 3]]


@pytest.mark.parametrize("between", ["", "discard sequences;"])
async def test_a_stage_whose_successor_was_rolled_back_is_still_replaced(
    connection: asyncpg.Connection, outbox: Outbox, between: str
) -> None:
    """Its position is no longer the last one that the session drew."""
    await connection.execute(f"""
        begin; set constraints all immediate; insert into t values (1); savepoint s;
        insert into t values (2); {between} rollback to s; insert into t values (3); commit
    """)

    assert await ids(outbox) == [[1, 3]]
    assert await connection.fetchval("select count(*) from pgoutbox.transaction") == 1


async def test_savepoint_that_opened_the_transaction_is_rolled_back_after_the_stage(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("""
        begin; savepoint s; insert into t values (1); set constraints all immediate; rollback to s;
        insert into t values (2); commit
    """)

    assert await ids(outbox) == [[2]]


async def test_prepared_transactions(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox
) -> None:
    first, second = await connect(), await connect()
    database = await connection.fetchval("select current_database()")
    for session, number in ((first, 1), (second, 2)):
        await session.execute("set pgoutbox.notify = off")
        await session.execute(
            f"begin; insert into t values ({number}); prepare transaction '{database}{number}'"
        )
    await connection.execute("insert into t values (3)")
    assert await ids(outbox) == [[3]]
    holders = await connection.fetch("select upto from pgoutbox.gap_holders()")
    assert [row["upto"] for row in holders] == [3, 3]

    await second.execute(f"commit prepared '{database}2'")
    await first.execute(f"rollback prepared '{database}1'")

    outbox = Outbox(connection)
    assert await ids(outbox) == [[2], [3]]
    assert await connection.fetch("select pgoutbox.gap_holders()") == []


async def test_prepare_fails_where_a_sleeping_relay_must_be_woken(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """NOTIFY and PREPARE TRANSACTION exclude one another: hence pgoutbox.notify."""
    relay, writer = await connect(), await connect()
    await relay.fetchval("select pg_try_advisory_lock(1885826914, 0)")
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await writer.execute("begin; insert into t values (1); prepare transaction 'p'")


async def test_only_a_sleeping_relay_is_woken(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    listener, relay = await connect(), await connect()
    heard: list[str] = []
    await listener.add_listener("pgoutbox", lambda *arguments: heard.append(arguments[-1]))
    await connection.execute("insert into t values (1)")
    await relay.fetchval("select pg_try_advisory_lock(1885826914, 0)")
    await connection.execute("begin; insert into t values (2); insert into t values (3); commit")
    await eventually(lambda: heard)
    await relay.fetchval("select pg_advisory_unlock(1885826914, 0)")
    await connection.execute("insert into t values (4)")
    await connection.execute("notify pgoutbox, 'last'")
    await eventually(lambda: "last" in heard)

    assert heard == ["", "last"]


async def test_a_relay_cannot_fall_asleep_while_a_commit_is_under_way(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    writer, relay = await connect(), await connect()
    await writer.execute("begin; insert into t values (1); set constraints all immediate")
    assert not await relay.fetchval("select pg_try_advisory_lock(1885826914, 0)")

    await writer.execute("commit")
    assert await relay.fetchval("select pg_try_advisory_lock(1885826914, 0)")


async def test_commit_order_is_that_of_the_commit_stage(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox
) -> None:
    """B waits for A's row, and comes after it, though it began first and holds a lower id."""
    a, b = await connect(), await connect()
    await connection.execute("insert into t values (1, 'x')")
    await b.execute("begin; insert into t values (2, 'b')")
    await a.execute("begin; update t set v = v || 'a' where id = 1")
    waiting = asyncio.create_task(b.execute("update t set v = v || 'b' where id = 1; commit"))
    pid = b.get_server_pid()
    await eventually(
        lambda: connection.fetchval(
            "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1", pid
        )
    )
    await a.execute("commit")
    await waiting

    assert [[event.new["v"] for event in t] for t in await outbox.transactions()] == [
        ["x"],
        ["xa"],
        ["b", "xab"],
    ]


async def test_one_commit_time_and_ids_that_stay(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute(
        "begin; insert into t values (1), (2); insert into t values (3); commit"
    )
    await connection.execute("insert into t values (4)")

    events = [event for _, event in await outbox.enveloped()]
    ids = [event.id for event in events]

    assert ids == [event.id for _, event in await Outbox(connection).enveloped()]
    assert ids == [json.loads(event.payload)["id"] for event in events]
    assert len(set(ids)) == 4
    assert {(UUID(event_id).version, UUID(event_id).variant) for event_id in ids} == {(8, RFC_4122)}
    assert len({event.time for event in events}) == 2
    in_view = await connection.fetch(
        "select id, committed_at from pgoutbox.outbox order by position, seq"
    )
    assert ids == [str(row["id"]) for row in in_view]
    assert [datetime.fromisoformat(event.time) for event in events] == [
        row["committed_at"] for row in in_view
    ]


async def test_truncate_opens_and_follows_like_any_event(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("begin; truncate t; insert into t values (1); truncate audit; commit")

    assert await outbox.transactions() == [
        [
            Event("t", "TRUNCATE", {}, {}),
            Event("t", "INSERT", {"id": 1, "v": None}, {}),
            Event("audit", "TRUNCATE", {}, {}),
        ]
    ]
