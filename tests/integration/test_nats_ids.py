"""Message ids in the stream: repeats are dropped, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import pytest
from nats.js import JetStreamContext

from pgoutbox.messages.event import Message
from pgoutbox.nats.wire import message_id
from tests.conftest import Connect, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import Daemon
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


@dataclass
class Forger:
    """Somebody who may publish to the subject of a relay that is held up."""

    relay: Daemon
    subject: str
    jetstream: JetStreamContext
    ids: list[str]  # of the events that the relay is to publish next

    async def forge(self, ids: Iterable[str]) -> None:
        """Publish messages with these event ids, and only then let the relay go on."""
        for event_id in ids:
            name = message_id(Message(self.subject, event_id, b""))
            await self.jetstream.publish(self.subject, b"forged", headers={"Nats-Msg-Id": name})
        self.relay.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def forger(
    _users: None,
    database: Database,
    connect: Connect,
    daemon: StartDaemon,
    stream: Stream,
    jetstream: JetStreamContext,
) -> Forger:
    owner = await connect()
    await jetstream.add_stream(
        name=stream.topic, subjects=[f"{stream.topic}.*"], duplicate_window=3.0
    )
    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--poll-interval", "50ms"),
    )
    await owner.execute("insert into users values (0)")
    await eventually(stream.count)
    relay.process.send_signal(signal.SIGSTOP)
    await owner.execute("insert into users select generate_series(1, 500)")
    rows = await owner.fetch("select id::text from pgoutbox.outbox order by position, seq offset 1")
    return Forger(relay, f"{stream.topic}.public_users", jetstream, [row["id"] for row in rows])


async def _ours(stream: Stream) -> list[int]:
    """Return the keys of the rows that the stream has, in the order of their first messages."""
    ours = [message for message in await stream.messages() if message.data != b"forged"]
    return list(dict.fromkeys(json.loads(message.data)["data"]["id"] for message in ours))


async def test_ids_made_from_the_first_of_a_transaction_suppress_nothing(
    forger: Forger, stream: Stream
) -> None:
    """Whatever is counted up in an id that somebody has seen, no other event has the result."""
    first = int(forger.ids[0].replace("-", ""), 16)
    await forger.forge(
        str(UUID(int=(first + count * step) % 2**128))
        for count in range(1, 200)
        for step in (1, -1, 2**64)
    )

    async def all_stored() -> bool:
        return await stream.count() == 501 + 3 * 199

    await eventually(all_stored)
    assert await forger.relay.stop() == 0
    assert await _ours(stream) == list(range(501))
    assert "ERROR" not in forger.relay.output


async def test_message_of_another_with_an_events_id_confirms_nothing(
    forger: Forger, connect: Connect, stream: Stream
) -> None:
    """From the second of a transaction on; once the stream has forgotten them, ours are sent."""
    owner = await connect()
    relay = forger.relay
    await forger.forge(forger.ids[1:])

    line = await relay.line("an event can't be stored: another publisher's message in the stream")
    assert "ERROR" in line

    async def all_sent() -> bool:
        unsent = await owner.fetchval("select count(*) from pgoutbox.outbox where sent_by = '{}'")
        return bool(unsent == 0)

    await eventually(all_sent, timeout=30)
    assert await relay.stop() == 0
    assert await _ours(stream) == list(range(501))
    assert relay.output.count("an event can't be stored: another publisher") >= 1


@pytest.mark.usefixtures("_users")
async def test_relay_that_takes_over_from_another_by_name_takes_its_repeats_for_its_own(
    database: Database, connect: Connect, daemon: StartDaemon, stream: Stream
) -> None:
    """One that was killed before its progress was written, for instance."""
    owner = await connect()
    address = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    before = await daemon("relay", "--name", "before", *address)
    await owner.execute("insert into users select generate_series(1, 100)")

    async def stored() -> bool:
        return await stream.count() == 100

    await eventually(stored)
    await before.kill()
    await owner.execute("update pgoutbox.progress set high = 0")
    after = await daemon("relay", "--name", "after", "--begin-after", "before", *address)
    await after.line("leading")
    await owner.execute("insert into users values (101)")

    async def all_stored() -> bool:
        return await stream.count() == 101

    await eventually(all_stored)
    assert await after.stop() == 0
    assert "ERROR" not in after.output
    assert len({message.id for message in await stream.messages()}) == 101
    assert await _ours(stream) == list(range(1, 102))
