"""Several relays over one outbox: each publishes its tables, or its part of their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg
import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from tests.conftest import Connect
from tests.support.cluster import WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stream
from tests.support.waiting import eventually, unique

TABLES = {
    "users": "id int primary key, name text",
    "lines": "invoice text, number int, name text, primary key (number, invoice)",
    "notes": "name text",  # no key
    '"Odd, Table"': "id uuid primary key default gen_random_uuid(), name text",
}


@pytest.fixture
async def owner(connection: asyncpg.Connection) -> asyncpg.Connection:
    """The owner's connection, with captured tables."""
    for table, columns in TABLES.items():
        await connection.execute(f"create table {table} ({columns})")
        await connection.execute("select pgoutbox.capture_table($1::text::regclass)", table)
    return connection


class Streams:
    """A stream for each relay."""

    def __init__(
        self, database: Database, url: str, jetstream: JetStreamContext, nursery: Nursery
    ) -> None:
        self._nursery = nursery
        self._database = database
        self._url = url
        self._jetstream = jetstream
        self._topic = unique("s")
        self._used: set[str] = set()

    async def start(self, stream: str, *flags: str) -> Relay:
        """Start a relay that publishes into ``stream``."""
        topic = f"{self._topic}_{stream}"
        self._used.add(topic)
        servers = ("--dsn", self._database.dsn, "--nats-url", self._url)
        return await self._nursery.start("relay", *servers, "--topic", topic, *flags)

    async def drain(self, stream: str, *flags: str, code: int = 0) -> str:
        """Run a relay until nothing is left to send; return what it says."""
        relay = await self.start(stream, "--drain", *flags)
        assert await relay.wait() == code, relay.output
        return relay.output

    async def events(self, stream: str) -> list[dict[str, Any]]:
        """Return the events in a stream, in its order."""
        of_stream = Stream(f"{self._topic}_{stream}", self._url, self._jetstream)
        if not await of_stream.count():
            return []
        return [json.loads(message.data) for message in await of_stream.messages()]

    async def delete(self) -> None:
        """Delete all of them."""
        for topic in self._used:
            try:
                await self._jetstream.delete_stream(topic)
            except NotFoundError:
                continue


@pytest.fixture
async def streams(
    database: Database, nats_url: str, jetstream: JetStreamContext, nursery: Nursery
) -> AsyncIterator[Streams]:
    """Streams for the test's relays."""
    streams = Streams(database, nats_url, jetstream, nursery)
    yield streams
    await streams.delete()


def row_of(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from others, as docs/scaling.md says; the table alone without."""
    row = event["data"] or event["dataOld"]
    key = {"users": ["id"], "lines": ["number", "invoice"], "Odd, Table": ["id"]}
    return (event["schema"], event["table"], *(row[c] for c in key.get(event["table"], ()) if row))


def shard_of(event: dict[str, Any], shards: int) -> int:
    """Return an event's shard by the formula of docs/scaling.md."""
    text = ",".join(map(str, row_of(event)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") % shards + 1


async def ids(owner: asyncpg.Connection) -> list[str]:
    """Return the ids of all events, in their order."""
    return [
        str(row["id"])
        for row in await owner.fetch("select id from pgoutbox.outbox order by position, seq")
    ]


async def write(owner: asyncpg.Connection) -> None:
    """Change rows of every kind, alone and many in a transaction."""
    for first in (0, 40):
        async with owner.transaction():
            await owner.execute(
                "insert into users select n, 'a' from generate_series($1::int, $1 + 39) n", first
            )
            await owner.execute(
                "insert into lines"
                " select 'i' || n % 7, n, 'a' from generate_series($1::int, $1 + 39) n",
                first,
            )
    for name in "bcd":
        await owner.execute("update users set name = $1 where id % 3 = 0", name)
        await owner.execute("update lines set name = $1", name)
        await owner.execute("insert into notes values ($1)", name)
        await owner.execute('insert into "Odd, Table" (name) values ($1)', name)
    await owner.execute("delete from users where id < 10; update notes set name = 'x'")
    await owner.execute("update \"Odd, Table\" set name = 'é'; truncate notes")


def places(events: Iterable[dict[str, Any]], order: list[str]) -> dict[tuple[Any, ...], list[int]]:
    """Return where in the outbox the events of each row stand."""
    place = {name: number for number, name in enumerate(order)}
    found: dict[tuple[Any, ...], list[int]] = {}
    for event in events:
        found.setdefault(row_of(event), []).append(place[event["id"]])
    return found


@pytest.mark.parametrize("form", [(), ("--headers", "--subject", "{topic}.{key}")])
async def test_each_event_is_one_shards(
    owner: asyncpg.Connection, streams: Streams, form: tuple[str, ...]
) -> None:
    """And those of a row are all in the same, in order; in small batches, too."""
    await write(owner)
    order = await ids(owner)

    published = []
    for number in (1, 2, 3):
        shard = f"{number}/3"
        await streams.drain(str(number), "--shard", shard, "--batch-events", "7", *form)
        events = await streams.events(str(number))
        assert events
        assert {shard_of(event, 3) for event in events} == {number}
        assert all(found == sorted(found) for found in places(events, order).values())
        published += [event["id"] for event in events]

    assert sorted(published) == sorted(order)


async def test_two_shards_may_publish_into_one_stream(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    """They get into each other's way, and keep the order of each row all the same."""
    for _ in range(8):
        await write(owner)
        await owner.execute("truncate users, lines")
    order = await ids(owner)

    relays = [
        await streams.start("x", "--drain", "--shard", f"{n}/2", "--batch-events", "20")
        for n in (1, 2)
    ]
    for relay in relays:
        assert await relay.wait() == 0, relay.output

    events = await streams.events("x")
    assert sorted(event["id"] for event in events) == sorted(order)
    assert all(found == sorted(found) for found in places(events, order).values())


async def test_the_key_stays_what_it_was_for_all_shards(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    """Whatever becomes of it in between: no event is passed over by both, none is in both."""
    await write(owner)
    await owner.execute("create table codes (id int primary key, code int not null)")
    await owner.execute("select pgoutbox.capture_table('codes')")
    await owner.execute("insert into codes select n, 1000 - n from generate_series(1, 40) n")
    await streams.drain("1", "--shard", "1/2")
    await owner.execute("alter table codes drop constraint codes_pkey, add primary key (code)")
    await owner.execute("alter table users drop constraint users_pkey")
    await owner.execute("alter table users rename column id to number; drop table lines")
    await owner.execute("alter table notes add column id serial primary key")
    await owner.execute("select pgoutbox.release_table('\"Odd, Table\"')")
    await owner.execute("insert into users values (1, 'z'); insert into notes values ('z')")
    await streams.drain("2", "--shard", "2/2")
    await streams.drain("1", "--shard", "1/2")

    published = [e["id"] for part in "12" for e in await streams.events(part)]

    assert sorted(published) == sorted(await ids(owner))


async def test_a_changed_key_counts_as_the_new_one(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    await owner.execute("insert into users values (1, 'a')")
    await owner.execute("update users set id = 4 where id = 1")
    await owner.execute("delete from users")
    for number in "12":
        await streams.drain(number, "--shard", f"{number}/2")

    found = {e["action"]: n for n in (1, 2) for e in await streams.events(str(n))}
    new = shard_of({"schema": "public", "table": "users", "data": {"id": 4}, "dataOld": {}}, 2)

    assert found == {"INSERT": 3 - new, "UPDATE": new, "DELETE": new}


async def test_a_row_that_goes_without_old_values_is_in_its_tables_shard(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    """A DELETE then has no key, and must come behind what came before."""
    await owner.execute("create table quiet (id int primary key)")
    await owner.execute("alter table quiet replica identity nothing")
    await owner.execute("select pgoutbox.capture_table('quiet', old_values => 'identity')")
    await owner.execute("insert into quiet select generate_series(1, 20); delete from quiet")
    for number in "12":
        await streams.drain(number, "--shard", f"{number}/2")

    counts = [len(await streams.events(number)) for number in "12"]

    assert sorted(counts) == [0, 40]


async def test_a_relay_without_rights_of_an_owner_can_be_a_shard(
    owner: asyncpg.Connection, streams: Streams, database: Database
) -> None:
    await write(owner)
    await owner.execute(f"select pgoutbox.grant_relay('{WRITER}')")
    flags = ("--dsn", database.dsn_as(WRITER))

    await streams.drain("0", *flags, "--name", "all")
    for number in "12":
        await streams.drain(number, *flags, "--shard", f"{number}/2", "--begin-after", "all")

    assert not await streams.events("1") + await streams.events("2")


async def test_relays_of_tables(owner: asyncpg.Connection, streams: Streams) -> None:
    """Two of some tables, and one of all the others."""
    await write(owner)
    order = await ids(owner)
    some = ("--name", "some", "--tables", 'public.users,"Odd, Table"')
    lines = ("--name", "lines", "--tables", "LINES")
    rest = ("--name", "rest", "--except-tables", 'users, lines, "Odd, Table"')

    found = {}
    for flags in (some, lines, rest):
        await streams.drain(flags[1], *flags)
        found[flags[1]] = await streams.events(flags[1])

    assert {name: {event["table"] for event in found[name]} for name in found} == {
        "some": {"users", "Odd, Table"},
        "lines": {"lines"},
        "rest": {"notes"},
    }
    published = [event["id"] for events in found.values() for event in events]
    assert sorted(published) == sorted(order)
    for events in found.values():
        part = [event["id"] for event in events]
        assert part == sorted(part, key=order.index)


async def test_tables_and_shards_and_a_filter_together(
    owner: asyncpg.Connection, streams: Streams, tmp_path: Any
) -> None:
    """An event is published if all of them have it."""
    await write(owner)
    file = tmp_path / "config.yml"
    file.write_text(
        "listener: {filter: {tables: {users: [insert], lines: [update]}}}\n"
        "pgoutbox: {name: both, tables: users}\n"
    )

    for number in "12":
        await streams.drain(number, "--shard", f"{number}/2", "--config", str(file))

    events = [event for number in "12" for event in await streams.events(number)]
    assert {(event["table"], event["action"]) for event in events} == {("users", "INSERT")}
    assert len({event["id"] for event in events}) == len(events) == 80


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--name", "a", "--tables", "usres"),
            "--tables names usres, which isn't a captured table; did you mean users?",
        ),
        (
            ("--name", "a", "--except-tables", "other.users"),
            "--except-tables names other.users, which isn't a captured table",
        ),
        (
            ("--begin-after", "nobody"),
            "--begin-after names 'nobody', and no relay of that name has any progress",
        ),
    ],
)
async def test_a_name_that_there_is_not(
    owner: asyncpg.Connection, streams: Streams, flags: tuple[str, ...], said: str
) -> None:
    assert said in await streams.drain("x", *flags, code=2)


async def test_other_tables_under_the_same_name(
    owner: asyncpg.Connection, streams: Streams, database: Database
) -> None:
    """What was passed over stays so, and the log says it; `status` shows what is published."""
    await write(owner)
    await streams.drain("x", "--name", "a", "--tables", "users")
    await owner.execute("insert into lines values ('z', 1, 'z')")

    changed = await streams.drain("x", "--name", "a", "--tables", "lines,users")
    again = await streams.drain("x", "--name", "a", "--tables", "users,lines")

    said = "share has changed; events it skipped will not be published"
    assert said in changed
    assert 'before="--tables users" now="--tables lines,users"' in changed
    assert said not in again
    lines = [event for event in await streams.events("x") if event["table"] == "lines"]
    assert [event["data"]["invoice"] for event in lines] == ["z"]
    status = pgoutbox("status", "--dsn", database.dsn)
    assert "run: pgoutbox relay --name a --tables lines,users" in status.stdout


async def test_a_table_that_is_gone_keeps_no_relay_from_starting(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    """Its events are still to be sent."""
    await write(owner)
    await streams.drain("x", "--name", "a", "--tables", "users")
    await owner.execute("delete from users; select pgoutbox.release_table('users')")

    await streams.drain("x", "--name", "a", "--tables", "users")

    assert len({event["id"] for event in await streams.events("x")}) == 80 + 81 + 10 + 70


async def test_from_one_relay_to_shards_and_to_others(
    owner: asyncpg.Connection, streams: Streams, database: Database
) -> None:
    """While somebody writes: nothing is left out, nothing comes twice."""
    one = await streams.start("one")
    await one.line("leading")
    await write(owner)
    two = [await streams.start(n, "--shard", f"{n}/2", "--begin-after", "default") for n in "12"]
    for relay in two:
        await relay.line("waiting for another relay to stop")
    await one.stop()
    await write_more(owner, 100)
    await two[0].line("leading")
    await two[1].line("leading")
    await two[0].stop()
    await write_more(owner, 200)
    await eventually(lambda: has_sent(owner, "default-2-of-2"))
    await two[1].stop()
    await write_more(owner, 300)

    ended = "default-1-of-2, default-2-of-2"
    three = [("--shard", f"{n}/3", "--begin-after", ended) for n in "123"]
    refused = await streams.drain("3x1", *three[0], code=2)
    assert "the relays named by --begin-after ended at different positions" in refused
    position = refused.split("--until ")[1].split(",")[0]
    for number in "12":
        await streams.drain(number, "--shard", f"{number}/2", "--until", position)
    for number, flags in zip("123", three, strict=True):
        await streams.drain(f"3x{number}", *flags)

    published = [
        event["id"]
        for stream in ("one", "1", "2", "3x1", "3x2", "3x3")
        for event in await streams.events(stream)
    ]
    assert sorted(published) == sorted(await ids(owner))
    for number in "12":
        assert len(await streams.events(number)) > 0
    beyond = await streams.drain("1", "--shard", "1/3", "--until", position, code=2)
    assert f"beyond --until {position}" in beyond


@pytest.mark.parametrize(
    ("plan", "position"),
    [
        ("null", 7),
        (
            '[{"high": 9, "gaps": [], "partial": null}, {"high": 30, "gaps": [], "partial": null}]',
            30,
        ),
        ('[{"high": 30, "gaps": [], "partial": [31, 5]}]', 31),
    ],
)
async def test_the_place_to_end_at_is_the_last_that_may_be_published(
    owner: asyncpg.Connection, plan: str, position: int
) -> None:
    """Also by a relay that was killed before its progress said so."""
    await owner.execute(
        "insert into pgoutbox.progress (relay, high, plan)"
        " values ('a', 5, $1::text::jsonb), ('b', 7, 'null')",
        plan,
    )

    said = await owner.fetchval("select pgoutbox.begin_after('c', '{a,b}', '')")

    assert said == f"uneven {position}"


async def write_more(owner: asyncpg.Connection, first: int) -> None:
    """Insert rows, each in a transaction of its own."""
    for number in range(first, first + 30):
        await owner.execute("insert into users values ($1, 'm')", number)


async def has_sent(owner: asyncpg.Connection, relay: str) -> bool:
    """Tell whether a relay has nothing left to send."""
    return bool(await owner.fetchval("select events = 0 from pgoutbox.backlog($1)", relay))


async def test_keys_are_forgotten_with_the_last_relay_of_a_set(
    owner: asyncpg.Connection, streams: Streams, database: Database
) -> None:
    await write(owner)
    for number in "12":
        await streams.drain(number, "--shard", f"{number}/2")
    await streams.drain("3", "--shard", "1/3")
    count = "select count(*) from pgoutbox.shard_key where shards = 'default-of-2'"

    kept = []
    for number in "12":
        done = pgoutbox("uninstall", "--relay", f"default-{number}-of-2", "--dsn", database.dsn)
        assert done.returncode == 0, done.stderr
        kept.append(await owner.fetchval(count))

    assert kept == [4, 0]
    assert await owner.fetchval("select count(*) from pgoutbox.shard_key") == 4


async def test_position_that_does_not_exist_is_nothing_to_wait_for(
    owner: asyncpg.Connection, streams: Streams
) -> None:
    await owner.execute("insert into users values (1, 'one')")
    last = await owner.fetchval("select max(position) from pgoutbox.transaction")

    refused = await streams.drain("x", "--until", str(last + 1), code=2)

    assert f"--until {last + 1} is beyond the outbox, whose last position is {last}" in refused
    await streams.drain("x", "--until", str(last))
    assert len(await streams.events("x")) == 1


async def test_waits_for_a_transaction_that_is_still_missing(
    owner: asyncpg.Connection, connect: Connect, streams: Streams
) -> None:
    """With --until, so that all who end there have the same behind them."""
    other = await connect()
    await other.execute("begin; insert into users values (1, 'late')")
    await other.execute("set constraints all immediate")
    await owner.execute("insert into users values (2, 'early')")
    position = await owner.fetchval("select max(position) from pgoutbox.transaction")

    relay = await streams.start("x", "--drain", "--until", str(position))
    await eventually(lambda: has_sent(owner, "default"))
    await relay.line("waiting for transactions that are still open")
    assert await relay.code() is None
    await other.execute("commit")

    assert await relay.wait() == 0, relay.output
    events = await streams.events("x")
    assert [event["data"]["name"] for event in events] == ["early", "late"]
