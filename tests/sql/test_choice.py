"""Which rows and columns are captured: what is left out is never stored."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from typing import Any

import asyncpg
import pytest

from tests.conftest import Connect, Servers
from tests.support.cluster import WRITER

from .conftest import Capture
from .outbox import Event, Outbox, forbid_the_slow_way

COLUMNS = "id int primary key, state text, total numeric, email text, at timestamptz"
ROW = "(1, 'new', 1.10, 'a@b.c', '2024-01-15 10:20:30+00')"


async def test_an_update_that_crosses_the_border_is_an_insert_or_a_delete(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, state text", condition="state <> 'draft'")
    await forbid_the_slow_way(connection)
    for statement in (
        "insert into t values (1, 'draft'), (2, 'new'), (3, null)",
        "update t set state = 'new' where id <> 2",
        "update t set state = 'paid' where id = 1",
        "update t set state = 'draft' where id = 1",
        "update t set id = 4 where id = 1",
        "delete from t",
        "truncate t",
    ):
        await connection.execute(statement)
    rows = await outbox.events()
    assert rows == [
        Event("t", "INSERT", {"id": 2, "state": "new"}, {}),
        Event("t", "INSERT", {"id": 1, "state": "new"}, {}),
        Event("t", "INSERT", {"id": 3, "state": "new"}, {}),
        Event("t", "UPDATE", {"id": 1, "state": "paid"}, {"id": 1, "state": "new"}),
        Event("t", "DELETE", {}, {"id": 1, "state": "paid"}),
        Event("t", "DELETE", {}, {"id": 2, "state": "new"}),
        Event("t", "DELETE", {}, {"id": 3, "state": "new"}),
        Event("t", "TRUNCATE", {}, {}),
    ]
    assert await connection.fetchval("select count(*) from pgoutbox.event") == 8


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"columns": ["state"]}, {"id": 1, "state": "new"}),
        ({"except_columns": ["email", "at"]}, {"id": 1, "state": "new", "total": "1.10"}),
        ({"columns": ["at"], "condition": "id > 0"}, {"id": 1, "at": "2024-01-15T10:20:30Z"}),
        ({"hash_columns": ["email"], "columns": []}, None),
    ],
)
async def test_columns(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    arguments: dict[str, Any],
    expected: dict[str, Any] | None,
    slowly: bool,
) -> None:
    await capture("t", COLUMNS, **arguments)
    if slowly:
        await connection.execute("alter table t add n int generated always as (1) stored")
    else:
        await forbid_the_slow_way(connection)
    await connection.execute(f"insert into t values {ROW}; update t set state = state")
    inserted, updated = await outbox.events()
    if expected is None:
        key = await connection.fetchval("select inner_key from pgoutbox.hash_key")
        key = bytes(byte ^ 0x36 for byte in key)
        email = hmac.new(key, b"a@b.c", hashlib.sha256).hexdigest()
        expected = {
            **{"id": 1, "state": "new", "total": "1.10", "email": email},
            "at": "2024-01-15T10:20:30Z",
        }
    assert inserted.new == updated.new == updated.old == expected


async def test_a_new_column_is_captured_unless_the_others_are_listed(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("listed", "id int primary key, a int", columns=["a"])
    await capture("but", "id int primary key, a int", except_columns=["a"])
    await connection.execute("alter table listed add b int; alter table but add b int")
    for _ in range(2):
        await connection.execute("insert into listed select count(*), 1, 2 from listed")
        await connection.execute("insert into but select count(*), 1, 2 from but")
        await connection.execute("select pgoutbox.mend_drift()")
    assert [sorted(event.new) for event in await outbox.events()] == [["a", "id"], ["b", "id"]] * 2


async def test_what_is_not_given_stays_and_empty_takes_back(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, a int, b int", condition="a > 1", except_columns=["b"])
    await capture("t", actions=["INSERT"])
    await connection.execute("insert into t values (1, 1, 1), (2, 2, 2)")
    await capture("t", condition="")
    await connection.execute("insert into t values (3, 1, 1)")
    await capture("t", except_columns=[])
    await connection.execute("insert into t values (4, 1, 1)")
    assert [event.new for event in await outbox.events()] == [
        {"id": 2, "a": 2},
        {"id": 3, "a": 1},
        {"id": 4, "a": 1, "b": 1},
    ]
    assert await connection.fetchval("select choice from pgoutbox.captured_table") == "{}"


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
async def test_a_condition_outlives_changes_of_the_table(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, level: str
) -> None:
    """Also in a session that has planned it for the columns as they were."""
    await capture("t", "id int primary key, x int, n int", condition="n > 0")
    await connection.execute(f"set default_transaction_isolation = '{level}'")
    for statement in (
        "select",
        "alter table t alter n type bigint",
        "alter table t drop x",
        "alter table t add y int",
        "alter table t alter n type numeric",
    ):
        await connection.execute(f"{statement}; insert into t (id, n) select count(*), 1 from t")
        await connection.execute("insert into t (id, n) select count(*), 0 from t")
        await connection.execute("select pgoutbox.mend_drift()")
        await connection.execute("update t set n = 1 where n = 0")
    assert [(event.action, event.new["id"]) for event in await outbox.events()] == [
        ("INSERT", number) for number in range(10)
    ]


async def test_a_condition_that_raises_fails_no_write(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    """Its event has no row, and no relay can read it; the others are told as always."""
    await capture("t", "id int primary key, n int", condition="10 / n > 1")
    await connection.execute("insert into t values (1, 1), (2, 0)")
    await connection.execute("alter table t rename n to m; insert into t values (3, 1)")
    data = await connection.fetch("select data from pgoutbox.outbox order by position, seq")
    assert json.loads(data[0]["data"]) == {"id": 1, "n": 1}
    assert [json.loads(row["data"])[1:] for row in data[1:]] == [
        "the condition on its table raised 22012: division by zero",
        'the condition on its table raised 42703: column "n" not found in data type public.t',
    ]
    with pytest.raises(asyncpg.DataError, match="raised 22012: division by zero"):
        await Outbox(connection).rows()


HOSTILE_PATH = """
    create schema evil;
    create function evil.differ(text, text) returns boolean language plpgsql as
        $$ begin raise exception 'evil'; end $$;
    create operator evil.<> (leftarg = text, rightarg = text, function = evil.differ);
    create function evil.lower(text) returns text language plpgsql as
        $$ begin raise exception 'evil'; end $$;
    grant usage on schema evil to public;
"""


async def test_names_in_a_condition_mean_what_they_meant_at_install(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int, state text, action text", condition="lower(state) <> 'x'")
    await connection.execute(HOSTILE_PATH + f"grant all on t to {WRITER}")
    writer = await connect(WRITER)
    await writer.execute("set search_path = evil, public, pg_catalog")
    await writer.execute("insert into t values (1, 'X', 'a'), (2, 'y', 'b')")
    assert [event.new["id"] for event in await outbox.events()] == [2]


SOMEBODY_ELSES = r"v <> '\' or v = ' or somebody.runs() --'"


@pytest.mark.parametrize(
    ("column", "condition", "setting", "values"),
    [
        ("text", SOMEBODY_ELSES, "standard_conforming_strings = off", [r"\' or v = "]),
        ("text", r"v like 'a\_%'", "standard_conforming_strings = off", ["a_b", "axb"]),
        ("text", "(v = null) is null", "transform_null_equals = on", ["x"]),
        ("timestamptz", "v >= '2024-01-01'", "timezone = 'Asia/Tokyo'", ["2024-01-01Z"]),
        ("date", "v >= '02/01/2024'", "datestyle = 'ISO, DMY'", ["2024-02-01", "2024-01-31"]),
    ],
)
async def test_a_condition_means_the_same_in_every_session(
    connection: asyncpg.Connection,
    connect: Connect,
    capture: Capture,
    outbox: Outbox,
    column: str,
    condition: str,
    setting: str,
    values: list[str],
) -> None:
    """Literals are read as at install, or what a table's owner made would run as the schema's."""
    await connection.execute(
        "create schema somebody; create function somebody.runs() returns boolean language plpgsql"
        " as $$ begin raise 'somebody runs'; end $$"
    )
    await capture("t", f"id int primary key, v {column}", condition=condition)
    writer = await connect()
    await writer.execute(f"set {setting}")
    for number, value in enumerate(values):
        await writer.execute(f"insert into t values ({number}, e'{value}')")
        await writer.execute(f"alter table t add c{number} int")  # so the next goes the slow way
        await writer.execute(f"insert into t values ({number + 10}, e'{value}')")
    rows = await outbox.events()
    assert [event.new["id"] for event in rows] == [0, 10]
    assert await connection.fetchval("select count(*) from pgoutbox.event") == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"condition": "at > now()"}, "must be marked IMMUTABLE"),
        ({"condition": "state = current_user"}, "must be marked IMMUTABLE"),
        ({"condition": "random() > 0.5"}, "must be marked IMMUTABLE"),
        ({"condition": "id in (select 1)"}, "cannot use subquery"),
        ({"condition": "public.mine(id)"}, "not function public.mine(integer)"),
        ({"condition": "id"}, "must be type boolean"),
        ({"condition": "nothing > 1"}, 'column "nothing" does not exist'),
        ({"condition": "true) union select (true"}, "syntax error"),
        ({"condition": "true); drop table t; select (true"}, "can't have a semicolon"),
        ({"condition": "tableoid = 1"}, "system column"),
        ({"condition": "count(*) > 1"}, "aggregate"),
        ({"columns": ["a"], "except_columns": ["b"]}, "either the columns to capture or those"),
        ({"columns": ["nothing"]}, "there is no column nothing"),
        ({"except_columns": ["id"]}, "the column id is part of the key"),
        ({"hash_columns": ["id"]}, "the column id is part of the key"),
    ],
)
async def test_what_cannot_be_chosen(
    connection: asyncpg.Connection, capture: Capture, arguments: dict[str, Any], problem: str
) -> None:
    await connection.execute(
        "create function mine(int) returns boolean language sql immutable as 'select true'"
    )
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await capture("t", COLUMNS, **arguments)
    assert problem in str(refused.value)
    assert await connection.fetchval("select count(*) from pgoutbox.captured_table") == 0


async def test_an_enum_may_be_compared(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute("create type mood as enum ('sad', 'ok')")
    await capture("t", "id int, mood mood", condition="mood <> 'sad'")
    await connection.execute("insert into t values (1, 'sad'), (2, 'ok')")
    assert [event.new["id"] for event in await outbox.events()] == [2]


async def test_partitions_follow_their_root(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute(
        "create table r (id int, secret text, state text) partition by range (id);"
        "create table p (state text, secret text, id int);"
        "alter table r attach partition p for values from (0) to (10)"
    )
    await capture("r", condition="state <> 'draft'", except_columns=["secret"])
    await connection.execute("insert into r values (1, 's', 'draft'), (2, 's', 'new')")
    await connection.execute("set datestyle = 'German'; update r set state = 'new'")
    assert [(event.action, event.new, event.old) for event in await outbox.events()] == [
        ("INSERT", {"id": 2, "state": "new"}, {}),
        ("INSERT", {"id": 1, "state": "new"}, {}),
        ("UPDATE", {"id": 2, "state": "new"}, {"id": 2, "state": "new"}),
    ]
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"a partition of public\.r"):
        await capture("p", condition="true")


async def test_nobody_but_the_owner_reads_the_key(
    connection: asyncpg.Connection, connect: Connect, capture: Capture
) -> None:
    await capture("t", COLUMNS, hash_columns=["email"], condition="true")
    await connection.execute(
        f"grant all on t to {WRITER}; select pgoutbox.grant_relay('{WRITER}');"
        f"select pgoutbox.grant_emit('{WRITER}')"
    )
    writer = await connect(WRITER)
    await writer.execute(f"insert into t values {ROW}")
    for statement in (
        "table pgoutbox.hash_key",
        "select pgoutbox.keyed_hash('a')",
        "select pgoutbox.wal_hashed('a'::text)",
        "select pgoutbox.choose_1('INSERT'::text, t, t) from t",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)
    sources = await writer.fetch("select prosrc from pg_proc where pronamespace::text <> ''")
    key = await connection.fetchval("select inner_key from pgoutbox.hash_key")
    assert not [row for row in sources if key.hex() in row["prosrc"]]


async def test_old_values_by_identity(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """A DELETE that was an UPDATE has the key, though that didn't change."""
    await capture("t", "id int primary key, n int", old_values="identity", condition="n > 0")
    await connection.execute("insert into t values (1, 1); update t set n = 0")
    assert (await outbox.events())[1:] == [Event("t", "DELETE", {}, {"id": 1, "n": None})]


async def test_a_released_table_leaves_nothing(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int", condition="id > 0")
    await connection.execute("select pgoutbox.release_table('t')")
    assert not await connection.fetchval("select count(*) from pg_proc where proname ~ '^choose_1'")


def test_events_are_what_a_publication_publishes(servers: Servers) -> None:
    """Its WHERE and its columns, with REPLICA IDENTITY FULL, over random changes."""
    import asyncio

    server = servers.postgres(wal_level="logical")
    asyncio.run(_compare(server.dsn()))


async def _compare(dsn: str) -> None:
    from pgoutbox.database import schema
    from pgoutbox.database.connection import session  # noqa: F401
    from tests.support.pgoutput import changes

    connection = await asyncpg.connect(dsn)
    try:
        if connection.get_server_version().major < 15:
            pytest.skip("publications have neither WHERE nor columns")
        await connection.execute("set client_min_messages = warning")
        await schema.apply(connection)
        await connection.execute("""
            create table t (id int, a int, b text, c text);
            alter table t replica identity full;
            create publication p for table t where (a > 2 and b <> 'x');
            select pgoutbox.capture_table('t', condition => $$a > 2 and b <> 'x'$$);
        """)
        await connection.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
        draw = random.Random(7)
        for _ in range(150):
            a = draw.choice(["null", *map(str, range(6))])
            b = draw.choice(["null", "'x'", "'y'"])
            await connection.execute(draw.choice([
                f"insert into t values ({draw.randrange(9)}, {a}, {b}, 'c')",
                f"insert into t values ({draw.randrange(9)}, {a}, {b}, 'c')",
                f"update t set a = {a} where id = {draw.randrange(9)}",
                f"update t set b = {b}, c = 'd' where id % 3 = {draw.randrange(3)}",
                f"delete from t where id = {draw.randrange(9)}",
            ]))  # fmt: skip
        binary = await connection.fetch(
            "select data from pg_logical_slot_get_binary_changes('s', null, null,"
            " 'proto_version', '1', 'publication_names', 'p')"
        )
        published = changes([row["data"] for row in binary])
        captured = [
            (event.action, *(
                {name: value if value is None else str(value) for name, value in row.items()}
                for row in (event.new, event.old)
            ))
            for event in await Outbox(connection).events()
        ]  # fmt: skip
        assert {action for action, *_ in captured} == {"INSERT", "UPDATE", "DELETE"}
        assert captured == published
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("columns", "arguments", "change", "row"),
    [
        ("id int, v text", {"columns": ["id"]}, "rename id to n", "(1, repeat('x', 40000))"),
        ("v text", {"except_columns": ["v"]}, "alter v type varchar", "(repeat('x', 40000))"),
    ],
)
async def test_a_large_row_of_which_no_column_is_captured(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox,
    columns: str, arguments: dict[str, Any], change: str, row: str,
) -> None:  # fmt: skip
    """Where the table has changed since."""
    await capture("t", columns, **arguments)
    await connection.execute(f"alter table t {change}")
    await connection.execute("alter table t alter v set storage external")
    await connection.execute(f"insert into t values {row}")

    (event,) = await outbox.events()
    assert "v" not in event.new


async def test_a_value_that_no_server_takes_has_no_hash(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """It isn't read."""
    await capture("t", "id int primary key, v text", hash_columns=["v"])
    await connection.execute("insert into t values (1, repeat('x', 67108865))")

    (event,) = await outbox.events()
    assert event.new["v"] == {"unrenderable": "54000: 67108865 bytes, of at most 67108864"}
