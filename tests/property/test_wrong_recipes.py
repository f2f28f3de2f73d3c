"""Popular ways to read an outbox, held to the same promise in the same schedules: they break it.

So the property is known to bite. The schedules run step by step, one connection after another;
a transaction that is late after its commit stage is a prepared one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect
from tests.support import ledger
from tests.support.cluster import Database
from tests.support.leading import lead

Connections = list[asyncpg.Connection]
Look = Callable[[], Awaitable[None]]

_RECORDED = """
select e.seq, e.xid::text::bigint as xid, t.position, (e.facts).table_name, (e.facts).action,
    e.new_row, e.old_row
from pgoutbox.event e join pgoutbox.transaction t on t.xid = e.xid
"""


class Reader:
    """Reads what is new, again and again, and remembers it in its order."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.events: list[ledger.Event] = []

    async def look(self) -> None:
        """Read what this recipe takes for new."""
        raise NotImplementedError

    async def _take(self, condition: str, order: str, *values: object) -> list[asyncpg.Record]:
        rows = await self.connection.fetch(
            f"{_RECORDED} where {condition} order by {order}", *values
        )
        for row in rows:
            new, old = (json.loads(row[name] or "{}") for name in ("new_row", "old_row"))
            change = ledger.Change(row["table_name"], row["action"], new, old)
            self.events.append(ledger.Event(f"{row['xid']:020}{row['seq']:012}", change))
        return rows


class ByNumber(Reader):
    """``id > checkpoint``."""

    checkpoint = 0

    async def look(self) -> None:
        rows = await self._take("e.seq > $1", "e.seq", self.checkpoint)
        self.checkpoint = max([self.checkpoint, *(row["seq"] for row in rows)])


class ByHorizon(Reader):
    """``xid < xmin``: only what is older than every open transaction."""

    last = (0, 0)

    async def look(self) -> None:
        rows = await self._take(
            "e.xid < pg_snapshot_xmin(pg_current_snapshot())"
            " and (e.xid::text::bigint, e.seq) > ($1, $2)",
            "e.xid, e.seq",
            *self.last,
        )
        self.last = max([self.last, *((row["xid"], row["seq"]) for row in rows)])


class ByMark(Reader):
    """``where not sent order by id``."""

    async def look(self) -> None:
        sent = [int(event.id[20:]) for event in self.events]
        await self._take("e.seq <> all ($1::bigint[])", "e.seq", sent)


class WithoutGaps(Reader):
    """``position > high``, and never back."""

    high = 0

    async def look(self) -> None:
        rows = await self._take("t.position > $1", "t.position, e.seq", self.high)
        self.high = max([self.high, *(row["position"] for row in rows)])


class Right(Reader):
    """The relay's: by position, with gaps."""

    progress = Progress()
    batch_events = 3

    async def look(self) -> None:
        outbox = Outbox(
            self.connection,
            format_of(MessageConfig(), "app"),
            relay="right",
            batch_events=self.batch_events,
            batch_bytes=2**20,
        )
        await lead(outbox, self.connection, "right")
        while batch := await outbox.next_batch(self.progress):
            self.progress = batch.after
            for message in batch.messages:
                values = json.loads(message.payload)
                change = ledger.Change(
                    values["table"], values["action"], values["data"], values["dataOld"]
                )
                self.events.append(ledger.Event(values["id"], change))
        self.progress = batch.after


_RECIPES: list[type[Reader]] = [ByNumber, ByHorizon, ByMark, WithoutGaps, Right]
_WRONG = _RECIPES[:-1]


class Actor:
    """A connection that takes one step after another of the transactions that it makes up."""

    def __init__(self, connection: asyncpg.Connection, book: ledger.Book, name: str) -> None:
        self._connection = connection
        self._book = book
        self._name = name
        self._label = 0
        self._prepared = False

    async def step(self, draw: random.Random) -> None:
        """Go on: begin, change a row, end, or end what was prepared."""
        try:
            if self._prepared:
                await self._resolve(draw)
            elif not self._label:
                self._label = self._book.label()
                await self._connection.execute("begin")
            elif draw.random() < 0.65:
                await self._connection.execute(self._change(draw))
            else:
                await self.end(draw)
        except asyncpg.LockNotAvailableError:
            await self._connection.execute("rollback")
            self._label = 0

    def _change(self, draw: random.Random) -> str:
        hot = draw.randint(1, 3)
        return draw.choice(
            [
                f"insert into note (body) values ('{self._name}')",
                f"insert into note (body) values ('{self._name}')",
                f"update note set body = '{self._name}' where id = {hot}",
                "delete from note where v = (select min(v) from note where id > 3)",
            ]
        )

    async def end(self, draw: random.Random) -> None:
        """Commit, roll back or prepare what is open, and commit what was prepared."""
        if self._prepared:
            await self._resolve(draw)
        if not self._label:
            return
        await self._connection.execute(
            f"insert into ledger_transaction (label) values ({self._label})"
        )
        kind = draw.choice(["commit", "commit", "rollback", "prepare", "prepare"])
        if kind == "prepare":
            self._book.issue(self._label)
            await self._connection.execute(f"prepare transaction '{self._gid}'")
            self._prepared = True
            return
        if kind == "commit":
            self._book.issue(self._label)
        await self._connection.execute(kind)
        if kind == "commit":
            self._book.confirm(self._label)
        self._label = 0

    async def _resolve(self, draw: random.Random) -> None:
        if draw.random() < 0.2:
            await self._connection.execute(f"rollback prepared '{self._gid}'")
        else:
            await self._connection.execute(f"commit prepared '{self._gid}'")
            self._book.confirm(self._label)
        self._label, self._prepared = 0, False

    @property
    def _gid(self) -> str:
        return f"{self._connection.get_server_pid()} {self._name} {self._label}"


@pytest.fixture
async def note(database: Database) -> None:
    """A captured table with three rows that everybody wants to change."""
    owner = await database.connect()
    await owner.execute(ledger.TABLES)
    # To be fair to recipes that trust in numbers: none is drawn ahead.
    await owner.execute("alter sequence pgoutbox.event_seq cache 1")
    await owner.execute(
        "create table note (id integer primary key generated always as identity, body text,"
        " v bigint); insert into note (body) values ('1'), ('2'), ('3')"
    )
    await owner.execute("update note set v = nextval('v')")
    await ledger.keep(owner, "note")


async def _broken(
    readers: list[Reader], database: Database, book: ledger.Book
) -> dict[type[Reader], str]:
    """Return which recipes have broken the promise, and how."""
    transactions = await ledger.committed(database)
    broken: dict[type[Reader], str] = {}
    for reader in readers:
        try:
            order = ledger.published(reader.events, transactions)
            ledger.in_commit_order(order, transactions, book)
        except AssertionError as error:
            broken[type(reader)] = repr(error)[:300]
    return broken


@pytest.mark.usefixtures("note")
async def test_each_wrong_recipe_breaks_the_promise_and_the_right_one_never(
    database: Database, connect: Connect
) -> None:
    """Twelve schedules of sixty steps, always the same ones."""
    actors_of = [await connect(lock_timeout="1", **{"pgoutbox.notify": "off"}) for _ in range(4)]
    reading = await connect()
    broken: dict[type[Reader], str] = {}
    for number in range(12):
        draw = random.Random(number)
        await reading.execute(
            "truncate ledger, ledger_transaction, pgoutbox.event, pgoutbox.transaction"
        )
        book = ledger.Book()
        readers = [recipe(reading) for recipe in _RECIPES]
        actors = [Actor(c, book, f"{number} {n}") for n, c in enumerate(actors_of)]
        for _ in range(60):
            if draw.random() < 0.1:
                for reader in readers:
                    await reader.look()
            else:
                await draw.choice(actors).step(draw)
        for actor in actors:
            await actor.end(draw)
            await actor.end(draw)
            await actor.end(draw)
        for _ in range(2):
            for reader in readers:
                await reader.look()
        broken |= await _broken(readers, database, book)

    assert set(_WRONG) == set(broken), broken


async def _write(connection: asyncpg.Connection, book: ledger.Book, *statements: str) -> int:
    """Begin a transaction, note it in the ledger, run ``statements``; return its label."""
    label = book.label()
    await connection.execute("begin")
    for statement in statements:
        await connection.execute(statement)
    await connection.execute(f"insert into ledger_transaction (label) values ({label})")
    return label


async def _commit(connection: asyncpg.Connection, book: ledger.Book, label: int) -> None:
    book.issue(label)
    await connection.execute("commit")
    book.confirm(label)


async def _late_committer(connections: Connections, look: Look, book: ledger.Book) -> None:
    """The transaction that numbered its event first commits last."""
    late, early, *_ = connections
    label = await _write(late, book, "insert into note (body) values ('numbered first')")
    await _commit(early, book, await _write(early, book, "insert into note (body) values ('2')"))
    await look()
    await _commit(late, book, label)


async def _older_writes_last(connections: Connections, look: Look, book: ledger.Book) -> None:
    """An older transaction changes a row after a younger one has."""
    older, younger, bystander, *_ = connections
    open_one = await _write(bystander, book, "insert into note (body) values ('holds the horizon')")
    label = await _write(older, book, "insert into note (body) values ('takes a low xid')")
    change = "update note set body = 'by {}' where id = 1"
    await _commit(younger, book, await _write(younger, book, change.format("younger")))
    await older.execute(change.format("older"))
    await _commit(older, book, label)
    await _commit(bystander, book, open_one)


async def _side_by_side(connections: Connections, look: Look, book: ledger.Book) -> None:
    """Two transactions write in turns."""
    one, other, *_ = connections
    first = await _write(one, book, "insert into note (body) values ('one')")
    second = await _write(other, book, "insert into note (body) values ('other')")
    await one.execute("insert into note (body) values ('one again')")
    await other.execute("insert into note (body) values ('other again')")
    await _commit(one, book, first)
    await _commit(other, book, second)


async def _late_after_its_stage(connections: Connections, look: Look, book: ledger.Book) -> None:
    """A transaction has its position, and is not visible yet when a later one is sent."""
    late, early, *_ = connections
    label = await _write(late, book, "insert into note (body) values ('late')")
    book.issue(label)
    gid = f"late {late.get_server_pid()}"
    await late.execute(f"prepare transaction '{gid}'")
    await _commit(early, book, await _write(early, book, "insert into note (body) values ('2')"))
    await look()
    await late.execute(f"commit prepared '{gid}'")
    book.confirm(label)


@pytest.mark.usefixtures("note")
@pytest.mark.parametrize(
    ("schedule", "broken_by"),
    [
        (_late_committer, {ByNumber, ByHorizon}),
        (_older_writes_last, {ByHorizon, ByMark, ByNumber}),
        (_side_by_side, {ByMark, ByNumber}),
        (_late_after_its_stage, {ByNumber, WithoutGaps}),
    ],
)
async def test_schedule_breaks(
    schedule: Callable[..., Awaitable[None]],
    broken_by: set[type[Reader]],
    database: Database,
    connect: Connect,
) -> None:
    """The shortest schedule against each wrong recipe."""
    connections = [await connect(**{"pgoutbox.notify": "off"}) for _ in range(3)]
    reading = await connect()
    readers = [recipe(reading) for recipe in _RECIPES]
    book = ledger.Book()

    async def look() -> None:
        for reader in readers:
            await reader.look()

    await schedule(connections, look, book)
    await look()

    assert broken_by == set(await _broken(readers, database, book))
