"""Events of the application's own: part of its transaction, in order with row changes."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from pgoutbox.messages.event import Emitted
from tests.conftest import Connect
from tests.support.cluster import WRITER

from .conftest import Capture
from .outbox import Outbox

HOSTILE = 'é "quoted" \\ infinity",\x02 ,"":null} BC",\n\x01{not json'


async def emitted(outbox: Outbox) -> list[Any]:
    """Return what is unsent: an emitted event as such, another one as its action and row."""
    return [
        Emitted.of(row["new_row"])
        if row["action"] == "EMIT"
        else (row["action"], json.loads(row["new_row"] or "{}"))
        for row in await outbox.rows()
    ]


async def test_it_stands_among_the_row_changes_of_its_transaction(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key")
    async with connection.transaction():
        await connection.execute("select pgoutbox.emit('orders.begun', 'a')")
        await connection.execute("insert into t values (1)")
        await connection.execute("select pgoutbox.emit('orders.placed', '{\"id\": 7}', key => '7')")
        await connection.execute("insert into t values (2)")
    assert await emitted(outbox) == [
        Emitted("orders.begun", None, (), b"a"),
        ("INSERT", {"id": 1}),
        Emitted("orders.placed", "7", (), b'{"id": 7}'),
        ("INSERT", {"id": 2}),
    ]


async def test_it_is_there_if_and_only_if_its_transaction_commits(
    connection: asyncpg.Connection, outbox: Outbox
) -> None:
    await connection.execute("begin; select pgoutbox.emit('a', '1'); rollback")
    await connection.execute("""
        begin; select pgoutbox.emit('a', '2'); savepoint s; select pgoutbox.emit('a', '3');
        rollback to s; set constraints all immediate; select pgoutbox.emit('a', '4'); commit
    """)
    assert [event.payload for event in await emitted(outbox)] == [b"2", b"4"]


async def test_a_trigger_may_emit(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Each event behind that of the row for which it was emitted, whatever else triggers change."""
    await capture("t", "id int primary key, n int default 0")
    await connection.execute("""
        create function tell() returns trigger language plpgsql as $$
        begin
            perform pgoutbox.emit('told', new.id::text);
            update t set n = 1 where id = new.id and n = 0;
            return null;
        end $$;
        create trigger tell after insert on t for each row execute function tell();
        insert into t select generate_series(1, 2)
    """)
    found = [
        event.payload if isinstance(event, Emitted) else (event[0], event[1]["id"])
        for event in await emitted(outbox)
    ]
    assert found.index(("INSERT", 1)) < found.index(b"1")
    assert found.index(("INSERT", 2)) < found.index(b"2")
    assert sorted(map(str, found)) == sorted(
        map(str, [("INSERT", 1), b"1", ("UPDATE", 1), ("INSERT", 2), b"2", ("UPDATE", 2)])
    )


async def test_content_is_as_given(connection: asyncpg.Connection, outbox: Outbox) -> None:
    """Text byte for byte, whatever it looks like; of json and jsonb their text."""
    headers = {"x-n": 'say "hi"', "Content-Type": "text/x;v=é"}
    await connection.execute(
        "select pgoutbox.emit('a.%20$b', $1::text, headers => $2)", HOSTILE, json.dumps(headers)
    )
    await connection.execute("""
        select pgoutbox.emit('b', jsonb_build_object('id', 7));
        select pgoutbox.emit('b', json_build_object('id', 7), key => 'ä, b');
        select pgoutbox.emit('b', '')
    """)
    assert await emitted(outbox) == [
        Emitted("a.%20$b", None, tuple(headers.items()), HOSTILE.encode()),
        Emitted("b", None, (), b'{"id": 7}'),
        Emitted("b", "ä, b", (), b'{"id" : 7}'),
        Emitted("b", None, (), b""),
    ]
    rows = await connection.fetch("select action, data from pgoutbox.outbox order by position")
    assert [row["action"] for row in rows] == ["EMIT"] * 4
    assert json.loads(rows[0]["data"])["payload"] == HOSTILE


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("null, ''", "neither may be null"),
        ("'a', null::text", "neither may be null"),
        ("'', ''", "the subject '' can't be published to"),
        ("'a..b', ''", "the subject 'a..b' can't"),
        ("'.a', ''", "the subject '.a' can't"),
        ("'a b', ''", "the subject 'a b' can't"),
        ("E'a\\nb', ''", "can't be published to"),
        ("'a.*', ''", "the subject 'a.*' has a wildcard"),
        ("'>', ''", "the subject '>' has a wildcard"),
        ("repeat('a', 1001), ''", "the subject is too long: 1001 bytes, of at most 1000"),
        ("'a', repeat('a', 67108865)", "the payload is too large: 67108865 bytes"),
        ("'a', '', key => repeat('ä', 1001)", "the key is too long: 2002 bytes"),
        ("'a', '', key => E'\\t'", "the key has a control character"),
        ("'a', '', headers => '[]'", "the headers must be a JSON object of strings"),
        ("'a', '', headers => 'null'", "the headers must be a JSON object of strings"),
        ("'a', '', headers => '{\"n\": 1}'", "the header 'n' must be a string"),
        ("'a', '', headers => '{\"a b\": \"\"}'", "'a b' can't be the name of a header"),
        ("'a', '', headers => '{\"\": \"\"}'", "'' can't be the name of a header"),
        ("'a', '', headers => '{\"nats-Msg-Id\": \"\"}'", "'nats-Msg-Id' is reserved"),
        ("'a', '', headers => '{\"Pgoutbox-Action\": \"\"}'", "'Pgoutbox-Action' is reserved"),
        (
            "'a', '', headers => jsonb_build_object('x', e'\\r\\nNats-X: 1')",
            "a control character in its value",
        ),
        (
            "'a', '', headers => jsonb_build_object('x', repeat('a', 16384))",
            "the headers are too large: 16393 bytes, of at most 16384",
        ),
    ],
)
async def test_what_nats_would_not_take_is_refused(
    connection: asyncpg.Connection, outbox: Outbox, arguments: str, problem: str
) -> None:
    for is_standard in ("off", "on"):  # what a plain literal makes of a backslash
        await connection.execute(f"set standard_conforming_strings = {is_standard}")
        with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
            await connection.execute(f"select pgoutbox.emit({arguments})")
        assert problem in str(refused.value)
    assert await outbox.rows() == []


async def test_a_role_emits_only_where_it_is_granted(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox
) -> None:
    writer = await connect(WRITER)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await writer.execute("select pgoutbox.emit('a', '1')")
    await connection.execute(f"select pgoutbox.grant_emit('{WRITER}')")
    await writer.execute("select pgoutbox.emit('a', '2'); select pgoutbox.emit('b', '3'::jsonb)")
    assert [event.payload for event in await emitted(outbox)] == [b"2", b"3"]
    for statement in (
        "table pgoutbox.outbox",
        "table pgoutbox.event",
        "insert into pgoutbox.first_event_0 default values",
        "select pgoutbox.capture_unusual_0(null, null, null, false)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)


async def test_keys_divide_them_among_shards(connection: asyncpg.Connection) -> None:
    for number in range(20):
        await connection.execute(f"select pgoutbox.emit('s{number}', '', key => '{number % 5}')")
    await connection.execute("select pgoutbox.emit('none', '')")
    columns = await connection.fetchval("select pgoutbox.shard_key_of('set-of-3', '', '')")
    assert columns == ["key"]
    shards = [
        {
            json.loads(row["new_row"]).get("key")
            for row in await connection.fetch(
                "select * from pgoutbox.next_share(0, '{}', '{}', null, null, 100, 1000000,"
                " $1, $2, 3) where action is not null",
                json.dumps({"": {"": columns}}),
                shard,
            )
        }
        for shard in (1, 2, 3)
    ]
    assert sorted(key or "none" for shard in shards for key in shard) == [*"01234", "none"]
