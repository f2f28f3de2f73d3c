"""What is captured is known by name: tables made anew, renamed, swapped, attached."""

from __future__ import annotations

import asyncpg
import pytest

from .conftest import Capture
from .outbox import Outbox, forbid_the_slow_way

SWAP = """
begin; lock table t;
create table t_new (like t including all); insert into t_new select * from t;
alter table t rename to t_old; alter table t_new rename to t;
commit
"""


async def states(connection: asyncpg.Connection) -> list[tuple[str, str | None, str | None]]:
    """Return the names that were asked for, the present ones, and what is wrong, by the former."""
    rows = await connection.fetch(
        "select asked_name, present_name, problem from pgoutbox.table_state order by 1, 2"
    )
    return [tuple(row) for row in rows]


async def install(connection: asyncpg.Connection) -> list[str]:
    """Capture what `pgoutbox install` would without any --table, and return its names."""
    rows = await connection.fetch(
        "select relation::text from pgoutbox.uncaptured('{}') order by relation::text"
    )
    for row in rows:
        await connection.fetchval("select pgoutbox.capture_table($1::text::regclass)", row[0])
    return [row[0] for row in rows]


async def functions(connection: asyncpg.Connection) -> int:
    """Return how many capture functions there are."""
    return int(
        await connection.fetchval(
            r"select count(*) from pg_proc where proname ~ '^capture_\d+$'"
            " and pronamespace = 'pgoutbox'::regnamespace"
        )
    )


async def tables_of_events(outbox: Outbox) -> list[str]:
    """Return the table of each new event."""
    return [event.table for event in await outbox.events()]


@pytest.mark.parametrize("rounds", [1, 20])
async def test_a_table_that_is_made_anew_takes_over_the_entry(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, rounds: int
) -> None:
    await capture("t", "id int primary key", actions=["INSERT"], old_values="identity")
    for _ in range(rounds):
        await connection.execute("drop table t; create table t (id int primary key, v text)")
        assert await states(connection) == [("public.t", None, "replaced")]
        assert await install(connection) == ["t"]
    await connection.execute("insert into t values (1, 'x'); delete from t")

    assert await states(connection) == [("public.t", "public.t", None)]
    assert await functions(connection) == 1
    assert [event.new for event in await outbox.events()] == [{"id": 1, "v": "x"}]
    assert await connection.fetchval("select old_values from pgoutbox.captured_table") == "identity"


async def test_a_table_that_is_gone_is_missing_until_its_name_is_borne_again(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int")
    await connection.execute("drop table t")
    assert await states(connection) == [("public.t", None, "missing")]
    await connection.execute("create view t as select 1")
    assert await states(connection) == [("public.t", None, "missing")]
    await connection.execute("drop view t; create table t (id int)")

    assert await states(connection) == [("public.t", None, "replaced")]


async def test_a_swap_by_rename(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """The new table is captured as the old one was, which stays captured under its new name."""
    await capture("t", "id int primary key", actions=["INSERT"])
    await connection.execute(SWAP)
    await connection.execute("insert into t values (1); insert into t_old values (2)")
    assert await states(connection) == [("public.t", "public.t_old", "replaced")]
    assert await tables_of_events(outbox) == ["t_old"]

    assert await install(connection) == ["t"]
    await connection.execute("insert into t values (3); insert into t_old values (4)")
    await connection.execute("delete from t")

    assert await states(connection) == [
        ("public.t", "public.t", None),
        ("public.t_old", "public.t_old", None),
    ]
    assert await tables_of_events(outbox) == ["t", "t_old"]


async def test_one_swap_after_another_leaves_nothing_dead(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int primary key")
    for _ in range(3):
        await connection.execute("drop table if exists t_old")
        await connection.execute(SWAP)
        await install(connection)

    assert await states(connection) == [
        ("public.t", "public.t", None),
        ("public.t_old", "public.t_old", None),
    ]
    assert await functions(connection) == 2


async def test_two_captured_tables_that_change_names(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Each name goes on being captured as it was asked for."""
    await capture("a", "id int", actions=["INSERT"])
    await capture("b", "id int", actions=["INSERT", "DELETE"])
    await connection.execute(
        "alter table a rename to c; alter table b rename to a; alter table c rename to b"
    )
    assert await states(connection) == [
        ("public.a", "public.b", "drift"),
        ("public.b", "public.a", "replaced"),
    ]
    assert await install(connection) == ["b"]
    await connection.execute(
        "insert into a values (1); insert into b values (2); delete from a; delete from b"
    )

    assert await states(connection) == [
        ("public.a", "public.a", None),
        ("public.b", "public.b", None),
    ]
    events = [(event.table, event.action) for event in await outbox.events()]
    assert events[:2] == [("a", "INSERT"), ("b", "INSERT")]
    assert ("b", "DELETE") in events


async def test_a_renamed_table_stays_captured_and_is_known_by_both_names(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int")
    await connection.execute("alter table t rename to u")
    mended = await connection.fetch("select * from pgoutbox.mend_drift()")
    assert [tuple(row) for row in mended] == [("public.t", "public.u", "drift")]
    await connection.execute("insert into u values (1)")
    assert await states(connection) == [("public.t", "public.u", None)]
    assert await tables_of_events(outbox) == ["u"]

    await capture("u")
    assert await states(connection) == [("public.u", "public.u", None)]


async def test_a_renamed_table_follows_its_columns_while_another_has_its_name(
    connection: asyncpg.Connection, capture: Capture
) -> None:
    await capture("t", "id int")
    await connection.execute(SWAP)
    await connection.execute("alter table t_old add v int")
    await connection.execute("select pgoutbox.mend_drift()")

    assert await connection.fetchval(
        "select c.shape = pgoutbox.table_shape(c.relation, c.old_values)"
        " from pgoutbox.captured_table c"
    )


async def test_the_old_table_becomes_a_partition_of_the_new_one(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Its rows go under the name that was asked for, as do those of other partitions."""
    await capture("t", "id int not null")
    await connection.execute("""
        alter table t rename to t_1;
        create table t (id int not null) partition by range (id);
        alter table t attach partition t_1 for values from (1) to (10);
        create table t_2 partition of t for values from (10) to (20)
    """)
    assert await states(connection) == [("public.t", "public.t_1", "replaced")]
    assert await install(connection) == ["t"]
    await connection.execute("insert into t values (1), (11); insert into t_1 values (2)")

    assert await states(connection) == [("public.t", "public.t", None)]
    assert await tables_of_events(outbox) == ["t", "t", "t"]
    assert await functions(connection) == 1


async def test_a_table_that_moved_to_another_schema_and_was_made_anew(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int")
    await connection.execute(
        "create schema archive; alter table t set schema archive; create table t (id int)"
    )
    assert await install(connection) == ["t"]
    await connection.execute("insert into archive.t values (1); insert into t values (2)")

    rows = await outbox.rows()
    assert [row["schema_name"] for row in rows] == ["archive", "public"]


@pytest.mark.parametrize("old_values", ["full", "identity"])
async def test_a_column_may_be_called_what_the_generated_code_has(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, old_values: str
) -> None:
    """Keywords of SQL, and each word of a capture function: keywords of PL/pgSQL and variables."""
    await capture("other", "id int primary key, v text")
    words = await connection.fetchval(
        r"""
        select array(
            select word from pg_get_keywords()
            union
            select m[1] from pg_trigger t
            join pg_proc p on p.oid = t.tgfoid
            cross join regexp_matches(p.prosrc, '[a-z_]\w*', 'g') m
            where t.tgrelid = 'other'::regclass
            union
            select unnest(array['r', 's', 'by', 'loop', 'strict', 'foreach', 'a%b', 'a"b'])
            except
            select attname from pg_attribute where attrelid = 'other'::regclass and attnum < 0
        )
        """
    )
    columns = [f"{name} text default 'x'" for name in map(_quoted, words)]
    await capture(
        "t", f'{", ".join(columns)}, primary key ("by", r, new, loop)', old_values=old_values
    )
    await forbid_the_slow_way(connection)
    await connection.execute("insert into t default values")
    await connection.execute("""update t set "by" = 'y', "end" = 'y', "nothing" = 'y'""")
    await connection.execute("delete from t")

    inserted, updated, deleted = await outbox.events()

    assert inserted.new == dict.fromkeys(words, "x")
    assert updated.new == inserted.new | {"by": "y", "end": "y", "nothing": "y"}
    assert deleted.old["by"] == "y"


@pytest.mark.parametrize("old_values", ["full", "identity"])
async def test_a_column_that_is_never_large_may_have_any_name(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, old_values: str
) -> None:
    """A capture function names it once, where it is rendered."""
    await capture("t", '"by" int primary key, loop int, "a%" int', old_values=old_values)
    await forbid_the_slow_way(connection)
    await connection.execute('insert into t values (1, 2, 3); update t set "by" = 4')

    inserted, updated = await outbox.events()

    assert inserted.new == {"by": 1, "loop": 2, "a%": 3}
    assert updated.old["by"] == 1


async def test_a_large_value_may_have_any_name(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """What is taken out of a row is assigned to, which PL/pgSQL reads otherwise than SQL does."""
    await capture("t", 'id int primary key, "by" text, "a""%" text')
    for column in ('"by"', '"a""%"'):
        await connection.execute(f"alter table t alter {column} set storage external")
        await connection.execute(
            f"insert into t (id, {column}) values (1, repeat('x', 67108865)); delete from t"
        )

    assert [
        name
        for event in await outbox.events()
        for name, value in (event.new | event.old).items()
        if isinstance(value, dict)
    ] == ["by", "by", 'a"%', 'a"%']


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
