"""Transactions that depend on another one only through a deferred check.

What a transaction queued after its first event is checked after its commit stage, unless that runs
once more: what such a check waits for, or finds, has to come first.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Connect
from tests.support import ledger
from tests.support.cluster import ADMIN, Database
from tests.support.nursery import Nursery
from tests.support.streams import Stream
from tests.support.waiting import eventually


async def test_deferred_unique_constraint_that_waits_at_commit(
    database: Database, stream: Stream, nursery: Nursery, connect: Connect
) -> None:
    """It sees the other's deletion, so that has to come first."""
    await ledger.prepare(database)
    deleting, inserting, admin = await connect(), await connect(), await connect(ADMIN)
    await deleting.execute(
        "create table seat (id integer primary key, k integer, v bigint,"
        " unique (k) deferrable initially deferred)"
    )
    await ledger.keep(deleting, "seat")
    await deleting.execute(
        "insert into ledger_transaction (label) values (1);insert into seat values (1, 7)"
    )
    await deleting.execute("begin; insert into ledger_transaction (label) values (2)")
    await deleting.execute("delete from seat where k = 7")
    await inserting.execute("begin; insert into ledger_transaction (label) values (3)")
    await inserting.execute("insert into bulk values (1, 'opens the transaction')")
    await inserting.execute("insert into seat values (2, 7)")

    committing = asyncio.create_task(inserting.execute("commit"))
    await eventually(
        lambda: admin.fetchval(
            "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1",
            inserting.get_server_pid(),
        )
    )
    await deleting.execute("commit")
    await committing

    relay = await nursery.start(
        "relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert await relay.wait() == 0, relay.output
    events = [ledger.read(message) for message in await stream.messages()]
    transactions = await ledger.committed(database)
    order = ledger.published(events, transactions)
    assert [transactions[xid].label for xid in order] == [1, 2, 3]


@pytest.mark.parametrize("captures_child", [True, False])
async def test_deferred_foreign_key_that_finds_its_parent_at_commit(
    database: Database,
    stream: Stream,
    nursery: Nursery,
    connect: Connect,
    captures_child: bool,
) -> None:
    """The parent is committed between the child's commit stage and the check.

    Where the child's table isn't captured, all checks have to be awaited for that.
    """
    await ledger.prepare(database)
    parent, child, admin = await connect(), await connect(), await connect(ADMIN)
    await parent.execute("""
        create table ward (id integer primary key, v bigint);
        create table bed (id integer primary key, v bigint,
            ward integer references ward deferrable initially deferred);
    """)
    await ledger.keep(parent, "ward")
    if captures_child:
        await ledger.keep(parent, "bed")
    else:
        await parent.execute("select pgoutbox.configure_capture(null, true)")
    await child.execute("begin; insert into ledger_transaction (label) values (2)")
    await child.execute("insert into bulk values (1, 'opens the transaction')")
    await child.execute("insert into lag values (0.5, false)")
    await child.execute("insert into bed (id, ward) values (1, 1)")

    committing = asyncio.create_task(child.execute("commit"))
    await eventually(
        lambda: admin.fetchval(
            "select wait_event = 'PgSleep' from pg_stat_activity where pid = $1",
            child.get_server_pid(),
        ),
        pause=0.005,
    )
    await parent.execute(
        "insert into ledger_transaction (label) values (1); insert into ward (id) values (1)"
    )
    await committing

    relay = await nursery.start(
        "relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert await relay.wait() == 0, relay.output
    events = [ledger.read(message) for message in await stream.messages()]
    transactions = await ledger.committed(database)
    order = ledger.published(events, transactions)
    assert [transactions[xid].label for xid in order] == [1, 2]
