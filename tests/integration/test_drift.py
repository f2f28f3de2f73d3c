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
        meanwhile = await outbox.upkeep.mend_drift()
    afterwards = await outbox.upkeep.mend_drift()

    assert [tuple(table) for table in meanwhile] == [("public.notes", "public.notes", "drift")]
    assert [tuple(table) for table in afterwards] == [("public.orders", "public.orders", "drift")]
    assert await outbox.upkeep.mend_drift() == []


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
    assert await outbox.upkeep.mend_drift() == []

    await owner.execute("alter table orders disable trigger all")
    await owner.execute("alter table orders enable trigger all")
    await replica.execute("insert into orders values (1)")

    assert [tuple(table) for table in await outbox.upkeep.mend_drift()] == [
        ("public.orders", "public.orders", "not_always")
    ]
    said = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "trigger no longer ENABLE ALWAYS; run: pgoutbox install --table public.orders" in said
    mended = pgoutbox("install", "--dsn", database.dsn, "--table", "orders")
    assert mended.returncode == 0, mended.stderr
    assert await outbox.upkeep.mend_drift() == []
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

    assert [tuple(table) for table in await outbox.upkeep.mend_drift()] == [
        ("public.orders", "public.orders", "trigger")
    ]
    await owner.execute("select pgoutbox.capture_table('orders')")
    assert await outbox.upkeep.mend_drift() == []


async def test_capture_fires_in_replica_sessions_where_it_was_asked_for(
    database: Database, connect: Connect
) -> None:
    owner, admin = await connect(), await connect(ADMIN)
    await owner.execute(
        "create table users (id int); create table days (day int) partition by list (day);"
        "create table day_1 partition of days for values in (1); create table later_1 (id int)"
    )
    dsn = ("--dsn", database.dsn)
    both = ("--table", "users", "--table", "days", "--table", "later_*")

    async def write(count: int) -> int:
        """Write as a subscription does; how many of the tables were captured."""
        await admin.execute(
            "set session_replication_role = replica; insert into users values (1);"
            "insert into days values (1); insert into days select 2 where exists ("
            "  select from pg_class where relname = 'day_2'); truncate users"
        )
        events = await owner.fetchval("select count(*) from pgoutbox.outbox")
        return int(events) - count

    pgoutbox("install", *both, *dsn)
    assert await write(0) == 0
    always = pgoutbox("install", *both, "--always", *dsn)
    assert await write(0) == 3
    again = pgoutbox("install", *both, "--always", *dsn)
    await owner.execute("create table day_2 partition of days for values in (2)")
    pgoutbox("install", *both, "--actions", "insert,truncate", *dsn)
    assert await write(3) == 4, "also of triggers that were made anew, and of new partitions"
    await owner.execute("create table later_2 (id int)")
    pgoutbox("install", *dsn)
    await admin.execute("insert into later_2 values (1)")
    assert await owner.fetchval("select count(*) from pgoutbox.outbox") == 8
    pgoutbox("install", *both, "--no-always", *dsn)
    assert await write(8) == 0
    lines = pgoutbox("install", "--print-sql", "--tables-only", *both, "--always").stdout
    for line in lines.splitlines():
        await owner.execute(line)
    assert await write(8) == 4

    assert "public.users: captured" in always.stderr
    assert "public.users: already captured" in again.stderr
    assert pgoutbox("status", "--check", *dsn).stdout.count("ok") >= 4
