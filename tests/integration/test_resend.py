"""Sent events are sent again, whatever happens to the relay, and a new relay begins where told."""

from __future__ import annotations

import json
import signal
from typing import Any

import asyncpg
import pytest

from tests.conftest import StartDaemon
from tests.integration.test_monitoring import capture
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stored, Stream
from tests.support.waiting import eventually


def where(database: Database, stream: Stream) -> tuple[str, ...]:
    return ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)


def resend(database: Database, *arguments: str) -> dict[str, Any]:
    done = pgoutbox("resend", "--json", *arguments, "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def drain(database: Database, stream: Stream, *arguments: str) -> None:
    done = pgoutbox("relay", "--drain", *where(database, stream), *arguments)
    assert done.returncode == 0, done.stderr


def resent(messages: list[Stored]) -> list[int]:
    """Return the ids of the rows in messages that were sent again, in their order."""
    return [
        json.loads(message.data)["data"]["id"]
        for message in messages
        if "Pgoutbox-Resent" in message.headers
    ]


@pytest.fixture
async def owner(database: Database, stream: Stream) -> asyncpg.Connection:
    """The owner of two tables whose eight events are sent: in three transactions, one of six."""
    await capture(database, "notes", "other")
    owner = await database.connect()
    await owner.execute("insert into notes values (1)")
    await owner.execute("insert into notes select generate_series(2, 7)")
    await owner.execute("insert into other values (8)")
    drain(database, stream)
    return owner


async def test_message_keeps_its_payload_and_has_an_id_and_a_header_of_its_own(
    database: Database, stream: Stream, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    """Behind what is newer, and by a relay that runs, at once."""
    relay = await daemon("relay", *where(database, stream), "--poll-interval", "1h")
    await relay.line("leading")
    await owner.execute("insert into notes values (9)")
    await eventually(lambda: _has(stream, 9))

    answer = resend(database, "--since", "1h", "--table", "notes", "--before", "2099-01-01")

    assert answer == {"relay": "default", "events": 8, "number": 1, "dry_run": False}
    await relay.line("events were sent again resend=1 events=8")
    messages = await stream.messages()
    first, again = messages[:9], messages[9:]
    assert resent(messages) == [*range(1, 8), 9]
    sent = {message.data for message in first}
    assert all(message.data in sent and message.subject == first[0].subject for message in again)
    assert len({message.headers["Nats-Msg-Id"] for message in messages}) == 17
    assert {message.headers["Pgoutbox-Resent"] for message in again} == {"1"}
    assert await relay.stop() == 0


@pytest.mark.parametrize("batch", ["2", pytest.param("2000", marks=pytest.mark.long)])
async def test_selection_by_position_table_and_id(
    database: Database, stream: Stream, owner: asyncpg.Connection, batch: str
) -> None:
    positions = await owner.fetch("select distinct position from pgoutbox.outbox order by 1")
    first, second, third = [str(row["position"]) for row in positions]
    ids = [
        str(row["id"])
        for row in await owner.fetch(
            "select id from pgoutbox.outbox where (data ->> 'id')::int in (3, 8) order by position"
        )
    ]
    dry = resend(database, "--from", second, "--dry-run")
    assert (dry["events"], dry["number"]) == (7, None)

    assert resend(database, "--from", second, "--to", second)["events"] == 6
    assert resend(database, "--to", first)["events"] == 1
    assert resend(database, "--table", "public.other", "--from", first)["events"] == 1
    assert resend(database, "--id", ids[0], "--id", ids[1])["events"] == 2
    assert resend(database, "--from", third, "--table", "notes")["events"] == 0
    drain(database, stream, "--batch-events", batch)

    assert resent(await stream.messages()) == [*range(2, 8), 1, 8, 3, 8]
    assert await owner.fetchval("select array_agg(sent order by number) from pgoutbox.resend") == [
        *(6, 1, 1, 2)
    ]


async def test_only_what_is_sent_is_sent_again_the_same_request_counts_once_and_status_shows_it(
    database: Database, stream: Stream, owner: asyncpg.Connection
) -> None:
    await owner.execute("insert into notes values (9)")
    assert resend(database, "--since", "1h")["events"] == 8
    assert resend(database, "--from", "1")["number"] == 2
    assert resend(database, "--from", "1")["number"] == 2

    status = pgoutbox("status", "--dsn", database.dsn).stdout

    drain(database, stream)

    ids = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert ids == [*range(1, 10), *range(1, 9), *range(1, 9)]
    for number in (1, 2):
        assert f"resend {number} by relay default: 0 of 8 events; asked for " in status
    ended = json.loads(pgoutbox("status", "--json", "--dsn", database.dsn).stdout)
    assert ended["resends"] == []


async def test_relay_that_is_killed_in_between_goes_on_where_it_was(
    database: Database, stream: Stream, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    """Repeats of the part that it was at have the same message ids, and the stream drops them."""
    await owner.execute("insert into notes select generate_series(10, 6009)")
    drain(database, stream)
    assert resend(database, "--since", "1h")["events"] == 6008
    relay = await daemon("relay", *where(database, stream), "--batch-events", "50")
    await eventually(lambda: _has(stream, 6008 + 500))
    relay.send_signal(signal.SIGKILL)
    await relay.wait()
    assert await stream.count() < 2 * 6008

    drain(database, stream)

    assert resent(await stream.messages()) == [*range(1, 9), *range(10, 6010)]


async def test_what_cant_be_asked_for_is_said(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("select pgoutbox.lead('default')")
    for arguments, said in (
        ((), "Give one of --since, --before, --from, --to, --table and --id."),
        (("--since", "1h", "--name", "defualt"), "there is no relay defualt in this database"),
        (("--id", "nonsense"), "Invalid value for '--id'"),
    ):
        done = pgoutbox("resend", *arguments, "--dsn", database.dsn)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr

    unknown = ("--id", "3f0c8e5e-0c0b-8d3e-8a3c-000000000001")
    done = pgoutbox("resend", *unknown, "--dsn", database.dsn)
    assert done.returncode == 0
    assert "1 of the ids aren't in the outbox any more" in done.stderr


async def test_new_relay_begins_with_the_oldest_event_and_says_so(
    database: Database, stream: Stream, owner: asyncpg.Connection
) -> None:
    done = pgoutbox("relay", "--drain", *where(database, stream), "--name", "new")

    assert "a new relay begins relay=new begin_at=oldest" in done.stderr
    assert "--begin-at now leaves that out" in done.stderr
    again = pgoutbox("relay", "--drain", *where(database, stream), "--name", "new")
    assert "a new relay begins" not in again.stderr


async def test_new_relay_begins_now_with_what_isnt_committed_yet(
    database: Database, stream: Stream, owner: asyncpg.Connection
) -> None:
    """Also where that has its position already, and later ones are visible."""
    other = await database.connect()
    slow = other.transaction()
    await slow.start()
    await other.execute("insert into notes values (9); set constraints all immediate")
    await owner.execute("insert into notes values (10)")

    drain(database, stream, "--name", "new", "--begin-at", "now", "--subject", "{topic}.new")
    await slow.commit()
    await owner.execute("insert into notes values (11)")
    drain(database, stream, "--name", "new", "--begin-at", "now", "--subject", "{topic}.new")

    messages = [m for m in await stream.messages() if m.subject.endswith(".new")]
    assert [json.loads(message.data)["data"]["id"] for message in messages] == [9, 11]


async def test_new_relay_begins_at_a_position(
    database: Database, stream: Stream, owner: asyncpg.Connection
) -> None:
    last = await owner.fetchval("select max(position) from pgoutbox.transaction")
    begin = ("--name", "new", "--subject", "{topic}.new", "--begin-at")

    beyond = pgoutbox("relay", "--drain", *where(database, stream), *begin, str(last + 2))
    assert beyond.returncode == 2
    assert f"--begin-at {last + 2} is beyond the outbox" in beyond.stderr
    drain(database, stream, *begin, str(last))

    messages = [m for m in await stream.messages() if m.subject.endswith(".new")]
    assert [json.loads(message.data)["data"]["id"] for message in messages] == [8]


def test_beginnings_that_are_none_are_refused() -> None:
    for arguments, said in (
        (("--begin-at", "soon"), "--begin-at must be now, oldest, or a position"),
        (("--begin-at", "now", "--begin-after", "a"), "exclude each other"),
    ):
        done = pgoutbox("relay", "--name", "new", *arguments)
        assert done.returncode == 2
        assert said in done.stderr


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() >= count
