"""What a captured table's changes leave in the outbox."""

from __future__ import annotations

import io
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support.cluster import ADMIN, WRITER

from .conftest import Capture
from .outbox import Event, Outbox


async def test_insert_update_delete(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, v text")
    await connection.execute("insert into t values (1, 'a')")
    await connection.execute("update t set v = 'b'")
    await connection.execute("delete from t")

    assert await outbox.transactions() == [
        [Event("t", "INSERT", {"id": 1, "v": "a"}, {})],
        [Event("t", "UPDATE", {"id": 1, "v": "b"}, {"id": 1, "v": "a"})],
        [Event("t", "DELETE", {}, {"id": 1, "v": "b"})],
    ]


async def test_null_is_there_and_an_empty_string_is_not_null(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "a text, b text, c int, d timestamptz, e numeric, f jsonb")
    await connection.execute("insert into t (b, f) values ('', 'null')")

    (event,) = await outbox.events()

    assert event.new == {"a": None, "b": "", "c": None, "d": None, "e": None, "f": None}


async def test_identity_gives_the_key_where_it_changed(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, v text", old_values="identity")
    await connection.execute("insert into t values (1, 'a')")
    await connection.execute("update t set v = 'b'")
    await connection.execute("update t set id = 2")
    await connection.execute("delete from t")

    assert [event.old for event in await outbox.events()] == [
        {},
        {},
        {"id": 1, "v": None},
        {"id": 2, "v": None},
    ]


@pytest.mark.parametrize(
    ("change", "old"),
    [
        ("alter table t replica identity full", {"id": 1, "k": 7, "v": "a"}),
        ("alter table t replica identity nothing", {}),
        ("alter table t replica identity using index t_k", {"id": None, "k": 7, "v": None}),
        (
            "alter table t drop constraint t_pkey; alter table t add primary key (k)",
            {"id": None, "k": 7, "v": None},
        ),
    ],
)
async def test_identity_follows_a_change_at_once(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, change: str, old: object
) -> None:
    await capture("t", "id int primary key, k int not null constraint t_k unique, v text",
                  old_values="identity")  # fmt: skip
    await connection.execute("insert into t values (1, 7, 'a')")
    await connection.execute("update t set v = 'a'")
    await connection.execute(change)
    await connection.execute("delete from t")

    assert (await outbox.events())[-1].old == old


async def test_identity_that_becomes_full_later_is_noticed(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int, v text", old_values="identity")
    await connection.execute("insert into t values (1, 'a')")
    await connection.execute("alter table t replica identity full")
    await connection.execute("delete from t")

    assert (await outbox.events())[-1].old == {"id": 1, "v": "a"}


async def test_only_the_actions_asked_for(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key", actions=["INSERT", "TRUNCATE"])
    await connection.execute("insert into t values (1); update t set id = 2; delete from t")
    await connection.execute("truncate t")

    assert [event.action for event in await outbox.events()] == ["INSERT", "TRUNCATE"]


async def test_upsert_merge_and_copy(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, v text")
    await connection.copy_to_table("t", source=io.BytesIO(b"1\ta\n2\t\\N\n"))
    await connection.execute(
        "insert into t values (1, 'x'), (3, 'c') on conflict (id) do update set v = excluded.v"
    )
    await connection.execute("insert into t values (1, 'y'), (2, 'y') on conflict do nothing")
    await connection.execute(
        "with gone as (delete from t where id = 3 returning *) insert into t select 4, v from gone"
    )
    expected = [
        ("INSERT", 1), ("INSERT", 2), ("UPDATE", 1), ("INSERT", 3), ("DELETE", 3), ("INSERT", 4),
    ]  # fmt: skip
    if connection.get_server_version().major >= 15:
        await connection.execute("""
            merge into t using (values (1, null), (9, 'm')) s (id, v) on t.id = s.id
            when matched then delete when not matched then insert values (s.id, s.v)
        """)
        expected += [("DELETE", 1), ("INSERT", 9)]

    events = await outbox.events()

    assert [(event.action, (event.new or event.old)["id"]) for event in events] == expected


async def test_an_inherited_table_is_captured_by_itself(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("base", "id int, v text")
    await connection.execute("create table derived (extra int) inherits (base)")
    await connection.execute(
        "insert into base values (1, 'b'); insert into derived values (2, 'd')"
    )
    await capture("derived")
    await connection.execute("update base set v = 'x'")

    assert [(event.table, event.new) for event in await outbox.events()] == [
        ("base", {"id": 1, "v": "b"}),
        ("base", {"id": 1, "v": "x"}),
        ("derived", {"id": 2, "v": "x", "extra": None}),
    ]


async def test_a_rolled_back_savepoint_leaves_nothing(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Also where the savepoint's event had opened the transaction."""
    await capture("t", "id int primary key")
    await connection.execute("""
        begin; savepoint a; insert into t values (1); rollback to a;
        insert into t values (2); savepoint b; insert into t values (3); rollback to b;
        savepoint c; insert into t values (4); release c; commit
    """)
    await connection.execute("begin; savepoint a; insert into t values (5); rollback to a; commit")

    assert await outbox.transactions() == [
        [Event("t", "INSERT", {"id": 2}, {}), Event("t", "INSERT", {"id": 4}, {})]
    ]


async def test_a_failing_commit_leaves_nothing(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, parent int references t deferrable initially deferred")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("insert into t values (1, 99)")
    await connection.execute("insert into t values (2, 2)")

    assert [event.new["id"] for event in await outbox.events()] == [2]


async def test_writer_needs_no_right_on_the_schema(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, v text")
    writer = await connect(WRITER)
    await writer.execute("insert into t values (1, 'a'); update t set v = 'b'; delete from t")
    await writer.execute("truncate t")
    for statement in (
        "select * from pgoutbox.event",
        "delete from pgoutbox.transaction",
        "select nextval('pgoutbox.position_seq')",
        "select pgoutbox.withdraw_0('1')",
        "select pgoutbox.rotate(0)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)

    events = [(event.action, event.new, event.old) for event in await outbox.events()]
    a, b = {"id": 1, "v": "a"}, {"id": 1, "v": "b"}
    assert events == [
        ("INSERT", a, {}),
        ("UPDATE", b, a),
        ("DELETE", {}, b),
        ("TRUNCATE", {}, {}),
    ]


async def test_a_drifted_table_asks_no_more_of_its_writer(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key")
    await connection.execute("alter table t add v text")
    writer = await connect(WRITER)
    await writer.execute("insert into t values (1, 'a')")

    assert [event.new for event in await outbox.events()] == [{"id": 1, "v": "a"}]


async def test_row_security_hides_nothing_from_the_outbox(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, who name default current_user")
    await connection.execute(f"""
        alter table t enable row level security; alter table t force row level security;
        create policy mine on t to {WRITER} using (who = current_user) with check (true);
    """)
    writer = await connect(WRITER)
    await writer.execute("insert into t values (1), (2); update t set id = 3 where id = 2")
    await writer.execute("insert into t values (4, 'nobody')")
    await connection.execute("alter table t add v int")
    await writer.execute("insert into t values (5, 'nobody', 1)")

    assert [event.new["id"] for event in await outbox.events()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("security", ["definer", "invoker"])
async def test_functions_that_write(
    connection: asyncpg.Connection,
    connect: Connect,
    capture: Capture,
    outbox: Outbox,
    security: str,
) -> None:
    await capture("t", "id int primary key, n int")
    await connection.execute(f"""
        create function put(a int) returns void language sql security {security}
            set search_path = '' as 'insert into public.t values (a, a)';
    """)
    writer = await connect(WRITER)
    await writer.execute("begin; select put(1); insert into t values (2, 2); select put(3); commit")

    (transaction,) = await outbox.transactions()
    assert [event.new["id"] for event in transaction] == [1, 2, 3]


async def test_replica_sessions_are_left_out_unless_asked_for(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key")
    applier = await connect(ADMIN, session_replication_role="replica")
    await applier.execute("insert into t values (1)")
    await connection.execute('alter table t enable always trigger "00_pgoutbox"')
    await applier.execute("insert into t values (2)")

    assert [event.new["id"] for event in await outbox.events()] == [2]


async def test_a_value_that_cannot_be_rendered_does_not_fail_the_write(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await connection.execute("create type mood as enum ('well', 'gone')")
    await capture("t", "id int primary key, mood mood, v text")
    await connection.execute("insert into t values (1, 'gone', 'a')")
    admin = await connect(ADMIN)
    await admin.execute("delete from pg_enum where enumlabel = 'gone'")
    await connection.execute("update t set v = 'b'")

    update = (await outbox.events())[-1]
    assert update.new["mood"]["unrenderable"].startswith("22P03: ")
    assert (update.new["v"], update.old["v"]) == ("b", "a")


async def test_a_value_that_no_server_takes_is_not_rendered(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Its row is captured without it, whatever else is in there."""
    await capture("t", "id int primary key, n int, v text, b bytea")
    await connection.execute("alter table t alter v set storage external")
    await connection.execute("insert into t values (1, 1, repeat('x', 67108865), 'b')")
    await connection.execute("update t set n = 2")
    await connection.execute("delete from t")

    inserted, updated, deleted = await outbox.events()

    without = {
        "id": 1,
        "b": r"\x62",
        "v": {"unrenderable": "54000: 67108865 bytes, of at most 67108864"},
    }
    assert inserted.new == updated.old == without | {"n": 1}
    assert updated.new == deleted.old == without | {"n": 2}


def _peak(connection: asyncpg.Connection) -> int:
    """Return the most memory of its own that a connection's backend has had so far, in MiB."""
    status = Path(f"/proc/{connection.get_server_pid()}/status").read_text()
    peak, shared = (
        int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmHWM", "RssShmem")
    )
    return (peak - shared) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("columns", "row", "beside"),
    [
        ("v text", "repeat('x', 100000000)", 32),
        ("v text", "repeat(E'\\x01', 12000000)", 512),
        ("v bytea", "repeat('x', 100000000)::bytea", 32),
        ("v jsonb", "to_jsonb(repeat('x', 100000000))", 32),
        ("v text[]", "array[repeat('x', 100000000)]", 32),
        (
            ", ".join(f"v{n} text" for n in range(2)),
            ", ".join(["repeat('x', 34000000)"] * 2),
            1280,
        ),
    ],
    ids=["text", "control characters", "bytea", "jsonb", "array", "columns"],
)
async def test_what_no_server_takes_is_not_copied(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox,
    columns: str, row: str, beside: int,
) -> None:  # fmt: skip
    """Beside a fifth of what a statement needs by itself, a writer needs so many MiB at most."""
    await connection.execute(f"create table plain (id int primary key, n int, {columns})")
    await capture("t", f"id int primary key, n int, {columns}")
    statements = (
        f"insert into {{table}} values (1, 1, {row})",
        "update {table} set n = 2",
        "delete from {table}",
    )
    for table in ("plain", "t"):
        for name in (column.split()[0] for column in columns.split(", ")):
            await connection.execute(f"alter table {table} alter {name} set storage external")
    for statement in statements:
        peaks = []
        for table in ("plain", "t"):
            writer = await connect()
            await writer.execute(statement.format(table=table), timeout=150)
            peaks.append(_peak(writer))
        assert peaks[1] <= peaks[0] * 1.2 + beside

    inserted, updated, deleted = await outbox.events()
    unnoted = await connection.fetchval(
        "select count(*) from pgoutbox.event e"
        " where coalesce((e.facts).new_ctid, (e.facts).old_ctid) is null"
    )

    assert inserted.new == updated.old == updated.new | {"n": 1}
    assert updated.new == deleted.old
    assert any(
        "unrenderable" in value for value in inserted.new.values() if isinstance(value, dict)
    )
    assert unnoted == 0


async def test_what_is_left_out_is_not_copied(
    connection: asyncpg.Connection, connect: Connect, capture: Capture, outbox: Outbox
) -> None:
    await capture(
        "t", "id int primary key, v text, doc text", except_columns=["doc"], old_values="identity"
    )
    await connection.execute("alter table t alter v set storage external")
    await connection.execute("alter table t alter doc set storage external")
    await connection.execute("insert into t values (1, repeat('x', 12000000), '')")
    await connection.execute("alter table t disable trigger user")
    await connection.execute("update t set doc = repeat('x', 100000000)")
    await connection.execute("alter table t enable trigger user")
    writer = await connect()
    await writer.execute("update t set id = 2")

    assert _peak(writer) < 150
    assert (await outbox.events())[-1].new == {"id": 2, "v": "x" * 12_000_000}


async def test_a_type_with_casts_to_text_and_bytea_is_neither(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """As PostGIS has one."""
    await connection.execute(
        """
        create type shape as (points text);
        create function as_text(shape) returns text language sql as 'select $1.points';
        create function as_bytes(shape) returns bytea language sql as 'select $1.points::bytea';
        create cast (shape as text) with function as_text(shape) as implicit;
        create cast (shape as bytea) with function as_bytes(shape) as implicit;
        """
    )
    await capture("t", "id int primary key, s shape")
    await connection.execute("alter table t alter s set storage external")
    for size in (40_000, 1_048_577):
        await connection.execute(f"insert into t values ({size}, row(repeat('x', {size})))")
        await connection.execute("alter table t add column if not exists n int")

    assert [event.new["s"] for event in await outbox.events()] == [
        f"({'x' * 40_000})",
        f"({'x' * 1_048_577})",
    ]


async def test_a_type_that_loses_its_limit(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture("t", "id int primary key, v varchar(100)")
    await connection.execute("alter table t alter v type varchar")
    await connection.execute("insert into t values (1, repeat('x', 67108865))")

    (event,) = await outbox.events()
    assert "unrenderable" in event.new["v"]


async def test_the_key_changed_where_it_follows_from_what_was_taken_out(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    await capture(
        "t",
        "v text, h text generated always as (md5(v)) stored primary key",
        old_values="identity",
    )
    await connection.execute("insert into t values (repeat('x', 67108865))")
    await connection.execute("update t set v = repeat('y', 67108865)")

    assert "unrenderable" in (await outbox.events())[-1].old["v"]


async def test_many_columns_that_can_be_large(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    names = [f"c{n}" for n in range(1_600)]
    await capture("wide", ", ".join(f"{name} text default 'x'" for name in names))
    await connection.execute("alter table wide alter c7 set storage external")
    await connection.execute("insert into wide default values")
    await connection.execute("update wide set c7 = repeat('x', 67108865)")

    inserted, updated = await outbox.events()
    assert inserted.new == updated.old == dict.fromkeys(names, "x")
    assert updated.new == inserted.new | {
        "c7": {"unrenderable": "54000: 67108865 bytes, of at most 67108864"}
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "statements",
    [
        (
            "insert into t values (1, 1, repeat('x', 540000000))",
            "update t set v = repeat('y', 540000000)",
        ),
        ("insert into t values (1, 1, repeat(E'\\x01', 170000000))", "update t set n = 2"),
        ("insert into t (id, b) values (1, repeat('x', 530000000)::bytea)", "update t set n = 2"),
        (
            "insert into t values (1, 1, repeat('x', 600000000))",
            "update t set b = repeat('x', 600000000)::bytea",
            "update t set n = 2",
        ),
    ],
)
async def test_a_row_of_any_size_can_be_written(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox, statements: tuple[str, ...]
) -> None:
    await capture("t", "id int primary key, n int, v text, b bytea")
    await connection.execute("alter table t alter v set storage external")
    await connection.execute("alter table t alter b set storage external")
    for statement in (*statements, "delete from t"):
        await connection.execute(statement, timeout=150)

    events = await outbox.events()

    assert [event.action for event in events] == [
        statement.split()[0].upper() for statement in (*statements, "delete")
    ]
    assert all(event.new.get("id", 1) == event.old.get("id", 1) == 1 for event in events)


async def test_a_char_above_127_is_text(
    connection: asyncpg.Connection, capture: Capture, outbox: Outbox
) -> None:
    """Before PostgreSQL 15 its text form is the bare byte, which no JSON can hold."""
    await capture("t", 'id int primary key, v "char"')
    await connection.execute("""insert into t values (1, '-1'::int::"char")""")

    is_escaped = connection.get_server_version().major >= 15
    assert (await outbox.events())[0].new["v"] == (r"\377" if is_escaped else "\ufffd")
