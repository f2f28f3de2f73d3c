"""The leader mends what changes of columns leave behind."""

from __future__ import annotations

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect
from tests.support.cluster import ADMIN, Database
from tests.support.commands import pgoutbox


def outbox_on(connection: object) -> Outbox:
    return Outbox(
        connection,  # type: ignore[arg-type]
        format_of(MessageConfig(), "app"),
        relay="default",
        batch_events=100,
        batch_bytes=1_000_000,
    )


async def test_drifted_table_is_mended_and_a_locked_one_is_left_for_later(
    database: Database, connect: Connect
) -> None:
    owner, relay, ddl = [await connect() for _ in range(3)]
    await owner.execute("create table orders (id int primary key); create table notes (id int)")
    for table in ("orders", "notes"):
        await owner.execute(f"select pgoutbox.capture_table('{table}', old_values => 'identity')")
        await owner.execute(f"alter table {table} add column text text")
    outbox = outbox_on(relay)

    async with ddl.transaction():
        await ddl.execute("lock table orders in access exclusive mode")
        meanwhile = await outbox.mend_drift()
    afterwards = await outbox.mend_drift()

    assert [tuple(table) for table in meanwhile] == [("public.notes", "public.notes", "drift")]
    assert [tuple(table) for table in afterwards] == [("public.orders", "public.orders", "drift")]
    assert await outbox.mend_drift() == []


async def test_trigger_that_was_enabled_always_is_reported_until_install_mends_it(
    database: Database, connect: Connect
) -> None:
    """As Rails loads its fixtures: PostgreSQL then forgets that the trigger fired always."""
    owner = await connect()
    replica = await connect(ADMIN, session_replication_role="replica")
    await owner.execute("create table orders (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('orders')")
    await owner.execute(
        'alter table orders enable always trigger "00_pgoutbox",'
        ' enable always trigger "00_pgoutbox_truncate"'
    )
    outbox = outbox_on(await connect())
    assert await outbox.mend_drift() == []

    await owner.execute("alter table orders disable trigger all")
    await owner.execute("alter table orders enable trigger all")
    await replica.execute("insert into orders values (1)")

    assert [tuple(table) for table in await outbox.mend_drift()] == [
        ("public.orders", "public.orders", "not_always")
    ]
    said = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "trigger no longer ENABLE ALWAYS; run: pgoutbox install --table public.orders" in said
    mended = pgoutbox("install", "--dsn", database.dsn, "--table", "orders")
    assert mended.returncode == 0, mended.stderr
    assert await outbox.mend_drift() == []
    await replica.execute("insert into orders values (2)")
    await replica.execute("truncate orders")
    events = await owner.fetch("select action, data ->> 'id' as id from pgoutbox.outbox")
    assert [tuple(event) for event in events] == [("INSERT", "2"), ("TRUNCATE", None)]


async def test_trigger_that_fires_always_stays_so_when_it_is_made_anew(connect: Connect) -> None:
    owner = await connect()
    await owner.execute("create table orders (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('orders', '{INSERT}')")
    await owner.execute('alter table orders enable always trigger "00_pgoutbox"')

    await owner.execute("select pgoutbox.capture_table('orders', '{INSERT,DELETE}')")

    enabled = await owner.fetchval(
        "select tgenabled from pg_trigger where tgrelid = 'orders'::regclass"
    )
    assert enabled == b"A"


async def test_disabled_trigger_is_reported_until_install_mends_it(
    database: Database, connect: Connect
) -> None:
    owner = await connect()
    await owner.execute("create table orders (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('orders')")
    await owner.execute("alter table orders disable trigger all")
    outbox = outbox_on(await connect())

    assert [tuple(table) for table in await outbox.mend_drift()] == [
        ("public.orders", "public.orders", "trigger")
    ]
    await owner.execute("select pgoutbox.capture_table('orders')")
    assert await outbox.mend_drift() == []
