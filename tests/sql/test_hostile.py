"""Writers and relays with hostile sessions: the payload is the same byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from pgoutbox.sql_files import sql_root
from tests.conftest import Connect
from tests.support.cluster import WRITER

from .conftest import Capture
from .outbox import Outbox, forbid_the_slow_way

SETTINGS = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "on",
    "lc_monetary": "C",
    "xmlbinary": "hex",
    "row_security": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "client_encoding": "UTF8",
    "plpgsql.variable_conflict": "use_column",
    "default_transaction_deferrable": "on",
    "client_min_messages": "error",
}
# With these the quick way renders the rows.
FITTING = {
    "DateStyle": "ISO, DMY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
COLUMNS = """
    id int primary key, b bool, i bigint, n numeric(9,4), r real, f float8, m money, t text,
    c char(4), by bytea, d date, tm time, tz timetz, ts timestamp, tsz timestamptz, iv interval,
    j json, jb jsonb, u uuid, a timestamptz[], rg tstzrange, p point, ft float4[],
    ba bytea[], da date[], ia interval[]
"""
ROW = r"""
    insert into t values (
        1, true, 2, 3.1400, '0.1'::real / 3, '0.1'::float8 / 3, '1234.5', E'q"\\\n€', 'ab',
        decode('00ff5c27', 'hex'), date '2024-02-03', time '04:05:06.70',
        timetz '04:05:06+05:45', timestamp '2024-02-03 04:05:06.123',
        timestamptz '2024-02-03 04:05:06.5+05:45', interval '1 year -2 days 03:04:05.6',
        '{"a":  1.0}', '{"a":  1.0}', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
        array[timestamptz '2024-02-03 04:05:06+00'], tstzrange('2024-02-03 04:05:06+00', null),
        point(0.1, 1e-9), array[0.1::real / 3],
        array[decode('00ff', 'hex')], array[date '2024-02-03'], array[interval '1 day 2 hours']
    );
    update t set t = E'\\' where id = 1;
    delete from t;
"""


@pytest.fixture(autouse=True)
async def _tables(connection: asyncpg.Connection, capture: Capture) -> None:
    await capture("t", COLUMNS)


@pytest.mark.parametrize("setting", [*SETTINGS, "all"])
@pytest.mark.parametrize("drifted", [False, True])
async def test_settings_of_the_writer(
    connection: asyncpg.Connection,
    connect: Connect,
    outbox: Outbox,
    setting: str,
    drifted: bool,
) -> None:
    if drifted:
        await connection.execute("alter table t add z timestamptz default '2024-01-01 00:00+00'")
    await connection.execute(ROW)
    expected = await outbox.payloads()
    writer = await connect(WRITER)
    locale = await connection.fetchval("select pgoutbox.monetary_locale()")
    hostile = SETTINGS if setting == "all" else {setting: SETTINGS[setting]}
    for name, value in {**FITTING, "lc_monetary": locale, **hostile}.items():
        await writer.execute(f"set {name} = '{value}'")
    await writer.execute(ROW)

    assert await outbox.payloads() == expected
    assert len(expected) == 3


async def test_what_the_row_looks_like(connection: asyncpg.Connection, outbox: Outbox) -> None:
    await connection.execute(ROW)
    (insert, _, _) = await outbox.events()

    assert insert.new == {
        "id": 1, "b": True, "i": 2, "n": "3.1400", "r": "0.033333335", "f": "0.03333333333333333",
        "m": insert.new["m"], "t": 'q"\\\n€', "c": "ab  ", "by": "\\x00ff5c27", "d": "2024-02-03",
        "tm": "04:05:06.7", "tz": "04:05:06+05:45", "ts": "2024-02-03T04:05:06.123Z",
        "tsz": "2024-02-02T22:20:06.5Z", "iv": "1 year -2 days +03:04:05.6",
        "j": '{"a":  1.0}', "jb": {"a": 1.0}, "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a": '{"2024-02-03 04:05:06+00"}', "rg": '["2024-02-03 04:05:06+00",)',
        "p": "(0.1,1e-09)", "ft": "{0.033333335}",
        "ba": '{"\\\\x00ff"}', "da": "{2024-02-03}",
        "ia": '{"1 day 02:00:00"}',
    }  # fmt: skip


async def test_names_of_objects_do_not_follow_the_search_path(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute("create type kind as enum ('a')")
    await capture("r", "a regclass, b regtype[]")
    writer = await connect(WRITER)
    for path in ("public", ""):
        await writer.execute(f"set search_path = '{path}'")
        await writer.execute("insert into public.r values ('public.t', '{public.kind}')")

    rows = [event.new for event in await outbox.events()]
    assert rows == [{"a": "public.t", "b": "{public.kind}"}] * 2


# Whatever the hot path could call by mistake, with the very argument types of the original,
# ahead of pg_catalog, and failing when called.
HOSTILE = """
create schema hostile;
do $do$
declare
    o record;
    made integer := 0;
    fails constant text := 'begin raise ''hostile''; end';
begin
    for o in
        select p.proname, p.oid, pg_catalog.pg_get_function_identity_arguments(p.oid) as arguments,
            pg_catalog.format_type(p.prorettype, null) as result
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset
          and p.proname ~ '^[a-z_0-9]+$' and p.provariadic = 0
          and not p.proargtypes::oid[] && array(
              select t.oid from pg_catalog.pg_type t
              where t.typtype = 'p' and t.typname not like 'any%' or t.typname = 'any')
          and p.prorettype not in (select t.oid from pg_catalog.pg_type t where t.typtype = 'p')
          and exists (
              select from pg_catalog.pg_proc own
              where own.pronamespace = 'pgoutbox'::regnamespace
                and own.prosrc ~ ('\\m' || p.proname || '\\(')
          )
    loop
        execute pg_catalog.format(
            'create function hostile.%I(%s) returns %s language plpgsql as %L',
            o.proname, o.arguments, o.result, fails);
        made := made + 1;
    end loop;
    for o in
        select p.oprname, pg_catalog.format_type(p.oprleft, null) as l,
            pg_catalog.format_type(p.oprright, null) as r,
            pg_catalog.format_type(p.oprresult, null) as result,
            'op_' || p.oid as name
        from pg_catalog.pg_operator p
        where p.oprnamespace = 'pg_catalog'::regnamespace and p.oprleft <> 0
          and p.oprname in (
              '=', '<>', '<', '>', '<=', '>=', '||', '+', '-', '*', '/', '%', '&', '~~', '~')
          and not array[p.oprleft, p.oprright, p.oprresult] && array(
              select t.oid from pg_catalog.pg_type t where t.typtype = 'p')
    loop
        execute pg_catalog.format(
            'create function hostile.%I(%s, %s) returns %s language plpgsql as %L',
            o.name, o.l, o.r, o.result, fails);
        execute pg_catalog.format(
            'create operator hostile.%s (function = hostile.%I, leftarg = %s, rightarg = %s)',
            o.oprname, o.name, o.l, o.r);
        made := made + 1;
    end loop;
    for o in select unnest(array['text', 'int2', 'int4', 'int8', 'oid', 'xid', 'xid8', 'cid',
        'json', 'bytea', 'uuid', 'regclass', 'name', 'float8']) as name
    loop
        execute pg_catalog.format(
            'create domain hostile.%I as pg_catalog.%I check (hostile.fail())', o.name, o.name);
    end loop;
    if made < 150 then
        raise 'only % objects', made;
    end if;
end
$do$;
grant usage on schema hostile to public;
"""
FAIL = """
create schema if not exists hostile;
create function hostile.fail() returns boolean language plpgsql as
    $$ begin raise 'hostile'; end $$;
"""


@pytest.fixture
async def hostile(connection: asyncpg.Connection) -> None:
    await connection.execute(FAIL)
    await connection.execute(HOSTILE.replace("create schema hostile;", ""))


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("case", ["plain", "drifted", "identity", "full identity", "nested"])
async def test_shadowed_functions_operators_and_types(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox, case: str
) -> None:
    """Nothing in the hot path is looked up along the writer's search_path."""
    await capture(
        "public.h", "id int primary key, ts timestamptz, t timestamp, v text, b bytea, f float8"
    )
    await connection.execute("""
        create function public.again() returns trigger language plpgsql set search_path = '' as $$
        begin
            if pg_trigger_depth() < 2 then update public.h set v = 'again'; end if;
            return null;
        end $$;
        create table public.part (id int, v text) partition by list (id);
        create table public.part_1 partition of public.part for values in (1);
    """)
    await capture("public.part_1")
    await capture("public.part")
    if case == "drifted":
        await connection.execute("alter table public.h add z int")
    elif case == "identity":
        await capture("public.h", old_values="identity")
    elif case == "full identity":
        await connection.execute("""
            alter table public.h replica identity full;
            alter table public.h add g int generated always as (id) stored
        """)
        await capture("public.h", old_values="identity")
    elif case == "nested":
        await connection.execute("""
            create trigger again after insert on public.h for each row
                execute function public.again()
        """)
    if case != "drifted":
        await forbid_the_slow_way(connection)
    writer = await connect(WRITER)
    await writer.execute("set search_path = hostile, pg_catalog, public")
    with pytest.raises(asyncpg.RaiseError, match="hostile"):
        await writer.execute("select 1 operator(+) 1 where 1 = 1")
    await writer.execute("set synchronous_commit = off")
    await writer.execute("begin")
    await writer.execute("insert into public.h (id, ts, v) values ('1', 'infinity', 'x')")
    await writer.execute("set constraints all immediate")
    await writer.execute("insert into public.h values ('2', '2024-01-01', '0044-01-01 BC', 'y')")
    await writer.execute("insert into public.part values ('1', 'x')")
    await writer.execute("update public.h set v = 'z'")
    await writer.execute("delete from public.h")
    await writer.execute("truncate public.h, public.part")
    await writer.execute("commit")

    actions = [event.action for event in await outbox.events()]
    assert actions[-2:] == ["TRUNCATE", "TRUNCATE"]
    assert actions.count("INSERT") == 3
    assert actions.count("DELETE") == 2


@pytest.mark.usefixtures("hostile")
async def test_relay_with_a_shadowing_search_path(
    connection: asyncpg.Connection, connect: Connect, outbox: Outbox
) -> None:
    await connection.execute(ROW)
    expected = await outbox.rows()
    relay = await connect(search_path="hostile, pg_catalog, public", datestyle="German")

    rows = await relay.fetch(
        "select * from pgoutbox.next_batch('0', '{}', '{}', null, null, '1000', '1000000')"
    )

    assert rows == expected
    described = await relay.fetch(
        "select * from pgoutbox.next_batch_described("
        "'0', '{}', '{}', null, null, '1000', '1000000', true)"
    )
    names = list(expected[0].keys())
    assert [[row[name] for name in names] for row in described] == [list(row) for row in expected]
    assert [row["key"] for row in described] == [["1"]] * 3
    for columns in ("[]", '["id"]', '["id","ts"]'):
        tables = ",".join(f'"{row["table_name"]}":{columns}' for row in expected)
        shared = await relay.fetch(
            "select * from pgoutbox.next_share("
            "'0', '{}', '{}', null, null, '1000', '1000000',"
            f""" '{{"public":{{{tables}}}}}', '1', '1')"""
        )
        assert shared == await connection.fetch(
            "select * from pgoutbox.unsent(0, '{}', '{}', null, null, 1000, 1000000)"
        )
    found = 'select pgoutbox.value_in(\'{"b":[1, 2],"a":"x"}\', \'a\')'
    assert await relay.fetchval(found) == "x"
    # Without parameters, since the driver's own queries about types aren't qualified.
    await relay.execute("select * from pgoutbox.gap_holders()")
    await relay.execute("select * from pgoutbox.lead('r')")
    await relay.execute("select * from pgoutbox.backlog('r')")
    await relay.execute("select * from pgoutbox.count_events('1', '0', '9', '9')")
    await relay.execute("select pgoutbox.rotate('0')")


# Inlined into the query of a relay, which a SET clause would prevent.
INLINED = {
    "as_published",
    "event_id",
    "next_batch",
    "next_batch_described",
    "next_share",
    "unsent",
}
# Called by these for each row.
CALLED = {"value_in", "values_in"}
# Called only by functions that have pinned the path.
UNDER_A_PINNED_PATH = {"transaction_context", "transaction_tag"}


async def test_functions_are_pinned_or_qualified(connection: asyncpg.Connection) -> None:
    """A function without SET search_path is one of those that the tests above call."""
    loose = await connection.fetchval(r"""
        select array_agg(distinct regexp_replace(p.proname, '_\d+$', '')) from pg_proc p
        where p.pronamespace = 'pgoutbox'::regnamespace
          and not coalesce(p.proconfig::text like '%search_path=pg_catalog, pg_temp%', false)
    """)

    known = INLINED | CALLED | UNDER_A_PINNED_PATH
    assert set(loose) == {"capture", *defined_in("writer")} | known


async def test_nothing_on_the_hot_path_has_a_set_clause(connection: asyncpg.Connection) -> None:
    """It costs up to 14 us a call."""
    configured = await connection.fetchval(r"""
        select array_agg(distinct regexp_replace(p.proname, '_\d+$', '')) from pg_proc p
        where p.pronamespace = 'pgoutbox'::regnamespace and p.proconfig is not null
    """)

    assert not {"capture", *defined_in("writer")} & set(configured)


def defined_in(folder: str) -> set[str]:
    """Return the names of the functions in a folder of sql/, without the number of a slot."""
    files = [file for file in (sql_root() / folder).iterdir() if file.name.endswith(".sql")]
    names = re.findall(r"function pgoutbox\.(\w+)", "".join(map(Path.read_text, files)))
    return {re.sub(r"_\d+$", "", name) for name in names}


async def test_definer_functions_are_few_and_none_is_public(
    connection: asyncpg.Connection,
) -> None:
    public = await connection.fetchval("""
        select array_agg(p.oid::regprocedure::text) from pg_proc p
        where p.pronamespace = 'pgoutbox'::regnamespace
          and has_function_privilege('public', p.oid, 'execute')
    """)
    relations = await connection.fetchval("""
        select array_agg(c.oid::regclass::text) from pg_class c, aclexplode(c.relacl) a
        where c.relnamespace = 'pgoutbox'::regnamespace and a.grantee = 0
    """)

    assert public is None
    assert relations is None
    assert not await connection.fetchval(
        "select has_schema_privilege('public', 'pgoutbox', 'usage')"
    )
