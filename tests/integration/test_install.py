"""Tables are captured and released without harm to the application, or it is said why not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pgoutbox.config.settings import DatabaseConfig, InstallConfig
from pgoutbox.database import connection as db
from pgoutbox.database.install import forget_relay, install, uninstall, uninstall_all
from pgoutbox.database.print_sql import quoted
from pgoutbox.database.tables import resolve
from pgoutbox.errors import InstallError
from tests.support.cluster import ADMIN, WRITER, Database
from tests.support.leading import led_once
from tests.support.waiting import eventually

Session = asyncpg.Connection

HASTY = InstallConfig(lock_timeout=0.2, lock_wait=0.6)
PATIENT = InstallConfig(lock_timeout=0.2, lock_wait=30.0)


@pytest.fixture
async def owner(database: Database) -> Session:
    """The application's own session, of the tables' owner."""
    owner = await database.connect()
    await owner.execute(
        """
        create table users (id int primary key, name text);
        create table orders (id int primary key);
        create schema billing;
        create table billing.invoices (id int);
        create table billing."Odd Name" ("T" int);
        create table days (day int) partition by list (day);
        create table day_1 partition of days for values in (1);
        create table day_2 partition of days for values in (2);
        create view names as select name from users;
        create sequence numbers;
        create materialized view copies as select 1 as x;
        """
    )
    return owner


@pytest.fixture
async def conn(database: Database, owner: Session) -> AsyncIterator[Session]:
    """The session that installs."""
    async with db.session(DatabaseConfig(dsn=database.dsn), purpose="install") as conn:
        yield conn


@pytest.fixture
def said() -> list[str]:
    """What the user was told."""
    return []


async def captured(conn: Session) -> list[str]:
    rows = await conn.fetch(
        "select format('%I.%I', schema_name, table_name) from pgoutbox.captured_table order by 1"
    )
    return [row[0] for row in rows]


async def events(conn: Session) -> list[tuple[str, str, str]]:
    rows = await conn.fetch(
        "select schema_name, table_name, action from pgoutbox.outbox order by position, seq"
    )
    return [tuple(row) for row in rows]


async def pid_of(conn: Session) -> int:
    return int(await conn.fetchval("select pg_backend_pid()"))


async def test_tables_are_found_as_postgresql_finds_them(
    conn: Session, owner: Session, said: list[str]
) -> None:
    names = ["users", "USERS", "public.users", "billing.invoices", 'billing."Odd Name"']

    await install(conn, names, HASTY, said.append)

    assert await captured(owner) == ['billing."Odd Name"', "billing.invoices", "public.users"]
    assert said[1:] == [
        "public.users: captured",
        "billing.invoices: captured",
        'billing."Odd Name": captured',
    ]


async def test_tables_are_found_by_the_search_path_of_the_role(
    database: Database, owner: Session, said: list[str]
) -> None:
    """Not by that of our sessions, which is pinned."""
    await owner.execute("alter database " + database.name + " set search_path = billing")

    async with db.session(DatabaseConfig(dsn=database.dsn), purpose="install") as conn:
        await install(conn, ["invoices"], HASTY, said.append)
        path = await conn.fetchval("show search_path")
        with pytest.raises(InstallError, match="no table users"):
            await install(conn, ["users"], HASTY, said.append)

    assert await captured(owner) == ["billing.invoices"]
    assert path == "pg_catalog, pg_temp"


async def test_install_is_idempotent_and_locks_nothing_the_second_time(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users", "days"], HASTY, said.append)
    said.clear()

    async with owner.transaction():
        await owner.execute("insert into users values (1); lock table users, days in share mode")
        await install(conn, ["users", "days"], HASTY, said.append)

    assert said[1:] == ["public.users: already captured", "public.days: already captured"]


async def test_triggers_that_fire_first_are_named(
    conn: Session, owner: Session, said: list[str]
) -> None:
    """And what they change does come first."""
    await owner.execute(
        """
        create table audit (id int);
        create function note() returns trigger language plpgsql as
            'begin insert into audit values (new.id); return null; end';
        create trigger "00_early" after insert on users for each row execute function note();
        create trigger later after insert on users for each row execute function note()
        """
    )

    await install(conn, ["users", "audit"], HASTY, said.append)
    await owner.execute("insert into users values (1)")

    assert said[-1].startswith("triggers that fire before pgoutbox's: 00_early on public.users; ")
    assert [table for _, table, _ in await events(owner)] == ["audit", "users", "audit"]


async def test_install_again_changes_actions_and_old_values(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append)

    other = InstallConfig(old_values="identity")
    await install(conn, ["users"], other, said.append, actions=["INSERT"])

    row = await owner.fetchrow("select actions, old_values from pgoutbox.captured_table")
    assert tuple(row or ()) == (["INSERT"], "identity")
    assert said[-1] == "public.users: from now on: insert; old values: identity"
    await owner.execute("insert into users values (1); update users set id = 2; truncate users")
    assert await events(owner) == [("public", "users", "INSERT")]


async def test_install_again_keeps_what_it_isnt_asked_to_change(
    conn: Session, owner: Session, said: list[str]
) -> None:
    other = InstallConfig(old_values="identity")
    await install(conn, ["users"], other, said.append, actions=["INSERT", "UPDATE"])

    await install(conn, ["users"], InstallConfig(), said.append)
    row = await owner.fetchrow("select actions, old_values from pgoutbox.captured_table")
    assert tuple(row or ()) == (["INSERT", "UPDATE"], "identity")
    assert said[-1] == "public.users: already captured"

    await install(conn, ["users"], InstallConfig(), said.append, actions=["DELETE"])
    assert said[-1] == "public.users: from now on: delete; old values: identity"


async def test_install_mends_a_trigger_without_changing_what_is_captured(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append, actions=["DELETE"])
    await owner.execute('alter table users disable trigger "00_pgoutbox"')

    await install(conn, ["users"], HASTY, said.append)

    assert said[-1] == "public.users: captured"
    await owner.execute("insert into users values (1); delete from users")
    assert await events(owner) == [("public", "users", "DELETE")]


async def test_install_without_any_table_says_how_to_name_one(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, [], HASTY, said.append)
    await install(conn, ["users"], HASTY, said.append)
    await install(conn, [], HASTY, said.append)

    assert [line for line in said if "no table is captured" in line] == [
        "no table is captured; run: pgoutbox install --table NAME"
    ]


async def test_twenty_concurrent_installs_agree(empty_database: Database) -> None:
    """Of the schema, and of the same tables."""
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")

    async def one() -> None:
        async with db.session(DatabaseConfig(dsn=empty_database.dsn), purpose="install") as conn:
            await install(conn, ["users", "orders"], PATIENT, lambda _: None)

    await asyncio.gather(*(one() for _ in range(20)))

    assert await captured(owner) == ["public.orders", "public.users"]
    await owner.execute("insert into users values (1)")
    await owner.execute("insert into orders values (1)")
    assert len(await events(owner)) == 2


async def test_a_partitioned_table_is_captured_with_its_partitions(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["days"], HASTY, said.append)
    await owner.execute("create table day_3 partition of days for values in (3)")

    await owner.execute("insert into days values (1), (3)")

    assert await events(owner) == [("public", "days", "INSERT")] * 2


async def test_a_partition_is_captured_under_its_own_name(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["day_1"], HASTY, said.append)

    await owner.execute("insert into days values (1), (2)")

    assert await events(owner) == [("public", "day_1", "INSERT")]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("names", "public.names is a view, not a table"),
        ("copies", "public.copies is a materialized view, not a table"),
        ("numbers", "public.numbers is a sequence, not a table"),
        ("users_pkey", "public.users_pkey is an index, not a table"),
        ("nope", "there is no table nope"),
        ("user", "there is no table user (did you mean public.users?)"),
        ("Odd Name", 'there is no table Odd Name (did you mean billing."Odd Name"?)'),
        ("nowhere.users", "there is no table nowhere.users"),
        ("a.b.c", "there is no table a.b.c"),
        ("a.b.c.d", "there is no table a.b.c.d"),
        ('"', 'there is no table "'),
        ("", "there is no table "),
        ("x\n", r"there is no table 'x\n'"),
        ("\udce4", r"there is no table '\udce4'"),
    ],
)
async def test_what_is_no_table_is_refused_and_nothing_is_changed(
    conn: Session, owner: Session, said: list[str], name: str, what: str
) -> None:
    with pytest.raises(InstallError) as caught:
        await install(conn, ["users", name], HASTY, said.append)

    assert str(caught.value).startswith(what)
    assert caught.value.exit_code == 6
    assert await captured(owner) == []


@pytest.mark.parametrize(
    ("names", "said", "hint"),
    [
        (["names"], "public.names is a view, not a table", "Nothing was changed."),
        (["users,orders"], "there is no table users,orders", "Give --table once for each table."),
        (
            ["nope", "names"],
            "2 names can't be used:\n  there is no table nope\n  public.names is a view",
            "Names are read as PostgreSQL reads them",
        ),
    ],
)
async def test_what_is_wrong_with_names_is_said_one_a_line_with_a_hint_that_fits(
    conn: Session, names: list[str], said: str, hint: str
) -> None:
    with pytest.raises(InstallError) as caught:
        await install(conn, names, HASTY, lambda _: None)

    assert str(caught.value).startswith(said)
    assert hint in str(caught.value.hint)
    assert ("Names are read" in str(caught.value.hint)) == ("nope" in names)


async def test_a_name_that_is_wrong_leaves_no_schema_behind(empty_database: Database) -> None:
    async with db.session(DatabaseConfig(dsn=empty_database.dsn), purpose="install") as conn:
        with pytest.raises(InstallError, match="no table nope"):
            await install(conn, ["nope"], HASTY, lambda _: None)

        assert await conn.fetchval("select to_regnamespace('pgoutbox')") is None


async def test_a_table_of_the_catalog_is_refused(conn: Session, said: list[str]) -> None:
    with pytest.raises(InstallError, match="belongs to PostgreSQL or to pgoutbox"):
        await install(conn, ["pg_catalog.pg_class"], HASTY, said.append)


async def test_who_doesnt_own_the_table_is_refused_and_the_others_are_named(
    database: Database, conn: Session, owner: Session, said: list[str]
) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute("create table theirs (id int)")

    with pytest.raises(InstallError) as caught:
        await install(conn, ["users", "theirs", "orders"], HASTY, said.append)

    assert str(caught.value) == (
        "public.theirs: permission denied for table theirs (done: public.users, public.orders)"
    )
    assert "owns the table" in str(caught.value.hint)
    assert await captured(owner) == ["public.orders", "public.users"]


async def test_several_tables_that_fail_are_named_one_a_line(
    database: Database, conn: Session, owner: Session, said: list[str]
) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute("create table a (id int); create table b (id int)")

    with pytest.raises(InstallError) as caught:
        await install(conn, ["a", "users", "b"], HASTY, said.append)

    assert str(caught.value).splitlines() == [
        "2 tables failed:",
        "  public.a: permission denied for table a",
        "  public.b: permission denied for table b",
        "  (done: public.users)",
    ]


async def test_a_writer_is_told_to_be_the_owner(database: Database, owner: Session) -> None:
    config = DatabaseConfig(dsn=database.dsn_as(WRITER))
    for work in (install, uninstall):
        async with db.session(config, purpose="test") as writer:
            with pytest.raises(InstallError, match="this role lacks a privilege: perm") as caught:
                await work(writer, ["users"], HASTY, lambda _: None)

        assert caught.value.hint == (
            "Run this as role app_owner, which owns the schema pgoutbox. For tables that role"
            " app_writer owns, have role app_owner run: pgoutbox install --grant-capture app_writer"
        )


async def test_who_may_not_create_a_schema_is_told_what_to_do(empty_database: Database) -> None:
    async with db.session(
        DatabaseConfig(dsn=empty_database.dsn_as(WRITER)), purpose="install"
    ) as conn:
        with pytest.raises(InstallError, match="can't be installed: permission denied") as caught:
            await install(conn, [], HASTY, lambda _: None)

    assert "--print-sql" in str(caught.value.hint)


async def test_a_locked_table_is_given_up_and_the_holder_named(
    conn: Session, owner: Session, database: Database, said: list[str]
) -> None:
    holder = await database.connect(application_name="nightly report")
    async with holder.transaction():
        await holder.execute("insert into users values (1)")
        began = time.monotonic()
        with pytest.raises(InstallError) as caught:
            await install(conn, ["users", "orders"], HASTY, said.append)

    pid = await pid_of(holder)
    assert time.monotonic() - began < HASTY.lock_wait + 2 * HASTY.lock_timeout + 1
    assert str(caught.value) == (
        f"public.users: no lock within 600ms; pid {pid} (nightly report) holds it"
        " (done: public.orders)"
    )
    assert f"select pg_terminate_backend({pid})" in str(caught.value.hint)
    assert f"public.users: waiting for a lock that pid {pid} (nightly report) holds" in said
    assert await captured(owner) == ["public.orders"]


async def test_a_prepared_transaction_that_holds_the_lock_is_named(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await owner.execute(
        "begin; insert into users values (1); prepare transaction 'left over from monday'"
    )
    try:
        with pytest.raises(InstallError, match="prepared transaction 'left over from monday'"):
            await install(conn, ["users"], HASTY, said.append)
    finally:
        await owner.execute("rollback prepared 'left over from monday'")


@pytest.mark.parametrize("changes", [install, uninstall], ids=["install", "uninstall"])
async def test_it_waits_for_the_lock_and_never_holds_up_the_application(
    conn: Session,
    database: Database,
    owner: Session,
    said: list[str],
    changes: Callable[..., Coroutine[Any, Any, object]],
) -> None:
    """A writer beside it gets through within lock_timeout, again and again."""
    if changes is uninstall:
        await install(conn, ["users"], HASTY, said.append)
    holder = await database.connect()
    writer = await database.connect(WRITER)
    await holder.execute("begin; insert into users values (0)")
    changing = asyncio.create_task(changes(conn, ["users"], PATIENT, said.append))
    longest = 0.0
    try:
        for number in range(1, 40):
            began = time.monotonic()
            await writer.execute("insert into users values ($1)", number)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.02)
        tries = sum("waiting for a lock" in line for line in said)
        assert not changing.done()
    finally:
        await holder.execute("commit")
        await changing

    assert tries >= 2
    assert longest < PATIENT.lock_timeout + 0.5
    assert await captured(owner) == (["public.users"] if changes is install else [])
    assert await owner.fetchval("select count(*) from users") == 40
    # What was written before the triggers were there has no event, and all the rest has.
    await writer.execute("insert into users values (40)")
    rows = await owner.fetch("select data from pgoutbox.outbox order by position, seq")
    written = [json.loads(row["data"])["id"] for row in rows]
    assert written == ([40] if changes is install else [*range(1, 40), 0])


async def test_locks_of_all_partitions_together_take_no_longer_than_lock_timeout(
    conn: Session, database: Database, owner: Session, said: list[str]
) -> None:
    """Whoever writes the root waits for all of them."""
    holders = [await database.connect() for _ in range(2)]
    for number, holder in enumerate(holders, start=1):
        await holder.execute(f"begin; insert into day_{number} values ({number})")
    queries: list[asyncpg.connection.LoggedQuery] = []
    conn.add_query_logger(queries.append)
    settings = InstallConfig(lock_timeout=2.0, lock_wait=0.0)
    installing = asyncio.create_task(install(conn, ["days"], settings, said.append))

    await eventually(lambda: _waits_for(owner, "day_1"))
    await holders[0].execute("commit")
    with pytest.raises(InstallError, match=f"pid {await pid_of(holders[1])}"):
        await installing

    # The time for the second lock alone would have been over later, by what the first one took.
    [ended] = [str(query.exception) for query in queries if query.exception is not None]
    assert ended == "canceling statement due to statement timeout"


async def _waits_for(conn: Session, table: str) -> bool:
    return bool(
        await conn.fetchval(
            "select exists (select from pg_locks where not granted and relation = $1::regclass)",
            table,
        )
    )


async def test_uninstall_waits_no_longer_either(
    conn: Session, owner: Session, database: Database, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append)
    reader = await database.connect()
    async with reader.transaction():
        await reader.fetch("select * from users")
        with pytest.raises(InstallError, match=f"pid {await pid_of(reader)}"):
            await uninstall(conn, ["users"], HASTY, said.append)

    await uninstall(conn, ["users"], HASTY, said.append)
    assert await captured(owner) == []


async def test_uninstall_is_idempotent_and_keeps_events(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users", "orders"], HASTY, said.append)
    await owner.execute("insert into users values (1)")

    await uninstall(conn, ["users"], HASTY, said.append)
    await uninstall(conn, ["users"], HASTY, said.append)
    await owner.execute("insert into users values (2)")

    assert said[-2:] == ["public.users: no longer captured", "public.users: was not captured"]
    assert await captured(owner) == ["public.orders"]
    assert len(await events(owner)) == 1


async def test_a_captured_table_that_was_dropped_can_be_released(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users", 'billing."Odd Name"'], HASTY, said.append)
    await owner.execute('drop table users cascade; drop table billing."Odd Name"')

    await uninstall(conn, ["users", 'billing."Odd Name"'], HASTY, said.append)

    assert await captured(owner) == []


async def test_a_captured_table_that_was_renamed_is_released_by_its_present_name(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append)
    await owner.execute("alter table users rename to people; create table users (id int)")

    await uninstall(conn, ["users"], HASTY, said.append)
    await uninstall(conn, ["people"], HASTY, said.append)

    assert said[-2:] == ["public.users: was not captured", "public.people: no longer captured"]


async def test_a_relay_is_forgotten_with_what_it_parked(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append)
    await led_once(owner, "mine", "retired")
    await owner.execute(
        "insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason)"
        " select r, gen_random_uuid(), 1, 1, 9, 'too large'"
        " from unnest('{mine,retired}'::text[]) r"
    )

    await forget_relay(conn, "retired", said.append)

    assert said[-1] == "relay retired: forgotten, with 1 parked event"
    for table in ("progress", "parked"):
        rows = await owner.fetch(f"select relay from pgoutbox.{table}")
        assert [row["relay"] for row in rows] == ["mine"]


async def test_a_relay_of_another_name_is_not_taken_for_forgotten(
    conn: Session, owner: Session, said: list[str]
) -> None:
    """It would go on keeping every event."""
    await led_once(owner, "mine", "retired")

    with pytest.raises(InstallError) as refused:
        await forget_relay(conn, "retierd", said.append)

    assert str(refused.value) == (
        "there is no relay retierd in this database; did you mean retired?"
    )
    assert refused.value.hint == "Nothing was changed. Known: mine, retired."
    assert await owner.fetchval("select count(*) from pgoutbox.progress") == 2


async def test_a_relay_that_leads_is_not_forgotten(
    conn: Session, owner: Session, database: Database, said: list[str]
) -> None:
    relay = await database.connect()
    await relay.execute("select pgoutbox.lead('mine')")

    with pytest.raises(InstallError, match="relay mine is running"):
        await forget_relay(conn, "mine", said.append)

    assert await owner.fetchval("select count(*) from pgoutbox.progress") == 1


async def test_uninstall_of_what_is_not_there_says_so(empty_database: Database) -> None:
    said: list[str] = []
    async with db.session(DatabaseConfig(dsn=empty_database.dsn), purpose="uninstall") as conn:
        await uninstall(conn, ["users"], HASTY, said.append)
        await uninstall_all(conn, HASTY, said.append)
        await forget_relay(conn, "default", said.append)

    assert said == ["pgoutbox isn't installed in this database: nothing to do"] * 3


async def test_uninstall_all_leaves_nothing(conn: Session, owner: Session, said: list[str]) -> None:
    """Also where no relay ever ran."""
    await install(conn, ["users", "days", "billing.invoices"], HASTY, said.append)

    await uninstall_all(conn, HASTY, said.append)

    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None
    assert await owner.fetchval("select count(*) from pg_trigger where not tgisinternal") == 0
    await owner.execute("insert into users values (1); insert into days values (1)")
    await install(conn, ["users"], HASTY, said.append)


@pytest.mark.parametrize("has_relay", [False, True])
async def test_uninstall_all_refuses_while_events_are_unsent(
    conn: Session, owner: Session, said: list[str], has_relay: bool
) -> None:
    await install(conn, ["users"], HASTY, said.append)
    if has_relay:
        await led_once(owner, "mine")
    await owner.execute("insert into users values (1), (2)")

    with pytest.raises(InstallError) as caught:
        await uninstall_all(conn, HASTY, said.append)

    name = "mine" if has_relay else "default"
    assert str(caught.value) == f"relay {name} has 2 unsent events"
    drain = "pgoutbox relay --drain" + (" --name mine" if has_relay else "")
    assert caught.value.hint == f"Send them first: {drain}; or discard them with --drop-unsent."
    assert await captured(owner) == ["public.users"]

    await uninstall_all(conn, HASTY, said.append, drop_unsent=True)
    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None


async def test_uninstall_all_names_each_relay_that_has_unsent_events(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users"], HASTY, said.append)
    await led_once(owner, "default", "retired relay", "done")
    await owner.execute("insert into users values (1), (2)")
    await owner.execute(
        "update pgoutbox.progress set high = 100 where relay = 'done';"
        "update pgoutbox.progress p set partial_position = t.position, partial_seq = t.first_seq"
        " from pgoutbox.transaction t where p.relay = 'default'"
    )

    with pytest.raises(InstallError) as caught:
        await uninstall_all(conn, HASTY, said.append)

    assert str(caught.value).splitlines() == [
        "2 relays haven't sent everything:",
        "  relay default has 1 unsent event",
        "  relay retired relay has 2 unsent events",
    ]
    assert caught.value.hint == (
        "Send them first: pgoutbox relay --drain, pgoutbox relay --drain --name 'retired relay';"
        " forget a relay that no longer runs: pgoutbox uninstall --relay NAME;"
        " or discard them with --drop-unsent."
    )


async def test_uninstall_all_refuses_while_events_are_parked(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await owner.execute(
        "insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason)"
        " values ('default', gen_random_uuid(), 1, 1, 9, 'too large')"
    )

    with pytest.raises(InstallError, match="1 event is parked"):
        await uninstall_all(conn, HASTY, said.append)


async def test_uninstall_all_doesnt_drop_what_is_written_meanwhile(
    conn: Session, owner: Session, database: Database, said: list[str]
) -> None:
    """A transaction that was open when it looked for unsent events."""
    await install(conn, ["users"], HASTY, said.append)
    writer = await database.connect()
    await writer.execute("begin; insert into users values (1)")
    uninstalling = asyncio.create_task(uninstall_all(conn, PATIENT, said.append))
    await eventually(lambda: _waits_for(owner, "users"))

    await writer.execute("commit")

    with pytest.raises(InstallError, match="1 unsent event"):
        await uninstalling
    assert await captured(owner) == []
    assert len(await events(owner)) == 1


async def test_the_filter_names_tables_of_all_schemas(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await owner.execute("create table billing.users (id int)")
    settings = InstallConfig(tables={"users": ("INSERT",), "nope": ("INSERT",), "orders": ()})

    await install(conn, [], settings, said.append)

    assert await captured(owner) == ["billing.users", "public.users"]
    assert "nope: the filter names it, but no schema has such a table yet" in said


async def test_a_filter_adds_to_the_actions_that_others_want(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, [], InstallConfig(tables={"users": ("INSERT",)}), said.append)

    await install(conn, [], InstallConfig(tables={"users": ("UPDATE",)}), said.append)
    await install(conn, [], InstallConfig(tables={"users": ("INSERT",)}), said.append)

    assert said[-1] == "public.users: already captured"
    actions = "select actions from pgoutbox.captured_table"
    assert await owner.fetchval(actions) == ["INSERT", "UPDATE"]


async def test_a_table_that_leaves_the_filter_stays_captured_and_is_named(
    conn: Session, owner: Session, said: list[str]
) -> None:
    both = InstallConfig(tables={"users": ("INSERT",), "orders": ("INSERT",)})
    await install(conn, [], both, said.append)
    assert not any("not in this filter" in line for line in said)

    await install(conn, [], InstallConfig(tables={"users": ("INSERT",)}), said.append)

    assert await captured(owner) == ["public.orders", "public.users"]
    assert said[-1] == (
        "public.orders: captured, though not in this filter;"
        " to stop: pgoutbox uninstall --table public.orders"
    )


async def test_grant_relay(conn: Session, database: Database, said: list[str]) -> None:
    await install(conn, [], HASTY, said.append, grants={"relay": [WRITER]})

    relay = await database.connect(WRITER)
    assert await relay.fetchval("select functions_version from pgoutbox.installation")
    with pytest.raises(InstallError, match="there is no role nobody at all"):
        await install(conn, [], HASTY, said.append, grants={"relay": ["nobody at all"]})


def _fits(name: str) -> bool:
    return 0 < len(name.encode()) <= 63 and not name.startswith("pg_")


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
).filter(_fits) | st.sampled_from(
    [
        "'; drop table users; --",
        '"; drop table users; --',
        "$$; drop table users; $$",
        "$body$",
        "%s %I %1$s",
        "a\nb",
        "a.b",
        "\\",
        "' || (select 1/0) || '",
        "é" * 31,
    ]
)


@given(schema=NAMES, table=NAMES, column=NAMES)
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_name_is_ever_read_as_sql(
    conn: Session, owner: Session, schema: str, table: str, column: str
) -> None:
    """Whatever a schema, a table and a column are called, they are captured and released."""
    name = f"{quoted(schema)}.{quoted(table)}"
    await owner.execute(f"create schema if not exists {quoted(schema)}")
    await owner.execute(f"create table {name} ({quoted(column)} int)")
    try:
        await install(conn, [name], HASTY, lambda _: None)
        await owner.execute(f"insert into {name} values (1)")
        assert (await events(owner))[-1] == (schema, table, "INSERT")
        data = await owner.fetchval(
            "select data->$1 from pgoutbox.outbox where seq ="
            " (select max(seq) from pgoutbox.event)",
            column,
        )
        assert data == "1"
        await uninstall(conn, [name], HASTY, lambda _: None)
        assert await captured(owner) == []
    finally:
        await owner.execute(f"drop table {name}")


@given(st.text(max_size=60))
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_text_is_a_table_or_refused_in_one_sentence(conn: Session, text: str) -> None:
    try:
        found: Sequence[object] = await resolve(conn, [text])
    except InstallError:
        found = []

    assert len(found) <= 1
    assert not conn.is_in_transaction()


async def test_install_without_a_table_captures_what_has_taken_a_captured_name(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["users", "orders"], HASTY, said.append, actions=["INSERT"])
    await owner.execute("drop table orders; create table orders (id int primary key)")
    await owner.execute("alter table users rename to old_users; create table users (id int)")

    await install(conn, [], HASTY, said.append)
    await owner.execute("insert into users values (1); insert into orders values (1)")

    assert said[-2:] == [
        "public.orders: captured",
        "public.users: captured; public.old_users, which bore its name, stays captured",
    ]
    assert await captured(owner) == ["public.old_users", "public.orders", "public.users"]
    assert await events(owner) == [("public", "users", "INSERT"), ("public", "orders", "INSERT")]


async def test_uninstall_of_a_name_that_was_captured_twice_stops_it(
    conn: Session, owner: Session, said: list[str]
) -> None:
    await install(conn, ["orders"], HASTY, said.append)
    await owner.execute("drop table orders; create table orders (id int primary key)")
    await install(conn, ["orders"], HASTY, said.append)
    await uninstall(conn, ["orders"], HASTY, said.append)
    await owner.execute("insert into orders values (1)")

    assert said[-2:] == ["public.orders: captured", "public.orders: no longer captured"]
    assert await captured(owner) == []
    assert await events(owner) == []
