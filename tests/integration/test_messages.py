"""Subjects, headers and CloudEvents as the real command publishes them to a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import asyncpg
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.event import Message
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox import numbering
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Servers
from tests.support.cluster import WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.leading import lead
from tests.support.streams import Stream, event_id
from tests.support.waiting import unique

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOSTILE = "odd . table\r\nEvil: *"


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """The owner's connection, with captured tables; one of a hostile name, one without a key."""
    owner = await database.connect()
    await owner.execute(f"""
        create table users (id int primary key, name text);
        create table notes (k text primary key);
        create table keyless (v text);
        create table "{HOSTILE}" (id int primary key)
    """)
    for table in ("users", "notes", "keyless", f'"{HOSTILE}"'):
        await owner.execute("select pgoutbox.capture_table($1::text::regclass)", table)
    return owner


async def relay(
    database: Database, stream: Stream, *arguments: str, subjects: str | None = None
) -> list[Any]:
    """Relay what is there into a new stream; return the stream's messages."""
    await stream.jetstream.add_stream(name=stream.topic, subjects=[subjects or f"{stream.topic}.>"])
    done = pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic, *arguments),
    )
    assert done.returncode == 0, done.stderr
    state = (await stream.jetstream.stream_info(stream.topic)).state
    return [
        await stream.jetstream.get_msg(stream.topic, seq) for seq in range(1, state.last_seq + 1)
    ]


async def test_one_subject_for_all(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """As older set-ups of wal-listener have it."""
    await owner.execute("insert into users values (1, 'a'); insert into keyless values ('b')")
    sample_app = unique("sample_app")

    found = await relay(database, stream, "--subject", sample_app, subjects=sample_app)

    assert [message.subject for message in found] == [sample_app] * 2
    assert [json.loads(message.data)["table"] for message in found] == ["users", "keyless"]


async def test_subject_from_table_action_and_key(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into users values (1, 'a'), (2, 'b')")
    await owner.execute("update users set id = 3 where id = 1; delete from users; truncate users")
    await owner.execute(f'insert into "{HOSTILE}" values (1)')
    await owner.execute("insert into keyless values ('x')")

    found = await relay(
        database, stream, "--subject", "{topic}.{schema}.{table}.{action}.{key}", "--headers"
    )

    assert [message.subject.removeprefix(f"{stream.topic}.public.") for message in found] == [
        "users.INSERT.1",
        "users.INSERT.2",
        "users.UPDATE.3",
        "users.DELETE.2",
        "users.DELETE.3",
        "users.TRUNCATE._",
        "odd%20%2E%20table%0D%0AEvil:%20*.INSERT.1",
        "keyless.INSERT._",
    ]


async def test_database_in_the_subjects_of_a_stream_that_the_relay_creates(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into users values (1, 'a')")

    done = pgoutbox(
        *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic, "--subject", "{topic}.{database}.{table}"),
    )

    assert done.returncode == 0, done.stderr
    (stored,) = await stream.messages()
    info = await stream.jetstream.stream_info(stream.topic)
    assert stored.subject == f"{stream.topic}.{database.name}.users"
    assert info.config.subjects == [f"{stream.topic}.*.*"]


async def test_any_key_makes_a_subject(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """Which nats-server takes as a literal one, and from which the key can be read."""
    keys: set[str] = set()

    @settings(max_examples=200, database=None)
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
    @example("")
    @example("*")
    @example(">")
    @example("_")
    @example("$SYS")
    @example(".")
    @example("a\r\nPUB x 1\r\n")
    @example("€ " * 600)
    @example("".join(map(chr, range(1, 0x180))))
    def collect(key: str) -> None:
        keys.add(key)

    collect()
    await owner.executemany("insert into notes values ($1)", [(key,) for key in keys])

    found = await relay(database, stream, "--subject", "{topic}.{key}")

    assert {json.loads(message.data)["data"]["k"] for message in found} == keys
    for message in found:
        _, _, key_token = message.subject.partition(f"{stream.topic}.")
        assert "." not in key_token
        if not key_token.startswith("%00"):
            assert unquote(key_token) == json.loads(message.data)["data"]["k"]
    assert len({message.subject for message in found}) == len(keys)


async def test_headers_of_a_transaction_larger_than_a_batch(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into keyless values ('before')")
    async with owner.transaction():
        await owner.execute("insert into users select n, 'x' from generate_series(1, 12) n")
        await owner.execute("savepoint s; insert into users values (99); rollback to s")
        await owner.execute("insert into keyless select 'x' from generate_series(1, 12)")
    await owner.execute(f'insert into "{HOSTILE}" values (1), (2)')

    found = await relay(database, stream, "--headers", "--batch-events", "5")

    places = [
        tuple(
            int(message.headers[f"Pgoutbox-Transaction{part}"]) for part in ("", "-Event", "-Size")
        )
        for message in found
    ]
    assert places == [
        (1, 1, 1),
        *((2, number, 24) for number in range(1, 25)),
        (3, 1, 2),
        (3, 2, 2),
    ]
    for message in found:
        event = json.loads(message.data)
        assert unquote(message.headers["Pgoutbox-Schema"]) == event["schema"]
        assert unquote(message.headers["Pgoutbox-Table"]) == event["table"]
        assert message.headers["Pgoutbox-Action"] == event["action"]
        assert message.headers["Pgoutbox-Commit-Time"] == event["commitTime"]
        assert event_id(message.headers) == event["id"]
        assert not {"Evil", "traceparent"} & set(message.headers)


async def test_headers_are_off_by_default(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into users values (1)")

    (found,) = await relay(database, stream)

    assert all(name.startswith("Nats-") for name in found.headers)


async def test_trace_of_a_transaction(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """Set by the writer for its transaction, and passed on where it is a valid one."""
    writer = await database.connect(WRITER)
    for number, traceparent in enumerate((TRACEPARENT, "00-1-2-01\r\nEvil: 1", "")):
        async with writer.transaction():
            await writer.execute("select set_config('pgoutbox.traceparent', $1, true)", traceparent)
            await writer.execute("insert into users values ($1)", number)
    await writer.execute("insert into users values (9)")

    found = await relay(database, stream, "--headers", "--content", "cloudevents")

    assert [message.headers.get("traceparent") for message in found] == [TRACEPARENT] + [None] * 3
    assert [message.headers.get("ce-traceparent") for message in found] == [
        TRACEPARENT,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("content", ["cloudevents", "cloudevents-structured"])
async def test_cloudevents(
    database: Database, owner: asyncpg.Connection, stream: Stream, content: str
) -> None:
    async with owner.transaction():
        await owner.execute("select set_config('pgoutbox.traceparent', $1, true)", TRACEPARENT)
        await owner.execute("insert into users values (1, 'é')")
    await owner.execute(f'insert into "{HOSTILE}" values (7)')
    await owner.execute("truncate users")

    found = await relay(database, stream, "--content", content)

    is_structured = content == "cloudevents-structured"
    for message in found:
        said = message.headers.get("Content-Type", "").startswith("application/cloudevents")
        assert said == is_structured
    parsed = [
        from_http(HTTPMessage(message.headers, message.data), JSONFormat()) for message in found
    ]
    datas: list[Any] = [event.get_data() for event in parsed]
    for event, data, message in zip(parsed, datas, found, strict=True):
        assert event.get_id() == data["id"] == event_id(message.headers)
        time = event.get_time()
        assert time is not None
        assert time.isoformat()[:19] == data["commitTime"][:19]
        assert event.get_datacontenttype() == "application/json"
    assert datas[0]["data"] == {"id": 1, "name": "é"}
    assert [event.get_type() for event in parsed] == [
        "pgoutbox.insert",
        "pgoutbox.insert",
        "pgoutbox.truncate",
    ]
    assert [event.get_subject() for event in parsed] == ["1", "7", None]
    assert [event.get_extension("traceparent") for event in parsed] == [TRACEPARENT, None, None]
    source = f"/postgresql/{database.name}/public/"
    assert [event.get_source() for event in parsed] == [
        f"{source}users",
        f"{source}odd%20.%20table%0D%0AEvil%3A%20%2A",
        f"{source}users",
    ]


async def test_parked_event_keeps_subject_and_headers(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    await owner.execute("insert into users values (1, repeat('x', 1048500)), (2, 'x')")

    found = await relay(
        database, stream, "--headers", "--subject", "{topic}.{table}.{key}",
        "--content", "cloudevents-structured", "--on-oversize", "park",
    )  # fmt: skip

    parked = await owner.fetchrow("select * from pgoutbox.parked")
    assert [message.subject for message in found] == [f"{stream.topic}.users.2"]
    assert parked is not None
    assert parked["subject"] == f"{stream.topic}.users.1"
    assert "Pgoutbox-Transaction-Size: 2\r\n" in parked["headers"]
    assert json.loads(parked["payload"])["type"] == "pgoutbox.insert"


async def read(
    database: Database, progress: Progress, count: int
) -> tuple[list[Message], Progress]:
    """Read batches as a relay that has just started does."""
    connection = await database.connect()
    outbox = Outbox(
        connection,
        format_of(MessageConfig(headers=True), "db"),
        relay="r",
        batch_events=5,
        batch_bytes=2**20,
    )
    await lead(outbox, connection, "r")
    messages: list[Message] = []
    for _ in range(count):
        batch = await outbox.next_batch(progress)
        messages += batch.messages
        progress = batch.after
    await connection.execute("select pg_advisory_unlock_all()")
    return messages, progress


async def test_a_relay_that_starts_inside_a_transaction_numbers_its_events_the_same(
    database: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are more than are counted at once."""
    monkeypatch.setattr(numbering, "_COUNTED_AT_ONCE", 4)
    await owner.execute("insert into users select n, 'x' from generate_series(1, 23) n")
    await owner.execute("insert into keyless values ('x')")
    whole, _ = await read(database, Progress(), 6)
    for batches in (1, 2, 4):
        before, progress = await read(database, Progress(), batches)
        after, _ = await read(database, progress, 6 - batches)

        assert before + after == whole
    assert {
        ("Pgoutbox-Transaction-Event", "23"),
        ("Pgoutbox-Transaction-Size", "23"),
    } <= set(whole[22].headers)


async def test_a_batch_that_is_read_again_numbers_its_events_the_same(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("insert into users select n, 'x' from generate_series(1, 23) n")
    connection = await database.connect()
    outbox = Outbox(
        connection,
        format_of(MessageConfig(headers=True), "db"),
        relay="r",
        batch_events=5,
        batch_bytes=2**20,
    )
    await lead(outbox, connection, "r")
    first = await outbox.next_batch(Progress())
    second = await outbox.next_batch(first.after)
    again = await outbox.next_batch(first.upto(3))

    assert again.messages == [*first.messages[3:], *second.messages[:3]]


async def test_secrets_may_stand_in_files(
    database: Database, owner: asyncpg.Connection, servers: Servers, tmp_path: Path
) -> None:
    server = servers.nats('authorization: {user: "shop", password: "p@ss:word/%"}')
    dsn, password = tmp_path / "dsn", tmp_path / "password"
    dsn.write_text(f"{database.dsn}\n")
    password.write_text("p@ss:word/%\n")
    await owner.execute("insert into users values (1, 'a')")

    done = pgoutbox(
        *("relay", "--drain", "--nats-user", "shop", "--nats-password-file", str(password)),
        env={"PGOUTBOX_DSN_FILE": str(dsn), "NATS_URL": server.url},
    )

    assert done.returncode == 0, done.stderr
    assert "p@ss" not in done.stderr
    status = pgoutbox("status", "--json", "--dsn-file", str(dsn))
    assert [relay["backlog"] for relay in json.loads(status.stdout)["relays"]] == [0]
