"""Tables that are chosen by patterns, and those that match later."""

from __future__ import annotations

import json

import asyncpg
import pytest

from pgoutbox.database import print_sql
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """The owner of tables in several schemas."""
    owner = await database.connect()
    await owner.execute(
        """
        create schema tenant_1; create schema tenant_2; create schema billing;
        create table tenant_1.orders (id int); create table tenant_2.orders (id int);
        create table tenant_1.notes (id int);
        create table billing.invoices (id int); create table billing.invoices_old (id int);
        create table billing."Odd*" (id int);
        create table users (id int);
        create table days (day int) partition by list (day);
        create table day_1 partition of days for values in (1);
        create view names as select 1 as x;
        create temporary table fleeting (id int);
        """
    )
    return owner


async def captured(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch("select relation::text as name from pgoutbox.captured_table order by 1")
    return [row["name"] for row in rows]


ALL = [
    'billing."Odd*"',
    "billing.invoices",
    "billing.invoices_old",
    "days",
    "tenant_1.notes",
    "tenant_1.orders",
    "tenant_2.orders",
    "users",
]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--table", "tenant_*.orders"], ["tenant_1.orders", "tenant_2.orders"]),
        (
            ["--table", "tenant_?.*", "--except-table", "notes"],
            ["tenant_1.orders", "tenant_2.orders"],
        ),
        (["--table", "u*"], ["users"]),
        (["--table", "day*"], ["days"]),
        (["--schema", "billing"], ['billing."Odd*"', "billing.invoices", "billing.invoices_old"]),
        (
            ["--schema", "bill*", "--except-table", "*_old", "--except-table", 'billing."Odd*"'],
            ["billing.invoices"],
        ),
        (["--table", 'billing."Odd*"'], ['billing."Odd*"']),
        (["--all-tables"], ALL),
        (
            ["--all-tables", "--except-table", "days", "--except-table", "tenant_*.*"],
            [*ALL[:3], "users"],
        ),
    ],
)
async def test_patterns_choose_tables(
    database: Database, owner: asyncpg.Connection, flags: list[str], names: list[str]
) -> None:
    done = pgoutbox("install", *flags, "--dsn", database.dsn)

    assert done.returncode == 0, done.stderr
    assert await captured(owner) == names


async def test_the_printed_script_chooses_the_same(
    database: Database, owner: asyncpg.Connection
) -> None:
    flags = ("--table", "tenant_*.orders", "--table", "u*", "--except-table", "tenant_2.*")
    await owner.execute(pgoutbox("install", "--print-sql", *flags, "--actions", "insert").stdout)
    await owner.execute("create schema tenant_3; create table tenant_3.orders (id int)")
    short = pgoutbox("install", "--print-sql", "--tables-only", *flags).stdout
    for line in short.splitlines():
        await owner.execute(line)

    assert await captured(owner) == ["tenant_1.orders", "tenant_3.orders", "users"]
    kept = await owner.fetch("select pattern, actions from pgoutbox.captured_pattern order by 1")
    assert [tuple(row) for row in kept] == [
        ("public.u*", ["INSERT"]),
        ("tenant_*.orders", ["INSERT"]),
    ]

    for line in pgoutbox("uninstall", "--print-sql", "--table", "tenant_*.orders",
                         "--table", "users").stdout.splitlines():  # fmt: skip
        await owner.execute(line)
    assert await captured(owner) == []
    assert await owner.fetchval("select count(*) from pgoutbox.captured_pattern") == 1


async def test_later_tables_are_captured_by_install_and_shown_until_then(
    database: Database, owner: asyncpg.Connection
) -> None:
    dsn = ("--dsn", database.dsn)
    pgoutbox("install", "--table", "tenant_*.orders", "--old-values", "identity", *dsn)
    await owner.execute("create schema tenant_3; create table tenant_3.orders (id int)")

    status = pgoutbox("status", "--check", *dsn)
    again = pgoutbox("install", *dsn)
    quiet = pgoutbox("install", *dsn)

    said = "tenant_3.orders matches tenant_*.orders, and isn't captured; run: pgoutbox install"
    assert (status.returncode, said in status.stdout) == (7, True), status.stdout
    assert "patterns tenant_*.orders" in status.stdout
    said = "tenant_3.orders: captured in a schema that is new and matches tenant_*.orders"
    assert said in again.stderr
    assert said not in quiet.stderr
    old_values = await owner.fetch("select distinct old_values from pgoutbox.captured_table")
    assert [row["old_values"] for row in old_values] == ["identity"]
    status = json.loads(pgoutbox("status", "--json", *dsn).stdout)
    assert (status["patterns"], status["uncaptured"]) == (["tenant_*.orders"], [])


@pytest.mark.long
async def test_a_relay_that_installs_captures_later_tables(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    dsn = ("--dsn", database.dsn)
    pgoutbox("install", "--all-tables", *dsn)
    await owner.execute("create table late (id int)")
    relay = await daemon(
        "relay", "--install", *dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    await relay.line("public.late: captured")
    await relay.line("connected to NATS")
    await owner.execute("create schema newer; create table newer.things (id int)")

    line = await relay.line("newer.things: captured in a schema that is new", timeout=60)

    assert " WARN " in line
    assert {"late", "newer.things"} <= set(await captured(owner))


async def test_what_is_released_by_name_isnt_captured_again(
    database: Database, owner: asyncpg.Connection
) -> None:
    dsn = ("--dsn", database.dsn)
    pgoutbox("install", "--all-tables", *dsn)

    released = pgoutbox("uninstall", "--table", "users", *dsn)
    pgoutbox("install", *dsn)
    assert "public.users: left out of *.* from now on" in released.stderr
    assert "users" not in await captured(owner)

    released = pgoutbox("uninstall", "--schema", "billing", *dsn)
    assert released.returncode == 0, released.stderr
    assert not any("billing" in name for name in await captured(owner))
    unknown = pgoutbox("uninstall", "--table", "nope*", *dsn)
    assert unknown.returncode == 6
    assert "nope* isn't kept, and no captured table matches it" in unknown.stderr
    pgoutbox("uninstall", "--all-tables", *dsn)
    assert await captured(owner) == []


async def test_tables_of_others_are_left_out_and_named(
    database: Database, owner: asyncpg.Connection
) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute(
        f"create table theirs (id int); alter table theirs owner to {WRITER};"
        "create table postgis_like (id int); alter table postgis_like owner to app_owner;"
        "insert into pg_depend values ('pg_class'::regclass, 'postgis_like'::regclass, 0,"
        " 'pg_extension'::regclass, (select oid from pg_extension limit 1), 0, 'e')"
    )

    done = pgoutbox("install", "--all-tables", "--dsn", database.dsn)
    check = pgoutbox("status", "--check", "--dsn", database.dsn)

    assert done.returncode == 0, done.stderr
    assert "left out, since others own them: public.theirs; their owners can" in done.stderr
    assert await captured(owner) == ALL
    assert check.returncode == 0, check.stdout


async def test_uninstall_all_can_be_printed(database: Database, owner: asyncpg.Connection) -> None:
    pgoutbox("install", "--schema", "billing", "--dsn", database.dsn)
    await owner.execute("insert into billing.invoices values (1)")
    flags = ("uninstall", "--all", "--print-sql")

    with pytest.raises(asyncpg.RaiseError, match="events are unsent or parked"):
        await owner.execute(pgoutbox(*flags).stdout)
    await owner.execute(pgoutbox(*flags, "--drop-unsent").stdout)
    await owner.execute(print_sql.print_uninstall_all())  # of nothing

    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None
    assert await owner.fetchval("select count(*) from pg_trigger where not tgisinternal") == 0


async def test_forgetting_a_relay_can_be_printed(
    database: Database, owner: asyncpg.Connection
) -> None:
    names = ("it's retired", "led")
    script = {name: pgoutbox("uninstall", "--relay", name, "--print-sql").stdout for name in names}
    await owner.execute(script["led"])  # of nothing
    pgoutbox("install", "--dsn", database.dsn)
    await owner.execute(
        "insert into pgoutbox.progress (relay) values ('it''s retired');"
        "insert into pgoutbox.largest_message values ('it''s retired', 's', 1)"
    )
    relay = await database.connect()
    await relay.execute("select pgoutbox.lead('led')")

    await owner.execute(script["it's retired"])
    with pytest.raises(asyncpg.ObjectInUseError, match="relay led is running"):
        await owner.execute(script["led"])

    left = await owner.fetch("select relay from pgoutbox.progress")
    assert [row["relay"] for row in left] == ["led"]
    assert await owner.fetchval("select count(*) from pgoutbox.largest_message") == 0


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["install", "--table", "a.b.c*"], 2, "'a.b.c*' must be a table, or a schema"),
        (["install", "--schema", "a.b"], 2, "'a.b' must be a schema"),
        (["install", "--except-table", "x"], 2, "--except-table goes with a pattern"),
        (["uninstall"], 2, "Give one of --relay and --all, or tables"),
    ],
)
def test_what_is_wrong_is_one_sentence(flags: list[str], code: int, said: str) -> None:
    done = pgoutbox(*flags)

    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
