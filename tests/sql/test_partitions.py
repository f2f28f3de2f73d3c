"""Partitioned tables: one trigger on the root, and the name that was asked for."""

from __future__ import annotations

import asyncpg
import pytest

from .conftest import Capture
from .outbox import Outbox, forbid_the_slow_way

# A leaf whose columns stand in another order, with a hole.
TABLES = """
create table m (id int, region text, v text, primary key (id, region)) partition by list (region);
create table m_eu partition of m for values in ('eu');
create table m_us (gone int, v text, region text not null, id int not null);
alter table m_us drop gone;
alter table m attach partition m_us for values in ('us');
create table m_rest partition of m default partition by list (region);
create table m_asia partition of m_rest for values in ('asia');
"""
ROWS = "insert into m values (1, 'eu', 'a'), (2, 'us', 'b'), (3, 'asia', 'c')"


@pytest.fixture(autouse=True)
async def _tables(connection: asyncpg.Connection) -> None:
    await connection.execute(TABLES)


async def names(outbox: Outbox) -> list[tuple[str, str, int | None]]:
    """Return table, action and id of each event."""
    return [
        (event.table, event.action, (event.new or event.old).get("id"))
        for event in await outbox.events()
    ]


@pytest.mark.parametrize(
    ("captured", "tables"),
    [
        (["m"], ["m", "m", "m"]),
        (["m_eu", "m_us"], ["m_eu", "m_us"]),
        (["m", "m_us"], ["m", "m_us", "m"]),
        (["m_us", "m"], ["m", "m_us", "m"]),
        (["m", "m_rest"], ["m", "m", "m_rest"]),
        (["m_rest", "m"], ["m", "m", "m_rest"]),
        (["m_rest"], ["m_rest"]),
        (["m_asia", "m_rest", "m"], ["m", "m", "m_asia"]),
        (["m", "m_rest", "m_eu", "m_us"], ["m_eu", "m_us", "m_rest"]),
    ],
)
async def test_an_event_carries_the_name_that_was_asked_for(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    captured: list[str],
    tables: list[str],
) -> None:
    for table in captured:
        await capture(table)
    await connection.execute(ROWS)

    assert [table for table, _, _ in await names(outbox)] == tables


async def test_leaves_with_other_column_numbers(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("m")
    await forbid_the_slow_way(connection)
    await connection.execute(ROWS)
    await connection.execute("insert into m_us (id, region, v) values (4, 'us', 'direct')")
    await connection.execute("update m set region = 'us' where id = 1")

    events = await outbox.events()

    assert events[1].new == {"id": 2, "region": "us", "v": "b"}
    assert events[3].new == {"id": 4, "region": "us", "v": "direct"}
    assert [event.action for event in events[4:]] == ["DELETE", "INSERT"]
    assert events[4].old == {"id": 1, "region": "eu", "v": "a"}
    assert events[5].new == {"id": 1, "region": "us", "v": "a"}


async def test_identity_of_a_leaf(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute("alter table m_eu replica identity full")
    await capture("m", old_values="identity")
    await connection.execute(ROWS)
    await connection.execute("delete from m")

    assert [event.old for event in await outbox.events()][3:] == [
        {"id": 1, "region": "eu", "v": "a"},
        {"id": 2, "region": "us", "v": None},
        {"id": 3, "region": "asia", "v": None},
    ]


@pytest.mark.parametrize("captured", [["m"], ["m", "m_rest"], ["m", "m_eu"]])
async def test_partitions_attached_later(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, captured: list[str]
) -> None:
    for table in captured:
        await capture(table)
    await connection.execute("create table m_au partition of m for values in ('au')")
    await connection.execute("create table m_nz (v text, region text not null, id int not null)")
    await connection.execute("insert into m_nz values ('before', 'nz', 1)")
    await connection.execute("alter table m_rest attach partition m_nz for values in ('nz')")
    await connection.execute("insert into m values (2, 'au', 'x'), (3, 'nz', 'y')")
    await connection.execute("alter table m_rest detach partition m_nz")
    await connection.execute("insert into m_nz values ('after', 'nz', 4)")

    nz = "m_rest" if "m_rest" in captured else "m"
    assert await names(outbox) == [("m", "INSERT", 2), (nz, "INSERT", 3)]


@pytest.mark.parametrize("table", ["m", "m_rest", "m_eu"])
async def test_rename(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, table: str
) -> None:
    """Of the root, of a captured partition, of a captured table between them."""
    for captured in {"m", table}:
        await capture(captured)
    await connection.execute(ROWS)
    before = await names(outbox)
    await connection.execute("delete from m")
    await names(outbox)
    await connection.execute(f"alter table {table} rename to renamed")
    await connection.execute(ROWS.replace("into m ", f"into {'renamed' if table == 'm' else 'm'} "))

    assert await names(outbox) == [
        ("renamed" if name == table else name, action, number) for name, action, number in before
    ]


@pytest.mark.parametrize(
    ("captured", "statement", "tables"),
    [
        (["m"], "truncate m", ["m"]),
        (["m"], "truncate m_eu", []),
        (["m_eu"], "truncate m", ["m_eu"]),
        (["m", "m_eu"], "truncate m_eu", ["m_eu"]),
        (["m", "m_eu"], "truncate m", ["m", "m_eu"]),
        (["m", "m_eu", "m_us", "m_asia"], "truncate m", ["m_eu", "m_us", "m_asia"]),
        (["m_rest"], "truncate m_rest", ["m_rest"]),
    ],
)
async def test_truncate(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    captured: list[str],
    statement: str,
    tables: list[str],
) -> None:
    """A TRUNCATE of one partition is no event of the root, whose other rows are still there."""
    for table in captured:
        await capture(table)
    await connection.execute(statement)

    assert sorted(await names(outbox)) == sorted((table, "TRUNCATE", None) for table in tables)


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("alter table m add c int default 7", {"id": 1, "region": "us", "v": "a", "c": 7}),
        ("alter table m drop v", {"id": 1, "region": "us"}),
        ("alter table m rename v to w", {"id": 1, "region": "us", "w": "a"}),
        ("alter table m alter v type char(2)", {"id": 1, "region": "us", "v": "a "}),
    ],
)
async def test_drift(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    change: str,
    row: dict[str, object],
) -> None:
    await capture("m")
    await connection.execute("insert into m values (1, 'us', 'a')")
    await connection.execute(change)
    await connection.execute("delete from m")

    assert [event.old for event in await outbox.events()] == [{}, row]


async def test_release_leaves_the_others_captured(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    for table in ("m", "m_rest", "m_eu", "m_asia"):
        await capture(table)
    await connection.execute("select pgoutbox.release_table('m')")
    await connection.execute(ROWS)
    assert await names(outbox) == [("m_eu", "INSERT", 1), ("m_asia", "INSERT", 3)]

    await connection.execute("select pgoutbox.release_table('m_asia')")
    await connection.execute("delete from m")
    assert await names(outbox) == [("m_eu", "DELETE", 1), ("m_rest", "DELETE", 3)]

    for table in ("m_eu", "m_rest"):
        assert await connection.fetchval("select pgoutbox.release_table($1::text::regclass)", table)
    await connection.execute(ROWS)
    assert await names(outbox) == []
    assert not await connection.fetchval(
        "select exists (select from pg_trigger where tgname ~ '^00')"
    )


async def test_capture_is_idempotent(connection: asyncpg.Connection) -> None:
    changed = [
        await connection.fetchval("select pgoutbox.capture_table($1::text::regclass)", table)
        for table in ("m", "m_rest", "m_eu", "m", "m_rest", "m_eu")
    ]

    assert changed == [True, True, True, False, False, False]
    assert await connection.fetchval("select count(problem) from pgoutbox.table_state") == 0


@pytest.mark.parametrize("captured", [["m", "m_us"], ["m_us", "m"]])
async def test_a_captured_partition_is_captured_once_wherever_it_is(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, captured: list[str]
) -> None:
    for table in captured:
        await capture(table)
    await connection.execute("insert into m values (1, 'us', 'attached')")
    await connection.execute("alter table m detach partition m_us")
    await connection.execute("insert into m_us (id, region) values (2, 'us')")
    await capture("m_us")
    await connection.execute("insert into m_us (id, region) values (3, 'us')")
    assert await names(outbox) == [("m_us", "INSERT", number) for number in (1, 2, 3)]


@pytest.mark.parametrize("others", [[], ["m_eu", "m_rest"]])
async def test_a_partition_that_comes_back_is_captured_once(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, others: list[str]
) -> None:
    """Under its own name, also where its root has forgotten it, or had no other."""
    await capture("m")
    await capture("m_us")
    for other in others:
        await connection.execute(f"drop table {other}")
    await connection.execute("alter table m detach partition m_us")
    await connection.execute("select pgoutbox.mend_drift()")
    await connection.execute("insert into m_us (id, region) values (1, 'us')")
    await connection.execute("alter table m attach partition m_us for values in ('us')")
    await connection.execute("insert into m values (2, 'us', 'attached')")
    assert await names(outbox) == [("m_us", "INSERT", number) for number in (1, 2)]


async def test_a_captured_table_that_becomes_a_partition_is_captured_once(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Attached to a table that is captured only later."""
    await connection.execute("create table m_au (v text, region text not null, id int not null)")
    await capture("m_au")
    await connection.execute("alter table m attach partition m_au for values in ('au')")
    await capture("m")
    await connection.execute("insert into m values (1, 'au', 'x')")

    assert await names(outbox) == [("m_au", "INSERT", 1)]
    assert await connection.fetchval("select count(problem) from pgoutbox.table_state") == 0


@pytest.mark.parametrize(
    "change", ["attach partition m_au for values in ('au')", "detach partition m_eu"]
)
async def test_attaching_and_detaching_is_drift_of_a_captured_partition(
    connection: asyncpg.Connection, capture: Capture, change: str
) -> None:
    """What its function is generated from."""
    await connection.execute("create table m_au (v text, region text not null, id int not null)")
    await capture("m_au")
    await capture("m_eu")
    await connection.execute(f"alter table m {change}")

    assert await connection.fetchval("select count(*) from pgoutbox.mend_drift()") == 1
    assert await connection.fetchval("select count(problem) from pgoutbox.table_state") == 0


@pytest.mark.parametrize("captured", [["m", "m_rest"], ["m_rest", "m"], ["m_asia", "m", "m_rest"]])
async def test_a_captured_partitioned_partition_is_captured_once_wherever_it_is(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, captured: list[str]
) -> None:
    """With a partition that is captured, or isn't, and is detached in turn."""
    for table in captured:
        await capture(table)
    row = "insert into {} (id, region) values ({}, 'asia')"
    await connection.execute(row.format("m", 1))
    await connection.execute("alter table m detach partition m_rest")
    await connection.execute(row.format("m_rest", 2))
    await connection.execute("alter table m attach partition m_rest default")
    await connection.execute(row.format("m", 3))
    await connection.execute("alter table m detach partition m_rest")
    await capture("m_rest")
    await connection.execute(row.format("m_rest", 4))
    await connection.execute("alter table m_rest detach partition m_asia")
    await connection.execute(row.format("m_asia", 5))

    name = "m_asia" if "m_asia" in captured else "m_rest"
    alone = [("m_asia", "INSERT", 5)] if "m_asia" in captured else []
    expected = [(name, "INSERT", number) for number in (1, 2, 3, 4)]
    assert await names(outbox) == expected + alone


@pytest.mark.parametrize("between", [[], ["m_rest"]])
async def test_a_partition_is_captured_for_its_own_actions(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, between: list[str]
) -> None:
    """Beside those of its root."""
    await capture("m", actions=["INSERT"])
    for table in between:
        await capture(table, actions=["DELETE"])
    await capture("m_asia", actions=["INSERT", "UPDATE", "DELETE"])
    await connection.execute(ROWS)
    await connection.execute("update m set v = 'x'; delete from m")

    assert await names(outbox) == [
        ("m", "INSERT", 1),
        ("m", "INSERT", 2),
        ("m_asia", "INSERT", 3),
        ("m_asia", "UPDATE", 3),
        ("m_asia", "DELETE", 3),
    ]
    assert await connection.fetchval("select count(problem) from pgoutbox.table_state") == 0


@pytest.mark.parametrize("is_drifted", [False, True])
async def test_old_values_are_those_of_the_trigger_that_fires(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, is_drifted: bool
) -> None:
    """The root's where that is captured for the action, else the partition's."""
    await capture("m", actions=["INSERT", "DELETE"], old_values="full")
    await capture("m_asia", actions=["UPDATE", "DELETE"], old_values="identity")
    await connection.execute("insert into m values (1, 'asia', 'x')")
    if is_drifted:
        await connection.execute("alter table m add c int")
    await connection.execute("update m set v = 'y'; delete from m")

    _, update, delete = await outbox.events()
    assert (update.table, update.action, update.old) == ("m_asia", "UPDATE", {})
    assert delete.old == {"id": 1, "region": "asia", "v": "y"} | ({"c": None} if is_drifted else {})
