"""Message ids in the stream: repeats are dropped, and nothing else is."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from nats.js import JetStreamContext

from tests.conftest import Connect, StartDaemon
from tests.support.cluster import Database
from tests.support.streams import Stream
from tests.support.waiting import eventually


@pytest.fixture
async def _users(connect: Connect) -> None:
    owner = await connect()
    await owner.execute("create table users (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('users')")


@pytest.mark.usefixtures("_users")
async def test_message_id_is_made_of_the_event_and_its_subject(
    database: Database, connect: Connect, daemon: StartDaemon, stream: Stream
) -> None:
    await (await connect()).execute("insert into users values (1)")
    relay = await daemon(
        *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic),
    )
    assert await relay.wait() == 0
    (message,) = await stream.messages()
    digest = hashlib.sha256(message.subject.encode()).hexdigest()
    event_id = await (await connect()).fetchval("select id::text from pgoutbox.outbox")
    assert message.headers["Nats-Msg-Id"] == f"{event_id}.{digest[:12]}"


@pytest.mark.usefixtures("_users")
async def test_two_relays_send_an_event_under_two_subjects_into_one_stream(
    database: Database,
    connect: Connect,
    daemon: StartDaemon,
    stream: Stream,
    jetstream: JetStreamContext,
) -> None:
    """Neither's message is a repeat of the other's."""
    owner = await connect()
    await jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.>"])
    address = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    relays = [
        await daemon("relay", "--name", "one", *address),
        await daemon("relay", "--name", "two", "--subject", "{topic}.by.{key}", *address),
    ]
    for relay in relays:
        await relay.line("connected to NATS")
    for key in range(40):
        await owner.execute("insert into users values ($1)", key)

    async def all_stored() -> bool:
        return await stream.count() == 80

    await eventually(all_stored)
    for relay in relays:
        assert await relay.stop() == 0
    ids: dict[str, list[str]] = {"one": [], "two": []}
    for message in await stream.messages():
        ids["two" if ".by." in message.subject else "one"].append(message.id)
    assert ids["one"] == ids["two"]
    assert set(Counter(ids["one"]).values()) == {1}
    assert all("sent=40" in relay.output for relay in relays)
