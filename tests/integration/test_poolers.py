"""Through PgBouncer: commands leave nothing behind, and the relay works or says why it can't."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import pytest

from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database import connection as db
from pgoutbox.errors import ConfigError
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, Database
from tests.support.commands import pgoutbox
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.streams import Stream
from tests.support.waiting import eventually

# All that one can leave behind on a connection.
_LEFT = r"""
select
    (select json_object_agg(name, setting order by name) from pg_settings
        where name !~ '^plpgsql\.')::text as settings,
    (select count(*) from pg_prepared_statements) as statements,
    (select count(*) from pg_listening_channels()) as channels,
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,
    (select count(*) from pg_cursors where name <> '') as cursors
"""


async def left(pooler: PgBouncer, database: Database) -> dict[str, object]:
    """Return what an application finds on the connection that the pooler lends it."""
    app = await asyncpg.connect(pooler.dsn(database.dsn), statement_cache_size=0)
    try:
        async with app.transaction():
            row = await app.fetchrow(_LEFT)
    finally:
        await app.close()
    assert row is not None
    return {**row, **json.loads(row["settings"]), "settings": None}


async def stored(stream: Stream, number: int) -> bool:
    return await stream.count() == number


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute("create table users (id integer primary key)")
    admin = await database.connect(ADMIN)
    for name, value in {"statement_timeout": "30s", "search_path": "public", "jit": "on"}.items():
        await admin.execute(f"alter database {database.name} set {name} = '{value}'")
    return owner


@pytest.fixture
async def one_connection(database: Database) -> AsyncIterator[PgBouncer]:
    """A pool of one connection, so that whatever is left behind on it is seen."""
    async with pgbouncer(database.dsn, "transaction", default_pool_size=1) as pooler:
        yield pooler


async def test_commands_work_and_leave_nothing_behind(
    database: Database, owner: asyncpg.Connection, one_connection: PgBouncer
) -> None:
    dsn = one_connection.dsn(database.dsn)
    before = await left(one_connection, database)
    for command in (
        ("install", "--table", "users", "--grant-relay", "app_writer"),
        ("status",),
        ("status", "--json"),
        ("uninstall", "--table", "users"),
        ("uninstall", "--all"),
    ):
        done = await asyncio.to_thread(pgoutbox, *command, "--dsn", dsn)
        assert done.returncode == 0, done.stderr
        assert before == await left(one_connection, database), command


async def test_an_application_writes_on_through_the_same_pooler(
    database: Database, owner: asyncpg.Connection, one_connection: PgBouncer, stream: Stream
) -> None:
    """While commands and a relay come and go on its one connection: no error, each event."""
    dsn, is_over = one_connection.dsn(database.dsn), asyncio.Event()
    install = ("install", "--table", "users")
    done = await asyncio.to_thread(pgoutbox, *install, "--dsn", dsn)
    assert done.returncode == 0, done.stderr

    async def write() -> int:
        app = await asyncpg.connect(dsn, statement_cache_size=0)
        number = 0
        while not is_over.is_set():
            async with app.transaction():
                await app.execute(f"insert into users values ({number})")
                await app.execute(f"update users set id = -{number} - 1 where id = {number}")
            number += 1
        await app.close()
        return number

    writing = asyncio.create_task(write())
    to_nats = ("--nats-url", stream.url, "--topic", stream.topic)
    for command, code in ((install, 0), (("status",), 0), (("relay", *to_nats), 2)):
        done = await asyncio.to_thread(pgoutbox, *command, "--dsn", dsn)
        assert done.returncode == code, done.stderr
    is_over.set()
    count = await writing
    relay = ("relay", "--drain", *to_nats)
    done = await asyncio.to_thread(pgoutbox, *relay, "--dsn", database.dsn)

    assert done.returncode == 0, done.stderr
    written = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert written == [row for number in range(count) for row in (number, -number - 1)]


@pytest.mark.parametrize(
    ("servers", "settings"),
    [
        (1, {}),
        (3, {}),
        (3, {"server_round_robin": 1}),
        (20, {}),
    ],
)
async def test_the_relay_refuses_a_pooler_in_transaction_mode(
    database: Database,
    owner: asyncpg.Connection,
    stream: Stream,
    servers: int,
    settings: dict[str, int],
) -> None:
    """Also where the pool gives it the same connection again and again."""
    async with pgbouncer(
        database.dsn, "transaction", default_pool_size=servers, **settings
    ) as pooler:
        await open_all(pooler, database, servers)
        before = await left(pooler, database)

        done = await asyncio.to_thread(
            pgoutbox, "relay", "--dsn", pooler.dsn(database.dsn), "--nats-url", stream.url
        )

        assert done.returncode == 2, done.stderr
        assert "is a pooler in transaction mode" in done.stderr
        assert "Traceback" not in done.stderr
        assert await owner.fetchval("select count(*) from pgoutbox.progress") == 0
        for _ in range(servers):
            assert before == await left(pooler, database)


async def open_all(pooler: PgBouncer, database: Database, servers: int) -> None:
    """Have the pooler open all its connections, which are idle afterwards."""
    async with AsyncExitStack() as stack:
        for _ in range(servers):
            app = await asyncpg.connect(pooler.dsn(database.dsn), statement_cache_size=0)
            stack.push_async_callback(app.close)
            await stack.enter_async_context(app.transaction())


async def test_the_relay_works_through_a_pooler_in_session_mode(
    database: Database, owner: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    """Without a warning, woken by notifications; and a stop gives everything back."""
    async with pgbouncer(
        database.dsn, "session", default_pool_size=3, server_reset_query=""
    ) as pooler:
        dsn = pooler.dsn(database.dsn)
        before = await left(pooler, database)
        done = await asyncio.to_thread(pgoutbox, "install", "--table", "users", "--dsn", dsn)
        assert done.returncode == 0, done.stderr

        arguments = ("--nats-url", stream.url, "--topic", stream.topic, "--poll-interval", "1h")
        relay = await daemon("relay", "--dsn", dsn, *arguments)
        await relay.line("connected to NATS")
        for number in range(3):
            await owner.execute("insert into users values ($1)", number)
            await eventually(partial(stored, stream, number + 1))
        assert await relay.stop() == 0
        assert not re.search("WARN|ERROR", relay.output), relay.output

        for _ in range(3):
            assert before == await left(pooler, database)


async def test_a_session_is_told_where_the_pool_has_no_other_connection_left(
    database: Database,
) -> None:
    """As a standby's, beside a relay that has taken the others."""
    async with pgbouncer(database.dsn, "session", default_pool_size=1) as pooler:
        config = DatabaseConfig(dsn=pooler.dsn(database.dsn))
        conn = await db.connect(config, purpose="test")
        assert await conn.fetchval("show statement_timeout") == "0"
        await db.close(conn)


async def test_a_pool_that_others_keep_busy_is_waited_for(database: Database) -> None:
    async with pgbouncer(database.dsn, "transaction", default_pool_size=1) as pooler:
        app = await asyncpg.connect(pooler.dsn(database.dsn), statement_cache_size=0)
        config = DatabaseConfig(dsn=pooler.dsn(database.dsn))
        async with app.transaction():
            connecting = asyncio.create_task(db.connect(config, purpose="test"))
            done, _ = await asyncio.wait({connecting}, timeout=1)
            assert not done
        with pytest.raises(ConfigError, match="is a pooler in transaction mode"):
            await connecting
        await app.close()


async def test_a_pooler_in_statement_mode_is_named(
    database: Database, owner: asyncpg.Connection
) -> None:
    async with pgbouncer(database.dsn, "statement") as pooler:
        config = DatabaseConfig(dsn=pooler.dsn(database.dsn))
        with pytest.raises(ConfigError, match="statement"):
            await db.connect(config, purpose="test")
        done = await asyncio.to_thread(pgoutbox, "status", "--dsn", config.dsn or "")
        assert done.returncode == 2
