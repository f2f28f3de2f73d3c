"""Writers that change the rows that a snapshot is about to read, and what a consumer must have.

Tables begin with rows that have no events. Who applies the stream to those rows knows each table as
it is at any place in the stream; who applies it from nothing must have the same, as far as the
snapshot has come.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg

from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.ledger import LOST, all_sent
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stored, Stream
from tests.support.waiting import eventually

ROWS = 1_000  # in each table at the beginning

_TABLES = f"""
create sequence v;
create table plain (id integer primary key, region integer not null, v bigint);
create table part (
    id integer, region integer, v bigint, primary key (id, region)
) partition by list (region);
create table part_0 partition of part for values in (0);
create table part_1 (v bigint, gone text, region integer not null, id integer not null);
alter table part_1 drop column gone;
alter table part attach partition part_1 for values in (1);
create table part_2 partition of part for values in (2) partition by hash (id);
create table part_2_even partition of part_2 for values with (modulus 2, remainder 0);
create table part_2_odd partition of part_2 for values with (modulus 2, remainder 1);
insert into plain select 2 * n, n % 3, nextval('v') from generate_series(1, {ROWS}) n;
insert into part select 2 * n, n % 3, nextval('v') from generate_series(1, {ROWS}) n;
set client_min_messages = warning;
"""

KEYS = {"plain": ("id",), "part": ("id", "region")}

_EXPECTED = (
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,  # of a row that another one has moved
)

Row = dict[str, Any]
Rows = dict[tuple[Any, ...], Row]


async def prepare(database: Database) -> dict[str, Rows]:
    """Make the tables, capture them, and return the rows that have no events."""
    owner = await database.connect()
    await owner.execute(_TABLES)
    before = await contents(owner)
    for table in KEYS:
        await owner.execute("select pgoutbox.capture_table($1::text::regclass)", table)
    return before


async def contents(connection: asyncpg.Connection) -> dict[str, Rows]:
    """Return what the tables hold."""
    found: dict[str, Rows] = {}
    for table, key in KEYS.items():
        rows = await connection.fetch(f"select * from {table}")
        found[table] = {tuple(row[name] for name in key): dict(row) for row in rows}
    return found


async def write(database: Database, seed: int, is_over: Callable[[], bool]) -> None:
    """Change rows, most of them where the snapshot is, until it ``is_over``."""
    draw = random.Random(seed)
    while not is_over():
        try:
            connection = await asyncpg.connect(database.dsn)
            try:
                while not is_over():
                    await _transaction(connection, draw)
            finally:
                connection.terminate()
        except LOST:
            await asyncio.sleep(0.05)


async def _transaction(connection: asyncpg.Connection, draw: random.Random) -> None:
    table = draw.choice(list(KEYS))
    lazily = "set local synchronous_commit = off;" if draw.random() < 0.3 else ""
    near = await connection.fetchval(
        "select (s.place -> 'last' ->> 0)::integer from pgoutbox.snapshot s"
        " where s.relation = $1::text::regclass order by s.asked_at desc limit 1",
        table,
    )
    if near is None or draw.random() < 0.2:
        near = draw.randrange(2 * ROWS)
    changes = " ".join(_change(table, near, draw) for _ in range(draw.choice((1, 1, 1, 2, 5, 30))))
    end = "rollback" if draw.random() < 0.05 else "commit"
    try:
        await connection.execute(f"begin; {lazily} {changes} {end}")
    except _EXPECTED:
        await connection.execute("rollback")


def _change(table: str, near: int, draw: random.Random) -> str:
    one = max(0, near + draw.randrange(-30, 150))
    other = draw.choice((one + 1, max(0, near + draw.randrange(-300, 300)), draw.randrange(3_000)))
    change = draw.random()
    if change < 0.4:
        return f"update {table} set v = nextval('v') where id between {one} and {one + 3};"
    if change < 0.6:
        values = f"{other}, {draw.randrange(3)}, nextval('v')"
        return f"insert into {table} values ({values}) on conflict do nothing;"
    if change < 0.75:
        return f"delete from {table} where id = {one};"
    if change < 0.9:  # the key
        return (
            f"update {table} set id = {other}, v = nextval('v') where id = {one}"
            f" and not exists (select from {table} t where t.id = {other});"
        )
    return f"update {table} set region = (region + 1) % 3, v = nextval('v') where id = {one};"


@dataclass
class Judge:
    """Applies a stream, and compares at each row and each end of a chunk."""

    truth: dict[str, Rows]  # at this place in the stream
    copies: dict[str, Rows] = field(default_factory=lambda: {table: {} for table in KEYS})
    read: Counter[str] = field(default_factory=Counter)
    found: int = 0  # rows that were changed around their chunk
    chunks: int = 0
    ended: set[str] = field(default_factory=set)
    _touched: dict[str, dict[tuple[Any, ...], int]] = field(
        default_factory=lambda: {table: {} for table in KEYS}
    )

    def judge(self, stored: list[Stored]) -> None:
        """Apply all messages."""
        ends = {
            (load["table"], header.partition("; rows")[0]): number
            for number, (load, header) in enumerate(map(_read, stored))
            if header
        }
        for number, (load, header) in enumerate(map(_read, stored)):
            table = load["table"]
            if load["action"] == "READ":
                self._apply_read(load, number)
                if ends[table, header.partition("; rows")[0]] == number:
                    self._end_chunk(table, load, is_last=header.endswith("; last"))
            else:
                self._apply_event(load, number)

    def _apply_event(self, load: dict[str, Any], number: int) -> None:
        table = load["table"]
        for rows in (self.truth[table], self.copies[table]):
            if load["action"] != "INSERT":
                rows.pop(_key(table, load["dataOld"]), None)
            if load["action"] != "DELETE":
                rows[_key(table, load["data"])] = load["data"]
        for row in (load["data"], load["dataOld"]):
            if row:
                self._touched[table][_key(table, row)] = number

    def _apply_read(self, load: dict[str, Any], number: int) -> None:
        table, row = load["table"], load["data"]
        if not row:  # the mark of an empty end
            return
        key = _key(table, row)
        assert self.truth[table].get(key) == row, f"{table} {key} is read as it isn't"
        self.copies[table][key] = row
        self.read[table] += 1
        self.found += key in self._touched[table]

    def _end_chunk(self, table: str, load: dict[str, Any], *, is_last: bool) -> None:
        self.chunks += 1
        truth, copy = self.truth[table], self.copies[table]
        if is_last:
            self.ended.add(table)
            assert copy == truth
        elif table == "plain":  # which is read in the order of its key as a whole
            upto = _key(table, load["data"])
            assert {k: r for k, r in copy.items() if k <= upto} == {
                k: r for k, r in truth.items() if k <= upto
            }
        assert all(truth.get(key) == row for key, row in copy.items())


def _read(message: Stored) -> tuple[dict[str, Any], str]:
    return json.loads(message.data), message.headers.get("Pgoutbox-Snapshot", "")


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEYS[table])


async def judged(
    database: Database, stream: Stream, nursery: Nursery, seed: int, more: Callable[[], bool]
) -> None:
    """Take snapshots while there are ``more``, with writers and kills, and judge the stream."""
    draw = random.Random(seed)
    judge = Judge(await prepare(database))
    owner = await database.connect()
    is_over = asyncio.Event()
    writing = [
        asyncio.create_task(write(database, draw.randrange(2**32), is_over.is_set))
        for _ in range(3)
    ]
    kills = 0
    relay = await _relay(database, nursery, stream)
    while more():
        arguments = ("plain", "part", "--rate", "2000", "--detach", "--dsn", database.dsn)
        done = await asyncio.to_thread(pgoutbox, "snapshot", "start", *arguments)
        assert done.returncode == 0, done.stderr
        while not await owner.fetchval(_ALL_DONE):
            rows = await owner.fetchval(_ROWS)
            await eventually(partial(_is_further, owner, rows), timeout=60)
            await asyncio.sleep(draw.uniform(0.0, 0.4))
            await relay.kill()
            kills += 1
            relay = await _relay(database, nursery, stream)
    is_over.set()
    await asyncio.gather(*writing)
    await all_sent(database)
    assert await relay.stop() == 0

    judge.judge(await stream.messages())

    print(f"{kills} kills, {judge.chunks} chunks, {judge.read}, {judge.found} changed before")
    assert judge.ended == set(KEYS)
    assert judge.copies == judge.truth == await contents(owner)
    assert judge.found > 100


_ALL_DONE = "select bool_and(state = 'done') from pgoutbox.snapshot"
_ROWS = "select sum(rows) from pgoutbox.snapshot"


async def _is_further(owner: asyncpg.Connection, rows: int) -> bool:
    """Tell whether more is recorded; on a busy machine a relay takes a while to begin."""
    done = await owner.fetchval(_ALL_DONE)
    return bool(done or await owner.fetchval(_ROWS) > rows)


async def _relay(database: Database, nursery: Nursery, stream: Stream) -> Relay:
    return await nursery.start(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--poll-interval", "100ms", "--batch-events", "200"),
    )
