"""Moving from a replication slot to triggers and back: no gap, no double, whatever is written.

The slot is read with wal-listener's plug-in and publication; the statements are those of
docs/moving-from-wal-listener.md.
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from pgoutbox.demo.postgres import postgres_installation
from tests.conftest import Servers
from tests.support.cluster import ADMIN, Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.waiting import eventually

DOCUMENT = (ROOT / "docs" / "moving-from-wal-listener.md").read_text("utf-8")
CHANGES = """
select data from pg_logical_slot_get_binary_changes(
    'myslot_1', null, null, 'proto_version', '1', 'publication_names', 'wal-listener')
"""
EVENTS = """
select table_name, (data ->> 'id')::bigint from pgoutbox.outbox where action = 'INSERT'
"""
TABLES = ("users", "orders")
Rows = Counter[tuple[str, int]]


def script(marker: str) -> str:
    """Return what the document has below a marker."""
    found = re.search(rf"<!-- {marker} -->\n *```\w+\n(.*?) *```", DOCUMENT, re.DOTALL)
    assert found, marker
    return textwrap.dedent(found[1])


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    """A database with two tables, and wal-listener's publication and slot."""
    cluster = await servers.cluster(wal_level="logical")
    database = await cluster.create_database(installed=False)
    owner = await database.connect()
    for table in TABLES:
        await owner.execute(f"create table {table} (id bigint generated always as identity)")
    admin = await database.connect(ADMIN)
    await admin.execute('create publication "wal-listener" for all tables')
    await admin.execute("select pg_create_logical_replication_slot('myslot_1', 'pgoutput')")
    yield database
    await database.disconnect()


async def write(database: Database, written: Rows, is_over: asyncio.Event) -> None:
    """Insert into one table or both in one transaction after another; note what is committed."""
    connection = await database.connect()
    draw = random.Random(connection.get_server_pid())
    while not is_over.is_set():
        rows = []
        async with connection.transaction():
            for table in draw.choice([TABLES, TABLES[:1], TABLES[1:]]):
                insert = f"insert into {table} default values returning id"
                rows.append((table, await connection.fetchval(insert)))
        written.update(rows)


@asynccontextmanager
async def writers(database: Database) -> AsyncIterator[Rows]:
    """Let four connections write for as long as the block lasts; give what they commit."""
    written: Rows = Counter()
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(write(database, written, is_over))
        await more(written)
        try:
            yield written
        finally:
            is_over.set()


async def more(written: Rows) -> None:
    """Wait until some more has been written."""
    enough = written.total() + 200
    await eventually(lambda: written.total() >= enough)


async def run(database: Database, folder: Path, statements: str) -> None:
    """Run statements with psql in one transaction, again until it gets its locks."""
    file = folder / "statements.sql"
    file.write_text(statements)
    command = (postgres_installation() / "bin" / "psql", database.dsn_as(ADMIN), "-1", "-X", "-q")
    while True:
        psql = await asyncio.create_subprocess_exec(
            *command, "-v", "ON_ERROR_STOP=1", "-f", file,
            cwd=folder, env=clean_environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await psql.communicate()
        if psql.returncode == 0:
            return
        assert b"lock timeout" in said, said.decode()


async def decoded(admin: asyncpg.Connection) -> Rows:
    """Return the inserted rows that the slot has (protocol of pgoutput, version 1)."""
    tables: dict[int, str] = {}
    rows: Rows = Counter()
    for (message,) in await admin.fetch(CHANGES):
        (relation,) = struct.unpack_from("!I", message, 1)
        if message[:1] == b"R":
            tables[relation] = message[5:].split(b"\0")[1].decode()
        elif message[:1] == b"I" and tables[relation] in TABLES:
            (size,) = struct.unpack_from("!I", message, 9)
            rows[tables[relation], int(message[13 : 13 + size])] += 1
    return rows


async def captured(owner: asyncpg.Connection) -> Rows:
    return Counter((row[0], row[1]) for row in await owner.fetch(EVENTS))


async def test_there_and_back_each_row_is_seen_by_the_slot_or_by_the_trigger(
    database: Database, tmp_path: Path
) -> None:
    admin = await database.connect(ADMIN)
    (tmp_path / "config.yml").write_text(
        "listener: {filter: {tables: {users: [insert], orders: [insert]}}}"
    )
    command = script("there: shell").split(">")[0].split()
    printed = pgoutbox(
        *(str(tmp_path / word) if word == "config.yml" else word for word in command[1:])
    )
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "install.sql").write_text(printed.stdout)

    async with writers(database) as written:
        await run(database, tmp_path, script("there: sql"))
        await more(written)
    by_slot, by_trigger = await decoded(admin), await captured(admin)

    assert by_slot + by_trigger == written
    assert min(by_slot.total(), by_trigger.total()) > 0

    await admin.execute("select pg_drop_replication_slot('myslot_1')")
    await admin.execute('drop publication "wal-listener"')
    await admin.execute(script("back: slot").partition("\n")[0])
    await admin.execute(script("back: slot").partition("\n")[2])
    async with writers(database) as rewritten:
        await run(database, tmp_path, script("back: sql"))
        await more(rewritten)
    by_slot, by_trigger = await decoded(admin), await captured(admin) - by_trigger

    assert by_slot + by_trigger == rewritten
    assert min(by_slot.total(), by_trigger.total()) > 0
