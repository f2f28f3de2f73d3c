"""The suite's own fixtures keep what they promise."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import asyncpg
import pytest

from pgoutbox.demo.postgres import PostgresServer, postgres_installation
from tests.conftest import Connect, Servers
from tests.support.cluster import ADMIN, FAST_SETTINGS, OWNER, WRITER, Database
from tests.support.streams import Stream
from tests.support.waiting import eventually


async def test_owner_has_no_special_rights(connect: Connect) -> None:
    owner = await connect()

    role = await owner.fetchrow(
        "select rolsuper, rolreplication, rolcreatedb, rolcreaterole, rolbypassrls"
        " from pg_roles where rolname = current_user"
    )

    assert role is not None
    assert not any(role)


async def test_writer_writes_the_owners_tables_and_cannot_read_the_outbox(connect: Connect) -> None:
    owner, writer = await connect(OWNER), await connect(WRITER)
    await owner.execute("create table t (id integer)")

    await writer.execute("insert into t values (1)")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await writer.fetch("select * from pgoutbox.event")


async def test_template_is_installed_and_empty_database_is_not(
    database: Database, empty_database: Database
) -> None:
    question = "select to_regnamespace('pgoutbox') is not null"

    assert await (await database.connect()).fetchval(question)
    assert not await (await empty_database.connect()).fetchval(question)


async def test_stream_returns_messages_in_order(stream: Stream) -> None:
    await stream.jetstream.add_stream(name=stream.topic, subjects=[f"{stream.topic}.*"])
    for number in range(300):
        await stream.jetstream.publish(f"{stream.topic}.a", b"%d" % number)

    messages = await stream.messages()

    assert [b"%d" % number for number in range(300)] == [m.data for m in messages]
    assert await stream.count() == 300


async def test_killed_servers_come_back_with_their_data(servers: Servers) -> None:
    cluster = await servers.cluster()
    database = await cluster.create_database()
    await (await database.connect()).execute("create table kept (id integer)")
    await database.disconnect()

    assert cluster.server is not None
    cluster.server.kill()
    cluster.server.start()

    owner = await database.connect(ADMIN)
    assert await owner.fetchval("select to_regclass('kept') is not null")
    await database.disconnect()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_postgresql_starts_where_root_has_closed_its_files_to_others() -> None:
    """As `make demo` does under umask 077."""
    before = os.umask(0o077)
    folder = Path(tempfile.mkdtemp(prefix="pgoutbox-test-"))
    folder.chmod(0o711)
    try:
        ours = postgres_installation()
        closed = folder / "packages" / ours.parent.name / ours.name
        shutil.copytree(ours, closed)
        libraries = ours.parent.with_name(f"{ours.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / "packages" / libraries.name)
        for path in (folder / "packages", *(folder / "packages").rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)
        with PostgresServer(folder / "postgres", settings=FAST_SETTINGS, installation=closed):
            pass
    finally:
        os.umask(before)
        shutil.rmtree(folder)


async def test_eventually_waits_for_an_assertion_to_hold() -> None:
    answers = iter([0, 0, 3])

    def three() -> bool:
        assert next(answers) == 3
        return True

    async def four() -> bool:
        return three()

    assert await eventually(three, timeout=5)
    answers = iter([0, 0, 3])
    assert await eventually(four, timeout=5) is True
