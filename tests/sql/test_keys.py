"""The key of each event, and the trace of each transaction, as a relay can ask for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.conftest import Connect
from tests.support.cluster import OWNER, WRITER, Cluster

from .conftest import Capture

DESCRIBED = """
    select * from pgoutbox.next_batch_described($1, '{}', '{}', null, null, 1000, 1000000000, true)
"""
PLAIN = "select * from pgoutbox.next_batch(0, '{}', '{}', null, null, 1000, 1000000000)"


async def keys(connection: asyncpg.Connection) -> list[list[str] | None]:
    """Return the keys of all events."""
    return [row["key"] for row in await connection.fetch(DESCRIBED, 0)]


async def test_what_is_described_is_what_is_published(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int primary key, v text")
    await connection.execute("insert into t select n, 'x' from generate_series(1, 5) n")
    await connection.execute("update t set v = 'y'")

    described = await connection.fetch(DESCRIBED, 0)

    assert [tuple(row)[:-4] for row in described] == list(map(tuple, await connection.fetch(PLAIN)))


@pytest.mark.parametrize(
    ("columns", "values", "key"),
    [
        ("id int primary key, v text", "7, 'x'", ["7"]),
        ("id bigint primary key", "9007199254740993", ["9007199254740993"]),
        ("v text, id int, primary key (id, v)", "'x', 7", ["7", "x"]),
        ("id int, v text, n int, primary key (v) include (n)", "7, 'x', 1", ["x"]),
        ("id text primary key", """'a"\\é'""", ['a"\\é']),
        ("id text primary key", "''", [""]),
        ("id numeric primary key", "1.10", ["1.10"]),
        ("id bool primary key", "true", ["true"]),
        (
            "id uuid primary key",
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
        ),
        ("id timestamptz primary key", "'2026-01-02 03:04:05+00'", ["2026-01-02T03:04:05Z"]),
        ('"odd Name" int primary key', "7", ["7"]),
        ("id int unique not null", "7", None),
        ("id int, g int generated always as (id) stored primary key", "7", None),
    ],
)
async def test_key_is_the_primary_key(
    connection: asyncpg.Connection,
    capture: Capture,
    columns: str,
    values: str,
    key: list[str] | None,
) -> None:
    await capture("t", columns)
    await connection.execute(f"insert into t values ({values})")

    assert await keys(connection) == [key]


async def test_key_of_each_action(connection: asyncpg.Connection, capture: Capture) -> None:
    """Of the row after the change, where there is one."""
    await capture("t", "id int primary key, v text")
    await connection.execute("""
        insert into t values (1);
        update t set v = 'x';
        update t set id = 2;
        delete from t;
        truncate t
    """)

    assert await keys(connection) == [["1"], ["1"], ["2"], ["2"], None]


async def test_replica_identity_stands_in_for_a_primary_key(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int not null unique, v text")
    await connection.execute("alter table t replica identity using index t_id_key")
    await connection.execute("insert into t values (1); delete from t")

    assert await keys(connection) == [["1"], ["1"]]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("default", [["1"], ["1"], ["1"]]),
        ("full", [["1"], ["1"], ["1"]]),
        ("using index t_code_key", [["a"], ["a"], ["a"]]),
        ("nothing", [["1"], ["1"], None]),
    ],
)
async def test_key_is_one_that_a_delete_has_too(
    connection: asyncpg.Connection, capture: Capture, identity: str, expected: list[list[str]]
) -> None:
    """Where old values are those of the replica identity."""
    await connection.execute("create table t (id int primary key, code text not null unique)")
    await connection.execute(f"alter table t replica identity {identity}")
    await capture("t", old_values="identity")
    await connection.execute("insert into t values (1, 'a'); update t set id = 1; delete from t")

    assert await keys(connection) == expected


async def test_columns_that_were_renamed(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", "id int primary key")
    await connection.execute("insert into t values (1)")
    await connection.execute("alter table t rename id to uid")
    await connection.execute("insert into t values (2)")
    await connection.execute("select pgoutbox.mend_drift()")
    await connection.execute("alter table t rename uid to tid")
    await connection.execute("insert into t values (3)")
    await connection.execute("select pgoutbox.mend_drift()")

    assert await keys(connection) == [["1"], ["2"], ["3"]]


async def test_column_that_takes_anothers_place(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    """As one makes a key larger without a long lock."""
    await capture("t", "id int primary key, new_id bigint")
    await connection.execute("insert into t values (1, 1)")
    await connection.execute("""
        alter table t drop constraint t_pkey;
        alter table t rename id to old_id;
        alter table t rename new_id to id;
        alter table t add primary key (id)
    """)
    await connection.execute("insert into t values (2, 2)")

    assert await keys(connection) == [["1"], ["2"]]


async def test_key_that_was_dropped_or_came_later(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("dropped", "id int primary key")
    await capture("later", "id int not null")
    await connection.execute("insert into dropped values (1); insert into later values (2)")
    await connection.execute("""
        alter table dropped drop constraint dropped_pkey;
        alter table later add primary key (id)
    """)

    assert await keys(connection) == [["1"], ["2"]]


@pytest.mark.parametrize(
    "change",
    [
        "alter table t rename to u",
        "create schema s; alter table t set schema s",
        "drop table t",
        "select pgoutbox.release_table('t')",
    ],
)
async def test_table_that_is_gone_by_that_name(
    connection: asyncpg.Connection, capture: Capture, change: str
) -> None:
    await capture("t", "id int primary key")
    await connection.execute("insert into t values (1)")
    await connection.execute(change)

    assert await keys(connection) == [["1"]]


async def test_renamed_table(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", "id int primary key")
    await connection.execute("alter table t rename to u; insert into u values (1)")

    assert await keys(connection) == [["1"]]


async def test_partitions(connection: asyncpg.Connection, capture: Capture) -> None:
    await connection.execute("""
        create table p (n int, id int, primary key (id, n)) partition by list (n);
        create table p_1 partition of p for values in (1);
        create table p_2 (id int not null, n int not null, primary key (id, n));
        alter table p attach partition p_2 for values in (2)
    """)
    await capture("p_1")
    await capture("p")
    await connection.execute("insert into p values (1, 10), (2, 20)")
    await connection.execute("update p set n = 2 where n = 1")

    names = [row["table_name"] for row in await connection.fetch(DESCRIBED, 0)]
    assert names == ["p_1", "p", "p_1", "p"]
    assert await keys(connection) == [["10", "1"], ["20", "2"], ["10", "1"], ["10", "2"]]


async def test_installing_again_changes_nothing(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int primary key")

    assert not await connection.fetchval("select pgoutbox.capture_table('t')")
    known = await connection.fetchval("select keys::text from pgoutbox.captured_table")
    assert known == '[["id"]]'


async def traces(connection: asyncpg.Connection) -> list[str | None]:
    return [row["traceparent"] for row in await connection.fetch(DESCRIBED, 0)]


async def test_traceparent_is_that_of_its_transaction(
    connection: asyncpg.Connection, connect: Connect, capture: Capture
) -> None:
    await capture("t", "id int primary key")
    writer = await connect(WRITER)
    async with writer.transaction():
        await writer.execute("set local pgoutbox.traceparent = '00-a'")
        await writer.execute("insert into t values (1), (2)")
    await writer.execute("insert into t values (3)")
    async with writer.transaction():
        await writer.execute("insert into t values (4)")
        await writer.execute("select set_config('pgoutbox.traceparent', '00-b', true)")

    first, second, after, last = await traces(connection)
    assert (first, second, last) == ("00-a", "00-a", "00-b")
    assert not after


async def test_traceparent_takes_no_more_room_than_a_good_one(
    connection: asyncpg.Connection, connect: Connect, capture: Capture
) -> None:
    await capture("t", "id int primary key")
    writer = await connect(WRITER)
    await writer.execute("select set_config('pgoutbox.traceparent', repeat('é', 1000000), false)")
    await writer.execute("insert into t values (1)")

    stored = await connection.fetchval("select traceparent from pgoutbox.transaction")
    assert stored == "é" * 56
    assert await traces(connection) == [None]


@pytest.fixture
async def encoded(cluster: Cluster, encoding: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the owner of a database with that encoding."""
    database = await cluster.create_encoded_database(encoding)
    yield await database.connect(OWNER)
    await cluster.drop_database(database)


@pytest.mark.parametrize(
    ("encoding", "trace"),
    [
        ("SQL_ASCII", r"E'\xff'"),
        ("SQL_ASCII", r"repeat('0', 55) || E'\xc3\xa9'"),
        ("LATIN1", "repeat('é', 56)"),
    ],
)
async def test_a_traceparent_of_any_bytes_fails_no_read(
    encoded: asyncpg.Connection, trace: str
) -> None:
    await encoded.execute("create table t (id int primary key)")
    await encoded.fetchval("select pgoutbox.capture_table('t')")
    await encoded.execute(f"""
        do $$ begin perform set_config('pgoutbox.traceparent', {trace}, false); end $$;
        insert into t values (1)
    """)

    assert await traces(encoded) == [None]


# A column for each way in which a value becomes JSON.
ODD = r"""
create table t (
    id text primary key, c "char", j json, b jsonb, a json[], d words, v text, k varchar[]);
insert into t values (
    '7', '-23'::int::"char", '{"a":"\u20ac \u00e9 \ud83d\ude00"}', '{"a":"\u0001"}',
    array['"\u20ac"']::json[], '["\u20ac"]', E'\x01 \\u20ac', array[E'\\u20ac']);
"""


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII", "LATIN1", "LATIN9", "EUC_JP"])
async def test_no_column_fails_the_reading_of_a_key(
    encoded: asyncpg.Connection, encoding: str
) -> None:
    """Where PostgreSQL can't turn an escape into a character of the database's."""
    await encoded.execute("create domain words as json")
    create, insert = ODD.split(";", 1)
    await encoded.execute(create)
    await encoded.fetchval("select pgoutbox.capture_table('t')")
    await encoded.execute(insert)
    await encoded.execute("update t set v = 'x'; delete from t")

    assert await keys(encoded) == [["7"]] * 3
    first = json.loads((await encoded.fetch(DESCRIBED, 0))[0]["new_row"])
    is_escaped = encoded.get_server_version().major >= 15
    by_encoding = {"LATIN1": "é", "LATIN9": "é", "EUC_JP": "?"}
    assert first["c"] == (r"\351" if is_escaped else by_encoding.get(encoding, "\ufffd"))


async def test_events_are_counted(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", "id int primary key")
    await connection.execute("begin; insert into t values (1); savepoint s")
    await connection.execute("insert into t values (2), (3); rollback to s")
    await connection.execute("insert into t values (4), (5), (6); commit")
    await connection.execute("insert into t values (7)")
    numbers = [row["seq"] for row in await connection.fetch(DESCRIBED, 0)]

    async def count(after: int, upto: int, most: int) -> tuple[int, int | None]:
        counted = "select * from pgoutbox.count_events(1, $1, $2, $3)"
        [(events, last)] = await connection.fetch(counted, after, upto, most)
        return events, last

    assert await count(-1, 2**63 - 1, 100) == (4, numbers[3])
    assert await count(-1, 2**63 - 1, 2) == (2, numbers[1])
    assert await count(numbers[1], 2**63 - 1, 2) == (2, numbers[3])
    assert await count(-1, numbers[0], 100) == (1, numbers[0])
    assert await count(numbers[3], 2**63 - 1, 100) == (0, None)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
ODD_TEXTS = ["", "\\", '"', "a", ',"a":', '","a":"', ', "a": ', "}", "x" * 600, "null", 'a"', "{"]
TEXTS = TEXT | st.sampled_from(ODD_TEXTS)
NAMES = TEXTS.filter(lambda name: name and "\x02" not in name)
NESTED = st.recursive(
    TEXTS | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
# A row as row_to_json() and concat() make it, of texts and jsonb in turn.
ROW = """
    select '{' || string_agg(to_json(name)::text || ':' || case
        when is_json then value::jsonb::text else to_json(value)::text end, ',' order by place)
        || '}'
    from unnest($1::text[], $2::text[], $3::bool[]) with ordinality c (name, value, is_json, place)
"""


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.dictionaries(NAMES, TEXTS, min_size=1, max_size=4),
    nested=st.dictionaries(NAMES, NESTED, max_size=4),
)
async def test_values_are_found_without_parsing_the_others(
    connection: asyncpg.Connection, texts: dict[str, str], nested: dict[str, object]
) -> None:
    """Whatever names and values are made of, they are what a parser finds."""
    columns = {name: (json.dumps(value), True) for name, value in nested.items()}
    columns |= {name: (text, False) for name, text in texts.items()}
    values, kinds = zip(*columns.values(), strict=True)
    row = await connection.fetchval(ROW, list(columns), values, kinds)

    for name in [*columns, "none"]:
        expected = await connection.fetchval("select $1::text::json ->> $2", row, name)
        found = await connection.fetchval("select pgoutbox.value_in($1, $2)", row, name)
        assert found == expected, (row, name)


async def test_values_of_long_rows_are_those_of_short_ones(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    """Time stamps and what follows them included, and however deep another value is."""
    await capture(
        "t",
        "a timestamptz, b int, c timestamp, d text, j jsonb, z timestamp, primary key (a, c, d, z)",
    )
    insert = """
        insert into t select
            '2026-01-02 03:04:05+00', 1, '0044-03-15 12:00:00 BC', E'"é\\x01', $1::text::jsonb,
            'infinity'
    """
    await connection.execute(insert, "1")
    await connection.execute("delete from t")
    await connection.execute(insert, "[" * 9_000 + "]" * 9_000)

    short, _, long = await keys(connection)

    assert short is not None
    assert short == long
    assert short[0] == "2026-01-02T03:04:05Z"
