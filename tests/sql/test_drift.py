"""Tables that change under their capture function: no write fails, no column is missing."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Connect

from .conftest import Capture
from .outbox import Outbox, forbid_the_slow_way

CHANGES = [
    pytest.param("alter table t add c int default 7", {"a": "x", "b": 1, "c": 7}, id="add"),
    pytest.param(
        "alter table t add c int; alter table t drop c; alter table t add d int default 7",
        {"a": "x", "b": 1, "d": 7},
        id="add-drop-add",
    ),
    pytest.param("alter table t drop a", {"b": 1}, id="drop"),
    pytest.param(
        "alter table t drop a; alter table t add a int default 7", {"b": 1, "a": 7}, id="replace"
    ),
    pytest.param("alter table t rename a to z", {"z": "x", "b": 1}, id="rename"),
    pytest.param(
        "alter table t rename a to z; alter table t rename b to a; alter table t rename z to b",
        {"b": "x", "a": 1},
        id="swap",
    ),
    pytest.param("alter table t alter b type text", {"a": "x", "b": "1"}, id="int-to-text"),
    pytest.param(
        "alter table t alter b type timestamp using '2024-01-15 10:20:30.50'::timestamp",
        {"a": "x", "b": "2024-01-15T10:20:30.5Z"},
        id="int-to-timestamp",
    ),
    pytest.param(
        "alter table t alter b type numeric(4,2)", {"a": "x", "b": "1.00"}, id="int-to-numeric"
    ),
    pytest.param(
        "alter table t alter a type jsonb using '[1]'", {"a": [1], "b": 1}, id="text-to-jsonb"
    ),
    pytest.param(
        "alter table t alter b type int[] using array[b]", {"a": "x", "b": "{1}"}, id="int-to-array"
    ),
    pytest.param("alter table t alter a type char(3)", {"a": "x  ", "b": 1}, id="text-to-char"),
    pytest.param(
        "create domain word as text; alter table t alter a type word",
        {"a": "x", "b": 1},
        id="text-to-domain",
    ),
]


@pytest.mark.parametrize("session", ["same", "other", "old"])
@pytest.mark.parametrize(("change", "row"), CHANGES)
async def test_events_follow_the_table(
    connection: asyncpg.Connection,
    connect: Connect,
    capture: Capture,
    outbox: Outbox,
    change: str,
    row: dict[str, object],
    session: str,
) -> None:
    """In the session that changes the table, in a new one, and in one with cached plans."""
    await capture("t", "a text, b int")
    await connection.execute("insert into t values ('x', 1)")
    writer = connection if session == "same" else await connect()
    if session == "old":
        await writer.execute("insert into t values ('y', 2); delete from t where b = 2")
    await outbox.events()
    await connection.execute(change)
    if session == "other":
        writer = await connect()
    column = next(iter(row))
    await writer.execute(f"update t set {column} = {column}")
    await writer.execute("delete from t")

    update, delete = await outbox.events()

    assert update.new == update.old == delete.old == row


@pytest.mark.parametrize(("change", "row"), CHANGES)
async def test_drift_is_seen_and_mended(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    change: str,
    row: dict[str, object],
) -> None:
    await capture("t", "a text, b int")
    await connection.execute("insert into t values ('x', 1)")
    await connection.execute(change)
    problem = await connection.fetchval("select problem from pgoutbox.table_state")
    await connection.execute("select pgoutbox.refresh_capture('t')")
    await outbox.events()
    await forbid_the_slow_way(connection)
    await connection.execute("delete from t")

    assert problem == "drift"
    assert await connection.fetchval("select problem from pgoutbox.table_state") is None
    assert [event.old for event in await outbox.events()] == [row]


async def test_a_change_in_the_middle_of_a_transaction(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "a text, b int")
    await connection.execute("""
        begin;
        insert into t values ('x', 1);
        alter table t add c int;
        insert into t values ('y', 2, 3);
        alter table t drop a;
        update t set c = 4 where b = 1;
        savepoint s;
        alter table t rename b to z;
        delete from t where z = 2;
        rollback to s;
        delete from t where b = 1;
        commit
    """)

    (transaction,) = await outbox.transactions()

    assert [event.new or event.old for event in transaction] == [
        {"a": "x", "b": 1},
        {"a": "y", "b": 2, "c": 3},
        {"b": 1, "c": 4},
        {"b": 1, "c": 4},
    ]


async def test_events_of_an_undrifted_table_take_the_fast_way(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Else the tests above would prove nothing about the guards."""
    await capture("t", "a text, b int")
    await forbid_the_slow_way(connection)
    await connection.execute("insert into t values ('x', 1)")
    assert len(await outbox.events()) == 1

    await connection.execute("alter table t add c int")
    with pytest.raises(asyncpg.RaiseError, match="the slow way"):
        await connection.execute("insert into t values ('x', 1)")


async def test_rename_and_move_of_the_table(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "a text")
    await connection.execute("insert into t values ('x'); alter table t rename to u")
    await connection.execute(
        "insert into u values ('y'); create schema s; alter table u set schema s"
    )
    await connection.execute("alter table s.u add b int")
    await connection.execute("insert into s.u values ('z')")

    rows = await outbox.rows()

    assert [(row["schema_name"], row["table_name"]) for row in rows] == [
        ("public", "t"),
        ("public", "u"),
        ("s", "u"),
    ]


async def test_a_table_dropped_and_made_again_is_replaced_until_it_is_captured(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "a text")
    await connection.execute("drop table t; create table t (b int)")
    assert await connection.fetchval("select problem from pgoutbox.table_state") == "replaced"
    await capture("t")
    await connection.execute("insert into t values (1)")

    assert [event.new for event in await outbox.events()] == [{"b": 1}]


@pytest.mark.parametrize("count", [1, 44, 45, 46, 99, 1600])
async def test_wide_tables(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, count: int
) -> None:
    names = [f"c{number:04}" for number in range(count)]
    await capture("t", ", ".join(f"{name} int2" for name in names))
    await forbid_the_slow_way(connection)
    await connection.execute(f"insert into t values ({', '.join(map(str, range(count)))})")

    (event,) = await outbox.events()

    assert event.new == {name: number for number, name in enumerate(names)}
