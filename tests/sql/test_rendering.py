"""Rows are rendered by a type made for their table; what can't be told from the JSON is."""

from __future__ import annotations

import asyncpg
import pytest

from .conftest import Capture
from .outbox import Outbox, forbid_the_slow_way

STAMPS = [
    "2024-01-15 10:20:30.50",
    "infinity",
    "-infinity",
    "0044-03-15 12:00:00 BC",
    "0001-01-01 00:00:00",
    "10000-01-01 00:00:00",
    None,
]
NAMES = {
    "plain": "t",
    "longest after a time stamp": "u" * 63,
    "a control character": "u\x02",
    "only a control character": "\x02",
    "quotation marks": "u\"'\\",
    "percent and braces": "u%1$s{guard}%",
    "another letter": "ü",
}


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize("type_name", ["timestamp", "timestamptz"])
async def test_a_time_stamp_reads_the_same_wherever_it_stands(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, type_name: str, stamp: str
) -> None:
    """First, last, alone, beside another one, and beside text that looks like the end of one."""
    await connection.execute("set timezone = 'UTC'")
    text = 'infinity","\\u0002 BC","\x02,"":null}'
    await capture("one", f"a {type_name}")
    await capture("two", f"a {type_name}, b {type_name}")
    await capture("mixed", f"a text, b {type_name}, c text, d jsonb, e {type_name}, f text")
    await forbid_the_slow_way(connection)
    await connection.execute(f"insert into one values ($1::text::{type_name})", stamp)
    await connection.execute(f"insert into two select $1::text::{type_name}, s::text::{type_name}"
                             " from unnest($2::text[]) s", stamp, STAMPS)  # fmt: skip
    await connection.execute(
        f"insert into mixed values ($2, $1::text::{type_name}, $2, jsonb_build_array($2::text,"
        f" jsonb_build_object($2::text, $2::text, E'\\x02', 1)), $1::text::{type_name}, $2)",
        stamp,
        text,
    )

    one, *two, mixed = [event.new for event in await outbox.events()]

    expected = await connection.fetchval(f"select to_json($1::text::{type_name}::timestamp)", stamp)
    expected = published(expected)
    assert one == {"a": expected}
    assert [row["a"] for row in two] == [expected] * len(STAMPS)
    assert [row["b"] for row in two].index(expected) == STAMPS.index(stamp)
    assert mixed["b"] == mixed["e"] == expected
    assert mixed["a"] == mixed["c"] == mixed["f"] == text
    assert mixed["d"] == [text, {text: text, "\x02": 1}]


def published(json: str | None) -> str | None:
    """Return what is published of a time stamp, of what PostgreSQL's to_json() makes of it."""
    if json is None or "infinity" in json:
        return json and json.strip('"')
    text = json.strip('"')
    return text.replace(" BC", "Z BC") if " BC" in text else text + "Z"


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_any_name(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, name: str
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    await capture("t", f"a timestamp, {quoted} timestamp, z int")
    await forbid_the_slow_way(connection)
    await connection.execute("insert into t values ('2024-01-15', '2024-01-16', 1)")

    (event,) = await outbox.events()

    assert event.new == {"a": "2024-01-15T00:00:00Z", name: "2024-01-16T00:00:00Z", "z": 1}


async def test_a_copy_of_the_table_is_rendered_slowly_until_it_is_captured(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Such as a restored one: its OID is another."""
    await capture("t", "id int primary key, at timestamptz", actions=["INSERT"])
    await connection.execute("""
        alter table t rename to before; create table t (id int primary key, v text);
        create trigger "00_pgoutbox" after insert on t
            for each row execute function pgoutbox.capture_1();
        update pgoutbox.captured_table set relation = 't'::regclass
    """)
    await connection.execute("insert into t values (1, 'x')")
    problem = await connection.fetchval("select problem from pgoutbox.table_state")
    await connection.execute("select * from pgoutbox.mend_drift()")
    await forbid_the_slow_way(connection)
    await connection.execute("insert into t values (2, 'y')")

    assert problem == "drift"
    assert [event.new for event in await outbox.events()] == [
        {"id": 1, "v": "x"},
        {"id": 2, "v": "y"},
    ]


async def test_types_stay_while_a_writer_may_use_them(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    shapes = "select count(*) from pg_type where typname ~ '^shape_' and typtype = 'c'"
    await capture("t", "id int primary key")
    await connection.execute("insert into t values (1)")
    await connection.execute("alter table t add v text; select pgoutbox.refresh_capture('t')")
    await connection.execute("insert into t values (2, 'x')")
    assert await connection.fetchval(shapes) == 2
    await connection.execute("alter table t drop v; select pgoutbox.refresh_capture('t')")
    await connection.execute("insert into t values (3)")
    assert await connection.fetchval(shapes) == 2

    await connection.execute("select pgoutbox.release_table('t')")

    assert await connection.fetchval(shapes) == 0
    assert len(await outbox.events()) == 3


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_rename_of_table_or_schema_is_noticed_at_once(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, isolation: str
) -> None:
    await connection.execute(f"set default_transaction_isolation = '{isolation}'")
    await connection.execute("create schema s")
    await capture("s.t", "id int primary key")
    await connection.execute("insert into s.t values (1); alter table s.t rename to u")
    await connection.execute("insert into s.u values (2); alter schema s rename to r")
    await connection.execute("insert into r.u values (3)")

    rows = await outbox.rows()

    assert [(row["schema_name"], row["table_name"]) for row in rows] == [
        ("s", "t"),
        ("s", "u"),
        ("r", "u"),
    ]


async def test_tables_that_exchange_their_names_are_told_apart(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Also by plans that were made before; once the names are as before, in the fast way."""
    exchange = "alter table a rename to c; alter table b rename to a; alter table c rename to b"
    await capture("a", "id int primary key")
    await capture("b", "id int primary key")
    await connection.execute("insert into a values (1)")
    await connection.execute("insert into b values (2)")
    await connection.execute(exchange)
    await connection.execute("insert into a values (3)")
    await connection.execute("insert into b values (4)")
    await connection.execute(exchange)
    await forbid_the_slow_way(connection)
    await connection.execute("insert into a values (5)")
    await connection.execute("insert into b values (6)")

    events = await outbox.events()

    assert [(event.table, event.new["id"]) for event in events] == [
        (table, number) for number, table in enumerate("ababab", 1)
    ]


async def test_a_table_without_columns(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute("create table t ()")
    await capture("t")
    await forbid_the_slow_way(connection)
    await connection.execute("insert into t default values")

    assert [event.new for event in await outbox.events()] == [{}]
