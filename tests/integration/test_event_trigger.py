"""Tables are captured in the transaction that makes them, and nothing of it fails that."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.support.cluster import ADMIN, OWNER, Database
from tests.support.commands import pgoutbox


@pytest.fixture
async def watched(empty_database: Database) -> asyncpg.Connection:
    """A session of a role without rights on the schema; a superuser has installed it."""
    owner = await empty_database.connect()
    await owner.execute(
        "create table users (id int primary key); create table orders (id int);"
        "create schema tenant_1; create table tenant_1.orders (id int)"
    )
    done = pgoutbox(
        "install", "--event-trigger", "--table", "users", "--table", "public.orders",
        "--table", "tenant_*.orders", "--actions", "insert",
        "--dsn", empty_database.dsn_as(ADMIN),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "event trigger: tables are captured as they are made again" in done.stderr
    return owner


async def tables(database: Database) -> list[str]:
    """Return the tables of all events, in their order."""
    admin = await database.connect(ADMIN)
    rows = await admin.fetch(
        "select schema_name || '.' || table_name as name from pgoutbox.outbox"
        " order by position, seq"
    )
    return [row["name"] for row in rows]


async def test_what_is_made_again_loses_no_event(
    empty_database: Database, watched: asyncpg.Connection
) -> None:
    async with watched.transaction():
        await watched.execute("drop table users; create table users (id int primary key)")
        await watched.execute("insert into users values (1)")
    await watched.execute(
        """
        create table orders_new (like orders including all);
        begin;
        alter table orders rename to orders_old;
        alter table orders_new rename to orders;
        insert into orders values (1);
        commit;
        insert into orders_old values (2);
        """
    )

    assert await tables(empty_database) == ["public.users", "public.orders", "public.orders_old"]
    check = pgoutbox("status", "--check", "--dsn", empty_database.dsn_as(ADMIN))
    assert check.stdout.count(" ok") == 4, check.stdout


async def test_later_tables_that_match_a_pattern_are_captured(
    empty_database: Database, watched: asyncpg.Connection
) -> None:
    await watched.execute(
        """
        create schema tenant_2; create table tenant_2.orders (id int);
        create schema tenant_3 create table orders (id int);
        create schema tenant_4; create table tenant_4.orders as select 1 as id;
        create table tenant_1.notes (id int);
        create temporary table users (id int);
        create table moved (id int);
        create schema tenant_5; alter table moved set schema tenant_5;
        alter table tenant_5.moved rename to orders;
        insert into tenant_2.orders values (1); insert into tenant_3.orders values (1);
        insert into tenant_4.orders values (2); insert into tenant_5.orders values (1);
        insert into tenant_1.notes values (1); insert into pg_temp.users values (1);
        update tenant_2.orders set id = 2;
        """
    )

    assert await tables(empty_database) == [f"tenant_{number}.orders" for number in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    "harm",
    [
        "drop function pgoutbox.filled(text, jsonb)",
        "drop function pgoutbox.capture_if_wanted(regclass)",
        "alter table pgoutbox.captured_table rename to gone",
        "create or replace function pgoutbox.capture_if_wanted(relation regclass) returns void"
        " language plpgsql as 'begin raise division_by_zero; end'",
        "lock",
    ],
)
async def test_no_command_fails_by_it(
    empty_database: Database, watched: asyncpg.Connection, harm: str
) -> None:
    admin = await empty_database.connect(ADMIN)
    warnings: list[str] = []
    watched.add_log_listener(lambda _, message: warnings.append(str(message)))
    transaction = admin.transaction()
    if harm == "lock":
        await transaction.start()
        await admin.execute("lock table pgoutbox.captured_table")
    else:
        await admin.execute(harm)

    await watched.execute("drop table users; create table users (id int primary key)")
    await watched.execute("alter table users add name text; insert into users values (1, 'a')")

    assert await watched.fetchval("select count(*) from users") == 1
    assert any("pgoutbox could not" in said for said in warnings)
    if harm == "lock":
        await transaction.rollback()


async def test_who_may_make_none_is_told_so(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("create table users (id int)")

    done = pgoutbox("install", "--table", "users", "--event-trigger", "--dsn", database.dsn)

    assert done.returncode == 6
    assert "public.users: captured" in done.stderr
    assert "error: this role may make no event triggers: permission denied" in done.stderr
    assert await owner.fetchval("select count(*) from pg_event_trigger") == 0


async def test_it_comes_by_script_and_goes_again(empty_database: Database) -> None:
    admin = await empty_database.connect(ADMIN)
    dsn = ("--dsn", empty_database.dsn_as(ADMIN))
    count = "select count(*) from pg_event_trigger"

    script = pgoutbox("install", "--print-sql", "--event-trigger").stdout
    for _ in range(2):
        await admin.execute(script)
    assert await admin.fetchval(count) == 1
    assert pgoutbox("install", "--no-event-trigger", *dsn).returncode == 0
    assert await admin.fetchval(count) == 0
    assert pgoutbox("install", "--event-trigger", *dsn).returncode == 0
    assert pgoutbox("uninstall", "--all", *dsn).returncode == 0
    assert await admin.fetchval(count) == 0
    owner = await empty_database.connect(OWNER)
    await owner.execute("create table t (id int)")


async def test_status_shows_it_and_says_that_it_is_disabled(
    empty_database: Database, watched: asyncpg.Connection
) -> None:
    dsn = ("--dsn", empty_database.dsn_as(ADMIN))
    admin = await empty_database.connect(ADMIN)

    def status(code: int) -> tuple[str, object]:
        done = pgoutbox("status", "--check", *dsn)
        assert done.returncode == code, done.stdout
        return done.stdout, json.loads(pgoutbox("status", "--json", *dsn).stdout)["event_trigger"]

    text, state = status(0)
    assert "tables that are made again are captured at once, by an event trigger" in text
    assert state == "enabled"
    await admin.execute("alter event trigger pgoutbox_capture disable")
    text, state = status(7)
    assert "! the event trigger is disabled, so tables that are made again aren't captured" in text
    assert "run: pgoutbox install --event-trigger" in text
    assert state == "disabled"
    for _ in range(2):
        assert pgoutbox("install", "--event-trigger", *dsn).returncode == 0
        assert status(0)[1] == "enabled"
    assert pgoutbox("install", "--no-event-trigger", *dsn).returncode == 0
    assert status(0)[1] is None
