"""Parked events as people meet them: pgoutbox parked, and limits that are mended."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually

LARGE = 3_000_000  # bytes, above nats-server's max_payload


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute("create table docs (id int primary key, body text)")
    await owner.execute("create table notes (id int primary key, body text)")
    for table in ("docs", "notes"):
        await owner.execute("select pgoutbox.capture_table($1::text::regclass)", table)
    return owner


def drain(database: Database, stream: Stream, *flags: str) -> str:
    done = pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic, *flags),
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def parked(database: Database, *arguments: str) -> str:
    done = pgoutbox("parked", *arguments, "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    return done.stdout or done.stderr.splitlines()[-1]


async def stored(stream: Stream) -> list[int]:
    return [json.loads(message.data)["data"]["id"] for message in await stream.messages()]


async def limit(stream: Stream, size: int) -> None:
    config = (await stream.jetstream.stream_info(stream.topic)).config
    config.max_msg_size = size
    await stream.jetstream.update_stream(config)


async def test_parked_events_are_listed_shown_and_dropped(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into docs values (1, 'a')")
    await owner.execute(f"insert into docs values (2, repeat('x', {LARGE}))")
    await owner.execute("insert into notes values (3, repeat('y', 1048500)), (4, 'd')")
    drain(database, stream)

    by_reference, by_value = json.loads(parked(database, "list", "--json"))

    assert [event["table"] for event in (by_reference, by_value)] == ["public.docs", "public.notes"]
    assert [event["is_message"] for event in (by_reference, by_value)] == [False, True]
    assert all("max_payload" in event["reason"] for event in (by_reference, by_value))
    told = parked(database, "list", "--table", "docs").splitlines()
    assert told[0].split()[:2] == ["event", "parked"]
    assert [line.split()[0] for line in told[1:]] == [by_reference["id"]]
    assert json.loads(parked(database, "show", by_reference["id"]))["data"]["body"] == "x" * LARGE
    shown = json.loads(parked(database, "show", by_value["id"]))
    assert (shown["id"], shown["data"]["id"]) == (by_value["id"], 3)

    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for none in (("--table", "other"), ("--relay", "other"), ("--since", tomorrow)):
        assert parked(database, "drop", *none) == "0 parked events discarded"
    assert parked(database, "drop", by_value["id"]) == "1 parked event discarded"
    assert parked(database, "drop", "--all", "--json").startswith('{\n  "events": 1\n}')
    assert parked(database, "list") == "no event is parked\n"
    assert await stored(stream) == [1, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("drop",), "Name events, choose some with options, or give --all."),
        (("retry", "x", "--all"), "Name events, choose some with options, or give --all."),
        (("show", "x"), "no event x is parked"),
        (("list", "--since", "soon"), "--since"),
    ],
)
async def test_what_is_asked_wrongly_is_said(
    database: Database, arguments: tuple[str, ...], said: str
) -> None:
    done = pgoutbox("parked", *arguments, "--dsn", database.dsn)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_parked_events_are_published_once_the_limit_is_raised(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    """At the place where the relay then is, with the id that they had, also out of a slot."""
    await stream.jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"])
    await limit(stream, 1000)
    await owner.execute("insert into docs values (1, 'a'), (2, repeat('x', 2000)), (3, 'c')")
    drain(database, stream)
    [event] = json.loads(parked(database, "list", "--json"))
    await limit(stream, -1)
    drain(database, stream)
    assert await stored(stream) == [1, 3], "nobody has asked for it"
    await limit(stream, 1000)
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
    )
    await relay.line("connected to NATS")

    parked(database, "retry", event["id"])
    still = await eventually(
        lambda: owner.fetchval("select not retries from pgoutbox.parked"), timeout=10
    )
    assert still
    await limit(stream, -1)
    assert parked(database, "retry", "--table", "docs") == "1 parked event will be published"
    await relay.line("parked event published")

    assert await stored(stream) == [1, 3, 2]
    assert (await stream.messages())[-1].id == event["id"]
    assert parked(database, "list") == "no event is parked\n"


async def test_event_is_published_from_what_was_kept_of_its_slot(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """With its headers, as if it had never been parked."""
    await owner.execute("insert into docs values (1, 'a')")
    await owner.execute(f"insert into docs values (2, repeat('x', {LARGE})), (3, 'c')")
    drain(database, stream, "--headers")
    for slot in range(5):
        await owner.execute(f"select pgoutbox.rotate({slot})")
    assert await owner.fetchval("select count(*) from pgoutbox.event") == 0
    # As if max_payload had been raised.
    await owner.execute("update pgoutbox.parked_event set new_row = '{\"id\":2}'")

    parked(database, "retry", "--all")
    drain(database, stream, "--headers")

    messages = await stream.messages()
    assert [json.loads(message.data)["data"]["id"] for message in messages] == [1, 3, 2]
    assert messages[-1].headers["Pgoutbox-Transaction-Event"] == "1"
    assert messages[-1].headers["Pgoutbox-Transaction-Size"] == "2"
    assert await owner.fetchval("select count(*) from pgoutbox.parked_event") == 0


async def test_limit_that_was_lowered_is_waited_for_and_nothing_is_parked(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    """The log and the status say which limit, and the relay goes on once it is mended."""
    await owner.execute("insert into docs values (1, repeat('x', 2000))")
    drain(database, stream)
    await limit(stream, 1000)
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
    )
    await owner.execute("insert into docs values (2, 'b'), (3, repeat('y', 1500)), (4, 'd')")

    said = await relay.line("so the limit is taken for a mistake")

    assert "Raise the stream's max_msg_size" in said
    assert await stored(stream) == [1, 2]
    status = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "so the limit is taken for a mistake" in status
    await limit(stream, -1)
    await relay.line("NATS available again")
    await eventually(lambda: _has(stream, 4))
    assert await stored(stream) == [1, 2, 3, 4]
    assert await owner.fetchval("select count(*) from pgoutbox.parked") == 0


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() == count


@pytest.mark.parametrize("size", [600_000, LARGE])
async def test_update_that_its_old_row_makes_too_large_gets_a_hint(
    database: Database, owner: asyncpg.Connection, stream: Stream, size: int
) -> None:
    """Whether it was parked as a message or as rows."""
    await owner.execute("insert into notes values (0, 'first')")
    await owner.execute(f"insert into docs values (1, repeat('x', {size}))")
    await owner.execute("update docs set body = body || 'y'")

    drain(database, stream)

    [*_, event] = json.loads(parked(database, "list", "--json"))
    assert event["action"] == "UPDATE"
    assert "with install --old-values identity" in event["reason"]


async def test_parked_events_are_kept_for_as_long_as_told(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into docs values (1, 'a')")
    await owner.execute(f"insert into docs values (2, repeat('x', {LARGE}))")
    drain(database, stream, "--parked-retention", "1h")
    assert await owner.fetchval("select count(*) from pgoutbox.parked") == 1
    await owner.execute("update pgoutbox.parked set parked_at = now() - interval '61 min'")

    said = drain(database, stream, "--parked-retention", "1h")

    assert "parked events discarded" in said
    assert await owner.fetchval("select count(*) from pgoutbox.parked") == 0
