"""The schema is brought up to date by any number of installs, and by the printed script alike."""

from __future__ import annotations

import asyncio
import subprocess

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgoutbox import __version__
from pgoutbox.config.settings import DatabaseConfig, InstallConfig
from pgoutbox.database import connection as db
from pgoutbox.database import schema
from pgoutbox.database.install import install
from pgoutbox.database.print_sql import print_sql, print_tables, quoted
from pgoutbox.database.schema import literal
from pgoutbox.demo.postgres import postgres_installation
from pgoutbox.errors import SchemaError
from tests.integration.test_copies import drain, sent
from tests.support.cluster import WRITER, Cluster, Database
from tests.support.commands import clean_environment, pgoutbox
from tests.support.streams import Stream

CATALOGS = {
    "relations": """
        select n.nspname, c.relname, c.relkind, c.reloptions, c.relacl::text,
            obj_description(c.oid, 'pg_class'), pg_get_partition_constraintdef(c.oid),
            case c.relkind when 'v' then pg_get_viewdef(c.oid)
                when 'i' then pg_get_indexdef(c.oid) end
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')""",
    "sequences": """
        select sequencename, start_value, increment_by, cycle, cache_size, data_type::text
        from pg_sequences where schemaname = 'pgoutbox'""",
    "columns": """
        select a.attrelid::regclass::text, a.attnum, a.attname, a.atttypid::regtype::text,
            a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid),
            col_description(a.attrelid, a.attnum)
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid and c.relnamespace = 'pgoutbox'::regnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attnum > 0""",
    # Capture functions know their table, and its shape, by OIDs.
    "functions": r"""
        select p.oid::regprocedure::text, regexp_replace(
            pg_get_functiondef(p.oid), '''(\d+''::pg_catalog.(oid|regclass)|[0-9a-f]{32}'')',
            'N', 'g'), p.proacl::text
        from pg_proc p where p.pronamespace = 'pgoutbox'::regnamespace""",
    "triggers": """
        select t.tgrelid::regclass::text, t.tgenabled, t.tgisinternal, pg_get_triggerdef(t.oid)
        from pg_trigger t""",
    "constraints": """
        select c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid)
        from pg_constraint c where c.connamespace = 'pgoutbox'::regnamespace""",
    "schema": """
        select nspname, nspacl::text, obj_description(oid, 'pg_namespace')
        from pg_namespace where nspname = 'pgoutbox'""",
    "migrations": "select number, name, breaking from pgoutbox.migration",
    "version": "select functions_version from pgoutbox.installation",
    "captured tables": """
        select relation::text, number, schema_name, table_name, actions, old_values,
            (shape::jsonb - 'oid')::text
        from pgoutbox.captured_table""",
}


async def catalogs(conn: asyncpg.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return all that an install makes, as text that two databases can be compared by."""
    return {
        name: sorted((tuple(row) for row in await conn.fetch(query)), key=repr)
        for name, query in CATALOGS.items()
    }


def psql(dsn: str, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Apply a script as its header says."""
    program = postgres_installation() / "bin" / "psql"
    return subprocess.run(
        [program, dsn, "-v", "ON_ERROR_STOP=1", "-X", "-q", *options],
        input=script,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def make_tables(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute(
        """
        create table users (id int primary key, name text, born date);
        create schema billing;
        create table billing."Odd Name" ("x y" int, z money) partition by list ("x y");
        create table billing.one partition of billing."Odd Name" for values in (1);
        """
    )
    return owner


async def test_the_printed_script_makes_what_install_makes(
    cluster: Cluster, empty_database: Database
) -> None:
    tables = ("users", 'billing."Odd Name"')
    other = await cluster.create_database(installed=False)
    installed, printed = await make_tables(empty_database), await make_tables(other)
    settings = InstallConfig(old_values="identity")
    actions = ("INSERT", "DELETE")
    async with db.session(DatabaseConfig(dsn=empty_database.dsn), purpose="test") as conn:
        await install(conn, tables, settings, print, actions=actions, grants={"relay": [WRITER]})

    script = print_sql(dict.fromkeys(tables, actions), "identity", {"relay": [WRITER]})
    applied = psql(other.dsn, script)

    assert (applied.returncode, applied.stdout, applied.stderr) == (0, "", "")
    expected, found = await catalogs(installed), await catalogs(printed)
    await cluster.drop_database(other)
    for name in CATALOGS:
        assert expected[name] == found[name], name


async def test_the_printed_script_can_be_applied_again(database: Database) -> None:
    owner = await make_tables(database)
    script = print_sql({"users": ("INSERT",)})
    await owner.execute("select pgoutbox.capture_table('users', '{INSERT}')")
    before = await catalogs(owner)

    applied = psql(database.dsn, script)

    assert (applied.returncode, applied.stderr) == (0, "")
    assert before == await catalogs(owner)


async def test_the_printed_script_finds_tables_by_the_search_path_of_who_applies_it(
    database: Database,
) -> None:
    owner = await make_tables(database)
    await owner.execute(f"alter database {database.name} set search_path = billing, pg_catalog")

    applied = psql(database.dsn, print_sql({'"Odd Name"': ("INSERT",)}))

    assert applied.returncode == 0, applied.stderr
    captured = await owner.fetchval("select table_name from pgoutbox.captured_table")
    assert captured == "Odd Name"


async def test_the_printed_script_does_nothing_where_a_table_is_missing(
    empty_database: Database,
) -> None:
    applied = psql(empty_database.dsn, print_sql({"nope": ("INSERT",)}))

    assert 'relation "nope" does not exist' in applied.stderr
    owner = await empty_database.connect()
    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None


@pytest.mark.parametrize(
    "change",
    [
        "update pgoutbox.installation set functions_version = '0.10.0+abc'",
        "insert into pgoutbox.migration (number, name) values (99, '0099_later')",
    ],
)
async def test_the_printed_script_refuses_a_newer_schema(database: Database, change: str) -> None:
    owner = await make_tables(database)
    await owner.execute(change)
    before = await catalogs(owner)

    applied = psql(database.dsn, print_sql({"users": None}))

    assert applied.returncode == 3
    assert "is newer than this script (0.1.0)" in applied.stderr
    assert await catalogs(owner) == before


@pytest.mark.parametrize("options", [(), ("-1",)])
async def test_the_printed_script_is_applied_in_whole_or_not_at_all(
    empty_database: Database, options: tuple[str, ...]
) -> None:
    """Also by what runs each statement by itself, or goes on after an error."""
    owner = await make_tables(empty_database)
    failed = psql(empty_database.dsn, print_sql({"users": None, "nope": None}), "-v",
                  "ON_ERROR_STOP=0", *options)  # fmt: skip
    assert 'relation "nope" does not exist' in failed.stderr
    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None

    applied = psql(empty_database.dsn, print_sql({"users": None}), *options)

    assert (applied.returncode, applied.stderr) == (0, "")
    assert await owner.fetchval("select relation from pgoutbox.captured_table") is not None


async def test_the_printed_script_is_one_statement_of_any_driver(empty_database: Database) -> None:
    owner = await make_tables(empty_database)
    await owner.execute("set standard_conforming_strings = off; set escape_string_warning = off")

    await owner.fetch(print_sql({"users": None}))  # prepared, so one statement

    assert await owner.fetchval("select relation from pgoutbox.captured_table") is not None


SETTINGS = {
    "search_path": "billing, public",
    "lock_timeout": "'7s'",
    "client_min_messages": "debug1",
    "check_function_bodies": "on",
    "standard_conforming_strings": "off",
}


@pytest.mark.parametrize("installed", [False, True])
async def test_the_printed_script_leaves_no_setting_behind(
    empty_database: Database, installed: bool
) -> None:
    owner = await make_tables(empty_database)
    for name, value in SETTINGS.items():
        await owner.execute(f"set {name} = {value}")
    script = print_sql({"public.users": None})
    if installed:
        await owner.execute(script)
    shown = "select name, setting from pg_settings where name not like 'plpgsql.%'"
    before = await owner.fetch(shown)

    async with owner.transaction():
        await owner.execute(script)
        assert await owner.fetch(shown) == before
    assert await owner.fetch(shown) == before


async def test_the_printed_script_waits_for_a_lock_as_long_as_it_is_told(
    database: Database,
) -> None:
    owner = await make_tables(database)
    writer = await database.connect()
    script = pgoutbox("install", "--print-sql", "--table", "users", "--lock-timeout", "50ms").stdout

    async with writer.transaction():
        await writer.execute("insert into users values (1)")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await owner.execute(script)


async def test_the_short_script_captures_where_there_is_a_schema(
    cluster: Cluster, database: Database, empty_database: Database
) -> None:
    lines = pgoutbox(
        "install", "--print-sql", "--tables-only", "--table", "users", "--actions", "insert",
        "--table", 'billing."Odd Name"',
    ).stdout  # fmt: skip
    assert "$" not in lines
    assert len(lines.splitlines()) == lines.count(";\n") == 2
    for target in (database, empty_database):
        owner = await make_tables(target)
        for line in lines.splitlines():
            await owner.fetch(line)

    captured = await (await database.connect()).fetch(
        "select table_name, actions from pgoutbox.captured_table order by 1"
    )
    assert [tuple(row) for row in captured] == [("Odd Name", ["INSERT"]), ("users", ["INSERT"])]
    assert await owner.fetchval("select to_regnamespace('pgoutbox')") is None


async def test_the_short_script_refuses_an_older_schema(database: Database) -> None:
    owner = await make_tables(database)
    await owner.execute("update pgoutbox.installation set functions_version = '0.0.9+abc'")
    with pytest.raises(asyncpg.RaiseError, match=r"\(0\.0\.9\) is older than pgoutbox 0\.1\.0"):
        await owner.execute(print_tables({"users": None}))


async def test_the_short_script_captures_the_tables_of_a_filter(database: Database) -> None:
    owner = await make_tables(database)
    await owner.execute("create table billing.users (id int)")

    await owner.execute(print_tables({}, "identity", filtered={"users": ("INSERT",)}))

    captured = await owner.fetch("select schema_name, old_values from pgoutbox.captured_table")
    assert sorted(tuple(row) for row in captured) == [
        ("billing", "identity"),
        ("public", "identity"),
    ]


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15
) | st.sampled_from(
    ["$do$; drop table users; $do$", "'; drop table users; --", "\\", ":x", "a'b\\", "\\q", "x\ny"]
)


@given(NAMES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_name_in_the_printed_script_is_ever_read_as_sql(
    database: Database, name: str
) -> None:
    owner = await database.connect()
    await owner.execute(f"create table {quoted(name)} (id int)")
    try:
        tables = {quoted(name): ("INSERT",)}
        filtered = {name: ("INSERT",)}
        short = print_tables(tables) + print_tables({}, filtered=filtered)
        for script in (print_sql(tables, filtered=filtered), short):
            await owner.execute("delete from pgoutbox.captured_table")
            applied = psql(database.dsn, script)
            assert (applied.returncode, applied.stderr) == (0, "")
            captured = await owner.fetch("select table_name from pgoutbox.captured_table")
            assert [row[0] for row in captured] == [name]
    finally:
        await owner.execute(f"drop table {quoted(name)}; delete from pgoutbox.captured_table")
        await owner.close()


async def test_the_printed_script_captures_the_tables_of_the_filter(database: Database) -> None:
    owner = await make_tables(database)
    await owner.execute("create table billing.users (id int)")

    applied = psql(database.dsn, print_sql({}, filtered={"users": ("INSERT",), "no": ()}))

    assert (applied.returncode, applied.stderr) == (0, "")
    rows = await owner.fetch("select schema_name from pgoutbox.captured_table order by 1")
    assert [row[0] for row in rows] == ["billing", "public"]


async def test_apply_is_idempotent(empty_database: Database) -> None:
    owner = await empty_database.connect()

    assert await schema.apply(owner)
    before = await catalogs(owner)

    assert not await schema.apply(owner)
    assert before == await catalogs(owner)


async def test_twenty_concurrent_installs_agree(empty_database: Database) -> None:
    sessions = [await empty_database.connect() for _ in range(20)]
    for session in sessions:
        # A session remembers which schemas there are not, and waiting for a lock doesn't end that.
        assert (await schema.state(session)).functions_version is None
        assert await session.fetchval("select to_regclass('pgoutbox.event')") is None

    changed = await asyncio.gather(*(schema.apply(session) for session in sessions))

    assert sum(changed) == 1
    numbers = await sessions[0].fetch("select number from pgoutbox.migration order by number")
    assert [m.number for m in schema.migrations()] == [row["number"] for row in numbers]
    assert await schema.check(sessions[0]) is None


async def test_functions_are_closed_to_the_public(database: Database) -> None:
    owner = await database.connect()

    open_functions = await owner.fetch(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'pgoutbox'::regnamespace"
        " and (proacl is null or exists ("
        "  select from aclexplode(proacl) a where a.grantee = 0))"
    )

    assert open_functions == []


async def test_an_upgrade_replaces_functions_refreshes_tables_and_keeps_rights(
    database: Database,
) -> None:
    """Also those that relays' roles need on functions that are new."""
    owner = await make_tables(database)
    await owner.execute("select pgoutbox.capture_table('users')")
    await owner.execute("select pgoutbox.grant_relay($1::text::regrole)", WRITER)
    before = await catalogs(owner)
    await owner.execute(
        """
        update pgoutbox.installation set functions_version = '0.0.1+older';
        revoke all on function pgoutbox.backlog(text) from app_writer;
        create or replace function pgoutbox.slot(began timestamptz) returns smallint
            language sql immutable as 'select 7';
        create or replace function pgoutbox.capture_1() returns trigger
            language plpgsql security definer as 'begin return null; end';
        """
    )
    assert before != await catalogs(owner)

    assert await schema.apply(owner)

    assert before == await catalogs(owner)


async def test_an_upgrade_leaves_a_dropped_table_alone(database: Database) -> None:
    owner = await make_tables(database)
    await owner.execute("select pgoutbox.capture_table('users'); drop table users")
    await owner.execute("update pgoutbox.installation set functions_version = '0.0.1+older'")

    assert await schema.apply(owner)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[schema.Migration]:
    """Migrations of a later release, in addition to ours."""
    added: list[schema.Migration] = []
    ours = schema.migrations()
    monkeypatch.setattr(schema, "migrations", lambda: (*ours, *added))
    return added


async def test_a_later_migration_is_applied_once(
    database: Database, later: list[schema.Migration]
) -> None:
    sessions = [await database.connect() for _ in range(5)]
    later.append(schema.Migration(9001, "9001_later", "create table pgoutbox.later (x int);"))

    changed = await asyncio.gather(*(schema.apply(session) for session in sessions))

    assert sum(changed) == 1
    assert await sessions[0].fetch("select x from pgoutbox.later") == []


async def test_a_migration_that_fails_leaves_nothing(
    database: Database, later: list[schema.Migration]
) -> None:
    owner = await database.connect()
    later.append(schema.Migration(9001, "9001_a", "create table pgoutbox.a (x int);"))
    later.append(schema.Migration(9002, "9002_b", "select 1 / 0;"))
    before = await catalogs(owner)

    with pytest.raises(asyncpg.DivisionByZeroError):
        await schema.apply(owner)

    assert before == await catalogs(owner)


async def test_the_printed_script_has_later_migrations_too(
    database: Database, later: list[schema.Migration]
) -> None:
    owner = await database.connect()
    later.append(
        schema.Migration(9001, "9001_x", "-- breaking: it's new\ncreate table pgoutbox.x (x int);")
    )
    script = print_sql({})

    for _ in range(2):
        applied = psql(database.dsn, script)
        assert (applied.returncode, applied.stderr) == (0, "")

    breaking = await owner.fetchval("select breaking from pgoutbox.migration where number = 9001")
    assert breaking == "it's new"


async def test_check_names_the_command_where_the_schema_is_missing(
    empty_database: Database,
) -> None:
    with pytest.raises(SchemaError, match="isn't installed") as caught:
        await schema.check(await empty_database.connect())

    assert "pgoutbox install" in str(caught.value.hint)


async def test_check_names_the_command_where_a_migration_is_missing(
    database: Database, later: list[schema.Migration]
) -> None:
    later.append(schema.Migration(9001, "9001_later", ""))

    with pytest.raises(SchemaError, match="older than this relay") as caught:
        await schema.check(await database.connect())

    assert "pgoutbox install" in str(caught.value.hint)


async def test_check_names_the_command_where_functions_are_older(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("update pgoutbox.installation set functions_version = '0.0.9+abc'")

    with pytest.raises(SchemaError, match=r"schema pgoutbox \(0\.0\.9\) is older") as caught:
        await schema.check(owner)

    assert "pgoutbox install" in str(caught.value.hint)


async def test_a_relay_goes_on_with_a_newer_schema_and_says_so(
    database: Database, stream: Stream
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int); select pgoutbox.capture_table('t')")
    await owner.execute("insert into t values (1)")
    await owner.execute("insert into t values (2)")
    await owner.execute("insert into pgoutbox.migration (number, name) values (9001, 'later')")
    await owner.execute("update pgoutbox.installation set functions_version = '99.0.0+abc'")

    note = await schema.check(owner)

    assert note == "the schema pgoutbox (99.0.0) is newer than this relay"
    with pytest.raises(SchemaError, match="newer than this pgoutbox"):
        await schema.apply(owner)
    drained = drain(database, stream)
    assert (drained.returncode, drained.stderr.count("newer than this relay")) == (0, 1)
    assert [row["id"] for _, _, row in await sent(stream)] == [1, 2]


async def test_a_relay_stops_at_a_breaking_migration_that_it_doesnt_know(
    database: Database, stream: Stream
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int); select pgoutbox.capture_table('t')")
    await owner.execute("insert into t values (1)")
    await owner.execute(
        "insert into pgoutbox.migration (number, name, breaking) values (9001, 'later', 'no xid');"
        "update pgoutbox.installation set functions_version = '99.0.0+abc'"
    )

    with pytest.raises(SchemaError, match="no xid") as caught:
        await schema.check(owner)

    assert caught.value.hint == "Upgrade pgoutbox to 99.0.0 or later."
    refused = drain(database, stream)
    assert (refused.returncode, "no xid" in refused.stderr) == (3, True)
    assert await stream.count() == 0
    assert await owner.fetchval("select count(*) from pgoutbox.event") == 1


async def test_the_relays_role_may_check(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("select pgoutbox.grant_relay($1::text::regrole)", WRITER)

    assert await schema.check(await database.connect(WRITER)) is None


def test_migrations_are_numbered_without_holes() -> None:
    numbers = [migration.number for migration in schema.migrations()]

    assert list(range(1, len(numbers) + 1)) == numbers


def test_the_version_names_the_release() -> None:
    assert schema.functions_version().startswith(f"{__version__}+")


@pytest.mark.parametrize(
    ("first_line", "breaking"),
    [("-- breaking: because\n", "because"), ("-- More.\n-- breaking: no\n", None), ("", None)],
)
def test_the_first_line_says_whether_a_migration_breaks(
    first_line: str, breaking: str | None
) -> None:
    assert breaking == schema.Migration(2, "0002_x", first_line + "select 1;").breaking


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_literals_are_safe_under_every_setting(database: Database, text: str) -> None:
    conn = await database.connect(standard_conforming_strings="off")
    try:
        assert text == await conn.fetchval(f"select {literal(text)}")
        await conn.execute("set standard_conforming_strings = on")
        assert text == await conn.fetchval(f"select {literal(text)}")
    finally:
        await conn.close()
