"""What docs/nats.md says is so: its settings are read, and its permissions are enough."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from pgoutbox.config.load import load
from tests.conftest import Connect, Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually

TEXT = (ROOT / "docs" / "nats.md").read_text("utf-8")
SETTINGS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
PERMISSIONS = re.findall(r"```\n(permissions .*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_are_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text)
    config = load({}, {}, file)
    default = load({}, {})
    assert (config.nats, config.stream) != (default.nats, default.stream)


FLAGS = ("--inbox-prefix", "_INBOX_pgoutbox")
ONLY_MESSAGES = 'permissions {publish: "wal_listener.*", subscribe: []}'


def server_config(permissions: str) -> str:
    return (
        'authorization: {users: [{user: admin, password: "admin"},'
        f' {{user: pgoutbox, password: "s3cret", {permissions}}}]}}'
    )


@pytest.mark.parametrize(
    ("permissions", "flags", "existing"),
    [
        (PERMISSIONS[0], (), "wal_listener"),
        (
            PERMISSIONS[0].replace("INFO.wal_", "INFO.my_"),
            ("--stream", "my_listener"),
            "my_listener",
        ),
        (PERMISSIONS[1].replace("CREATE.wal_", "INFO.my_"), FLAGS, "my_listener"),
        (PERMISSIONS[1], FLAGS, None),
        (ONLY_MESSAGES, ("--no-jetstream",), "wal_listener"),
    ],
    ids=["existing stream", "named stream", "found stream", "stream to create", "no stream"],
)
async def test_permissions_are_enough(
    servers: Servers,
    database: Database,
    connect: Connect,
    daemon: StartDaemon,
    permissions: str,
    flags: tuple[str, ...],
    existing: str | None,
) -> None:
    server = servers.nats(server_config(permissions))
    owner = await connect()
    await owner.execute("create table users (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('users')")
    async with nats_client(server.url.replace("//", "//admin:admin@")) as admin:
        stream = Stream(existing or "wal_listener", server.url, admin.jetstream())
        if existing:
            await admin.jetstream().add_stream(name=existing, subjects=["wal_listener.*"])
        relay = await daemon(
            *("relay", "--dsn", database.dsn, "--nats-url", server.url, "--nats-user", "pgoutbox"),
            *flags,
            env={"PGOUTBOX_NATS_PASSWORD": "s3cret"},
        )
        await relay.line("connected to NATS")
        await owner.execute("insert into users select generate_series(1, 300)")

        async def all_stored() -> bool:
            return await stream.count() == 300

        await eventually(all_stored)
    assert await relay.stop() == 0
    assert "WARN" not in relay.output
    assert "s3cret" not in relay.output


async def test_relay_waits_for_a_permission(
    servers: Servers, database: Database, connect: Connect, daemon: StartDaemon
) -> None:
    """Nothing that was denied counts as sent; what came before it is there."""
    denied = PERMISSIONS[0].replace("}", '\npublish: {deny: "wal_listener.public_orders"}}')
    server = servers.nats(server_config(denied))
    owner = await connect()
    for table in ("users", "orders"):
        await owner.execute(f"create table {table} (id int primary key)")
        await owner.execute(f"select pgoutbox.capture_table('{table}')")
    async with nats_client(server.url.replace("//", "//admin:admin@")) as admin:
        stream = Stream("wal_listener", server.url, admin.jetstream())
        await admin.jetstream().add_stream(name="wal_listener", subjects=["wal_listener.*"])
        relay = await daemon(
            *("relay", "--dsn", database.dsn, "--nats-url", server.url, "--nats-user", "pgoutbox"),
            env={"PGOUTBOX_NATS_PASSWORD": "s3cret"},
        )
        await relay.line("connected to NATS")
        await owner.execute("insert into users values (1)")
        await owner.execute("insert into orders values (1)")
        await owner.execute("insert into users values (2)")
        line = await relay.line("this user may not publish to a subject")
        assert "unavailable; retrying" in line
        assert "subject=wal_listener.public_orders" in line
        unsent = "select count(*) from pgoutbox.outbox where sent_by = '{}'"

        async def waits() -> bool:
            return bool(await owner.fetchval(unsent) == 2)

        await eventually(waits)
        assert await stream.count() == 1

        server.config_text = server_config(PERMISSIONS[0])
        server._prepare()
        server.send_signal(signal.SIGHUP)
        await relay.line("NATS available again")
        subjects = [stored.subject for stored in await stream.messages()]
    assert subjects == [f"wal_listener.public_{name}" for name in ("users", "orders", "users")]
    assert await relay.stop() == 0
    assert relay.output.count("may not publish") == 1
