"""Who and why: a context that is its transaction's, and nobody else's."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support.cluster import OWNER, WRITER

from .conftest import Capture

READ = (
    "select * from pgoutbox.next_batch_described($1, '{}', '{}', null, null, 1000, 1000000, false)"
)


@pytest.fixture
async def writer(
    connection: asyncpg.Connection, connect: Connect, capture: Capture
) -> asyncpg.Connection:
    """A connection of a role that may set a context, and write a captured table."""
    await capture("t", "id int generated always as identity primary key, n int default 0")
    await connection.execute(f"grant all on t to {WRITER}; grant all on t_id_seq to {WRITER}")
    await connection.execute(f"select pgoutbox.grant_emit('{WRITER}')")
    return await connect(WRITER)


async def contexts(connection: asyncpg.Connection, high: int = 0) -> list[Any]:
    """Return the context of each transaction, None where it has none."""
    rows = await connection.fetch(READ, high)
    found = {row["position"]: row["context"] for row in rows}
    return [context and json.loads(context) for context in found.values()]


async def test_it_is_of_its_transaction_alone(
    connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    await writer.execute("select pgoutbox.set_context('{\"user\": 1}')")
    await writer.execute("insert into t default values")
    for context in ('{"user": 42}', '"ä"', "[1, 2.50]", "null"):
        async with writer.transaction():
            await writer.execute("select pgoutbox.set_context($1)", context)
            await writer.execute("insert into t select from generate_series(1, 3)")
            await writer.execute("insert into t default values")
    await writer.execute("insert into t default values")
    assert await contexts(connection) == [None, {"user": 42}, "ä", [1, 2.5], None, None]
    assert await connection.fetchval("select count(*) from pgoutbox.outbox") == 2 + 4 * 4


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("insert into t default values; {set}", 2),
        ("{set}; insert into t default values; {other}", 3),
        ("{set}; select pgoutbox.emit('a', 'b')", 2),
        ("{set}; update t set n = 1; set constraints all immediate; update t set n = 2", 2),
        ("update t set n = 1; set constraints all immediate; {set}; update t set n = 2", 2),
        ("{set}; truncate t", 2),
        ("{set}; savepoint s; {other}; update t set n = 1; rollback to s; update t set n = 2", 2),
        ("savepoint s; {set}; rollback to s; update t set n = 1", None),
        ("{set}; {none}; update t set n = 1", None),
        ("savepoint s; {set}; release s; update t set n = 1", 2),
    ],
)
async def test_whenever_it_is_set(
    connection: asyncpg.Connection, statements: str, expected: int | None, capture: Capture
) -> None:
    await capture("t", "id int generated always as identity primary key, n int default 0")
    await connection.execute("insert into t default values")
    high = await connection.fetchval("select max(position) from pgoutbox.transaction")
    call = "select pgoutbox.set_context({})"
    text = statements.format(set=call.format("'2'"), other=call.format("'3'"), none="select "
                             "pgoutbox.set_context(null)")  # fmt: skip
    await connection.execute(f"begin; {text}; commit")
    assert await contexts(connection, high) == [expected]


async def test_a_trigger_that_changes_rows_is_put_in_order_with_a_context(
    connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    await connection.execute("""
        create function again() returns trigger language plpgsql as $$
        begin update t set n = new.n + 1 where id = new.id; return null; end $$;
        create trigger again after insert on t for each row execute function again()
    """)
    async with writer.transaction():
        await writer.execute("select pgoutbox.set_context('7')")
        await writer.execute("insert into t select from generate_series(1, 2)")
    rows = await connection.fetch(READ, 0)
    assert [row["action"] for row in rows] == ["INSERT", "INSERT", "UPDATE", "UPDATE"]
    assert {row["context"] for row in rows} == {"7"}


async def test_settings_that_somebody_left_in_the_session_count_for_nothing(
    connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    async with writer.transaction():
        await writer.execute("select pgoutbox.set_context('1')")
        value = await writer.fetchval("select current_setting('pgoutbox.context')")
    for left in ('{"user": 1}', value):
        await writer.execute("select set_config('pgoutbox.context', $1, false)", left)
        await writer.execute("select set_config('pgoutbox.transaction', '0 context', false)")
        await writer.execute("insert into t default values")
    assert await contexts(connection) == [None, None]


async def test_the_trace_stands_beside_it(
    connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for traceparent in (trace, "", "x" * 80):
        async with writer.transaction():
            await writer.execute("select set_config('pgoutbox.traceparent', $1, true)", traceparent)
            await writer.execute("select pgoutbox.set_context('\"é\"')")
            await writer.execute("insert into t default values")
    rows = await connection.fetch(READ, 0)
    assert [(row["traceparent"] or None, row["context"]) for row in rows] == [
        (trace, '"é"'),
        (None, '"é"'),
        (None, '"é"'),
    ]


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        (json.dumps("é" * 2050), "the context is too large: 4102 bytes, of at most 4096"),
        ('{"session": 1}', 'the context can\'t have a field "session"'),
    ],
)
async def test_what_is_refused(writer: asyncpg.Connection, context: str, problem: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=problem):
        await writer.execute("select pgoutbox.set_context($1)", context)


async def test_nothing_is_written_for_it(writer: asyncpg.Connection) -> None:
    """A request that only reads draws no transaction id."""
    async with writer.transaction(readonly=True):
        await writer.execute("select pgoutbox.set_context('1')")
        assert await writer.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_the_session_is_captured_where_it_is_asked_for(
    connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    session = {"user": WRITER, "application": "web", "address": "127.0.0.1"}
    assert await connection.fetchval("select pgoutbox.configure_capture(true, null)")
    assert not await connection.fetchval("select pgoutbox.configure_capture(true, null)")
    await writer.execute("set application_name = 'web'")
    await writer.execute("insert into t default values; update t set n = 1")
    await writer.execute("select pgoutbox.emit('a', 'b')")
    for context in ('{"user": 42}', "7"):
        async with writer.transaction():
            await writer.execute("select pgoutbox.set_context($1)", context)
            await writer.execute("insert into t default values")
    await connection.execute("truncate t")
    found = await contexts(connection)
    assert found[:-1] == [
        *[{"session": session}] * 2,
        {"user": 42, "session": session},
        {"context": 7, "session": session},
    ]
    assert found[-1]["session"]["user"] == OWNER

    high = await connection.fetchval("select max(position) from pgoutbox.transaction")
    await connection.execute("select pgoutbox.configure_capture(false, null)")
    await writer.execute("insert into t default values")
    assert await contexts(connection, high) == [None]
