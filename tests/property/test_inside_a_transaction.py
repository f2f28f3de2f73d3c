"""The order inside a transaction is that in which the rows changed."""

from __future__ import annotations

from tests.conftest import Connect
from tests.support import ledger
from tests.support.cluster import Database
from tests.support.nursery import Nursery
from tests.support.streams import Stream


async def test_rows_changed_again_keep_their_place(
    database: Database, stream: Stream, nursery: Nursery, connect: Connect
) -> None:
    """A row is changed twice, with another row's change between, and a trigger writes, too.

    Somebody else refers to that row and so shares a lock on it, which shows in its xmax.
    """
    await ledger.prepare(database)
    owner, other = await connect(), await connect()
    await owner.execute("""
        insert into ledger_transaction (label) values (1);
        insert into account (id) values (1), (2);
        insert into entry (id, account) values (1, 1), (2, 2);
    """)
    await other.execute("begin; insert into entry (id, account) values (9, 1)")
    await owner.execute("begin; insert into ledger_transaction (label) values (2)")
    for statement in (
        "update account set balance = 3 where id = 1",  # has a deferred trigger write, too
        "insert into account (id) values (50)",
        "update account set balance = 2 where id = 1",
        "update entry set body = 'a' where id = 1",
        "insert into account (id) values (51)",
        "update entry set account = 51 where id = 1",
        "delete from account where id = 2",
        "insert into bulk values (1, 'last')",
    ):
        await owner.execute(statement)
    await owner.execute("commit")
    await other.execute("rollback")

    relay = await nursery.start(
        "relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert await relay.wait() == 0, relay.output
    events = [ledger.read(message) for message in await stream.messages()]
    rows = [event.change.new or event.change.old for event in events]
    changed = [f"{e.change.action} {row.get('id')}" for e, row in zip(events, rows, strict=True)]
    assert changed[4:] == [
        "UPDATE 1",
        "INSERT 50",
        "UPDATE 1",
        "UPDATE 1",
        "INSERT 51",
        "UPDATE 1",
        "DELETE 2",
        "DELETE 2",
        "INSERT 1",
        "INSERT None",
    ]
    ledger.published(events, await ledger.committed(database))


async def test_rows_of_one_statement_keep_their_order(
    database: Database, stream: Stream, nursery: Nursery, connect: Connect
) -> None:
    """Some were made in the same transaction, some before it."""
    await ledger.prepare(database)
    owner = await connect()
    await owner.execute(
        "insert into ledger_transaction (label) values (1);"
        " insert into account (id) values (1), (2), (3), (4)"
    )
    await owner.execute("begin; insert into ledger_transaction (label) values (2)")
    await owner.execute("update account set balance = 3 where id = 1")  # a trigger writes, too
    await owner.execute("update account set owner = 'first' where id = 3")
    await owner.execute("update account set owner = 'many'")
    await owner.execute("commit")

    relay = await nursery.start(
        "relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert await relay.wait() == 0, relay.output
    events = [ledger.read(message) for message in await stream.messages()]
    ledger.published(events, await ledger.committed(database))
