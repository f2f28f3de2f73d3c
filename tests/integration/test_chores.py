"""What the leader does now and then must not stop what it does all the time."""

from __future__ import annotations

from pgoutbox.demo.process import free_port
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually


async def test_change_freeze_keeps_drift_from_being_mended_and_nothing_else(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """Somebody's event trigger refuses DDL, also the relay's."""
    owner = await database.connect()
    admin = await database.connect(ADMIN)
    await owner.execute("create table notes (id int)")
    assert pgoutbox("install", "--dsn", database.dsn, "--table", "notes").returncode == 0
    await owner.execute("alter table notes add column text text default 'more'")
    await admin.execute(
        "create function change_freeze() returns event_trigger language plpgsql"
        " as $$ begin raise 'change freeze'; end $$;"
        "create event trigger change_freeze on ddl_command_start execute function change_freeze()"
    )

    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    await relay.line("change freeze")
    for number in range(3):
        await owner.execute(f"insert into notes values ({number})")
    await eventually(lambda: _has(stream, 3))

    assert all(b'"text":"more"' in stored.data for stored in await stream.messages())
    assert await relay.stop() == 0
    assert relay.output.count("change freeze") == 1
    assert relay.output.count(" leading") == 1


async def test_count_that_takes_too_long_is_given_up_and_keeps_no_event_back(
    database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """As after an outage with a huge backlog; here somebody's lock makes it take for ever."""
    owner, other = [await database.connect() for _ in range(2)]
    await owner.execute("create table notes (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('notes')")

    relay = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--metrics-addr", str(free_port())),
    )
    await owner.execute("insert into notes values (1)")
    await eventually(lambda: _has(stream, 1))

    async with other.transaction():
        await other.execute("lock table pgoutbox.parked in access exclusive mode")
        failing = await relay.line("backlog count failed; retrying")
        await owner.execute("insert into notes values (2)")
        await eventually(lambda: _has(stream, 2))

    assert "the query timed out" in failing
    assert await relay.stop() == 0
    assert relay.output.count(" leading") == 1
    assert relay.output.count("backlog count failed") == 1


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() == count
