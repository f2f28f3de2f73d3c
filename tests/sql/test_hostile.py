"""What a session can do to itself must not fail its writes, nor change what they say."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support import ADMIN, Database


async def new_rows(connection: asyncpg.Connection) -> list[dict[str, object]]:
    rows = await connection.fetch("select new_row from pgoutbox.event order by seq")
    return [json.loads(row["new_row"]) for row in rows]


@pytest.mark.parametrize(
    ("before", "value", "after", "rendered"),
    [
        ("numeric", "5", "bigint", 5),
        ("integer", "5", "positive", "5"),
        ("json", '{"a":1}', "jsonb", {"a": 1}),
        ("text", "26 hours", "interval", "26:00:00"),
        ("bigint", "7", "text", "7"),
    ],
)
async def test_session_that_begins_after_an_alter_type_renders_the_new_type(
    connect: Connect, before: str, value: str, after: str, rendered: object
) -> None:
    owner = await connect()
    await owner.execute("create domain positive as integer")
    await owner.execute(f"create table notes (value {before})")
    await owner.execute("select pgoutbox.capture_table('notes')")
    await owner.execute(f"alter table notes alter value type {after} using value::text::{after}")

    writer = await connect()
    await writer.execute("set intervalstyle = 'iso_8601'")
    await writer.execute(f"insert into notes values ('{value}')")

    assert await new_rows(owner) == [{"value": rendered}]


async def test_bytea_is_the_same_without_standard_conforming_strings(connect: Connect) -> None:
    owner = await connect()
    await owner.execute("create table notes (value bytea)")
    await owner.execute("select pgoutbox.capture_table('notes')")

    writer = await connect()
    await writer.execute("set standard_conforming_strings = off")
    await writer.execute("insert into notes values ('AB')")

    assert await new_rows(owner) == [{"value": "\\x4142"}]


async def test_sequences_discarded_in_mid_transaction_fail_no_commit(connect: Connect) -> None:
    writer = await connect()
    await writer.execute("create table notes (value int)")
    await writer.execute("select pgoutbox.capture_table('notes')")

    async with writer.transaction():
        await writer.execute("insert into notes values (1)")
        await writer.execute("discard sequences")

    assert await new_rows(writer) == [{"value": 1}]


async def test_stages_forced_again_and_again_use_no_subtransactions(
    database: Database, connect: Connect
) -> None:
    """More than 64 of them would slow down every snapshot of the cluster."""
    writer = await connect()
    if writer.get_server_version().major < 16:
        pytest.skip("pg_stat_get_backend_subxact() came with PostgreSQL 16")
    admin = await connect(ADMIN)
    await writer.execute("create table notes (value int)")
    await writer.execute("select pgoutbox.capture_table('notes')")
    pid = await writer.fetchval("select pg_backend_pid()")

    async with writer.transaction():
        await writer.execute("set constraints all immediate")
        for value in range(100):
            await writer.execute(f"insert into notes values ({value})")
        subtransactions = await admin.fetchval(
            "select s.subxact_count from pg_stat_get_backend_idset() id,"
            " pg_stat_get_backend_subxact(id) s where pg_stat_get_backend_pid(id) = $1",
            pid,
        )

    assert subtransactions == 0
    assert await writer.fetchval("select count(*) from pgoutbox.transaction") == 1
