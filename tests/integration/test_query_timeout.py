"""Every question that a relay asks has a time-out, and is given up on a dead connection."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pgoutbox.config.settings import DatabaseConfig, MessageConfig
from pgoutbox.database import connection as database_connection
from pgoutbox.messages.event import EventNumber, LastStored, Message
from pgoutbox.messages.formats import format_of
from pgoutbox.names import TableName
from pgoutbox.outbox.batch import Batch, Withheld
from pgoutbox.outbox.marks import Mark
from pgoutbox.outbox.progress import Gap, Key, Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.resends import Resend, Some
from pgoutbox.outbox.snapshots import Snapshots
from pgoutbox.outbox.upkeep import Upkeep
from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.leading import lead
from tests.support.proxy import Proxy, port_of, proxy, through
from tests.support.streams import Stream
from tests.support.waiting import eventually

PLAIN = format_of(MessageConfig(), "db")
BEFORE, AFTER = Progress(1), Progress(2, partial=Key(3, 4))
WITHHELD = Withheld(Key(1, 1), "5c2b6a3e-0000-4000-8000-000000000000", 9, EventNumber(1, 1), None)
BEHIND = Progress(2, (Gap(1, 1),))
BATCH = Batch(before=BEFORE, after=AFTER, has_long_transaction=True)

RESEND = Resend(1, 1, 0, Key(0, 0))

PATIENT, HASTY = 60.0, 0.2  # seconds


def make_hasty(connection: Any) -> None:
    """Have a connection that has begun in peace give up on each further question soon."""
    assert connection._config.command_timeout == PATIENT
    connection._config = connection._config._replace(command_timeout=HASTY)


async def _keep_mark(outbox: Outbox) -> None:
    outbox.last_stored = LastStored("s", "2026-01-01T00:00:00Z", 1, "id")
    await outbox.keep_mark()


# What asks something, by name; each new method of the outbox belongs here.
QUESTIONS: dict[str, Callable[[Outbox], Awaitable[object]]] = {
    "take_over": lambda outbox: outbox.take_over(uuid4()),
    "take_share": lambda outbox: outbox.take_share("--tables t"),
    "note_method": lambda outbox: outbox.note_method("pipelined"),
    "note_error": lambda outbox: outbox.note_error("lost"),
    "look_for_snapshots": lambda outbox: outbox.look_for_snapshots(),
    "ask_for_rows": lambda outbox: outbox.ask_for_rows(TableName("public", "notes")),
    "next_batch": lambda outbox: outbox.next_batch(BEFORE),
    "begin": lambda outbox: outbox.begin(BATCH, BEFORE, []),
    "advance": lambda outbox: outbox.advance(BEFORE),
    "park": lambda outbox: outbox.park(
        Key(1, 1), Message("s", "5c2b6a3e-0000-4000-8000-000000000000", b"{}"), "too large"
    ),
    "park_withheld": lambda outbox: outbox.park_withheld(WITHHELD, "too large"),
    "next_retry": lambda outbox: outbox.next_retry(),
    "unpark": lambda outbox: outbox.unpark(WITHHELD.id),
    "park_again": lambda outbox: outbox.park_again(WITHHELD.id, "too large"),
    "discard_parked": lambda outbox: outbox.discard_parked(60.0),
    "largest": lambda outbox: outbox.largest("stream"),
    "note_largest": lambda outbox: outbox.note_largest(9),
    "emits": lambda outbox: outbox.emits(),
    "read_again": lambda outbox: outbox.read_again(RESEND),
    "note_resent": lambda outbox: outbox.note_resent(RESEND, Some((), Key(1, 1), is_end=True), 0),
    "keep_mark": lambda outbox: _keep_mark(outbox),
    "go_back": lambda outbox: outbox.go_back(Mark(BEFORE, None), "s", AFTER),
    "forget_stream": lambda outbox: outbox.forget_stream(),
    "message_at": lambda outbox: outbox.message_at(Key(1, 1)),
    "check": lambda outbox: outbox.check(),
    "mend_drift": lambda outbox: outbox.upkeep.mend_drift(),
    "misses": lambda outbox: outbox.upkeep.misses(["t"]),
    "others": lambda outbox: outbox.upkeep.others(),
    "is_led": lambda outbox: outbox.upkeep.is_led("other"),
    "note_polling": lambda outbox: outbox.note_polling("silent"),
    "pause": lambda outbox: outbox.pause(),
    "next_resend": lambda outbox: outbox.next_resend(),
    "strangers": lambda outbox: outbox.upkeep.strangers(),
    "noting_holders": lambda outbox: outbox.noting_holders(BEHIND),
    "long_holders": lambda outbox: outbox.upkeep.long_holders(),
    "bytes_on_disk": lambda outbox: outbox.upkeep.bytes_on_disk(),
    "resting_slots": lambda outbox: outbox.upkeep.resting_slots(900.0),
}


@asynccontextmanager
async def stalled(database: Database) -> AsyncIterator[tuple[Outbox, Proxy]]:
    """Give a leader's outbox whose connection is dead, and doesn't know it."""
    async with proxy(port_of(database.dsn)) as network:
        connection = await database_connection.connect(
            DatabaseConfig(dsn=through(database.dsn, network)),
            purpose="test",
            query_timeout=PATIENT,
        )
        outbox = Outbox(
            connection,
            PLAIN,
            relay="r",
            batch_events=10,
            batch_bytes=1024,
            query_timeout=HASTY,
            snapshots=Snapshots(connection, lambda _: PLAIN, relay="r"),
        )
        await lead(outbox, connection, "r")
        make_hasty(connection)
        network.stall()
        yield outbox, network
        connection.terminate()
        network.flow()


def test_every_question_is_listed() -> None:
    methods = {**vars(Outbox), **vars(Upkeep)}
    questions = {name for name, method in methods.items() if inspect.iscoroutinefunction(method)}
    assert QUESTIONS.keys() == {name for name in questions if not name.startswith("_")}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_question_to_a_dead_connection_times_out(database: Database, name: str) -> None:
    async with stalled(database) as (outbox, _):
        with pytest.raises(TimeoutError):
            await QUESTIONS[name](outbox)


async def test_question_that_was_given_up_is_followed_by_a_check(database: Database) -> None:
    """asyncpg cancels it, and asks nothing more until that has worked."""
    async with stalled(database) as (outbox, _):
        with pytest.raises(TimeoutError):
            await outbox.upkeep.mend_drift()
        with pytest.raises(TimeoutError):
            await outbox.check()


async def test_relay_connects_again_when_a_query_times_out(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """Here it waits for a lock that somebody has forgotten."""
    owner, other = [await database.connect() for _ in range(2)]
    await owner.execute("create table notes (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('notes')")
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--query-timeout", "1s"),
    )
    await relay.line("connected to NATS")

    async with other.transaction():
        await other.execute("lock table pgoutbox.progress in access exclusive mode")
        await owner.execute("insert into notes values (1)")
        await relay.line("PostgreSQL unavailable; retrying")

    await relay.line("PostgreSQL available again")

    async def is_stored() -> bool:
        return await stream.count() == 1

    await eventually(is_stored)
    assert await relay.stop() == 0


async def test_asyncpg_applies_the_time_out_to_every_kind_of_question(database: Database) -> None:
    connection = await database_connection.connect(
        DatabaseConfig(dsn=database.dsn), purpose="test", query_timeout=PATIENT
    )
    make_hasty(connection)
    for ask in (connection.execute, connection.fetch, connection.fetchrow, connection.fetchval):
        with pytest.raises(TimeoutError):
            await ask("select pg_sleep(60)")
    assert isinstance(connection, asyncpg.Connection)
    await connection.close()
