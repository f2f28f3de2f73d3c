"""Random transactions on captured tables, and what the stream must hold after them.

Every captured table has a trigger of ours beside pgoutbox's, which writes each row change into
an ordinary table, ``ledger``, in the same transaction. What is in it once the writers have
ended was committed, so the stream has to tell exactly that: nothing missing, nothing extra,
transactions whole, in an order that nobody could have seen differently.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.support.cluster import ADMIN, Database
from tests.support.streams import Stored, Stream
from tests.support.waiting import eventually

# A column `v` has a number that no other version of any row ever has, so an event names its
# transaction by what is in it.
TABLES = """
create sequence v;
create sequence n;
create table ledger (
    xid xid8 not null default pg_current_xact_id(), n bigint not null default nextval('n'),
    table_name text not null, action text not null, new_row json, old_row json
);
create table ledger_transaction (
    xid xid8 primary key default pg_current_xact_id(), label integer not null,
    seen pg_snapshot not null default pg_current_snapshot()
);

create function number_version() returns trigger language plpgsql as
    $$ begin new.v := nextval('v'); return new; end $$;
create function keep_ledger() returns trigger language plpgsql as $$
begin
    insert into ledger (table_name, action, new_row, old_row) values (
        tg_argv[0], tg_op,
        case when tg_op in ('INSERT', 'UPDATE') then row_to_json(new) end,
        case when tg_op in ('UPDATE', 'DELETE') then row_to_json(old) end
    );
    return null;
end $$;

create table account (id integer primary key, owner text, balance integer default 0, v bigint);
create table entry (
    id integer primary key, body text, v bigint,
    account integer not null references account on delete cascade on update cascade
);
create table audit (about integer, v bigint);
create table bulk (id integer, body text, v bigint);
create table part (id integer, region integer, body text, v bigint, primary key (id, region))
    partition by list (region);
create table part_1 partition of part for values in (1);
create table part_2 (
    v bigint, gone integer, body text, region integer not null, id integer not null
);
alter table part_2 drop column gone;
alter table part attach partition part_2 for values in (2);
create table base (id integer primary key, body text, v bigint);
create table derived (extra text, primary key (id)) inherits (base);
create index on bulk (v);
create index on part (v);
create index on base (v);
create index on derived (v);
create index on entry (account);

-- Writes a captured table at COMMIT, after the commit stage or before it.
create function write_audit() returns trigger language plpgsql as
    $$ begin insert into audit (about) values (new.id); return null; end $$;
create constraint trigger write_audit after update on account
    deferrable initially deferred for each row when (new.balance % 3 = 0)
    execute function write_audit();

-- Makes its transaction hang, or fail, between its commit stage and its end.
create table lag (seconds float8, fails boolean);
create function lag() returns trigger language plpgsql as $$
begin
    perform pg_sleep(new.seconds);
    if new.fails then
        raise exception 'fails at its very end';
    end if;
    return null;
end $$;
create constraint trigger lag after insert on lag
    deferrable initially deferred for each row execute function lag();
"""

CAPTURED = ("account", "entry", "audit", "bulk", "part", "base", "derived")

# What a writer must expect of its neighbours; anything else is a failure of the test.
_EXPECTED = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
    asyncpg.ForeignKeyViolationError,
    asyncpg.RaiseError,
    asyncpg.DivisionByZeroError,
)
LOST = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # when the server's last words come between
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    OSError,
)


async def prepare(database: Database) -> None:
    """Make the tables, capture them, and keep a ledger of them."""
    owner = await database.connect()
    await owner.execute(TABLES)
    for table in CAPTURED:
        await keep(owner, table)


async def keep(owner: asyncpg.Connection, table: str) -> None:
    """Capture a table that has a column ``v``, and keep a ledger of it."""
    await owner.execute(f"""
        create trigger number_version before insert or update on {table}
            for each row execute function number_version();
        create trigger "00_ledger" after insert or update or delete on {table}
            for each row execute function keep_ledger('{table}');
        create trigger "00_ledger_truncate" after truncate on {table}
            for each statement execute function keep_ledger('{table}');
    """)
    await owner.execute("select pgoutbox.capture_table($1::text::regclass)", table)


@dataclass
class Book:
    """What the writers saw: when each COMMIT was issued, and when it returned."""

    issued: dict[int, int] = field(default_factory=dict)
    returned: dict[int, int] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)
    losses: int = 0  # connections that a writer lost
    _labels: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _clock: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def label(self) -> int:
        """Return a number for a new transaction."""
        return next(self._labels)

    def issue(self, label: int) -> None:
        """Note that what gives the transaction its place is about to be sent."""
        self.issued.setdefault(label, next(self._clock))

    def confirm(self, label: int) -> None:
        """Note that the transaction's COMMIT has returned."""
        self.returned[label] = next(self._clock)


class Writer:
    """Runs random transactions, one after another, on a connection of its own."""

    def __init__(self, database: Database, book: Book, seed: object, **settings: str) -> None:
        self._database = database
        self._book = book
        self._random = random.Random(f"{seed}")
        self._settings = {"lock_timeout": "100ms", "pgoutbox.notify": "off", **settings}
        self._connection: asyncpg.Connection | None = None
        self.done = 0
        self.may_truncate = True
        self.may_prepare = True

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Write until ``is_over`` says so; connect again whenever the connection is lost."""
        try:
            while not is_over():
                try:
                    connection = await self._connected()
                    await self._transaction(connection)
                    self.done += 1
                except _EXPECTED:
                    await self._rollback()
                except LOST:
                    self._book.losses += 1
                    self._forget()
                    await asyncio.sleep(0.02)
        except Exception as failure:
            self._book.failures.append(failure)
            raise
        finally:
            if self._connection is not None:
                self._forget()

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._database.dsn, server_settings=self._settings, statement_cache_size=0
            )
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _rollback(self) -> None:
        try:
            if self._connection is not None and self._connection.is_in_transaction():
                await self._connection.execute("rollback")
        except LOST:
            self._forget()

    async def _transaction(self, connection: asyncpg.Connection) -> None:
        kinds: list[tuple[Callable[[asyncpg.Connection, int], Any], int]] = [
            (self._single_statement, 4),
            (self._implicit_block, 2),
            (self._block, 10),
            (self._early_stage, 2),
            (self._serializable, 2),
            (self._prepared, 2 if self.may_prepare else 0),
            (self._copy, 1),
        ]
        kind = self._random.choices(*zip(*kinds, strict=True))[0]
        await kind(connection, self._book.label())

    async def _single_statement(self, connection: asyncpg.Connection, label: int) -> None:
        statement = self._row_change()
        self._book.issue(label)
        await connection.execute(
            f"with l as (insert into ledger_transaction (label) values ({label})) {statement}"
        )
        self._book.confirm(label)

    async def _implicit_block(self, connection: asyncpg.Connection, label: int) -> None:
        statements = "; ".join(self._statement() for _ in range(self._random.randint(2, 4)))
        self._book.issue(label)
        await connection.execute(f"{note(label)}; {statements}")
        self._book.confirm(label)

    async def _block(self, connection: asyncpg.Connection, label: int) -> None:
        await connection.execute("begin")
        await self._statements(connection, depth=0)
        await connection.execute(note(label))
        if self._random.random() < 0.15:
            await connection.execute("rollback")
            return
        if self._random.random() < 0.05:
            await asyncio.sleep(self._random.uniform(0, 0.04))
        await self._commit(connection, label)

    async def _commit(self, connection: asyncpg.Connection, label: int) -> None:
        self._book.issue(label)
        await connection.execute("commit")
        self._book.confirm(label)

    async def _statements(self, connection: asyncpg.Connection, *, depth: int) -> None:
        for _ in range(self._random.randint(1, 4)):
            if self._random.random() < 0.25 and depth < 3:
                await self._savepoint(connection, depth)
            else:
                await connection.execute(self._statement())

    async def _savepoint(self, connection: asyncpg.Connection, depth: int) -> None:
        await connection.execute(f"savepoint s{depth}")
        try:
            await self._statements(connection, depth=depth + 1)
            if self._random.random() < 0.1:
                await connection.execute("select 1 / 0")
        except _EXPECTED:
            await connection.execute(f"rollback to savepoint s{depth}")
            return
        if self._random.random() < 0.4:
            await connection.execute(f"rollback to savepoint s{depth}")
        else:
            await connection.execute(f"release savepoint s{depth}")

    async def _early_stage(self, connection: asyncpg.Connection, label: int) -> None:
        """The commit stage runs at SET CONSTRAINTS, and again for what is written after that."""
        await connection.execute("begin")
        await self._statements(connection, depth=1)
        await connection.execute(note(label))
        self._book.issue(label)
        await connection.execute("set constraints all immediate")
        if self._random.random() < 0.5:
            await self._statements(connection, depth=1)
        if self._random.random() < 0.3:
            await connection.execute("set constraints all deferred")
            await self._statements(connection, depth=1)
        await self._commit(connection, label)

    async def _serializable(self, connection: asyncpg.Connection, label: int) -> None:
        level = self._random.choice(["serializable", "repeatable read"])
        await connection.execute(f"begin isolation level {level}")
        await connection.fetch("select sum(balance) from account where id < 6")
        await self._statements(connection, depth=2)
        await connection.execute(note(label))
        await self._commit(connection, label)

    async def _prepared(self, connection: asyncpg.Connection, label: int) -> None:
        name = f"{self._database.name} {label}"
        await connection.execute("begin")
        await self._statements(connection, depth=1)
        await connection.execute(note(label))
        self._book.issue(label)
        self._book.prepared.add(name)
        await connection.execute(f"prepare transaction '{name}'")
        await asyncio.sleep(self._random.uniform(0, 0.04))
        await self.resolve(connection, name)

    async def resolve(self, connection: asyncpg.Connection, name: str) -> None:
        """End a prepared transaction, as its name says."""
        label = int(name.split()[1])
        if self._random.random() < 0.3:
            await connection.execute(f"rollback prepared '{name}'")
        else:
            await connection.execute(f"commit prepared '{name}'")
            self._book.confirm(label)
        self._book.prepared.discard(name)

    async def _copy(self, connection: asyncpg.Connection, label: int) -> None:
        await connection.execute(f"begin; {note(label)}")
        rows = [(n, "copied") for n in range(self._random.randint(1, 40))]
        table = self._random.choice(["bulk", "part"])
        if table == "bulk":
            await connection.copy_records_to_table(table, records=rows, columns=["id", "body"])
        else:
            first = self._random.randrange(10**9)
            await connection.copy_records_to_table(
                table,
                records=[(first + n, 1 + n % 2, body) for n, body in rows],
                columns=["id", "region", "body"],
            )
        await self._commit(connection, label)

    def _statement(self) -> str:
        chance = self._random.random()
        if chance < 0.04:
            fails = str(self._random.random() < 0.3).lower()
            return f"insert into lag values ({self._random.uniform(0, 0.015):.4f}, {fails})"
        if chance < 0.05 and self.may_truncate:
            # Never alone, so that its transaction can be told by what else is in it.
            table = self._random.choice(["bulk", "part", "base"])
            return f"truncate {table}; insert into bulk values (0, 'after truncate')"
        if chance < 0.08:
            return f"""do $$ begin
                {self._row_change()};
                begin
                    {self._row_change()};
                    raise exception 'no';
                exception when raise_exception then end;
                {self._row_change()};
            end $$"""
        return self._row_change()

    def _row_change(self) -> str:
        draw = self._random
        hot, cold = draw.randint(1, 8), draw.randint(1, 60)
        number = draw.randrange(10**9)
        return draw.choice(
            [
                f"update account set balance = balance + 1 where id = {hot}",
                f"update account set balance = balance + 1 where id = {hot}",
                f"insert into account (id, owner) values ({cold}, 'o{number}')"
                " on conflict (id) do update set balance = account.balance + 1",
                f"insert into account (id, owner) values ({cold}, 'plain')",
                f"update account set owner = 'many' where id between {cold} and {cold + 3}",
                f"delete from account where id = {cold}",
                f"update account set id = {cold} where id = {draw.randint(9, 60)}",
                f"insert into entry (id, body, account) select {number} + s, 'e', id"
                f" from account, generate_series(1, {draw.randint(1, 3)}) s where id <= {hot}",
                f"update entry set body = body || '.' where account = {hot}",
                f"insert into bulk select s, 'b' from generate_series(1, {draw.randint(1, 20)}) s",
                "delete from bulk where v = (select min(v) from bulk)",
                f"insert into part values ({number}, {draw.randint(1, 2)}, 'p')",
                "update part set region = 3 - region where v = (select max(v) from part)",
                "delete from part where v = (select min(v) from part)",
                f"insert into base values ({number}, 'base')",
                f"insert into derived (id, body, extra) values ({number}, 'derived', 'x')",
                "update base set body = 'changed' where v = (select max(v) from base)",
                "delete from base where v = (select min(v) from base)",
            ]
        )


def note(label: int) -> str:
    return f"insert into ledger_transaction (label) values ({label})"


async def resolve_prepared(database: Database, book: Book) -> None:
    """End every transaction that was left prepared, by commit."""
    owner = await asyncpg.connect(database.dsn)
    try:
        names = await owner.fetch(
            "select gid from pg_prepared_xacts where database = current_database()"
        )
        for (name,) in names:
            await owner.execute(f"commit prepared '{name}'")
    finally:
        await owner.close()
    book.prepared.clear()


async def write(
    database: Database,
    book: Book,
    seed: object,
    *,
    writers: int,
    is_over: Callable[[], bool],
    prepares: bool = True,
    truncates: bool = True,
    **settings: str,
) -> int:
    """Run several writers until ``is_over``; return how many transactions ended well."""
    everybody = [Writer(database, book, f"{seed} {n}", **settings) for n in range(writers)]
    for writer in everybody:
        writer.may_prepare = prepares
        writer.may_truncate = truncates
    async with asyncio.TaskGroup() as tasks:
        for writer in everybody:
            tasks.create_task(writer.run(is_over))
    await resolve_prepared(database, book)
    assert not book.failures
    return sum(writer.done for writer in everybody)


@dataclass(frozen=True)
class Change:
    """A row change, as the ledger or an event has it."""

    table: str
    action: str
    new: dict[str, Any]
    old: dict[str, Any]

    @property
    def mark(self) -> tuple[str, int] | None:
        """What no other change has; None for TRUNCATE."""
        row = self.new or self.old
        return (self.action, row["v"]) if row else None


@dataclass(frozen=True)
class Event:
    """A message of the stream, read."""

    id: str
    change: Change


def read(message: Stored) -> Event:
    """Read a message, and check what all messages have in common."""
    values = json.loads(message.data)
    assert message.id == values["id"]
    assert message.subject.split(".", 1)[1] == f"{values['schema']}_{values['table']}"
    change = Change(values["table"], values["action"], values["data"], values["dataOld"])
    return Event(values["id"], change)


@dataclass
class Transaction:
    """What the ledger has of a committed transaction."""

    xid: int
    label: int
    seen: str
    changes: list[Change] = field(default_factory=list)

    def has_seen(self, xid: int) -> bool:
        """Tell whether its last snapshot had ``xid`` committed."""
        xmin, xmax, running = self.seen.split(":")
        return xid < int(xmin) or (xid < int(xmax) and str(xid) not in running.split(","))


async def committed(database: Database) -> dict[int, Transaction]:
    """Return what the ledger says was committed, transactions with captured changes only."""
    owner = await asyncpg.connect(database.dsn_as(ADMIN))
    try:
        async with owner.transaction(isolation="repeatable_read"):
            notes = await owner.fetch("select xid::text, label, seen::text from ledger_transaction")
            changes = await owner.fetch(
                "select xid::text, table_name, action, new_row, old_row from ledger order by n"
            )
    finally:
        await owner.close()
    transactions = {int(x): Transaction(int(x), label, seen) for x, label, seen in notes}
    for xid, table, action, new, old in changes:
        change = Change(table, action, json.loads(new or "{}"), json.loads(old or "{}"))
        transactions[int(xid)].changes.append(change)
    return {xid: found for xid, found in transactions.items() if found.changes}


def published(events: Iterable[Event], transactions: dict[int, Transaction]) -> list[int]:
    """Check events against the ledger: nothing missing, nothing extra, transactions whole.

    Returns the transactions in the order of the stream. Of repeated events the first counts.
    """
    of_mark = {
        change.mark: xid
        for xid, transaction in transactions.items()
        for change in transaction.changes
        if change.mark
    }
    first_ones = list({event.id: event for event in reversed(list(events))}.values())[::-1]
    changes = [event.change for event in first_ones]
    strange = [change for change in changes if change.mark and change.mark not in of_mark]
    assert not strange, f"never committed: {strange[:3]}"
    order: list[int] = []
    start = 0
    while start < len(changes):
        following = (changes[place].mark for place in range(start, len(changes)))
        mark = next(filter(None, following), None)
        assert mark, "a TRUNCATE stands apart from the rest of its transaction"
        transaction = transactions[of_mark[mark]]
        end = start + len(transaction.changes)
        assert changes[start:end] == transaction.changes, "a transaction doesn't stand whole"
        order.append(transaction.xid)
        start = end
    assert len(order) == len(set(order))
    missing = [transactions[xid].changes for xid in transactions.keys() - set(order)]
    assert not missing, f"{len(missing)} transactions are missing, such as {missing[0][:3]}"
    return order


def in_commit_order(order: Sequence[int], transactions: dict[int, Transaction], book: Book) -> None:
    """Check that nobody could have seen the transactions in another order.

    No transaction comes before one whose COMMIT had returned when its own was issued, or
    which its last snapshot had seen.
    """
    returned_later = 2**62
    for xid in reversed(order):
        transaction = transactions[xid]
        issued = book.issued[transaction.label]
        assert returned_later > issued, f"{xid} stands before one that was committed before it"
        returned_later = min(returned_later, book.returned.get(transaction.label, 2**62))

    place = {xid: index for index, xid in enumerate(order)}
    ascending = sorted(place)
    last_upto = list(itertools.accumulate((place[xid] for xid in ascending), max))
    for xid in order:
        transaction = transactions[xid]
        xmin, xmax = map(int, transaction.seen.split(":")[:2])
        index = bisect.bisect_left(ascending, xmin)
        latest = last_upto[index - 1] if index else -1
        for other in ascending[index : bisect.bisect_left(ascending, xmax)]:
            if other != xid and transaction.has_seen(other):
                latest = max(latest, place[other])
        assert latest < place[xid], f"{xid} stands before one that it had seen"


def replayed(changes: Iterable[Change]) -> dict[str, list[dict[str, Any]]]:
    """Apply changes one by one, as a consumer would; every old image has to be there."""
    tables: dict[str, dict[int, dict[str, Any]]] = {}
    for change in changes:
        rows = tables.setdefault(change.table, {})
        if change.action == "TRUNCATE":
            rows.clear()
            continue
        if change.old:
            assert rows.pop(change.old["v"], None) == change.old, f"out of order: {change}"
        if change.new:
            rows[change.new["v"]] = change.new
    return {table: [rows[v] for v in sorted(rows)] for table, rows in tables.items() if rows}


async def contents(database: Database, tables: Sequence[str] = CAPTURED) -> dict[str, Any]:
    """Return what the tables hold now, in the shape of :func:`replayed`."""
    owner = await asyncpg.connect(database.dsn)
    found = {}
    try:
        for table in tables:
            only = "" if table == "part" else "only"
            rows = await owner.fetch(f"select row_to_json(t) from {only} {table} t order by v")
            if rows:
                found[table] = [json.loads(row[0]) for row in rows]
    finally:
        await owner.close()
    return found


async def check(
    database: Database,
    stream: Stream,
    book: Book,
    tables: Sequence[str] = CAPTURED,
    *,
    replays: bool = True,
) -> int:
    """Check the whole stream against the ledger; return how many transactions it has.

    ``replays`` is to be false where ALTER TABLE has changed rows. There must be no repeats: those
    inside the duplicate window are dropped, and no test is longer than that.
    """
    messages = [message for message in await stream.messages() if "Nats-Msg-Id" in message.headers]
    events = [read(message) for message in messages]
    transactions = await committed(database)
    order = published(events, transactions)
    assert len({event.id for event in events}) == len(events), "the stream has repeats"
    in_commit_order(order, transactions, book)
    if replays:
        assert replayed(event.change for event in events) == await contents(database, tables)
    return len(order)


async def all_sent(database: Database, relay: str = "default", *, timeout: float = 60.0) -> None:
    """Wait until a relay has nothing left to send."""
    async with _owner(database) as owner:

        async def nothing_left() -> bool:
            left = await owner.fetchval("select events from pgoutbox.backlog($1)", relay)
            assert left == 0
            return True

        await eventually(nothing_left, timeout=timeout, pause=0.05)


async def all_emptied(database: Database, *, timeout: float = 60.0) -> None:
    """Wait until the outbox has no events any more, all being sent."""
    async with _owner(database) as owner:

        async def is_empty() -> bool:
            return not await owner.fetchval("select exists (select from pgoutbox.event)")

        await eventually(is_empty, timeout=timeout, pause=0.1)


@asynccontextmanager
async def _owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of the owner's, which may be lost before its end."""
    connection = await asyncpg.connect(database.dsn)
    try:
        yield connection
    finally:
        with suppress(OSError):
            await connection.close()
