"""A relay's role has what a relay needs, and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect
from tests.support.cluster import ADMIN, Database
from tests.support.leading import lead

from .conftest import Capture

RELAY = "app_relay_of_sql_tests"


@pytest.fixture
async def relay(
    connection: asyncpg.Connection, connect: Connect, database: Database, capture: Capture
) -> asyncpg.Connection:
    """A connection of a role that was granted what a relay needs."""
    admin = await connect(ADMIN)
    password = urlsplit(database.dsn).password
    await admin.execute(f"""
        do $$ begin create role {RELAY} login;
        exception when duplicate_object or unique_violation then end $$;
        alter role {RELAY} password '{password}'
    """)
    await capture("t", "id int primary key, v text")
    await connection.execute(f"select pgoutbox.grant_relay('{RELAY}')")
    return await connect(RELAY)


async def test_a_relay_can_do_its_work(
    connection: asyncpg.Connection, relay: asyncpg.Connection
) -> None:
    await connection.execute("insert into t values (1, 'a')")
    await connection.execute("alter table t add n int")
    outbox = Outbox(
        relay,
        format_of(MessageConfig(), "app"),
        relay="r",
        batch_events=10,
        batch_bytes=1_000_000,
    )
    progress = await lead(outbox, relay, "r")
    batch = await outbox.next_batch(progress)
    await outbox.begin(batch, batch.before, [])
    await outbox.park(batch.keys[0], batch.messages[0], "too large")
    await outbox.advance(batch.after)
    mended = await outbox.upkeep.mend_drift()
    _, resting = await outbox.upkeep.resting_slots(0.0)
    rotated = [await relay.fetchval("select pgoutbox.rotate($1)", slot) for slot in range(5)]

    assert len(batch) == 1
    assert [row["problem"] for row in mended] == ["drift"]
    assert resting == []
    assert rotated.count(True) == 1
    for statement in (
        "select functions_version from pgoutbox.installation",
        "select * from pgoutbox.migration",
        "select * from pgoutbox.table_state",
        "select * from pgoutbox.outbox",
        "select * from pgoutbox.backlog('r')",
        "select * from pgoutbox.parked",
        "select * from pgoutbox.next_batch_described(0, '{}', '{}', null, null, 10, 10000, true)",
        "select * from pgoutbox.count_events(1, -1, 100, 100)",
        "delete from pgoutbox.parked",
    ):
        await relay.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "select * from t",
        "insert into t values (1)",
        "delete from pgoutbox.event",
        "update pgoutbox.event set new_row = '{}'",
        "insert into pgoutbox.first_event_0 (xid, seq) values ('1', 1)",
        "truncate pgoutbox.event",
        "delete from pgoutbox.transaction",
        "update pgoutbox.transaction set position = 1",
        "delete from pgoutbox.progress",
        "update pgoutbox.captured_table set shape = ''",
        "update pgoutbox.installation set id = gen_random_uuid()",
        "select setval('pgoutbox.position_seq', 1)",
        "select nextval('pgoutbox.position_seq')",
        "select pgoutbox.capture_table('t')",
        "select pgoutbox.release_table('t')",
        f"select pgoutbox.grant_relay('{RELAY}')",
        "select pgoutbox.withdraw_0('1')",
        "create table pgoutbox.mine (id int)",
        "drop table pgoutbox.parked",
    ],
)
async def test_a_relay_can_do_nothing_else(relay: asyncpg.Connection, statement: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError)):
        await relay.execute(statement)
