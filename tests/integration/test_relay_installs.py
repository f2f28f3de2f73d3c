"""A relay that first installs what wal-listener's file names: the image is all that changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.support import WRITER, Database, Stream, eventually, pgoutbox


@pytest.fixture
def file(tmp_path: Path, empty_database: Database, stream: Stream) -> Path:
    """wal-listener's file for the tables users and orders of a database without pgoutbox."""
    file = tmp_path / "config.yml"
    settings = {
        "listener": {
            "slotName": "myslot_1",
            "refreshConnection": "30s",
            "heartbeatInterval": "10s",
            "filter": {"tables": {"users": ["insert", "delete"], "orders": ["insert"]}},
        },
        "logger": {"level": "info", "fmt": "json"},
        "publisher": {"type": "nats", "address": stream.url, "topic": stream.topic},
        "pgoutbox": {"dsn": empty_database.dsn, "lockTimeout": "50ms", "lockWait": "0s"},
    }
    file.write_text(json.dumps(settings))  # which is YAML, too
    return file


async def subjects(stream: Stream, count: int) -> list[str]:
    """Return the last parts of the stream's subjects once it holds ``count`` messages."""

    async def has_all() -> bool:
        return await stream.count() == count

    await eventually(has_all)
    return [message.subject.rpartition(".")[2] for message in await stream.messages()]


async def test_wal_listeners_file_is_all_that_a_relay_needs(
    file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")

    relay = await daemon("relay", "--install", "-c", file)
    await relay.line("connected to NATS")
    await owner.execute("insert into users values (1); update users set id = 2")
    await owner.execute("insert into orders values (3); delete from users")

    assert await subjects(stream, 3) == ["public_users", "public_orders", "public_users"]
    said = [json.loads(line)["msg"] for line in relay.stderr]
    assert "public.users: captured" in said
    assert (
        "without effect, for there is no replication slot: listener.slotName,"
        " listener.refreshConnection, listener.heartbeatInterval"
    ) in said


async def test_a_table_that_cant_be_locked_is_captured_later_and_keeps_nobody_waiting(
    file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner, application = [await empty_database.connect() for _ in range(2)]
    await owner.execute("create table users (id int); create table orders (id int)")

    async with application.transaction():
        await application.execute("insert into orders values (1)")
        relay = await daemon("relay", "--install", "-c", file)
        await relay.line("install fails, trying again until it works")
        await owner.execute("insert into users values (1)")
        assert await subjects(stream, 1) == ["public_users"]
    await relay.line("install works again")
    await owner.execute("insert into orders values (2)")

    assert await subjects(stream, 2) == ["public_users", "public_orders"]


async def test_a_drain_that_cant_install_says_so(file: Path, empty_database: Database) -> None:
    owner, application = [await empty_database.connect() for _ in range(2)]
    await owner.execute("create table users (id int); create table orders (id int)")

    async with application.transaction():
        await application.execute("insert into orders values (1)")
        done = pgoutbox("relay", "--install", "--drain", "-c", file)

    assert done.returncode == 6
    assert "public.orders" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_role_that_may_only_relay_finds_all_installed(
    file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")
    assert pgoutbox("install", "-c", file, "--grant-relay", WRITER).returncode == 0

    relay = await daemon("relay", "--install", "-c", file, "--dsn", empty_database.dsn_as(WRITER))
    await relay.line("connected to NATS")
    await owner.execute("insert into users values (1)")

    assert await subjects(stream, 1) == ["public_users"]
    assert not any(json.loads(line)["level"] == "WARN" for line in relay.stderr)
