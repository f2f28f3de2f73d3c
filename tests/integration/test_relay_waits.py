"""A relay whose database is new, reset or dropped waits, says so once, and goes on."""

from __future__ import annotations

from functools import partial

import asyncpg
import pytest

from pgoutbox.demo.process import free_port
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, OWNER, Cluster, Database
from tests.support.commands import pgoutbox
from tests.support.http import status
from tests.support.streams import Stream
from tests.support.waiting import eventually

WAITING = "waiting for the schema pgoutbox"


async def stored(stream: Stream, number: int) -> bool:
    return await stream.count() == number


async def is_ready(port: int, *, ready: bool) -> bool:
    return await status(port, "/ready") == (200 if ready else 503)


async def make_table(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute("create table if not exists users (id int generated always as identity)")
    done = pgoutbox("install", "--table", "users", "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    return owner


async def test_a_relay_waits_for_the_schema_also_after_it_was_dropped(
    empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    port = free_port()
    relay = await daemon(
        "relay", "--dsn", empty_database.dsn, "--nats-url", stream.url, "--topic", stream.topic,
        "--health-addr", str(port), "--poll-interval", "100ms",
    )  # fmt: skip
    for round_number in (1, 2):
        await eventually(lambda: relay.output.count(WAITING) == round_number)  # noqa: B023
        await eventually(partial(is_ready, port, ready=False))
        assert await status(port, "/healthz") == 200
        owner = await make_table(empty_database)
        await owner.execute("insert into users default values")
        await eventually(partial(stored, stream, round_number), timeout=30)
        await eventually(partial(is_ready, port, ready=True))
        await eventually(partial(is_dropped, owner))

    assert "error: " not in relay.output
    assert "Traceback" not in relay.output
    assert await relay.stop() == 0


async def is_dropped(owner: asyncpg.Connection) -> bool:
    """Drop the schema; False where a relay's locks were taken in another order just then."""
    try:
        await owner.execute("drop schema pgoutbox cascade")
    except asyncpg.DeadlockDetectedError:
        return False
    return True


async def test_a_relay_survives_that_its_database_is_dropped_and_made_anew(
    cluster: Cluster, database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    await relay.line("connected to NATS")
    admin = await asyncpg.connect(cluster.dsn(ADMIN, "postgres"))
    try:
        with pytest.raises(asyncpg.ObjectInUseError):  # as docs/postgresql.md says
            await admin.execute(f"drop database {database.name}")
        await admin.execute(f"drop database {database.name} with (force)")
        await relay.line("PostgreSQL unavailable")
        await admin.execute(f"create database {database.name} owner {OWNER}")
    finally:
        await admin.close()

    await relay.line(WAITING)
    owner = await make_table(database)
    await owner.execute("insert into users default values")
    await eventually(partial(stored, stream, 1), timeout=30)
    assert await relay.stop() == 0


async def test_a_database_can_be_copied_as_the_documents_say(
    cluster: Cluster, database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await make_table(database)
    relay = await daemon(
        "relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    await relay.line("connected to NATS")
    await owner.close()
    admin = await asyncpg.connect(cluster.dsn(ADMIN, "postgres"))
    copy = f"{database.name}_copy"
    try:
        with pytest.raises(asyncpg.ObjectInUseError):
            await admin.execute(f"create database {copy} template {database.name}")
        await admin.execute(f"alter database {database.name} with allow_connections false")
        await admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1",
            database.name,
        )
        await admin.execute(f"create database {copy} template {database.name}")
        await admin.execute(f"drop database {copy}")
        await admin.execute(f"alter database {database.name} with allow_connections true")
    finally:
        await admin.close()

    await (await database.connect()).execute("insert into users default values")
    await eventually(partial(stored, stream, 1), timeout=30)
    assert await relay.stop() == 0
