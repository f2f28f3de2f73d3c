"""Inside a transaction: the order in which the rows changed.

AFTER triggers fire row by row, each with all it does itself; the rows of a statement changed
before any of that.
"""

from __future__ import annotations

import asyncpg
import pytest

from .conftest import Capture
from .outbox import Event, Outbox


def replayed(events: list[Event]) -> dict[int, dict[str, object]]:
    """Return the table that events of one table rebuild, failing where one doesn't fit."""
    rows: dict[int, dict[str, object]] = {}
    for event in events:
        if event.action in ("UPDATE", "DELETE"):
            assert rows.pop(event.old["id"]) == event.old
        if event.action in ("INSERT", "UPDATE"):
            assert event.new["id"] not in rows
            rows[event.new["id"]] = event.new
    return rows


SIBLING = """
create function touch() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() < {depth} then
        {statement};
    end if;
    return null;
end $$;
create trigger {name} after {action} on t for each row execute function touch();
"""


@pytest.mark.parametrize("begin", ["", "begin;", "begin; savepoint s;"])
@pytest.mark.parametrize("name", ["aa", "-first"])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    ("action", "statement", "changes"),
    [
        (
            "insert",
            "update t set n = n + 1 where id <> new.id",
            "insert into t values (1, 0), (2, 0), (3, 0); insert into t values (4, 0), (5, 0)",
        ),
        (
            "update",
            "update t set n = n + 1 where id = new.id % 3 + 1",
            "insert into t values (1, 0), (2, 0), (3, 0);"
            "update t set n = 10; update t set n = 20 where id < 3",
        ),
        (
            "update",
            "delete from t where id = new.id + 1",
            "insert into t values (1, 0), (2, 0), (3, 0); update t set n = 10",
        ),
        (
            "delete",
            "update t set n = n + 1; insert into t values (old.id + 10, 0)",
            "insert into t values (1, 0), (2, 0), (3, 0); delete from t where id < 3",
        ),
        (
            "insert",
            "update t set n = n + 1",
            "insert into t values (1, 0), (2, 0) on conflict do nothing;"
            "insert into t values (1, 5), (3, 0), (2, 5) on conflict (id) do update set n = 9",
        ),
    ],
)
async def test_triggers_that_change_other_rows_of_the_statement(
    connection: asyncpg.Connection,
    capture: Capture,
    outbox: Outbox,
    action: str,
    statement: str,
    changes: str,
    depth: int,
    name: str,
    begin: str,
) -> None:
    await capture("t", "id int primary key, n int")
    await connection.execute(
        SIBLING.format(action=action, statement=statement, depth=depth, name=f'"{name}"')
    )
    await connection.execute(f"{begin} {changes}; {'commit' if begin else ''}")

    table = await connection.fetch("select id, n from t")
    events = await outbox.events()

    assert replayed(events) == {row["id"]: dict(row) for row in table}
