"""What the relay's hot queries read: the indexes, and nothing that was sent already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median
from typing import Any

import asyncpg
import pytest

from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database.connection import session
from pgoutbox.relay.leadership import _PLANNER
from tests.conftest import Connect
from tests.support.cluster import Database

from .conftest import Capture

NEXT_BATCH = "select * from pgoutbox.next_batch($1, $2, $3, null, null, 2000, 4000000)"
TYPES = "bigint, bigint[], bigint[]"
EVENTS = {f"{name}_{slot}" for name in ("event", "first_event") for slot in range(5)}


@pytest.fixture(autouse=True)
async def _table(capture: Capture) -> None:
    await capture("t", "id int primary key, v text")


async def write(connection: asyncpg.Connection, transactions: int, first: int = 1) -> None:
    """Commit many transactions of two events each."""
    await connection.execute(f"""
        do $$ begin
            for i in {first}..{first + transactions - 1} loop
                insert into t values (i, 'x');
                update t set v = 'y' where id = i;
                commit;
            end loop;
        end $$
    """)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


async def explain(connection: asyncpg.Connection, arguments: str) -> list[dict[str, Any]]:
    """Run the query as the relay does, as a prepared statement; return the plan's nodes."""
    found = await connection.fetchval(
        f"explain (analyze, buffers, timing off, format json) execute next_batch ({arguments})"
    )
    return list(nodes(json.loads(found)[0]["Plan"]))


def scans(plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the executed scans of the outbox's own tables."""
    return [
        node
        for node in plan
        if node.get("Relation Name", "").startswith(("event", "first_event", "transaction"))
        and node["Actual Loops"] > 0
    ]


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("settings", ["relay", "default"])
async def test_only_indexes_are_walked(
    connection: asyncpg.Connection, connect: Connect, settings: str, analyzed: bool
) -> None:
    await write(connection, 3000)
    if analyzed:
        await connection.execute("analyze pgoutbox.event; analyze pgoutbox.transaction")
    relay = await connect()
    if settings == "relay":
        await relay.execute(_PLANNER)
    await relay.execute(f"prepare next_batch ({TYPES}) as {NEXT_BATCH}")
    for _ in range(7):  # five times custom plans, then generic ones
        plan = await explain(relay, "2990, '{5,100}', '{7,100}'")

    used = scans(plan)
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in used)

    # An empty slot of the ring is read in whole, if you like.
    walked = {node["Node Type"] for node in used if node["Actual Rows"] > 0}
    assert walked <= {"Index Scan", "Bitmap Heap Scan"}
    assert {node["Relation Name"].rstrip("_01234") for node in used} == {
        "event",
        "first_event",
        "transaction",
    }
    # A transaction's slot, and no other; two where the tests' own transactions lie in two.
    assert len({name[-1] for node in used if (name := node["Relation Name"]) in EVENTS}) <= 2
    assert plan[0]["Actual Rows"] == (10 + 4) * 2
    assert read <= (10 + 4) * 3 + 4  # the ends of ranges are looked at, too


@pytest.mark.parametrize("name", ["next_batch", "next_batch_described"])
async def test_nothing_is_compiled_for_a_reading(
    connection: asyncpg.Connection, database: Database, name: str
) -> None:
    """Up to PostgreSQL 17 the relay's settings make any cost look high; JIT takes seconds."""
    await write(connection, 10)
    for setting in ("jit = on", "jit_above_cost = 0"):
        await connection.execute(f"alter database {database.name} set {setting}")
    flag = ", true" if name == "next_batch_described" else ""

    async with session(DatabaseConfig(dsn=database.dsn), purpose="test") as relay:
        await relay.execute(_PLANNER)
        plan = await relay.fetchval(
            "explain (analyze, format json)"
            f" select * from pgoutbox.{name}(0, '{{}}', '{{}}', null, null, 10, 10000{flag})"
        )

    assert "JIT" not in json.loads(plan)[0]


async def test_described_batches_walk_the_same_indexes(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    await write(connection, 3000)
    relay = await connect()
    await relay.execute(_PLANNER)
    await relay.execute(
        f"prepare next_batch ({TYPES}) as select * from pgoutbox.next_batch_described("
        "$1, $2, $3, null, null, 2000, 4000000, true)"
    )

    plan = await explain(relay, "2990, '{}', '{}'")

    used = scans(plan)
    assert plan[0]["Actual Rows"] == 20
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in used) <= 10 * 3 + 1


async def test_a_batch_of_the_middle_reads_no_more_than_the_batch(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    await write(connection, 4000)
    relay = await connect()
    await relay.execute(_PLANNER)
    await relay.execute(f"prepare next_batch ({TYPES}) as {NEXT_BATCH}")
    plan = await explain(relay, "1, '{}', '{}'")

    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in scans(plan))

    assert plan[0]["Actual Rows"] == 2000
    assert read <= 2000 + 2000 + 2


async def test_a_long_run_leaves_nothing_dead_in_the_way(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """Under a snapshot that is held all the while, so that nothing can be vacuumed."""
    holder, relay = await connect(), await connect()
    await holder.execute("begin isolation level repeatable read; select count(*) from t")
    await relay.execute(_PLANNER)
    await relay.execute(f"prepare next_batch ({TYPES}) as {NEXT_BATCH}")
    await relay.execute("select * from pgoutbox.lead('r')")
    known = await relay.fetchrow("select tableoid, ctid, xmin from pgoutbox.progress")
    assert known is not None
    outbox, *place = known.values()
    buffers = []
    for number in range(300):
        await write(connection, 1, first=number + 1)
        plan = await explain(relay, f"{number}, '{{}}', '{{}}'")
        assert plan[0]["Actual Rows"] == 2
        buffers.append(
            sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in plan[:1])
        )
        moved = await relay.fetchrow(
            "select * from pgoutbox.advance($1, $2, $3, $4, '{}', '{}', null, null, 0, '{}', '{}',"
            " 'null', null, false)",
            *(outbox, *place),
            number + 1,
        )
        assert moved is not None
        place = list(moved.values())
        assert place[0] is not None

    # An index that has just got another level is read from its old root once more.
    assert median(buffers[-5:]) <= max(buffers[:50]) + 3
    await connection.execute("select pg_stat_clear_snapshot()")
    dead = await connection.fetchval("""
        select sum(n_dead_tup) from pg_stat_user_tables
        where schemaname = 'pgoutbox' and relname ~ '^(event|transaction)'
    """)
    assert dead == 0
