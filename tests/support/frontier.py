"""Writers that change the rows that a snapshot is about to read, and what a consumer must have.

Tables begin with rows that have no events. Who applies the stream to those rows knows each table as
it is at any place in the stream; who applies it from nothing must have the same, as far as the
snapshot has come.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
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
create table bare (id integer, region integer, v bigint);
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
insert into bare select 2 * n, n % 3, nextval('v') from generate_series(1, {ROWS}) n;
insert into part select 2 * n, n % 3, nextval('v') from generate_series(1, {ROWS}) n;
set client_min_messages = warning;
"""

# Of a table without a key all columns; `v` is another one in each row and version of a row.
KEYS = {"plain": ("id",), "part": ("id", "region"), "bare": ("id", "region", "v")}
_ROWS_OF_A_PAGE = 185  # of table bare

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
    near = await _frontier(connection, table)
    if near is None or draw.random() < 0.2:
        near = draw.randrange(2 * ROWS)
    changes = " ".join(_change(table, near, draw) for _ in range(draw.choice((1, 1, 1, 2, 5, 30))))
    is_prepared = draw.random() < 0.1
    name = f"frontier {draw.getrandbits(64)}"
    end = draw.choices(("commit", "rollback"), (0.95, 0.05))[0]
    try:
        if is_prepared:
            await connection.execute(
                f"begin; set local pgoutbox.notify = off; {changes} prepare transaction '{name}'"
            )
            await asyncio.sleep(draw.uniform(0.0, 0.05))
            await connection.execute(f"{end} prepared '{name}'")
        else:
            await connection.execute(f"begin; {lazily} {changes} {end}")
    except _EXPECTED:
        await connection.execute("rollback")


async def _frontier(connection: asyncpg.Connection, table: str) -> int | None:
    """Return about which id the table's snapshot has read last."""
    last = await connection.fetchval(
        "select s.place -> 'last' ->> 0 from pgoutbox.snapshot s"
        " where s.relation = $1::text::regclass order by s.asked_at desc limit 1",
        table,
    )
    if last is None or not last.startswith("("):
        return last and int(last)
    page, line = map(int, last.strip("()").split(","))
    return 2 * (page * _ROWS_OF_A_PAGE + line)


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


@dataclass
class Relays:
    """Relays of one name, one of which leads; something happens to it by turns."""

    database: Database
    stream: Stream
    nursery: Nursery
    owner: asyncpg.Connection
    leader: Relay | None = None

    async def start(self) -> Relay:
        """Start another one."""
        return await self.nursery.start(
            *("relay", "--dsn", self.database.dsn, "--nats-url", self.stream.url),
            *("--topic", self.stream.topic, "--poll-interval", "100ms", "--batch-events", "200"),
        )

    async def kill(self) -> None:
        """Kill it, and start one that goes on."""
        await self._leader.kill()
        self.leader = await self.start()

    async def hand_over(self) -> None:
        """Kill it while another one stands by."""
        successor = await self._standby()
        await self._leader.kill()
        self.leader = successor

    async def freeze(self) -> None:
        """Freeze it until another one has taken over."""
        successor, frozen = await self._standby(), self._leader
        frozen.send_signal(signal.SIGSTOP)
        await self.owner.execute(_END_LEADER)  # as a server does that misses its client
        await successor.line(" leading ")
        frozen.send_signal(signal.SIGCONT)
        await frozen.line("standing by")
        await frozen.kill()
        self.leader = successor

    async def rewrite(self) -> None:
        """Let it run, and give the tables other files."""
        for table in ("plain", "bare"):
            await self.owner.execute(f"vacuum full {table}")

    @property
    def _leader(self) -> Relay:
        assert self.leader is not None
        return self.leader

    async def _standby(self) -> Relay:
        await self._leader.line(" leading ")
        successor = await self.start()
        await successor.line("standing by")
        return successor

    async def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        return await self._leader.stop()


_END_LEADER = """
select pg_terminate_backend(leader_pid) from pgoutbox.progress p where pgoutbox.is_led(p)
"""


async def judged(
    database: Database, stream: Stream, nursery: Nursery, seed: int, more: Callable[[], bool]
) -> None:
    """Take snapshots while there are ``more``, with writers and faults, and judge the stream."""
    draw = random.Random(seed)
    judge = Judge(await prepare(database))
    owner = await database.connect()
    is_over = asyncio.Event()
    writing = [
        asyncio.create_task(write(database, draw.randrange(2**32), is_over.is_set))
        for _ in range(3)
    ]
    relays = Relays(database, stream, nursery, owner)
    relays.leader = await relays.start()
    faults = [relays.kill, relays.hand_over, relays.freeze, relays.rewrite]
    happened: Counter[str] = Counter()
    while more():
        done = await asyncio.to_thread(
            pgoutbox, "snapshot", "start", *KEYS, *_HOW, "--dsn", database.dsn
        )
        assert done.returncode == 0, done.stderr
        draw.shuffle(faults)
        for fault in faults:
            rows = await owner.fetchval(_ROWS)
            await eventually(partial(_is_further, owner, rows), timeout=60)
            await asyncio.sleep(draw.uniform(0.0, 0.4))
            if not await owner.fetchval(_ALL_DONE):
                await fault()
                happened[fault.__name__] += 1
        await eventually(lambda: owner.fetchval(_ALL_DONE), timeout=60)
    is_over.set()
    await asyncio.gather(*writing)
    await all_sent(database)
    assert await relays.stop() == 0

    judge.judge(await stream.messages())

    print(f"{happened}, {judge.chunks} chunks, {judge.read}, {judge.found} changed before")
    assert judge.ended == set(KEYS)
    assert judge.copies == judge.truth == await contents(owner)
    assert judge.found > 100


_HOW = ("--allow-no-key", "--rate", "2000", "--detach")
_ALL_DONE = "select bool_and(state = 'done') from pgoutbox.snapshot"
_ROWS = "select sum(rows) from pgoutbox.snapshot"


async def _is_further(owner: asyncpg.Connection, rows: int) -> bool:
    """Tell whether more is recorded; on a busy machine a relay takes a while to begin."""
    done = await owner.fetchval(_ALL_DONE)
    return bool(done or await owner.fetchval(_ROWS) > rows)
