"""Whose schema pgoutbox it is, and what each role may do in it."""

from __future__ import annotations

import json

import asyncpg
import pytest

from pgoutbox.database import schema
from tests.support.cluster import ADMIN, OWNER, WRITER, Cluster, Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import unique

TENANT = "app_tenant"  # may own tables and schemas, but not the database

# What others than its owner may do with each object of the schema.
RIGHTS = """
select o.name, a.grantee::regrole::text as role, a.privilege_type as privilege
from (
    select 'schema' as name, nspacl as acl, nspowner as owner from pg_namespace
    where nspname = 'pgoutbox'
    union all select oid::regclass::text, relacl, relowner from pg_class
    where relnamespace = 'pgoutbox'::regnamespace
    union all select a.attrelid::regclass || '.' || a.attname, a.attacl, c.relowner
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'pgoutbox'::regnamespace
    union all select oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)), proowner
    from pg_proc where pronamespace = 'pgoutbox'::regnamespace
    union all select oid::regtype::text, typacl, typowner from pg_type
    where typnamespace = 'pgoutbox'::regnamespace
) o, aclexplode(o.acl) a where a.grantee <> o.owner
"""


@pytest.fixture
async def tenant(cluster: Cluster) -> str:
    """A role that owns something in a database of another's."""
    await cluster.add_role(TENANT)
    return TENANT


async def rights(conn: asyncpg.Connection) -> set[tuple[str, str, str]]:
    return {(row["name"], row["role"], row["privilege"]) for row in await conn.fetch(RIGHTS)}


async def test_default_privileges_open_nothing_to_others(empty_database: Database) -> None:
    owner = await empty_database.connect()
    for kind in ("tables", "sequences", "functions", "types", "schemas"):
        await owner.execute(f"alter default privileges grant all on {kind} to {WRITER}, public")

    await schema.apply(owner)
    await owner.execute("create table t (id int); select pgoutbox.capture_table('t')")
    await owner.execute("grant select on pgoutbox.outbox to app_writer")
    await owner.execute("update pgoutbox.installation set functions_version = '0.0.1+old'")
    await owner.execute("drop function pgoutbox.outbox_bytes()")
    await owner.execute("alter table t add x int")
    await schema.apply(owner)

    assert {
        (name, role, privilege)
        for name, role, privilege in await rights(owner)
        # Everybody may name a type, as everywhere; nothing follows from that.
        if (role, privilege) != ("-", "USAGE") or name in ("schema",)
    } == {("pgoutbox.outbox", WRITER, "SELECT")}, "what was granted on purpose stays"


PLANTED = """
create sequence ran;
create schema pgoutbox;
create function pgoutbox.strike() returns integer language plpgsql as $$
begin
    perform set_config('role', 'none', false);
    perform nextval('public.ran');
    execute 'alter role app_tenant superuser';
    return 1;
end $$;
create view pgoutbox.migration as select pgoutbox.strike() as number, null::text as breaking;
create view pgoutbox.installation as
    select pgoutbox.strike()::text as functions_version, null::uuid as id;
grant usage on schema pgoutbox to public;
grant all on all tables in schema pgoutbox to public;
"""


@pytest.fixture
async def planted(empty_database: Database, tenant: str) -> asyncpg.Connection:
    """A schema that somebody made who may create schemas, to have others run what is in it."""
    admin = await empty_database.connect(ADMIN)
    await admin.execute(
        f"grant create on database {empty_database.name} to {tenant};"
        f"grant create on schema public to {tenant}"
    )
    planter = await empty_database.connect(tenant)
    await planter.execute(PLANTED)
    return admin


@pytest.mark.parametrize("role", [ADMIN, OWNER])
async def test_a_planted_schema_is_never_read(
    empty_database: Database, planted: asyncpg.Connection, role: str
) -> None:
    """Not by a superuser, nor by those who have something to lose."""
    dsn = ("--dsn", empty_database.dsn_as(role))
    await planted.execute("create table t (id int)")
    for command in (
        ("status",),
        ("install", "--table", "t"),
        ("uninstall", "--table", "t"),
        ("uninstall", "--all", "--drop-unsent"),
        ("relay", "--drain"),
    ):
        done = pgoutbox(*command, *dsn)
        assert done.returncode == 3, done.stderr
        assert "schema pgoutbox belongs to role app_tenant, which is neither" in done.stderr
        assert "run this with --schema-owner app_tenant" in done.stderr
    script = pgoutbox("install", "--print-sql", "--table", "t").stdout
    with pytest.raises(asyncpg.RaiseError, match="belongs to role app_tenant"):
        await (await empty_database.connect(role)).execute(script)

    assert not await planted.fetchval("select is_called from ran")
    assert not await planted.fetchval("select rolsuper from pg_roles where rolname = 'app_tenant'")


async def test_a_role_trusts_an_owner_that_is_its_member(
    empty_database: Database, tenant: str, cluster: Cluster, stream: Stream
) -> None:
    """Such an owner can do all that the role can. The remedies that are printed are tried."""
    relay = unique("app_relay_")
    await cluster.add_role(relay)
    admin = await empty_database.connect(ADMIN)
    await admin.execute(f"create schema pgoutbox authorization {tenant}")
    owner = ("--dsn", empty_database.dsn_as(tenant))
    where = ("--dsn", empty_database.dsn_as(relay), "--nats-url", stream.url)
    drain = ("relay", "--drain", *where, "--topic", stream.topic)
    try:
        granted = pgoutbox("install", "--grant-relay", relay, *owner)
        assert f"{relay}: may run the relay, with --schema-owner {tenant}\n" in granted.stderr
        refused = pgoutbox(*drain)
        remedies = f"--schema-owner {tenant}; or have an administrator run, once: grant {relay} to"
        assert (refused.returncode, remedies in refused.stderr) == (3, True), refused.stderr
        assert pgoutbox(*drain, "--schema-owner", tenant).returncode == 0

        await admin.execute(f"grant {relay} to {tenant}")
        trusted = pgoutbox(*drain)
        assert trusted.returncode == 0, trusted.stderr
        again = pgoutbox("install", "--grant-relay", relay, *owner)
        assert f"{relay}: may run the relay\n" in again.stderr
    finally:
        await admin.execute(f"drop owned by {relay}; drop role {relay}")


@pytest.mark.parametrize(
    ("planted_by_tenant", "said"),
    [
        (
            "create function pgoutbox.lead(text, out integer) language sql as 'select 1'",
            "function pgoutbox.lead(text) belongs to role app_tenant",
        ),
        ("create domain pgoutbox.text as pg_catalog.text", "type pgoutbox.text belongs to"),
        (
            "create function public.strike() returns trigger language plpgsql as 'begin end';"
            "create trigger strike before insert on pgoutbox.progress"
            " for each row execute function public.strike()",
            "trigger strike on table pgoutbox.progress belongs to role app_tenant",
        ),
        ("select", "role app_tenant may create objects in schema pgoutbox"),
    ],
)
async def test_what_others_put_into_the_schema_is_never_called(
    database: Database, tenant: str, planted_by_tenant: str, said: str
) -> None:
    owner = await database.connect()
    await owner.execute("drop function pgoutbox.lead(text)")
    await owner.execute(
        f"grant usage, create on schema pgoutbox to {tenant};"
        f"grant trigger on pgoutbox.progress to {tenant}; grant create on schema public to {tenant}"
    )
    await (await database.connect(tenant)).execute(planted_by_tenant)

    for role in (ADMIN, OWNER):
        done = pgoutbox("status", "--dsn", database.dsn_as(role))
        assert (done.returncode, said in done.stderr) == (3, True), done.stderr


async def test_install_takes_the_right_to_create_objects_away(
    database: Database, tenant: str
) -> None:
    owner = await database.connect()
    await owner.execute(f"grant create on schema pgoutbox to {tenant}")

    assert pgoutbox("install", "--dsn", database.dsn).returncode == 0

    assert ("schema", tenant, "CREATE") not in await rights(owner)
    assert pgoutbox("status", "--dsn", database.dsn).returncode == 0


async def test_a_superuser_works_as_the_schemas_owner(
    empty_database: Database, tenant: str
) -> None:
    admin = await empty_database.connect(ADMIN)
    await admin.execute(
        f"create schema pgoutbox authorization {tenant};"
        f"create schema theirs authorization {tenant}; create table theirs.t (id int);"
        f"alter table theirs.t owner to {tenant}"
    )
    by_name = ("--schema-owner", tenant)
    dsn = ("--dsn", empty_database.dsn_as(ADMIN))

    installed = pgoutbox("install", "--table", "theirs.t", *dsn, *by_name)
    assert installed.returncode == 0, installed.stderr
    await admin.execute("insert into theirs.t values (1)")
    assert pgoutbox("status", *dsn).returncode == 3
    status = json.loads(pgoutbox("status", "--json", *dsn, *by_name).stdout)

    assert [relay["backlog"] for relay in status["relays"]] == [1]
    script = pgoutbox("install", "--print-sql", "--table", "theirs.t", *by_name).stdout
    await admin.execute(script)
    with pytest.raises(asyncpg.RaiseError, match="belongs to role app_tenant"):
        await admin.execute(pgoutbox("install", "--print-sql").stdout)
    owners = await admin.fetch(
        "select distinct o.rolname from ("
        " select relowner from pg_class where relnamespace = 'pgoutbox'::regnamespace"
        " union select proowner from pg_proc where pronamespace = 'pgoutbox'::regnamespace"
        ") x (owner) join pg_roles o on o.oid = x.owner"
    )
    assert [row["rolname"] for row in owners] == [tenant]


async def test_a_superuser_captures_tables_of_several_owners(
    database: Database, tenant: str, stream: Stream
) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute(
        "create table ours (id int); alter table ours owner to app_owner;"
        f"create table theirs (id int); alter table theirs owner to {tenant}"
    )
    dsn = ("--dsn", database.dsn_as(ADMIN))

    installed = pgoutbox("install", "--table", "ours", "--table", "theirs", *dsn)
    assert installed.returncode == 0, installed.stderr
    await admin.execute("insert into ours values (1); insert into theirs values (2)")
    nats = ("--nats-url", stream.url, "--topic", stream.topic)
    drained = pgoutbox("relay", "--drain", *dsn, *nats)
    assert (drained.returncode, await stream.count()) == (0, 2), drained.stderr
    again = pgoutbox("install", "--table", "theirs", *dsn)
    released = pgoutbox("uninstall", "--table", "theirs", *dsn)

    assert f"role {tenant}: may capture the tables that it owns" in installed.stderr
    assert "public.theirs: already captured" in again.stderr
    assert "public.theirs: no longer captured" in released.stderr
    tables = await admin.fetch("select table_name from pgoutbox.outbox order by position")
    assert [row["table_name"] for row in tables] == ["ours", "theirs"]


async def test_an_empty_schema_of_the_roles_own_is_enough(
    empty_database: Database, tenant: str
) -> None:
    admin = await empty_database.connect(ADMIN)
    await admin.execute(
        f"create schema pgoutbox authorization {tenant}; create table t (id int);"
        f"alter table t owner to {tenant}; grant usage on schema public to {tenant}"
    )
    dsn = ("--dsn", empty_database.dsn_as(tenant))

    assert pgoutbox("status", *dsn).returncode == 3
    assert "isn't installed in this database" in pgoutbox("uninstall", "--all", *dsn).stderr
    installed = pgoutbox("install", "--table", "t", *dsn)
    assert (installed.returncode, "public.t: captured" in installed.stderr) == (0, True)
    assert pgoutbox("status", *dsn).returncode == 0


async def test_an_empty_schema_may_belong_to_whoever_owns_the_database(
    empty_database: Database,
) -> None:
    admin = await empty_database.connect(ADMIN)
    if admin.get_server_version().major < 14:
        pytest.skip("pg_database_owner came with PostgreSQL 14")
    await admin.execute("create schema pgoutbox authorization pg_database_owner")
    await admin.execute("grant usage on schema pgoutbox to app_writer")
    dsn = ("--dsn", empty_database.dsn)

    for _ in range(2):
        installed = pgoutbox("install", *dsn)
        assert installed.returncode == 0, installed.stderr
    assert pgoutbox("status", *dsn).returncode == 0


async def test_an_empty_schema_of_another_is_named_with_what_to_do(
    empty_database: Database,
) -> None:
    admin = await empty_database.connect(ADMIN)
    await admin.execute("create schema pgoutbox")
    dsn = ("--dsn", empty_database.dsn)

    done = pgoutbox("install", *dsn)

    assert done.returncode == 6
    assert "error: the schema pgoutbox can't be installed: permission denied" in done.stderr
    assert f"hint: Run this as role {ADMIN}, which owns the schema pgoutbox." in done.stderr
    assert pgoutbox("status", *dsn).returncode == 3
    assert "isn't installed in this database" in pgoutbox("uninstall", "--all", *dsn).stderr


async def test_a_schema_that_is_somebody_elses_work_is_left_alone(
    empty_database: Database,
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create schema pgoutbox; create table pgoutbox.recipes (id int)")

    for command in (("install",), ("status",), ("uninstall", "--all", "--drop-unsent")):
        done = pgoutbox(*command, "--dsn", empty_database.dsn)
        assert done.returncode == 3
        assert "the schema pgoutbox was not made by pgoutbox" in done.stderr
    assert await owner.fetchval("select to_regclass('pgoutbox.recipes')") is not None


@pytest.fixture
async def capturer(database: Database, tenant: str) -> asyncpg.Connection:
    """A role that may capture its own tables, in a schema of its own."""
    admin = await database.connect(ADMIN)
    await admin.execute(
        f"create schema theirs authorization {tenant}; grant usage on schema theirs to {OWNER};"
        "create table ours (id int); alter table ours owner to app_owner;"
        f"grant all on ours to {tenant}"
    )
    granted = pgoutbox("install", "--grant-capture", tenant, "--dsn", database.dsn)
    assert f"role {tenant}: may capture the tables that it owns" in granted.stderr
    return await database.connect(tenant)


async def test_a_tables_owner_captures_and_releases_it(
    database: Database, capturer: asyncpg.Connection
) -> None:
    owner = await database.connect()
    dsn = ("--dsn", database.dsn_as(TENANT))
    await capturer.execute(
        "create table theirs.t (id int); create table theirs.u (id int);"
        "create table theirs.days (day int) partition by list (day);"
        "create table theirs.day_1 partition of theirs.days for values in (1)"
    )

    installed = pgoutbox("install", "--table", "theirs.t", "--table", "theirs.days", *dsn)
    assert installed.returncode == 0, installed.stderr
    await capturer.execute("select pgoutbox.capture_table('theirs.u')")
    # Partitions that it makes later get the trigger, too.
    await capturer.execute("create table theirs.day_2 partition of theirs.days for values in (2)")
    await capturer.execute("insert into theirs.t values (1); insert into theirs.u values (2)")
    await capturer.execute("insert into theirs.days values (1), (2); truncate theirs.u")
    released = pgoutbox("uninstall", "--table", "theirs.t", *dsn)
    assert await capturer.fetchval("select pgoutbox.release_table('theirs.u')")
    await capturer.execute("insert into theirs.t values (3); insert into theirs.u values (4)")

    assert "theirs.t: no longer captured" in released.stderr
    events = await owner.fetch("select table_name, action from pgoutbox.outbox order by seq")
    assert [tuple(event) for event in events] == [
        ("t", "INSERT"),
        ("u", "INSERT"),
        ("days", "INSERT"),
        ("days", "INSERT"),
        ("u", "TRUNCATE"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "select pgoutbox.capture_table('public.ours')",
        "select pgoutbox.note_capture('public.ours', '{INSERT}', null, false, '{}')",
        "select pgoutbox.release_table('public.ours')",
        "select pgoutbox.note_release('public.ours')",
        "select pgoutbox.except_table('public.ours')",
        "create trigger forge after insert on theirs.t for each row"
        " execute function pgoutbox.capture_1()",
        "select * from pgoutbox.outbox",
        "select * from pgoutbox.event",
        "select * from pgoutbox.parked",
        "update pgoutbox.captured_table set shape = ''",
        "select pgoutbox.grant_capture('app_writer')",
        "select pgoutbox.forget_capture('public.ours')",
        "select pgoutbox.lead('r')",
    ],
)
async def test_who_may_capture_its_tables_can_do_nothing_else(
    database: Database, capturer: asyncpg.Connection, statement: str
) -> None:
    owner = await database.connect()
    await owner.execute("select pgoutbox.capture_table('public.ours')")
    await capturer.execute("create table theirs.t (id int)")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await capturer.execute(statement)


async def test_no_function_of_a_captured_tables_owner_runs_with_other_rights(
    database: Database, capturer: asyncpg.Connection
) -> None:
    """Domains, casts, defaults and generated columns are all that a row's types can have."""
    await capturer.execute(
        """
        create sequence theirs.calls;  -- remembers what is rolled back
        grant all on sequence theirs.calls to public;
        create function theirs.see() returns boolean language plpgsql as $$
        begin
            if current_user <> 'app_tenant' then
                perform nextval('theirs.calls');
                raise 'as %', current_user;
            end if;
            return true;
        end $$;
        create domain theirs.shy as text check (theirs.see());
        create type theirs.mood as enum ('sad');
        create function theirs.as_text(theirs.mood) returns text language sql
            as 'select theirs.see()::text';
        create function theirs.as_json(theirs.mood) returns json language sql
            as 'select to_json(theirs.see())';
        create cast (theirs.mood as text) with function theirs.as_text(theirs.mood) as implicit;
        create cast (theirs.mood as json) with function theirs.as_json(theirs.mood) as implicit;
        create type theirs.pair as (a theirs.shy, b theirs.mood);
        create function theirs.as_pair(text) returns theirs.pair language plpgsql
            as 'begin perform theirs.see(); return null; end';
        create cast (text as theirs.pair) with function theirs.as_pair(text) as assignment;
        create table theirs.t (
            id int, d theirs.shy, m theirs.mood, p theirs.pair, ms theirs.mood[],
            n boolean default theirs.see()
        );
        select pgoutbox.capture_table('theirs.t');
        insert into theirs.t values (1, 'x', 'sad', row('y', 'sad'), '{sad}');
        -- What can't be published is taken out of the row.
        alter table theirs.t alter d set storage external, alter p set storage external;
        insert into theirs.t (id, d, m) values (2, repeat('x', 67108865), 'sad');
        insert into theirs.t (id, m, p) values (3, 'sad', row(repeat('x', 67108865), 'sad'));
        -- So large that the slower function asks for lengths.
        alter table theirs.t add z int;
        update theirs.t set d = repeat('z', 40000) where id = 1;
        create table theirs.u (id int, v text);
        select pgoutbox.capture_table('theirs.u');
        alter table theirs.u alter v type theirs.mood using 'sad';
        insert into theirs.u values (1, 'sad');
        """
    )

    owner = await database.connect()
    rows = await owner.fetch(
        "select data->>'id', left(data->>'d', 15), data->>'m', left(data->>'p', 15), data->>'v'"
        " from pgoutbox.outbox order by position, seq"
    )
    assert [tuple(row) for row in rows] == [
        ("1", "x", "sad", "(y,sad)", None),
        ("2", '{"unrenderable"', "sad", None, None),
        ("3", None, "sad", '{"unrenderable"', None),
        ("1", "z" * 15, "sad", "(y,sad)", None),
        ("1", None, None, None, "sad"),
    ]
    assert not await capturer.fetchval("select is_called from theirs.calls")


async def test_no_cast_runs_for_a_condition_with_other_rights(
    database: Database, capturer: asyncpg.Connection
) -> None:
    """A column gets a type that its condition wasn't checked for: the event is parked."""
    await capturer.execute(
        """
        create sequence theirs.calls;
        grant all on sequence theirs.calls to public;
        create type theirs.mood as enum ('sad');
        create function theirs.as_int(theirs.mood) returns int language plpgsql as
            'begin perform nextval(''theirs.calls''); return 6; end';
        create cast (theirs.mood as int) with function theirs.as_int(theirs.mood) as implicit;
        create table theirs.t (id int primary key, v int);
        select pgoutbox.capture_table('theirs.t', condition => 'v > 5');
        alter table theirs.t alter v type theirs.mood using 'sad';
        insert into theirs.t values (1, 'sad');
        """
    )
    owner = await database.connect()
    assert [row["problem"] for row in await owner.fetch("select * from pgoutbox.mend_drift()")] == [
        "drift"
    ]
    await capturer.execute("insert into theirs.t values (2, 'sad')")

    rows = [row["new_row"] for row in await owner.fetch("select new_row from pgoutbox.event")]
    assert len(rows) == 2
    assert all("the condition on its table raised 42883" in row for row in rows)
    assert not await capturer.fetchval("select is_called from theirs.calls")


async def test_a_table_that_changes_hands_can_be_given_partitions(
    database: Database, capturer: asyncpg.Connection
) -> None:
    admin, owner = await database.connect(ADMIN), await database.connect()
    await owner.execute("create table days (day int) partition by list (day)")
    await owner.execute("select pgoutbox.capture_table('days')")
    await admin.execute(f"alter table days owner to {TENANT}")

    mended = await owner.fetch("select problem from pgoutbox.mend_drift()")
    await capturer.execute("create table theirs.one partition of public.days for values in (1)")
    await capturer.execute("insert into public.days values (1)")

    assert [row["problem"] for row in mended] == ["drift"]
    assert await owner.fetchval("select count(*) from pgoutbox.outbox") == 1


async def test_a_reader_sees_all_of_status_and_no_rows_data(
    database: Database, tenant: str
) -> None:
    owner = await database.connect()
    await owner.execute("create table t (id int); select pgoutbox.capture_table('t')")
    await owner.execute("insert into t values (1)")
    await owner.execute(
        "insert into pgoutbox.parked"
        " (relay, event_id, position, seq, bytes, subject, reason, payload)"
        " values ('default', gen_random_uuid(), 1, 1, 2, 's.1', 'too large', '{}')"
    )
    granted = pgoutbox("install", "--grant-reader", tenant, "--dsn", database.dsn)
    assert f"role {tenant}: may see all of `pgoutbox status`" in granted.stderr

    outputs = [
        pgoutbox("status", "--json", "--dsn", database.dsn_as(role)) for role in (OWNER, tenant)
    ]
    assert [done.returncode for done in outputs] == [0, 0], outputs[1].stderr
    seen = [json.loads(done.stdout) for done in outputs]
    text = pgoutbox("status", "--dsn", database.dsn_as(tenant))

    for one in seen:
        del one["database"]
        for relay in one["relays"]:
            relay["oldest_unsent_s"] = None
    assert seen[0] == seen[1]
    assert (text.returncode, "public.t" in text.stdout) == (0, True)
    reader = await database.connect(tenant)
    for statement in (
        "select new_row from pgoutbox.event",
        "select data from pgoutbox.outbox",
        "select new_row from pgoutbox.event_in_slot",
        "select payload from pgoutbox.parked",
        "select subject from pgoutbox.parked",
        "select * from pgoutbox.parked_event",
        "select * from pgoutbox.first_event_0",
        "select pgoutbox.capture_table('t')",
        "select pgoutbox.lead('r')",
        "delete from pgoutbox.progress",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def test_an_upgrade_renews_what_roles_were_granted(database: Database, tenant: str) -> None:
    owner = await database.connect()
    for kind, role in (
        ("relay", WRITER),
        ("capture", tenant),
        ("reader", tenant),
        ("emit", tenant),
    ):
        await owner.execute(f"select pgoutbox.grant_{kind}('{role}')")
    before = await rights(owner)
    await owner.execute(
        "update pgoutbox.installation set functions_version = '0.0.1+older';"
        f"revoke all on function pgoutbox.backlog(text) from {WRITER}, {tenant};"
        f"revoke all on function pgoutbox.release_table(regclass) from {tenant};"
        f"revoke all on function pgoutbox.emit(text, text, text, jsonb) from {tenant}"
    )

    await schema.apply(owner)

    assert await rights(owner) == before


async def test_no_name_reaches_the_terminal_as_it_is(database: Database) -> None:
    owner = await database.connect()
    name = '"\x1b[31mred\x9b1m\u202e"'
    await owner.execute(f'create table {name} (id int); create view "v\x1bw" as select 1')
    dsn = ("--dsn", database.dsn)

    outputs = [
        pgoutbox("install", "--table", name, *dsn),
        pgoutbox("install", "--table", name, "--actions", "insert", *dsn),
        pgoutbox("install", "--table", '"v\x1bw"', *dsn),
        pgoutbox("status", *dsn),
        pgoutbox("uninstall", "--table", name, *dsn),
    ]

    shown = "".join(done.stdout + done.stderr for done in outputs)
    assert all(char.isprintable() or char == "\n" for char in shown), shown
    assert shown.count("red") >= 4
