"""PostgreSQL crashes, ends sessions, holds transactions open, and changes its tables."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect, Servers
from tests.support import ledger
from tests.support.cluster import ADMIN, OWNER
from tests.support.leading import lead
from tests.support.nursery import Nursery
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import eventually

FAILS = "PostgreSQL unavailable; retrying"
WORKS = "PostgreSQL available again"


@pytest.fixture
async def own(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> AsyncIterator[Scene]:
    """A scene on a PostgreSQL of its own; the WAL writer hardly ever flushes by itself."""
    cluster = await servers.cluster(wal_writer_delay="10s", max_connections="60")
    database = await cluster.create_database()
    await ledger.prepare(database)
    yield Scene(database, stream, nursery, seed)
    await database.disconnect()


def said(lines: list[str], part: str) -> int:
    """Count log lines."""
    return sum(part in line for line in lines)


async def test_crashes_under_load(own: Scene) -> None:
    """An immediate stop and a kill, again and again: one line at each begin, one at each end."""
    server = own.database.cluster.server
    assert server is not None
    relay = await own.relay()
    await relay.line("leading")
    async with own.load():
        for crash in range(1, 6):
            await own.pause(0.3, 0.8)
            if own.draw.random() < 0.5:
                server.kill()
            else:
                server.stop("immediate")
            await relay.line(FAILS, count=crash)
            await own.pause(0, 0.3)
            server.start()
            await relay.line(WORKS, count=crash, timeout=30)
    await own.all_sent()
    assert await relay.stop() == 0

    await own.check()
    assert said(relay.lines, FAILS) == said(relay.lines, WORKS) == 5
    assert len(relay.lines) <= 7 + 5 * 4, relay.output
    assert own.book.losses > 0


@pytest.mark.parametrize("flags", [(), ("--batch-events", "5")], ids=["looks", "batches in flight"])
async def test_what_a_crash_takes_back_was_never_published(
    own: Scene, flags: tuple[str, ...]
) -> None:
    """With synchronous_commit = off a transaction is visible before it is on disk."""
    server = own.database.cluster.server
    assert server is not None
    relay = await own.relay("--poll-interval", "10ms", *flags)
    await relay.line("leading")
    before = 0
    async with own.load(synchronous_commit="off"):
        for crash in range(1, 7):
            await own.pause(0.2, 0.7)
            server.kill()
            server.start()
            await relay.line(WORKS, count=crash, timeout=30)
            before = own.book.losses
    await own.all_sent()

    await own.check()
    assert before > 0


async def test_a_crash_takes_back_nothing_that_turned_asynchronous_late(own: Scene) -> None:
    """Its commit stage has run before, and noted that it would be on disk."""
    server = own.database.cluster.server
    assert server is not None
    writer = await own.database.connect()
    await writer.execute("create table t (id integer)")
    await writer.execute("select pgoutbox.capture_table('t')")
    relay = await own.relay("--poll-interval", "10ms")
    await relay.line("leading")
    for crash in range(1, 4):
        await writer.execute(
            f"begin; insert into t values ({crash}); set constraints all immediate;"
            " set local synchronous_commit = off; commit"
        )
        await eventually(partial(_more, own.stream, crash - 1), pause=0.001)

        server.kill()
        server.start()
        await relay.line(WORKS, count=crash, timeout=30)
        writer = await own.database.connect()
        assert await writer.fetchval("select max(id) from t") == crash
    assert await relay.stop() == 0


async def test_crash_takes_back_no_plan_that_order_depends_on(own: Scene) -> None:
    """A prepared transaction survives it, and would get into the middle of one sent in part."""
    server = own.database.cluster.server
    assert server is not None
    writer = await own.database.connect()
    await writer.execute("create table t (id integer)")
    await writer.execute("select pgoutbox.capture_table('t')")
    outbox = await leading(own)
    await writer.execute("set pgoutbox.notify = off")
    await writer.execute("begin; insert into t values (0); prepare transaction 'earlier'")
    await writer.execute("insert into t select generate_series(1, 9)")
    batch = await outbox.next_batch(Progress())
    # Nothing that it holds has to reach the disk first, which would take the plan with it.
    await outbox.begin(replace(batch, unflushed=None), Progress(), ())

    server.kill()
    server.start()
    writer = await own.database.connect()
    await writer.execute("commit prepared 'earlier'")

    outbox = await leading(own)
    assert (await outbox.next_batch(Progress())).keys[: len(batch)] == batch.keys
    await own.database.disconnect()


async def leading(scene: Scene) -> Outbox:
    """Return the outbox of a relay that has just taken the lead, in small batches."""
    message_format = format_of(MessageConfig(), "app")
    connection = await scene.database.connect()
    outbox = Outbox(
        connection,
        message_format,
        relay="default",
        batch_events=3,
        batch_bytes=2**20,
    )
    await lead(outbox, connection)
    return outbox


async def test_sessions_ended_again_and_again(scene: Scene, connect: Connect) -> None:
    """Either connection of the relay, at random moments."""
    admin = await connect(ADMIN)
    relay = await scene.relay()
    await relay.line("leading")
    ended = 0
    async with scene.load():
        for turn in range(12):
            await scene.pause(0.1, 0.4)
            which = scene.draw.choice(["relay", "listener"])
            ended += await admin.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name like $1 and datname = current_database()",
                f"pgoutbox {which} %",
            )
            print(turn, which)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    outages = said(relay.lines, FAILS)
    assert 0 < outages <= ended
    assert said(relay.lines, WORKS) == outages


async def test_both_connections_reset_by_the_network(scene: Scene) -> None:
    """The server's side of them may live on for a while, with the leader lock."""
    async with proxy(port_of(scene.database.dsn)) as network:
        scene.dsn = through(scene.database.dsn, network)
        relay = await scene.relay()
        await relay.line("leading")
        async with scene.load():
            await scene.pause(0.3, 0.6)
            network.cut()
            await relay.line(WORKS, timeout=30)
        await scene.all_sent()
        assert await relay.stop() == 0
    await scene.check()


async def test_others_flow_past_an_open_and_a_prepared_transaction(
    scene: Scene, connect: Connect
) -> None:
    """What is open, held or prepared delays only its own events."""
    hours, held, preparing = [await connect(**{"pgoutbox.notify": "off"}) for _ in range(3)]
    relay = await scene.relay()
    await relay.line("leading")
    book = scene.book

    open_one, prepared = book.label(), book.label()
    await hours.execute(f"begin; {_insert(1)}; {ledger.note(open_one)}")
    await held.execute("begin isolation level repeatable read; select count(*) from account")
    await preparing.execute(f"begin; {_insert(2)}; {ledger.note(prepared)}")
    book.issue(prepared)
    gid = f"{scene.database.name} {prepared}"
    await preparing.execute(f"prepare transaction '{gid}'")
    late = await connect()
    await late.execute("set lock_timeout = '10s'")

    async with scene.load(prepares=False):
        await scene.pause(1.0, 1.5)
    # resolve_prepared() of the writers has committed the prepared one.
    book.confirm(prepared)
    await scene.all_sent()
    sent = await scene.stream.count()
    assert sent > 20
    await held.execute("commit")
    book.issue(open_one)
    await hours.execute("commit")
    book.confirm(open_one)
    await eventually(lambda: _more(scene.stream, sent), timeout=10)
    await scene.all_sent()

    await scene.check()


def _insert(number: int) -> str:
    return f"insert into bulk values ({number}, 'long')"


async def _more(stream: Stream, count: int) -> bool:
    return await stream.count() > count


async def test_prepared_transaction_keeps_only_its_own_gap_open(
    scene: Scene, connect: Connect
) -> None:
    """Prepared for long, with others rolled back after their commit stage meanwhile."""
    preparing, other = [await connect(**{"pgoutbox.notify": "off"}) for _ in range(2)]
    relay = await scene.relay("--poll-interval", "20ms")
    await relay.line("leading")
    label = scene.book.label()
    await preparing.execute(f"begin; {_insert(1)}; {ledger.note(label)}")
    scene.book.issue(label)
    await preparing.execute("prepare transaction 'p'")
    for number in range(10):
        with suppress(asyncpg.RaiseError):
            await other.execute(
                f"begin; {_insert(2)}; insert into lag values (0, {number % 2 == 0}); commit"
            )
        if other.is_in_transaction():
            await other.execute("rollback")
    await other.execute("truncate lag")
    await eventually(lambda: _more(scene.stream, 4), timeout=10)

    await preparing.execute("commit prepared 'p'")
    scene.book.confirm(label)

    await eventually(lambda: _more(scene.stream, 5), timeout=10)
    # One more event, so that progress is written once all gaps are known to be dead.

    async def no_gaps() -> bool:
        await other.execute(_insert(3))
        gaps = await other.fetchval("select gap_first from pgoutbox.progress")
        return bool(gaps == [])

    await eventually(no_gaps, timeout=10, pause=0.1)


async def test_transaction_that_draws_positions_again_and_again(
    scene: Scene, connect: Connect
) -> None:
    """Each is rolled back to a savepoint; the others' events flow on, and progress stays small."""
    drawing, other = await connect(), await connect()
    relay = await scene.relay("--poll-interval", "20ms")
    await relay.line("leading")
    await drawing.execute(f"begin; {_insert(1)}; set constraints all immediate")
    for _ in range(150):
        await drawing.execute(f"savepoint s; {_insert(2)}; rollback to s")
        await other.execute(_insert(3))

    await eventually(lambda: _more(scene.stream, 149), timeout=10)
    assert await relay.stop() == 0
    [(ranges, holders)] = await other.fetch(
        "select cardinality(gap_first), cardinality(holders) from pgoutbox.progress"
    )
    assert holders == 1
    assert 1 <= ranges <= 101

    await drawing.execute("commit")
    relay = await scene.relay("--drain")
    assert await relay.wait() == 0, relay.output
    assert await scene.stream.count() == 151
    unsent = await other.fetchval("select count(*) from pgoutbox.outbox where sent_by = '{}'")
    assert unsent == 0
    assert await other.fetchval("select gap_first from pgoutbox.progress") == []


async def test_tables_change_under_load(scene: Scene, connect: Connect) -> None:
    """Columns come, go, get other names and types: no write fails, no column is missing.

    The table itself is called otherwise for a moment, and is in another schema.
    """
    owner = await connect()
    await owner.execute("create table shifty (id integer primary key, a integer, v bigint)")
    await ledger.keep(owner, "shifty")
    relay = await scene.relay()
    await relay.line("leading")
    is_over = asyncio.Event()
    writing = [asyncio.create_task(_write_shifty(scene, is_over.is_set, n)) for n in range(3)]
    changes = 0
    await owner.execute("set lock_timeout = '2s'; create schema aside")
    columns: list[str] = []
    for number in range(40):
        await scene.pause(0, 0.05)
        await owner.execute(_table_change(scene.draw, columns, number))
        changes += 1
    is_over.set()
    written = sum(await asyncio.gather(*writing))
    await scene.all_sent()
    assert await relay.stop() == 0

    print(f"{changes} changes of the table, {written} writes")
    await ledger.check(scene.database, scene.stream, scene.book, replays=False)


async def test_partitions_come_and_go_under_load(scene: Scene, connect: Connect) -> None:
    """A row of a partition that is away has no place; every other write gets through."""
    owner = await connect()
    await owner.execute(
        "create table shelf (id integer, region integer, v bigint) partition by list (region);"
        "create table shelf_1 partition of shelf for values in (1);"
        "create table shelf_2 (v bigint, gone integer, region integer, id integer);"
        "alter table shelf_2 drop column gone;"
        "alter table shelf attach partition shelf_2 for values in (2)"
    )
    await ledger.keep(owner, "shelf")
    relay = await scene.relay()
    await relay.line("leading")
    is_over = asyncio.Event()
    writing = [asyncio.create_task(_write_shelf(scene, is_over.is_set, n)) for n in range(3)]
    await owner.execute("set lock_timeout = '2s'")
    for _ in range(15):
        await scene.pause(0, 0.05)
        await owner.execute("alter table shelf detach partition shelf_2")
        await scene.pause(0, 0.02)
        await owner.execute("alter table shelf attach partition shelf_2 for values in (2)")
    is_over.set()
    written = sum(await asyncio.gather(*writing))
    await scene.all_sent()
    assert await relay.stop() == 0

    assert written > 20
    assert (
        await ledger.check(scene.database, scene.stream, scene.book, ("shelf",), replays=False)
        == written
    )


async def _write_shelf(scene: Scene, is_over: Callable[[], bool], number: int) -> int:
    draw = random.Random(f"{scene.seed} {number}")
    connection = await asyncpg.connect(scene.database.dsn, statement_cache_size=0)
    written = 0
    try:
        while not is_over():
            region = draw.choice([1, 2])
            try:
                await scene.commit(connection, f"insert into shelf values (1, {region})")
                written += 1
            except asyncpg.CheckViolationError:
                assert region == 2
    finally:
        connection.terminate()
    return written


async def test_a_table_of_as_many_columns_as_there_can_be(scene: Scene, connect: Connect) -> None:
    """And one of them goes."""
    owner = await connect()
    names = ["id", "v", *(f"c{n}" for n in range(3, 1_601))]
    columns = ", ".join(f"{name} integer default {n}" for n, name in enumerate(names))
    await owner.execute(f"create table wide ({columns})")
    await ledger.keep(owner, "wide")
    await owner.execute("alter table wide replica identity full")
    relay = await scene.relay()
    await relay.line("leading")
    for change in (
        "insert into wide (id) values (1), (2)",
        "update wide set c1600 = -1, c3 = null where id = 1",
        "delete from wide",
        "alter table wide drop c3",
        "insert into wide (id) values (3)",
        "update wide set c1600 = -3",
    ):
        await scene.commit(owner, change)
    await scene.all_sent()
    assert await relay.stop() == 0

    assert await ledger.check(scene.database, scene.stream, scene.book, ("wide",)) == 5
    payloads = [json.loads(message.data) for message in await scene.stream.messages()]
    assert [len(payload["data"]) for payload in payloads] == [1_600] * 3 + [0] * 2 + [1_599] * 2
    assert not any(b"unrenderable" in m.data for m in await scene.stream.messages())


TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)


async def test_timeouts_of_the_role_are_not_the_relays(scene: Scene, connect: Connect) -> None:
    """Nor is it read-only where its role's sessions are: it waits for a lock, and rests."""
    admin = await connect(ADMIN)
    known = {row["name"] for row in await admin.fetch("select name from pg_settings")}
    planted = {name: "1s" for name in TIMEOUTS if name in known}
    planted["default_transaction_read_only"] = "on"
    for name, value in planted.items():
        await admin.execute(
            f"alter role {OWNER} in database {scene.database.name} set {name} = '{value}'"
        )
    theirs: dict[str, Any] = dict.fromkeys(planted, "0") | {"default_transaction_read_only": "off"}
    relay = await scene.relay()
    await relay.line("connected to NATS")
    async with scene.load(prepares=False, **theirs):
        await scene.pause(0.2, 0.5)
        await admin.execute("begin; lock table pgoutbox.progress in access exclusive mode")
        await scene.pause(1.5, 2.0)
        await admin.execute("commit")
    await scene.pause(1.5, 2.0)
    async with scene.load(prepares=False, **theirs):
        await scene.pause(0.2, 0.5)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    assert "unavailable" not in relay.output
    assert "failed" not in relay.output


async def test_column_added_after_one_that_came_and_went(scene: Scene, connect: Connect) -> None:
    """While no relay runs that would refresh the capture function."""
    owner = await connect()
    await owner.execute("create table shifty (id integer primary key, v bigint)")
    await ledger.keep(owner, "shifty")
    await owner.execute("alter table shifty add column gone text")
    await owner.execute("alter table shifty drop column gone, add column kept text default 'k'")

    await scene.commit(owner, "insert into shifty values (1)")
    relay = await scene.relay("--drain")

    assert await relay.wait() == 0, relay.output
    await ledger.check(scene.database, scene.stream, scene.book, ("shifty",))


def _table_change(draw: random.Random, columns: list[str], number: int) -> str:
    kinds = ["add", "add", "drop", "rename", "type", "identity", "name", "schema"]
    kind = draw.choice(kinds) if columns else "add"
    name = draw.choice(columns or [""])
    match kind:
        case "add":
            columns.append(f"c{number}")
            return f"alter table shifty add c{number} integer default {number}"
        case "drop":
            columns.remove(name)
            return f"alter table shifty drop {name}"
        case "rename":
            columns[columns.index(name)] = f"r{number}"
            return f"alter table shifty rename {name} to r{number}"
        case "type":
            to = draw.choice(["text", "varchar(20)"])
            return f"alter table shifty alter {name} type {to}"
        case "identity":
            return f"alter table shifty add i{number} integer generated always as identity"
        case "name":
            return "alter table shifty rename to other; alter table other rename to shifty"
    return "alter table shifty set schema aside; alter table aside.shifty set schema public"


async def _write_shifty(scene: Scene, is_over: Callable[[], bool], number: int) -> int:
    draw = random.Random(f"{scene.seed} {number}")
    connection = await asyncpg.connect(scene.database.dsn, statement_cache_size=0)
    written = 0
    try:
        while not is_over():
            number = draw.randint(1, 30)
            change = draw.choice(
                [
                    f"insert into shifty (id) values ({number}) on conflict (id) do nothing",
                    f"update shifty set id = id where id = {number}",
                    f"delete from shifty where id = {number}",
                ]
            )
            await scene.commit(connection, change)
            written += 1
    finally:
        connection.terminate()
    return written


async def test_started_before_postgres_is_there(servers: Servers, scene: Scene) -> None:
    """It waits, says so once, and begins by itself."""
    cluster = await servers.cluster()
    assert cluster.server is not None
    there = await cluster.create_database()
    await ledger.prepare(there)
    await there.disconnect()
    scene.database = there
    cluster.server.stop()

    relay = await scene.relay()
    await relay.line(FAILS)
    await scene.pause(0.5, 1.5)
    assert said(relay.lines, FAILS) == 1
    cluster.server.start()

    async with scene.load():
        await relay.line(WORKS, timeout=20)
    await scene.all_sent()
    assert await relay.stop() == 0
    await scene.check()


async def test_notifications_wake_a_relay_that_sleeps_long(scene: Scene, connect: Connect) -> None:
    """With a poll interval of an hour each event comes by NOTIFY, however the writers race."""
    relay = await scene.relay("--poll-interval", "1h")
    await relay.line("leading")
    writers = [await connect() for _ in range(4)]

    async def write(number: int, writer: asyncpg.Connection) -> None:
        draw = random.Random(f"{scene.seed} {number}")
        for n in range(40):
            await scene.commit(writer, _insert(40 * number + n))
            await asyncio.sleep(draw.choice([0, 0, 0.002, 0.02]))

    await asyncio.gather(*itertools.starmap(write, enumerate(writers)))
    await scene.all_sent(timeout=20)

    assert await scene.check() == 160
    assert json.loads((await scene.stream.messages())[0].data)["table"] == "bulk"
