"""Servers that are replaced by newer ones, with all that they hold."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pgoutbox.demo.nats_server import nats_server_program
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import unprivileged_user
from tests.conftest import Servers
from tests.support import ledger
from tests.support.cluster import ADMIN, Cluster
from tests.support.nursery import Nursery
from tests.support.scene import Scene
from tests.support.streams import Stream, nats_client
from tools import documents

OLDER_NATS = "nats-server-2.10"


def older_postgres(than: int) -> Path:
    """Return the folder of an older PostgreSQL with all of its programs; skip without one."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*")):
        if (folder / "bin" / "pg_controldata").exists() and int(folder.name) < than:
            return folder
    pytest.skip("no older PostgreSQL is installed (Debian's package postgresql has one)")


def pg_upgrade(older: PostgresServer, newer: PostgresServer) -> None:
    """Move all that the stopped ``older`` has into a new cluster of ``newer``'s version."""
    user = unprivileged_user()

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            command,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
            cwd=newer.folder,
            env={**os.environ, "PGPASSWORD": older.password},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(older.bin / "pg_checksums", "--enable", "--no-sync", "-D", older.data)  # as in the newer
    run(
        newer.bin / "pg_upgrade",
        *("--old-bindir", older.bin, "--new-bindir", newer.bin),
        *("--old-datadir", older.data, "--new-datadir", newer.data),
        *("--username", "postgres", "--no-sync"),
    )


@pytest.mark.long
async def test_pg_upgrade(servers: Servers, stream: Stream, nursery: Nursery, seed: int) -> None:
    """What is unsent is sent, and nothing that was sent; triggers go on capturing."""
    newer = servers.postgres()
    newer.stop()
    if not (newer.bin / "pg_upgrade").exists():
        pytest.skip("this PostgreSQL comes without pg_upgrade")
    folder = older_postgres(int(newer.version.split(".")[0]))
    older = servers.postgres_of(PostgresServer, installation=folder, password=newer.password)
    cluster = Cluster(older.dsn(), older)
    await cluster.prepare()
    database = await cluster.create_database()
    await ledger.prepare(database)
    scene = Scene(database, stream, nursery, seed)
    relay = await scene.relay()
    async with scene.load(prepares=False):
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    assert await relay.stop() == 0
    sent = await stream.count()
    async with scene.load(prepares=False):
        await scene.pause(0.5, 1.0)
    await database.disconnect()
    older.stop()

    pg_upgrade(older, newer)
    newer.start()
    database.cluster = Cluster(newer.dsn(), newer)
    admin = await database.connect(ADMIN)
    unsent = await admin.fetchval("select count(*) from pgoutbox.outbox where sent_by = '{}'")
    relay = await scene.relay()
    await scene.all_sent()
    assert await stream.count() == sent + unsent > sent > 0
    async with scene.load():
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    await database.disconnect()


@pytest.mark.long
async def test_nats_server_is_upgraded(servers: Servers, scene: Scene) -> None:
    """Stopped and started as a newer one, under load, on the store of the older one."""
    program = documents.program(OLDER_NATS)
    if program is None:
        pytest.skip(f"{OLDER_NATS} isn't installed (make test-all builds it where there is Go)")
    server = servers.nats(program=Path(program))
    scene.stream = replace(scene.stream, url=server.url)
    relay = await scene.relay()
    await relay.line("connected to NATS")
    async with scene.load():
        await scene.pause(0.5, 1.0)
        server.stop()
        server.program = nats_server_program()
        server.restart()
        await relay.line("NATS available again")
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    assert await relay.stop() == 0

    async with nats_client(server.url) as client:
        scene.stream = replace(scene.stream, jetstream=client.jetstream())
        await scene.check()
