"""The second lap of the commit stage, behind deferred checks; what has none is spared it."""

from __future__ import annotations

import asyncpg
import pytest

from .conftest import Capture
from .outbox import Outbox

pytestmark = pytest.mark.usefixtures("tables")


@pytest.fixture
async def tables(capture: Capture, connection: asyncpg.Connection) -> None:
    """Capture a table without deferrable constraints, and one whose foreign key is."""
    await capture("plain", "id int primary key")
    await connection.execute("create table parent (id int primary key)")
    await connection.execute("insert into parent select generate_series(1, 9)")
    await capture(
        "child", "id int primary key, parent int references parent deferrable initially deferred"
    )


async def laps(connection: asyncpg.Connection) -> int:
    return sum(
        [await connection.fetchval(f"select count(*) from pgoutbox.lap_{n}") for n in range(5)]
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("insert into child values (1, 1)", 0),
        ("begin; insert into child values (1, 1); insert into plain values (1); commit", 0),
        ("begin; insert into plain values (1); insert into plain values (2); commit", 0),
        ("begin; insert into plain values (1); insert into child values (1, 1); commit", 1),
        ("begin; insert into child values (1, 1); update child set parent = 2; commit", 1),
        (
            "begin; insert into plain values (1);"
            " insert into child select n, 1 from generate_series(1, 9) n; commit",
            1,
        ),
        (
            "begin; insert into plain values (1); savepoint s; insert into child values (1, 1);"
            " rollback to s; commit",
            0,
        ),
        (
            "begin; select pgoutbox.set_context('{}'); insert into plain values (1);"
            " insert into child select n, 1 from generate_series(1, 9) n; commit",
            1,
        ),
    ],
)
async def test_only_checks_behind_the_stage_need_a_lap(
    connection: asyncpg.Connection, outbox: Outbox, script: str, expected: int
) -> None:
    await connection.execute(script)

    assert await laps(connection) == expected
    [events] = await outbox.transactions()
    assert len(events) == script.count("into") + script.count("update") + 8 * (
        "generate_series" in script
    ) - ("savepoint" in script)


@pytest.mark.parametrize(
    "script",
    [
        "insert into plain values (1)",
        "begin; select pgoutbox.set_context('{}'); insert into plain values (1); commit",
        "begin; insert into plain values (1); insert into child values (1, 1); commit",
        "begin; insert into plain values (1); set constraints all immediate;"
        " set constraints all deferred; insert into plain values (2); commit",
        "select pgoutbox.emit('told', '{}')",
    ],
)
async def test_every_transaction_makes_a_lap_where_all_checks_are_awaited(
    connection: asyncpg.Connection, outbox: Outbox, script: str
) -> None:
    assert await connection.fetchval("select pgoutbox.configure_capture(null, true)")
    assert not await connection.fetchval("select pgoutbox.configure_capture(null, true)")

    await connection.execute(script)

    assert await laps(connection) == 1 + ("immediate" in script)
    rows = await outbox.rows()
    assert len(rows) == script.count("into") + script.count("emit")
    assert len({row["position"] for row in rows}) == 1
    await connection.execute("select pgoutbox.configure_capture(null, false)")
    await connection.execute("insert into plain values (9)")
    assert await laps(connection) == 1 + ("immediate" in script)


async def test_position_is_drawn_once_behind_the_checks(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    """Also where a deferred trigger writes further rows, after the stage's first lap."""
    await connection.execute("""
        create function write_more() returns trigger language plpgsql as $$
            begin
                if new.id < 3 then insert into child values (new.id + 1, 1); end if;
                return null;
            end $$;
        create constraint trigger write_more after insert on child
            deferrable initially deferred for each row execute function write_more();
    """)
    await connection.execute("select pgoutbox.refresh_capture('child')")
    first = await connection.fetchval("select last_value from pgoutbox.position_seq")

    await connection.execute(
        "begin; insert into plain values (1); insert into child values (1, 1); commit"
    )

    [events] = await outbox.transactions()
    assert [event.new["id"] for event in events] == [1, 1, 2, 3]
    last = await connection.fetchval("select last_value from pgoutbox.position_seq")
    assert last - first <= 1


@pytest.mark.parametrize("which", ["all", "child_parent_fkey"])
async def test_constraints_made_immediate(
    connection: asyncpg.Connection, outbox: Outbox, which: str
) -> None:
    await connection.execute(f"""
        begin; insert into plain values (1); insert into child values (1, 1);
        set constraints {which} immediate; insert into child values (2, 1);
        set constraints all deferred; insert into child values (3, 1); insert into plain values (2);
        commit
    """)
    await connection.execute("insert into plain values (3)")

    assert [[event.new["id"] for event in t] for t in await outbox.transactions()] == [
        [1, 1, 2, 3, 2],
        [3],
    ]
    assert await connection.fetchval("select count(*) from pgoutbox.transaction") == 2


async def test_check_that_fails_fails_the_transaction(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute(
            "begin; insert into plain values (1); insert into child values (1, 99); commit"
        )
    assert await outbox.transactions() == []


async def test_constraint_that_comes_later_is_drift(connection: asyncpg.Connection) -> None:
    """Also on the other end of a foreign key: a parent's rows are checked when they go."""
    await connection.execute("create table grandchild (plain int)")
    problem = "select problem from pgoutbox.mend_drift() where asked_name = 'public.plain'"
    assert await connection.fetchval(problem) is None

    await connection.execute(
        "alter table grandchild add foreign key (plain) references plain"
        " deferrable initially deferred"
    )

    assert await connection.fetchval(problem) == "drift"
    await connection.execute("begin; insert into child values (1, 1)")
    await connection.execute("insert into plain values (1); delete from plain; commit")
    assert await laps(connection) == 1
