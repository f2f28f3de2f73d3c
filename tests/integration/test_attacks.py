"""Roles with few rights, beside a relay that runs; docs/security.md has the whole list."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.conftest import Connect, StartDaemon
from tests.support.cluster import ADMIN, WRITER, Cluster, Database
from tests.support.streams import Stream
from tests.support.waiting import eventually

STRANGER = "app_stranger"  # may connect, and has no other right
PLANTED = "app_planted"  # writes, with settings that somebody has planted for it


async def test_a_role_that_may_only_connect_reaches_nothing(
    cluster: Cluster, database: Database, connect: Connect, stream: Stream, daemon: StartDaemon
) -> None:
    """It hears no data, and what it says to relays does nothing."""
    await cluster.add_role(STRANGER)
    owner, stranger = await connect(), await connect(STRANGER)
    await owner.execute("create table t (id int, secret text)")
    await owner.execute("select pgoutbox.capture_table('t')")
    heard: list[object] = []
    await stranger.add_listener("pgoutbox", lambda *said: heard.append(said[3]))
    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    await relay.line("connected to NATS")

    for number in range(20):
        for payload in ("", "default", "x" * 7000, f"\x1b{number}", "00000000-0000-0000"):
            await stranger.execute("select pg_notify('pgoutbox', $1)", payload)
        await owner.execute("insert into t values ($1, 'hidden')", number)
    await eventually(lambda: _has(stream, 20))

    for statement in (
        "select * from pgoutbox.outbox",
        "select * from pgoutbox.event_0",
        "select * from pgoutbox.captured_table",
        "select pgoutbox.capture_table('public.t')",
        "select pgoutbox.lead('default')",
        "select pgoutbox.emit('s', '{}'::jsonb)",
        "select pgoutbox.rotate(0)",
        "create function pgoutbox.lead(name) returns int language sql as 'select 1'",
        "select setval('pgoutbox.position_seq', 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.execute(statement)
    assert not any("hidden" in str(said) for said in heard)
    assert await relay.stop() == 0
    rows = [json.loads(message.data)["data"] for message in await stream.messages()]
    assert rows == [{"id": number, "secret": "hidden"} for number in range(20)]
    assert "Traceback" not in relay.output
    assert len(relay.stderr) < 20, relay.output


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() == count


@pytest.mark.parametrize(
    "setting",
    [
        "pgoutbox.transaction = 'done'",
        "pgoutbox.transaction = '1 1'",
        "pgoutbox.transaction = E'\\x1b; drop table t'",
        "pgoutbox.row = 'x'",
        "pgoutbox.notify = 'off'",
        "pgoutbox.known_objects = '{}'",
        "pgoutbox.traceparent = 'x'",
    ],
)
async def test_settings_planted_for_a_role_harm_nobody(
    cluster: Cluster, database: Database, connect: Connect, setting: str
) -> None:
    await cluster.add_role(PLANTED)
    admin, owner = await connect(ADMIN), await connect()
    await admin.execute(f"alter role {PLANTED} reset all; alter role {PLANTED} set {setting}")
    await owner.execute("create table t (id int); select pgoutbox.capture_table('t')")
    await owner.execute(f"grant all on t to {PLANTED}")
    planted, other = await connect(PLANTED), await connect(WRITER)

    for number in range(2):
        await planted.execute(f"insert into t values ({number})")
        await other.execute(f"insert into t values ({number})")

    events = await owner.fetch("select data->>'id' as id from pgoutbox.outbox order by position")
    await admin.execute(f"alter role {PLANTED} reset all")
    assert [event["id"] for event in events] == ["0", "0", "1", "1"]
