"""Writers whose snapshot is older than the table: an event has the row's columns all the same.

Under REPEATABLE READ and SERIALIZABLE a query of the catalog shows a table as it was before what
other sessions have done to it since, while the rows that are written are those of now.
"""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.conftest import Connect

from .conftest import Capture
from .outbox import Event, Outbox

TABLE = (
    "id int primary key, a int default 1, b int default 2, g int generated always as (id) stored"
)
CHANGES = {
    "nothing": "comment on table t is 'as it was'",
    "add": "alter table t add z int default 7",
    "add and drop": "alter table t add y int; alter table t drop y; alter table t add z int",
    "drop": "alter table t drop b",
    "replace": "alter table t drop b; alter table t add b bool default true",
    "rename a column": 'alter table t rename b to "Z z"',
    "swap": "alter table t rename a to z; alter table t rename b to a; alter table t rename z to b",
    "retype": "alter table t alter b type text",
    "retype to a domain": "create domain whole as int; alter table t alter b type whole",
    "retype to a composite type": """
        create type pair as (x int, y text);
        alter table t alter b drop default, alter b type pair using row(b, 'y')::pair,
            alter b set default row(1, 'z')::pair""",
    "generate": "alter table t add z int generated always as (id + 1) stored",
    "generate anew": """
        alter table t drop g; alter table t add g int generated always as (id * 3) stored""",
    "generate no more": "alter table t alter g drop expression",
    "number": "alter table t add z int generated always as identity",
    "rename the table": 'alter table t rename to "T t"',
    "move the table": "create schema moved; alter table t set schema moved",
    "all of that": """
        alter table t rename b to c; alter table t rename to u; alter table u add z int default 1;
        create schema moved; alter table u set schema moved; alter table moved.u drop g""",
    "rolled back": """
        begin; alter table t alter g drop expression; alter table t add z int; rollback""",
}
IDENTITIES: dict[str, tuple[str, set[str]]] = {
    "full": ("alter table t replica identity full", {"id", "a", "b"}),
    "nothing": ("alter table t replica identity nothing", set()),
    "an index": (
        """alter table t alter a set not null; create unique index i on t (a) include (b);
        alter table t replica identity using index i""",
        {"a"},
    ),
    "another index": (
        """alter table t replica identity full;
        alter table t alter a set not null; create unique index i on t (a, id);
        alter table t replica identity using index i; alter table t rename a to "a b" """,
        {"a b", "id"},
    ),
    "no key": ("alter table t drop constraint t_pkey", set()),
    "another key": (
        "alter table t drop constraint t_pkey; alter table t add primary key (b, id)",
        {"b", "id"},
    ),
    "a generated key": (
        "alter table t drop constraint t_pkey; alter table t add primary key (g)",
        {"id", "a", "b"},
    ),
    "only a column": ("alter table t add z int", {"id"}),
    "rolled back": ("begin; alter table t replica identity full; rollback", {"id"}),
}


@pytest.fixture(params=["repeatable read", "serializable"])
def level(request: pytest.FixtureRequest) -> str:
    """The writer's isolation level."""
    return str(request.param)


@pytest.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """The writer's session."""
    return await connect()


async def begin(writer: asyncpg.Connection, level: str) -> None:
    """Begin a transaction that has its snapshot, and hasn't written anything."""
    await writer.execute(f"begin isolation level {level}; select count(*) from bystander")


@pytest.fixture(autouse=True)
async def _bystander(connection: asyncpg.Connection) -> None:
    await connection.execute("create table bystander (id int)")


@pytest.fixture(params=["refreshed", "not refreshed"])
def is_refreshed(request: pytest.FixtureRequest) -> bool:
    """Whether a relay has brought the capture function up to date since."""
    return str(request.param) == "refreshed"


async def change(connection: asyncpg.Connection, statements: str, *, is_refreshed: bool) -> None:
    """Do what another session does meanwhile, and a relay after it."""
    await connection.execute(statements)
    if is_refreshed:
        await connection.execute("select pgoutbox.mend_drift()")


async def columns_of(connection: asyncpg.Connection, table: str) -> str:
    """Return an expression that renders a row of the table as it is now; for these tests' types."""
    columns = await connection.fetch(
        "select quote_literal(attname) as name, quote_ident(attname) as value, atttypid as type"
        " from pg_attribute where attrelid = $1::text::regclass"
        " and attnum > 0 and not attisdropped and attgenerated = ''",
        table,
    )
    native = (16, 23)  # boolean and integer
    pairs = [
        f"{column['name']}, {column['value']}{'' if column['type'] in native else '::text'}"
        for column in columns
    ]
    return f"json_build_object({', '.join(pairs)})::text"


async def write(writer: asyncpg.Connection, table: str, columns: str) -> list[Event]:
    """Insert, update and delete rows one by one, and return the events that these should be."""
    name = table.rpartition(".")[2].replace('"', "")
    events = []
    for id in (11, 12):
        new = await writer.fetchval(f"insert into {table} (id) values ({id}) returning {columns}")
        events.append(Event(name, "INSERT", json.loads(new), {}))
    # Those of before are there only where the table wasn't written anew.
    ids = [row[0] for row in await writer.fetch(f"select id from {table} order by id")]
    assert set(ids) in ({1, 2, 11, 12}, {11, 12})
    for id in ids:
        old = await writer.fetchval(f"select {columns} from {table} where id = {id}")
        if id % 2:
            new = await writer.fetchval(
                f"update {table} set id = id + 100 where id = {id} returning {columns}"
            )
            events.append(Event(name, "UPDATE", json.loads(new), json.loads(old)))
        else:
            await writer.execute(f"delete from {table} where id = {id}")
            events.append(Event(name, "DELETE", {}, json.loads(old)))
    return events


@pytest.mark.parametrize("name", CHANGES)
async def test_columns_are_those_of_the_row(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    writer: asyncpg.Connection,
    level: str,
    name: str,
    is_refreshed: bool,
) -> None:
    await capture("t", TABLE)
    await connection.execute("insert into t values (1), (2)")
    await outbox.events()
    oid = await connection.fetchval("select 't'::regclass::oid")
    await begin(writer, level)
    await change(connection, CHANGES[name], is_refreshed=is_refreshed)
    table = await connection.fetchval("select $1::oid::regclass::text", oid)
    expected = await write(writer, table, await columns_of(connection, table))
    await writer.execute("commit")

    rows = await outbox.enveloped()

    messages = [json.loads(message.payload) for _, message in rows]
    assert [(m["table"], m["action"], m["data"], m["dataOld"]) for m in messages] == expected
    schema = await connection.fetchval(
        "select relnamespace::regnamespace::text from pg_class where oid = $1", oid
    )
    assert {message["schema"] for message in messages} == {schema}


@pytest.mark.parametrize("name", IDENTITIES)
async def test_old_values_are_those_of_the_identity(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    writer: asyncpg.Connection,
    level: str,
    name: str,
    is_refreshed: bool,
) -> None:
    """Where it can't be told whether the identity is FULL or NOTHING, the whole row."""
    statements, identity = IDENTITIES[name]
    await capture("t", TABLE, old_values="identity")
    await begin(writer, level)
    await change(connection, statements, is_refreshed=is_refreshed)
    await writer.execute("insert into t (id) values (1)")
    expected = json.loads(
        await writer.fetchval(f"select {await columns_of(connection, 't')} from t")
    )
    await writer.execute("delete from t; commit")

    _, delete = await outbox.events()

    if name in ("nothing", "no key"):
        assert delete.old in ({}, expected)
    else:
        assert delete.old == {
            column: value if column in identity else None for column, value in expected.items()
        }


async def test_a_table_that_was_captured_since(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    writer: asyncpg.Connection,
    level: str,
) -> None:
    """What was asked for stands in a row that the snapshot doesn't show."""
    await connection.execute(f"create table t ({TABLE})")
    await begin(writer, level)
    await capture("t", old_values="identity")
    await writer.execute("set datestyle = 'German'")
    await connection.execute("alter table t add d date default '2024-02-03'")
    await writer.execute("insert into t (id) values (1); delete from t; commit")

    insert, delete = await outbox.events()

    assert insert.new == {"id": 1, "a": 1, "b": 2, "d": "2024-02-03"}
    assert delete.old == {"id": 1, "a": None, "b": None, "d": None}


async def test_a_table_that_was_made_since(
    capture: Capture, outbox: Outbox, writer: asyncpg.Connection, level: str
) -> None:
    await begin(writer, level)
    await capture("made", "id int primary key, d date")
    await writer.execute("set datestyle = 'German'")
    await writer.execute("insert into made values (1, '2024-02-03'); delete from made; commit")

    assert [event.new or event.old for event in await outbox.events()] == [
        {"id": 1, "d": "2024-02-03"}
    ] * 2


PARTITIONED = """
create table m (id int, d date default '2024-02-03', part int) partition by list (part);
create table m_1 partition of m for values in (1);
create table m_2 (part int, id int, gone int, d date default '2024-02-03');
alter table m_2 drop gone;
alter table m attach partition m_2 for values in (2);
create table m_3 partition of m for values in (3) partition by list (part);
create table m_3_1 partition of m_3 for values in (3);
create table other (like m including defaults);
"""
# Captured before, or done; what is done since; the names of the events of parts 1, 2 and 3.
PARTITIONS: dict[str, tuple[list[str], str, list[str | None]]] = {
    "nothing": (["m", "m_2"], "select", ["m", "m_2", "m"]),
    "rename the root": (["m"], "alter table m rename to n", ["n", "n", "n"]),
    "move the root": (["m"], "create schema s; alter table m set schema s", ["m", "m", "m"]),
    "rename a leaf": (["m", "m_2"], "alter table m_2 rename to n", ["m", "n", "m"]),
    "rename both": (
        ["m", "m_2"], "alter table m_2 rename to n; alter table m rename to o", ["o", "n", "o"],
    ),
    "capture the root": (["m_2"], "capture m", ["m", "m_2", "m"]),
    "capture a leaf": (["m"], "capture m_2", ["m", "m_2", "m"]),
    "capture between": (["m"], "capture m_3", ["m", "m", "m_3"]),
    "capture a leaf below": (["m_3"], "capture m_3_1", [None, None, "m_3_1"]),
    "capture above": (["m_3_1"], "capture m_3", [None, None, "m_3_1"]),
    "release the root": (["m", "m_2"], "release m", [None, "m_2", None]),
    "release a leaf": (["m", "m_2"], "release m_2", ["m", "m", "m"]),
    "detach": (["m"], "alter table m detach partition m_2", ["m", None, "m"]),
    "detach what is captured": (
        ["m", "m_2"], "alter table m detach partition m_2", ["m", "m_2", "m"],
    ),
    "detach between": (["m", "m_3"], "alter table m detach partition m_3", ["m", "m", "m_3"]),
    "detach and attach between": (
        ["m", "m_3"],
        "alter table m detach partition m_3; alter table m attach partition m_3 for values in (3)",
        ["m", "m", "m_3"],
    ),
    "attach": (
        ["m"],
        "alter table m detach partition m_2; alter table m_2 rename to old;"
        "alter table other rename to m_2; alter table m attach partition m_2 for values in (2)",
        ["m", "m", "m"],
    ),
    "attach what was detached": (
        ["m", "m_2"],
        "alter table m detach partition m_2; alter table m attach partition m_2 for values in (2)",
        ["m", "m_2", "m"],
    ),
    "attach again": (
        ["m", "m_2", "alter table m detach partition m_2"],
        "alter table m attach partition m_2 for values in (2)",
        ["m", "m_2", "m"],
    ),
    "attach again between": (
        ["m", "m_3", "m_3_1", "alter table m detach partition m_3"],
        "alter table m attach partition m_3 for values in (3)",
        ["m", "m", "m_3_1"],
    ),
    "add a column": (["m", "m_2"], "alter table m add z int", ["m", "m_2", "m"]),
}  # fmt: skip


@pytest.mark.parametrize("datestyle", ["ISO", "German"])
@pytest.mark.parametrize("name", PARTITIONS)
async def test_partitions_have_one_event_a_change(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    writer: asyncpg.Connection,
    level: str,
    name: str,
    datestyle: str,
    is_refreshed: bool,
) -> None:
    before, statements, tables = PARTITIONS[name]
    await connection.execute(PARTITIONED)
    for table in before:
        await (connection.execute(table) if " " in table else capture(table))
    oids = await connection.fetchval("select array['m_1', 'm_2', 'm_3']::regclass[]::oid[]")
    await begin(writer, level)
    word, _, table = statements.partition(" ")
    if word in ("capture", "release"):
        statements = f"select pgoutbox.{word}_table('{table}')"
    await change(connection, statements, is_refreshed=is_refreshed)
    await writer.execute(f"set datestyle = '{datestyle}'")
    if name == "attach":
        oids[1] = await connection.fetchval("select 'm_2'::regclass::oid")
    for part, oid in enumerate(oids, 1):
        leaf = await connection.fetchval("select $1::oid::regclass::text", oid)
        await writer.execute(f"insert into {leaf} (id, part) values (1, {part})")
        await writer.execute(f"update {leaf} set id = 2; delete from {leaf}")
    await writer.execute("commit")

    events = await outbox.events()

    extra = {"z": None} if name == "add a column" else {}
    rows = [
        {"id": id, "d": "2024-02-03", "part": part, **extra}
        for part, table in enumerate(tables, 1)
        if table
        for id in (1, 2, 2)
    ]
    names = [table for table in tables if table for _ in range(3)]
    assert [event.table for event in events] == names
    assert [event.new or event.old for event in events] == rows


async def test_a_truncate_is_told_although_a_partition_was_released_since(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    writer: asyncpg.Connection,
    level: str,
) -> None:
    await connection.execute(PARTITIONED)
    for table in ("m", "m_1", "m_2", "m_3_1"):
        await capture(table)
    await begin(writer, level)
    await connection.execute("select pgoutbox.release_table('m_2')")
    await writer.execute("truncate m; commit")

    assert "m" in [event.table for event in await outbox.events()]
