"""Snapshots of tables without a key go by where rows stand; as a set of rows they are exact."""

from __future__ import annotations

import asyncpg
import pytest

from pgoutbox.config.settings import RelayConfig
from pgoutbox.names import Shard
from pgoutbox.outbox.selection import Share
from tests.support.chunks import Open, ask, capture, make_table, outcome, rows_of

KEYLESS = "id int, v text"
ALL = ("id", "v")  # columns: a set of rows has each once


async def test_each_row_comes_once_in_the_order_of_its_place(
    connection: asyncpg.Connection, reading: Open
) -> None:
    """Here a row is a page, and most pages are empty."""
    await connection.execute(
        "create table t (id int, filler text); alter table t alter filler set storage plain;"
        "insert into t select n, repeat('x', 5000) from generate_series(1, 200) n;"
        "delete from t where id between 20 and 180;"
        "insert into t select n, '' from generate_series(201, 230) n"
    )
    await capture(connection)
    await ask(connection, allows_no_key=True)
    relay = await reading("id")

    await relay.to_the_end()

    rows = await connection.fetch("select id from t order by ctid")
    assert relay.read == [tuple(row) for row in rows]
    assert len(set(relay.ids)) == len(rows)
    assert await outcome(connection) == ("done", "")


async def test_a_row_that_moves_behind_the_place_comes_as_its_event_and_as_read(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun(10, KEYLESS, *ALL, allows_no_key=True)
    await relay.step()

    await connection.execute("update t set v = 'moved' where id in (1, 9)")
    await connection.execute("delete from t where id in (2, 8); insert into t values (11, 'new')")
    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)
    assert relay.read.count((1, "moved")) == 1


@pytest.mark.parametrize("rewrite", ["vacuum full t", "cluster t using t_v"])
async def test_what_is_read_again_from_another_file_has_other_ids(
    connection: asyncpg.Connection, begun: Open, reading: Open, rewrite: str
) -> None:
    """Else the stream would drop another row that stands in the same place as a repeat."""
    relay = await begun(10, KEYLESS, *ALL, allows_no_key=True)
    await connection.execute("create index t_v on t (v)")
    relay.apply(await relay.outbox.next_batch(relay.progress))  # and it isn't recorded
    await connection.execute("delete from t where id = 1")
    await connection.execute(rewrite)

    successor = await reading(*ALL)
    successor.stored, successor.copy = relay.stored, relay.copy
    await successor.to_the_end()

    assert successor.rows == await rows_of(connection)


@pytest.mark.parametrize("rewrite", ["vacuum full t", "cluster t using t_v", "truncate t"])
async def test_another_file_has_the_table_begun_anew(
    connection: asyncpg.Connection, begun: Open, rewrite: str
) -> None:
    relay = await begun(10, KEYLESS, *ALL, allows_no_key=True)
    await connection.execute("create index t_v on t (v desc)")
    await relay.step()

    await connection.execute(rewrite)
    await connection.execute("insert into t values (11, 'v')")
    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)
    assert len(relay.read) >= 3 + len(relay.rows) - 1
    assert await outcome(connection) == ("done", "")


@pytest.mark.parametrize(
    ("is_allowed", "expected"),
    [(False, ("failed", "the table public.t has no key")), (True, ("done", ""))],
)
async def test_a_key_that_is_dropped_meanwhile_was_asked_for_or_wasnt(
    connection: asyncpg.Connection, begun: Open, is_allowed: bool, expected: tuple[str, str]
) -> None:
    relay = await begun(10, f"{KEYLESS}, primary key (id)", *ALL, allows_no_key=is_allowed)
    await relay.step()

    await connection.execute("alter table t drop constraint t_pkey")
    await relay.to_the_end()

    assert await outcome(connection) == expected
    assert len(relay.copy) == (10 if is_allowed else 3)


async def test_each_partition_goes_by_its_key_or_by_places(
    connection: asyncpg.Connection, reading: Open
) -> None:
    await connection.execute(
        "create table t (id int, region int, v text) partition by list (region);"
        "create table t_1 partition of t (primary key (id)) for values in (1);"
        "create table t_2 partition of t for values in (2);"
        "insert into t select n, n % 2 + 1, 'v' || n from generate_series(1, 20) n"
    )
    await capture(connection)
    await ask(connection, allows_no_key=True)
    relay = await reading("id", "region", "v")
    await relay.step()

    await connection.execute("update t set region = region % 2 + 1 where id % 3 = 0")
    await connection.execute("vacuum full t_2")
    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)


async def test_one_shard_has_all_rows_of_a_table_without_a_key(
    connection: asyncpg.Connection, reading: Open
) -> None:
    """The one that has its events."""
    await make_table(connection, 10, KEYLESS)
    await connection.execute("insert into t values (11, 'event')")
    events, rows = [], []
    for number in (1, 2, 3):
        name = f"r-{number}-of-3"
        await ask(connection, name, allows_no_key=True)
        share = Share(RelayConfig(shard=Shard(number, 3), name="r"))
        relay = await reading(*ALL, relay=name, share=share)
        await relay.to_the_end()
        rows.append(len(relay.read))
        events.append((11, "event") in relay.copy)

    assert sorted(rows) == [0, 0, 11]
    assert [count == 11 for count in rows] == events
