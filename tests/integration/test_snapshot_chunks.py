"""Chunks of snapshots as the relay reads them, step by step, and what a consumer makes of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import asyncpg
import pytest

from pgoutbox.config.settings import RelayConfig
from pgoutbox.names import Shard
from pgoutbox.outbox import queries, snapshots
from pgoutbox.outbox.selection import Filter, Share
from tests.conftest import Connect
from tests.support.chunks import Open, ask, capture, make_table, outcome, rows_of
from tests.support.cluster import ADMIN, WRITER
from tests.support.waiting import eventually


async def test_what_commits_after_the_batch_isnt_in_the_chunk(
    connection: asyncpg.Connection, begun: Open
) -> None:
    """Chunk and batch are of one snapshot: what changes a row later comes as an event later."""
    relay = await begun()
    relay.between = lambda: connection.execute(
        "update t set v = 'new' where id = 1; delete from t where id = 2;"
        "insert into t values (0, 'early')"
    )

    batch = await relay.step()

    assert batch.chunk is not None
    assert relay.read == [(1,), (2,), (3,)]
    assert relay.copy[1,] == {"id": 1, "v": "v1"}
    relay.between = None
    await relay.to_the_end()
    assert relay.rows == await rows_of(connection)


async def test_events_come_before_the_chunk_that_shows_them(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun()
    await connection.execute("update t set v = 'new' where id = 1")

    batch = await relay.step()

    actions = [json.loads(message.payload)["action"] for message in batch.messages]
    assert actions == ["UPDATE", "READ", "READ", "READ"]


async def test_behind_a_full_batch_there_is_no_chunk(
    connection: asyncpg.Connection, begun: Open
) -> None:
    """What is unread of the events would come behind rows that show it already."""
    relay = await begun(batch_events=2)
    await connection.execute("update t set v = 'new'")

    chunks = [(await relay.step()).chunk for _ in range(5)]

    assert chunks == [None] * 5
    await relay.to_the_end()
    assert relay.read == [(n,) for n in range(1, 11)]


async def test_behind_a_replayed_batch_there_is_no_chunk(
    connection: asyncpg.Connection, reading: Open
) -> None:
    """Of the events only those are read then that were planned, and the chunk shows others."""
    await make_table(connection)
    relay = await reading()
    await connection.execute("begin; update t set v = 'one' where id < 3; commit")
    planned = await relay.outbox.next_batch(relay.progress)
    await relay.outbox.begin(planned, relay.progress, [])
    await connection.execute("update t set v = 'two' where id = 1")
    await ask(connection)

    successor = await reading()
    first = await successor.step()

    assert first.is_replay
    assert first.chunk is None
    assert len(first.messages) == 2
    assert (await successor.step()).chunk is not None
    await successor.to_the_end()
    assert successor.rows == await rows_of(connection)


async def test_holders_of_gaps_are_asked_for_before_the_chunks_snapshot_is_taken(
    connection: asyncpg.Connection, reading: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who commits right after it isn't in it: asked then, they would count as gone."""
    await make_table(connection)
    relay = await reading()
    await connection.execute(
        "set pgoutbox.notify = off; begin; update t set v = 'late' where id = 1;"
        "prepare transaction 'holder of a gap'"
    )
    await connection.execute("update t set v = 'early' where id = 2")
    await relay.step()
    await ask(connection)
    await relay.look()
    await connection.execute("select pg_advisory_lock(1)")
    with monkeypatch.context() as patch:
        patch.setattr(queries, "BRIEFLY", f"{queries.BRIEFLY}; select pg_advisory_xact_lock(1)")
        step = asyncio.create_task(relay.step())
        await eventually(lambda: _waits_for_the_lock(connection))
        await connection.execute("commit prepared 'holder of a gap'")
        await connection.execute("select pg_advisory_unlock(1)")
        assert (await step).chunk is not None

    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)
    assert relay.copy[1,]["v"] == "late"


async def _waits_for_the_lock(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from pg_locks l join pg_database d on d.oid = l.database"
            " where d.datname = current_database() and l.locktype = 'advisory' and not l.granted)"
        )
    )


async def test_a_session_that_idles_in_a_chunk_is_ended(begun: Open) -> None:
    """A frozen relay's: it would hold up vacuum, and the slots."""
    relay = await begun()
    found: dict[str, str] = {}

    async def look() -> None:
        for setting in ("transaction_isolation", "idle_in_transaction_session_timeout"):
            found[setting] = await relay.connection.fetchval(f"show {setting}")

    relay.between = look
    await relay.step()

    assert found == {
        "transaction_isolation": "repeatable read",
        "idle_in_transaction_session_timeout": "5s",
    }


@pytest.mark.parametrize(
    "change",
    [
        "alter table t alter column v type varchar(100) using v || 'x'",
        "alter table t add column w timestamptz default clock_timestamp()",
        "alter table t rename column v to x; alter table t rename column w to v",
        "vacuum full t",
        "cluster t using t_pkey",
        "truncate t",
    ],
)  # fmt: skip
async def test_a_table_that_was_altered_since_the_snapshot_is_read_again(
    connection: asyncpg.Connection, begun: Open, change: str
) -> None:
    """A rewritten table looks empty to an older snapshot, and a name can mean another column."""
    relay = await begun()
    if "rename" in change:
        await connection.execute("alter table t add column w text default 'w'")

    async def alter() -> None:
        relay.between = None
        for statement in change.split("; "):
            await connection.execute(statement)

    relay.between = alter
    batch = await relay.step()

    assert batch.chunk is None
    await relay.outbox.upkeep.mend_drift()
    await relay.to_the_end()
    assert len(relay.copy) == len(await rows_of(connection))
    assert [row["v"] for row in relay.rows] == [row["v"] for row in await rows_of(connection)]


@pytest.mark.parametrize("tells", [True, False], ids=["server tells", "server doesn't tell"])
async def test_what_a_chunk_shows_is_on_disk_before_it_is_published(
    connection: asyncpg.Connection, connect: Connect, begun: Open, tells: bool
) -> None:
    """Of a change that isn't captured there is no event that would wait for the disk."""
    admin = await connect(ADMIN)
    if not tells:
        await admin.execute("revoke execute on function pg_current_wal_flush_lsn() from public")
    relay = await begun()
    await connection.execute("select pgoutbox.capture_table('t', '{INSERT}')")
    await connection.execute("set synchronous_commit = off")
    for _ in range(5):  # by chance it is on disk in time
        await connection.execute("update t set v = 'unflushed'")
        written = await connection.fetchval("select pg_current_wal_insert_lsn()::text")

        batch = await relay.outbox.next_batch(relay.progress)
        await relay.outbox.begin(batch, relay.progress, [])

        assert batch.chunk is not None
        is_on_disk = "select pg_current_wal_flush_lsn() >= $1::text::pg_lsn"
        assert await admin.fetchval(is_on_disk, written)


async def test_a_restart_goes_on_behind_the_last_key_that_was_recorded(
    connection: asyncpg.Connection, begun: Open, reading: Open
) -> None:
    """What was read once more has the ids of the first time."""
    relay = await begun()
    await relay.step()
    lost = await relay.outbox.next_batch(relay.progress)  # published, and not recorded
    await connection.execute("update t set v = 'new'")

    successor = await reading()
    await successor.to_the_end()

    assert successor.read == [(n,) for n in range(4, 11)]
    assert [json.loads(m.payload)["id"] for m in lost.messages] == successor.ids[:3]
    relay.copy.update(successor.copy)
    assert relay.rows == await rows_of(connection)


async def test_a_chunk_that_is_stored_in_part_is_read_again(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun()
    await connection.execute("update t set v = 'new' where id = 1")

    batch = await relay.outbox.next_batch(relay.progress)

    assert [batch.upto(count).place for count in range(4)] == [None] * 4
    assert batch.upto(0).high == 0
    assert batch.upto(1).high == batch.upto(4).high == 1
    assert batch.upto(4).place == batch.chunk.place if batch.chunk else False


async def test_the_end_is_no_repeat_of_a_row_that_was_published_before(
    connection: asyncpg.Connection, begun: Open, reading: Open
) -> None:
    """Else the stream would drop it, where a restart finds fewer rows than before."""
    relay = await begun(3)
    lost = await relay.outbox.next_batch(relay.progress)
    await connection.execute("delete from t where id = 3")

    successor = await reading()
    ends = [m for _ in range(2) for m in (await successor.step()).messages][-1:]

    assert ends[0].headers[0][1].endswith("; last")
    assert ends[0].id not in {message.id for message in lost.messages}


async def test_a_locked_table_holds_up_nothing(
    connection: asyncpg.Connection, connect: Connect, begun: Open
) -> None:
    relay = await begun()
    await connection.execute("create table other (id int primary key)")
    await capture(connection, "other")
    locker = await connect()
    await locker.execute("begin; lock table t in access exclusive mode")
    await connection.execute("insert into other values (1)")

    batch = await relay.step()

    assert (len(batch.messages), batch.chunk) == (1, None)
    await locker.execute("rollback")
    await relay.to_the_end()
    assert len(relay.read) == 10


KEYS = {
    "int, text": ("a int, b text", "select n % 3, 'x' || n", ("a", "b")),
    "collation": ('a text collate "und-x-icu"', "select substr('aBc', n % 3 + 1, 1) || n", ("a",)),
    "no case": ("a text collate nocase, b int", "select substr('aAb', n % 3 + 1), n", ("a", "b")),
    "citext": ("a other.citext, b int", "select substr('aAbB', n % 4 + 1, 1), n", ("a", "b")),
    "bpchar": ("a char(5)", "select n::text", ("a",)),
    "numeric": ("a numeric", "select n / 7.0", ("a",)),
    "float": ("a float8", "select case n when 1 then 'NaN' else n / 7.0 end::float8", ("a",)),
    "timestamptz": (
        "a timestamptz",
        "select '2026-03-29 00:59:59+01'::timestamptz + n * interval '7.000001 minutes'",
        ("a",),
    ),
    "interval": ("a interval", "select n * interval '1 month 3 days 4.5 seconds'", ("a",)),
    "bytea": ("a bytea", "select decode(lpad(to_hex(n * 37 % 256), 2, '0'), 'hex')", ("a",)),
    "char": ('a "char", b bool', """select chr(n + 40)::"char", n % 2 = 0""", ("a", "b")),
    "bit": ("a bit(8)", "select n::bit(8)", ("a",)),
    "inet": ("a inet", "select '10.0.0.0/8'::inet + n * 300", ("a",)),
    "enum": ("a mood, b int", "select (enum_range(null::mood))[n % 3 + 1], n", ("a", "b")),
    "array": ("a int[]", "select array[n % 4, -n]", ("a",)),
    "range": ("a int4range", "select int4range(n % 5, n % 5 + n)", ("a",)),
    "domain": ("a odd", "select (2 * n + 1)::odd", ("a",)),
    "uuid": ("a uuid", "select md5(n::text)::uuid", ("a",)),
    "quotes": (
        """a text, "b'\\ c%s" text""",
        "select repeat(chr(39), n % 3) || chr(92), chr(34) || chr(92) || n",
        ("a", "b'\\ c%s"),
    ),
}  # fmt: skip


_NEEDS = {
    "nocase": "create collation nocase"
    " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "x-icu": """create table of_icu (a text collate "und-x-icu")""",
    "citext": "create schema other; create extension citext schema other",
}


async def _has(connection: asyncpg.Connection, columns: str) -> bool:
    """Make a collation or an extension that the columns name; False where that isn't there."""
    for name, statement in _NEEDS.items():
        if name in columns:
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                print(f"left out: {error}")
                return False
    return True


async def test_each_row_is_read_once_in_the_order_of_the_key(
    connection: asyncpg.Connection, reading: Open
) -> None:
    await connection.execute(
        "create type mood as enum ('sad', 'ok', 'happy');"
        "create domain odd as int check (value % 2 = 1)"
    )
    for columns, made, key in KEYS.values():
        if not await _has(connection, columns):
            continue
        quoted = ", ".join(f'"{name}"' for name in key)
        await connection.execute(
            f"create table t ({columns}, primary key ({quoted}));"
            f"insert into t {made} from generate_series(1, 20) n;"
            "set client_min_messages = warning; select pgoutbox.capture_table('t')"
        )
        await ask(connection)
        relay = await reading(*key)

        await relay.to_the_end()

        expression = await connection.fetchval("select pgoutbox.row_expression('t', 't')")
        rows = await connection.fetch(f"select {expression} as row from t order by {quoted}")
        assert [relay.copy[one] for one in relay.read] == [json.loads(row["row"]) for row in rows]
        assert len(set(relay.ids)) == 20
        await connection.execute("select pgoutbox.release_table('t'); drop table t")


_PARTITIONS = """
create table t (id int, region int, v text, primary key (id, region)) partition by list (region);
create table t_1 partition of t for values in (1);
create table t_2 (v text, gone int, region int not null, id int not null);
alter table t_2 drop column gone;
alter table t attach partition t_2 for values in (2);
create table t_3 partition of t for values in (3) partition by range (id);
create table t_3_low partition of t_3 for values from (0) to (100);
create table t_4 (id int, region int, v text, primary key (id, region));
insert into t_4 select n, 4, 'four' from generate_series(1, 4) n;
insert into t select n, n % 3 + 1, 'v' || n from generate_series(1, 20) n;
"""


async def test_partitions_are_read_one_after_another(
    connection: asyncpg.Connection, reading: Open
) -> None:
    """One that is attached meanwhile is read, too; of one that is detached the rest isn't."""
    await connection.execute(_PARTITIONS)
    await capture(connection)
    await ask(connection)
    relay = await reading("id", "region")
    await relay.step()

    await connection.execute("update t set region = region % 3 + 1 where id % 5 = 0")
    await connection.execute("alter table t attach partition t_4 for values in (4)")
    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)
    assert await outcome(connection) == ("done", "")


async def test_a_partition_that_comes_back_is_begun_anew(
    connection: asyncpg.Connection, reading: Open
) -> None:
    """While it was detached its changes had no events."""
    await connection.execute(_PARTITIONS)
    await capture(connection)
    await ask(connection)
    relay = await reading("id", "region")
    while not any(key[1] == 2 for key in relay.read):  # t_1 is read
        await relay.step()
    await connection.execute("alter table t detach partition t_1")
    await connection.execute("update t_1 set v = 'changed' where id = 3")
    await relay.step()

    await connection.execute("alter table t attach partition t_1 for values in (1)")
    await relay.to_the_end()

    assert relay.rows == await rows_of(connection)
    assert len(set(relay.ids)) == len(relay.ids)


@pytest.mark.parametrize(
    "change",
    ["drop constraint t_pkey, add primary key (v, id)", "alter column id type bigint"],
)
async def test_a_new_key_has_the_table_begun_anew_under_other_ids(
    connection: asyncpg.Connection, begun: Open, change: str
) -> None:
    relay = await begun()
    await relay.step()

    await connection.execute(f"alter table t {change}")
    await relay.to_the_end()

    assert len(relay.read) == 13
    assert len(set(relay.ids)) == 13
    assert relay.rows == await rows_of(connection)


async def test_what_is_inserted_behind_the_end_is_left_to_its_events(
    connection: asyncpg.Connection, begun: Open
) -> None:
    """Else a snapshot would run after a table that grows as fast as it reads."""
    relay = await begun(4)
    await relay.step()

    await connection.execute("insert into t select n, 'more' from generate_series(5, 50) n")
    await relay.to_the_end()

    assert relay.read == [(1,), (2,), (3,), (4,)]
    assert relay.rows == await rows_of(connection)


async def test_a_chunk_is_bounded_in_bytes(
    connection: asyncpg.Connection, begun: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_CHUNK_BYTES", 1_000)
    relay = await begun()
    await connection.execute("update t set v = repeat('x', 600)")
    await relay.step()

    sizes = [len(batch) for batch in [await relay.step() for _ in range(3)] if batch.chunk]

    assert sizes == [2, 2, 2]
    await relay.to_the_end()
    assert relay.read == [(n,) for n in range(1, 11)]


async def test_a_condition_that_fails_ends_the_snapshot_and_nothing_else(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun(condition="1 / (id - 2) > 0")
    await connection.execute("update t set v = 'new' where id = 1")

    await relay.to_the_end()

    assert relay.copy == {(1,): {"id": 1, "v": "new"}}
    assert await outcome(connection) == ("failed", "division by zero")


@pytest.mark.parametrize("end", ["drop table t", "select pgoutbox.release_table('t')"])
async def test_a_table_that_is_gone_or_released_ends_the_snapshot(
    connection: asyncpg.Connection, begun: Open, end: str
) -> None:
    relay = await begun()
    await relay.step()

    await connection.execute(end)
    await relay.to_the_end()

    state, error = await outcome(connection)
    assert state == "failed"
    assert error.endswith("is gone, or is no longer captured")


async def test_rows_of_a_condition_under_insert_at_a_subject_of_their_own(begun: Open) -> None:
    relay = await begun(condition="v like '%1%' -- odd", action="INSERT", subject="own.{table}")

    first, *rest = [await relay.step() for _ in range(5)]

    assert [(json.loads(m.payload)["action"], m.subject) for m in first.messages] == [
        ("INSERT", "own.t")
    ]
    assert sorted(relay.copy) == [(1,), (10,)]
    assert first.messages[0].headers[0][1].endswith("; chunk=1; rows=1")
    last = [m for batch in rest for m in batch.messages]
    assert [m.headers[0][1].endswith("; chunk=2; rows=1; last") for m in last] == [True]


async def test_an_empty_end_is_a_message_of_its_own(begun: Open) -> None:
    relay = await begun(0)

    (message,) = (await relay.step()).messages

    assert json.loads(message.payload)["data"] == {}
    assert message.headers[0][1].endswith("; chunk=0; rows=0; last")


async def test_a_value_that_cannot_be_rendered_is_replaced_as_in_events(
    connection: asyncpg.Connection, connect: Connect, begun: Open
) -> None:
    await connection.execute("create type mood as enum ('well', 'gone')")
    relay = await begun(0, "id int primary key, mood mood")
    await connection.execute("alter table t disable trigger user")
    await connection.execute("insert into t values (1, 'well'), (2, 'gone')")
    admin = await connect(ADMIN)
    await admin.execute("delete from pg_enum where enumlabel = 'gone'")

    await relay.to_the_end()

    assert relay.copy[1,] == {"id": 1, "mood": "well"}
    assert relay.copy[2,]["mood"]["unrenderable"].startswith("22P03: ")


@pytest.mark.parametrize("label", ["well", "gone"], ids=["at once", "row by row"])
async def test_a_tables_condition_is_met_by_a_column_whose_type_has_changed(
    connection: asyncpg.Connection, connect: Connect, begun: Open, label: str
) -> None:
    """Nobody has seen the drift yet."""
    await connection.execute("create type mood as enum ('well', 'gone')")
    relay = await begun(0, "id int primary key, mood mood")
    await connection.execute("select pgoutbox.capture_table('t', condition => 'id > 1')")
    await connection.execute(
        "alter table t disable trigger user; alter table t alter id type bigint"
    )
    await connection.execute(f"insert into t values (1, 'well'), (2, 'well'), (3, '{label}')")
    admin = await connect(ADMIN)
    await admin.execute("delete from pg_enum where enumlabel = 'gone'")

    await relay.to_the_end()

    assert sorted(relay.copy) == [(2,), (3,)]


async def test_a_value_that_no_server_takes_is_replaced_as_in_events(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun(3)
    await connection.execute("alter table t disable trigger user")
    await connection.execute("update t set v = repeat('x', 70000000) where id = 2")

    await relay.to_the_end()

    assert relay.copy[2,] == {
        "id": 2, "v": {"unrenderable": "54000: 70000000 bytes, of at most 67108864"},
    }  # fmt: skip


async def test_shards_divide_a_snapshot_as_they_divide_events(
    connection: asyncpg.Connection, reading: Open
) -> None:
    await make_table(connection, 0, "a text, b int, v text, primary key (b, a)")
    relays = {
        f"r-{number}-of-3": Share(RelayConfig(shard=Shard(number, 3), name="r"))
        for number in (1, 2, 3)
    }
    await connection.execute("insert into t select 'x,' || n, n, 'v' from generate_series(1, 30) n")
    for name, share in relays.items():
        await ask(connection, name)
        relay = await reading("a", "b", relay=name, share=share)
        await relay.to_the_end()
        of_events = await connection.fetch(
            "select a, b from t where pgoutbox.shard_of('{public,t}', '{b,a}',"
            " row_to_json(t), 3) = $1",
            share.shard.number,
        )

        assert sorted(relay.read) == sorted(relay.copy) == sorted(map(tuple, of_events))
        assert 0 < len(relay.read) < 30


@pytest.mark.parametrize(("named", "rows"), [({"t": ["INSERT"]}, 10), ({"t": ["UPDATE"]}, 0)])
async def test_a_filter_lets_rows_pass_where_it_has_their_inserts(
    connection: asyncpg.Connection, reading: Open, named: dict[str, list[str]], rows: int
) -> None:
    """What it doesn't have is done at once, so that nobody waits for it."""
    await make_table(connection)
    await ask(connection)
    relay = await reading(wanted=Filter(named, Counter()))

    await relay.to_the_end()

    assert len(relay.read) == rows
    assert await outcome(connection) == ("done", "")


async def test_a_relays_role_reads_what_was_asked_for_and_nothing_else(
    connection: asyncpg.Connection, reading: Open
) -> None:
    await make_table(connection)
    await connection.execute(f"select pgoutbox.grant_relay('{WRITER}')")
    await connection.execute(f"revoke all on t from {WRITER}")
    await ask(connection, condition="id < 3")
    relay = await reading(role=WRITER)

    await relay.to_the_end()

    assert relay.read == [(1,), (2,)]
    for statement in (
        "insert into pgoutbox.snapshot (id, relay, relation, table_name)"
        " values (gen_random_uuid(), 'default', 'public.t'::regclass, 't')",
        "update pgoutbox.snapshot set condition = null",
        "select from t",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await relay.connection.execute(statement)


async def test_no_check_of_a_domain_runs_with_the_rights_of_the_schemas_owner(
    connection: asyncpg.Connection, begun: Open
) -> None:
    """They may be those of another table's owner, and the last key is read back from text."""
    await connection.execute(
        "create sequence calls;"
        "create function called(text) returns bool language sql as 'select nextval(''calls'') > 0';"
        "create domain odd as text check (called(value))"
    )
    relay = await begun(0, "id odd primary key, v odd")
    await connection.execute("insert into t select n::text, 'v' from generate_series(1, 9) n")
    before = await connection.fetchval("select last_value from calls")

    await relay.to_the_end()

    assert len(relay.read) == 9
    assert await connection.fetchval("select last_value from calls") == before
    for key in ("odd[]", "pair"):
        await connection.execute(
            "create type pair as (a odd)" if key == "pair" else "select",
        )
        await connection.execute(f"create table keyed_by_{key[:3]} (id {key} primary key)")
        assert not await connection.fetch(
            "select pgoutbox.key_order($1::text::regclass)", f"keyed_by_{key[:3]}"
        )


async def test_a_policy_fails_the_snapshot_instead_of_leaving_rows_out(
    connection: asyncpg.Connection, begun: Open
) -> None:
    relay = await begun()
    await connection.execute(
        "alter table t enable row level security; alter table t force row level security;"
        "create policy few on t using (id < 5)"
    )

    await relay.to_the_end()

    assert relay.read == []
    state, error = await outcome(connection)
    assert (state, "row-level security" in error) == ("failed", True)
