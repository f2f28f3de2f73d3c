"""``pgoutbox relay --kv``: a NATS key-value bucket that equals a table."""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from pgoutbox.demo.process import guarded
from tests.conftest import Connect, Servers
from tests.deploy import tools
from tests.support.buckets import Bucket, Change, Filler
from tests.support.cluster import ADMIN, Database
from tests.support.commands import ROOT, Daemon
from tests.support.nursery import Nursery
from tests.support.streams import nats_client
from tests.support.waiting import eventually, unique


async def _run(filler: Filler, *arguments: str, code: int = 0) -> str:
    """Run another command on the test's database, and return what it said."""
    command = await filler.nursery.start(*arguments, "--dsn", filler.database.dsn)
    assert await command.wait() == code, command.output
    return command.output


async def _users(connection: asyncpg.Connection, rows: int = 2, columns: str = "") -> None:
    await connection.execute(
        f"create table users (id int primary key, name text{columns});"
        f"insert into users select n, 'user ' || n from generate_series(1, {rows}) n"
    )
    await connection.execute("select pgoutbox.capture_table('users')")


async def _becomes(bucket: Bucket, rows: dict[str, Any]) -> None:
    async def is_so() -> bool:
        assert await bucket.rows() == rows
        return True

    await eventually(is_so)


def _are(count: int, seen: list[Change]) -> bool:
    return len(seen) == count


async def test_rows_are_entries_and_watchers_see_each_change_in_order(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    relay = await filler.start()
    await relay.line("the bucket is new; filling it")
    await _becomes(bucket, {"1": {"id": 1, "name": "user 1"}, "2": {"id": 2, "name": "user 2"}})

    async with bucket.watching() as seen:
        await eventually(lambda: len(seen) == 2)
        # One at a time: what is replaced before a watcher has got it, it never gets.
        for statement, changes in (
            ("insert into users values (3, 'new')", 1),
            ("update users set name = 'changed' where id = 1", 1),
            ("update users set id = 20 where id = 2", 2),
            ("delete from users where id = 3", 1),
            ("begin; truncate users; insert into users values (21, 'x'); end", 3),
        ):
            expected = len(seen) + changes
            await connection.execute(statement)
            await eventually(partial(_are, expected, seen))

    assert seen[2:] == [
        Change("PUT", "3", {"id": 3, "name": "new"}),
        Change("PUT", "1", {"id": 1, "name": "changed"}),
        Change("DEL", "2"),
        Change("PUT", "20", {"id": 20, "name": "user 2"}),
        Change("DEL", "3"),
        Change("PURGE", "1"),
        Change("PURGE", "20"),
        Change("PUT", "21", {"id": 21, "name": "x"}),
    ]
    await _becomes(bucket, {"21": {"id": 21, "name": "x"}})


async def test_the_bucket_is_one_as_nats_clients_make_it(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await filler.drain()
    other = await bucket.jetstream.create_key_value(bucket=unique("b"))
    ours = (await bucket.jetstream.stream_info(bucket.stream_name)).config
    theirs = (await bucket.jetstream.stream_info(f"KV_{(await other.status()).bucket}")).config
    await bucket.jetstream.delete_key_value((await other.status()).bucket)

    for name in (
        "max_msgs_per_subject", "discard", "allow_rollup_hdrs", "deny_delete",
        "duplicate_window", "retention", "storage", "max_age", "max_bytes", "max_msg_size",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.subjects == [f"$KV.{bucket.name}.>"]
    entry = await (await bucket.store()).get("1")
    assert entry.value == b'{"id":1,"name":"user 1"}'


@pytest.mark.long
async def test_history_is_what_the_bucket_was_made_with(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await bucket.jetstream.create_key_value(bucket=bucket.name, history=5)
    await _users(connection, 1)
    await filler.drain()
    await connection.execute("update users set name = 'two'; update users set name = 'three'")
    await filler.drain()

    history = await bucket.entries(history=True)

    assert [json.loads(entry.value or b"")["name"] for entry in history] == [
        "user 1", "two", "three",
    ]  # fmt: skip


NAMES = (
    "plain", "under_score-and/slash", "a.b", "=3D", "50%", "two words", "Zoë", "*", ">", "", "$JS",
    "_kv", "🦊", "line\nbreak",
)  # fmt: skip


async def test_any_key_is_in_the_alphabet_of_keys_and_can_be_read_back(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await connection.execute("create table odd (name text, n int, primary key (name, n))")
    await connection.execute("select pgoutbox.capture_table('odd')")
    await connection.executemany("insert into odd values ($1, 1)", [(name,) for name in NAMES])
    await connection.execute("insert into odd values (repeat('x', 600), 1)")
    await filler.drain(table="odd")

    rows = await bucket.rows()

    store = await bucket.store()
    for key in rows:
        await store.get(key)  # which validates it
    long = next(key for key in rows if len(key) == 3 + 64)
    read = {unquote(key.replace("=", "%").rpartition(".")[0]).strip("\0"): key for key in rows}
    assert long.startswith("=00")
    read[""] = "=00.1"
    assert {read[name] for name in NAMES} == rows.keys() - {long}
    assert [rows[read[name]]["name"] for name in NAMES] == list(NAMES)
    assert read["two words"] == "two=20words.1"
    await connection.execute("delete from odd")
    await filler.drain(table="odd")
    assert await bucket.rows() == {}


async def test_a_truncate_comes_first(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await connection.execute("truncate users")
    await connection.execute("insert into users values (3, 'c')")
    await filler.drain()

    assert await bucket.rows() == {"3": {"id": 3, "name": "c"}}


async def test_a_bucket_that_was_deleted_is_made_and_filled_again(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await filler.drain()
    await connection.execute("delete from users where id = 1")
    await filler.drain()
    await bucket.jetstream.delete_key_value(bucket.name)
    await filler.drain()

    assert await bucket.rows() == {"2": {"id": 2, "name": "user 2"}}


async def test_a_bucket_that_lacks_rows_is_filled_by_a_snapshot(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection, 2500)
    await filler.drain()
    store = await bucket.store()
    await store.delete("7")
    await store.put("8", b"{}")
    await _run(filler, "snapshot", "start", "users", "--relay", "kv", "--detach")
    await filler.drain()

    rows = await bucket.rows()
    assert (len(rows), rows["7"]["name"], rows["8"]["name"]) == (2500, "user 7", "user 8")


async def test_a_role_with_a_relays_rights_fills_it(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket, connect: Connect
) -> None:
    await _users(connection)
    role = unique("relay_")
    admin = await connect(ADMIN)
    password = urlsplit(filler.database.dsn).password
    await admin.execute(f"create role {role} login password '{password}'")
    await connection.execute(f"select pgoutbox.grant_relay('{role}')")
    try:
        await filler.drain("--dsn", filler.database.dsn_as(role))
        assert len(await bucket.rows()) == 2
    finally:
        await admin.execute(f"drop owned by {role}; drop role {role}")


async def test_rows_of_partitions_go_by_their_tables_name(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await connection.execute(
        "create table users (id int primary key, name text) partition by range (id);"
        "create table users_low partition of users for values from (0) to (10);"
        "create table users_high partition of users for values from (10) to (100);"
        "insert into users values (1, 'a')"
    )
    await connection.execute("select pgoutbox.capture_table('users')")
    await filler.drain()
    await connection.execute("update users set id = 50; insert into users values (2, 'b')")
    await filler.drain()

    assert await bucket.rows() == {"50": {"id": 50, "name": "a"}, "2": {"id": 2, "name": "b"}}


@pytest.mark.parametrize("identity", ["default", "full", "using index users_name_key"])
async def test_old_values_by_identity(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket, identity: str
) -> None:
    await connection.execute(
        "create table users (id int primary key, name text not null unique);"
        f"alter table users replica identity {identity}"
    )
    await connection.execute("select pgoutbox.capture_table('users', old_values => 'identity')")
    await connection.execute("insert into users values (1, 'a'), (2, 'b'), (3, 'c')")
    await connection.execute("update users set id = 20, name = 'B' where id = 2")
    await connection.execute("delete from users where id = 3")
    await filler.drain()

    key = "name" if "index" in identity else "id"
    expected = [{"id": 1, "name": "a"}, {"id": 20, "name": "B"}]
    assert await bucket.rows() == {str(row[key]): row for row in expected}


async def test_conditions_and_columns_apply(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    """A row that leaves the condition is deleted."""
    await connection.execute("create table users (id int primary key, name text, draft bool)")
    await connection.execute(
        "select pgoutbox.capture_table("
        "'users', condition => 'not draft', except_columns => array['draft'])"
    )
    await connection.execute("insert into users values (1, 'a', false), (2, 'b', true)")
    await connection.execute("insert into users values (3, 'c', false)")
    await connection.execute("update users set draft = not draft where id < 3")
    await filler.drain()

    assert await bucket.rows() == {"2": {"id": 2, "name": "b"}, "3": {"id": 3, "name": "c"}}


async def test_a_row_that_is_too_large_is_set_aside_and_not_sent_later(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    """By then the key may have a newer value; a snapshot has that."""
    await _users(connection)
    await filler.drain()
    await connection.execute("update users set name = repeat('x', 1048576) where id = 1")
    await connection.execute("insert into users values (3, 'c')")
    said = await filler.drain()
    assert "event parked" in said
    await connection.execute("update users set name = 'small' where id = 1")
    await _run(filler, "parked", "retry", "--all")
    await filler.drain()

    listed = await _run(filler, "parked", "list")
    assert "a bucket's key may have a newer value by now" in listed
    assert {key: row["name"] for key, row in (await bucket.rows()).items()} == {
        "1": "small", "2": "user 2", "3": "c",
    }  # fmt: skip


async def test_a_deleted_row_needs_no_room(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await filler.drain()
    await connection.execute("update users set name = repeat('x', 1000000)")
    await connection.execute("update users set name = repeat('y', 1000000) where id = 1")
    await connection.execute("delete from users where id = 2")
    said = await filler.drain()

    assert "parked" not in said
    assert [row["name"][:1] for row in (await bucket.rows()).values()] == ["y"]


@pytest.mark.parametrize(
    ("definition", "options", "why"),
    [
        ("create table users (id int)", "", "it has no primary key"),
        (
            "create table users (id int primary key generated always as identity,"
            " n int); alter table users replica identity nothing",
            ", old_values => 'identity'",
            "it has REPLICA IDENTITY NOTHING",
        ),
        (
            "create table users (id int primary key deferrable)", "",
            "its primary key is deferrable, so two rows can have the same for a moment",
        ),
    ],
)  # fmt: skip
async def test_tables_whose_rows_have_no_key_are_refused(
    connection: asyncpg.Connection,
    filler: Filler,
    bucket: Bucket,
    definition: str,
    options: str,
    why: str,
) -> None:
    await connection.execute(definition)
    await connection.execute(f"select pgoutbox.capture_table('users'{options})")

    assert f"public.users can't be a key-value bucket: {why}" in await filler.drain(code=2)


async def test_a_table_that_is_not_captured_is_refused(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    said = await filler.drain(code=2)
    assert "--kv names public.users, which isn't a captured table" in said


async def test_a_stream_that_is_no_bucket_is_left_alone(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await bucket.jetstream.add_stream(name=bucket.stream_name, subjects=[f"$KV.{bucket.name}.>"])
    said = await filler.drain(code=5)

    assert f"the stream '{bucket.stream_name}' isn't a key-value bucket" in said
    assert (await bucket.jetstream.stream_info(bucket.stream_name)).state.messages == 0


async def test_changes_that_are_not_captured_are_named(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await connection.execute("create table users (id int primary key)")
    await connection.execute(
        "select pgoutbox.capture_table('users', actions => array['INSERT', 'UPDATE'])"
    )
    said = await filler.drain()
    assert "the bucket will differ from its table" in said
    assert 'missing="DELETE TRUNCATE"' in said


async def test_sent_events_are_not_sent_again(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    await _users(connection)
    await filler.drain()
    said = await _run(filler, "resend", "--since", "1h", "--name", "kv", code=2)
    assert "fills a key-value bucket" in said


@pytest.mark.long
async def test_a_relay_for_messages_goes_on_beside_it(
    connection: asyncpg.Connection,
    filler: Filler,
    bucket: Bucket,
    topic: str,
) -> None:
    await _users(connection)
    await connection.execute("update users set name = 'x'")
    await _run(filler, "relay", "--drain", "--nats-url", bucket.url, "--topic", topic)
    await filler.drain()

    assert (await bucket.jetstream.stream_info(topic)).state.messages == 2
    assert len(await bucket.rows()) == 2


@pytest.mark.long
async def test_truncate_of_many_rows(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    """In parts, and without a marker for what is deleted already."""
    await _users(connection, 11_000)
    await filler.drain()
    await connection.execute("delete from users where id > 10900")
    await connection.execute("truncate users")
    await connection.execute("insert into users values (1, 'new')")
    await filler.drain()

    state = (await bucket.jetstream.stream_info(bucket.stream_name)).state
    assert state.last_seq == 11_000 + 100 + 10_900 + 1
    assert await bucket.rows() == {"1": {"id": 1, "name": "new"}}


async def test_the_documented_permissions_are_enough(
    connection: asyncpg.Connection, database: Database, nursery: Nursery, servers: Servers
) -> None:
    text = (ROOT / "docs" / "key-value.md").read_text("utf-8")
    (permissions,) = re.findall(r"```\n(permissions .*?)```", text, re.DOTALL)
    server = servers.nats(
        'authorization: {users: [{user: admin, password: "admin"},'
        f' {{user: pgoutbox, password: "s3cret", {permissions}}}]}}'
    )
    await _users(connection, 20)
    async with nats_client(server.url.replace("//", "//admin:admin@")) as admin:
        bucket = Bucket("public_users", server.url, admin.jetstream())
        filler = Filler(database, bucket, nursery)
        relay = await filler.start("--nats-user", "pgoutbox", "--nats-password", "s3cret")
        await relay.line("the bucket is new; filling it")
        await connection.execute("truncate users")
        await connection.execute("insert into users values (1, 'new')")
        try:
            await _becomes(bucket, {"1": {"id": 1, "name": "new"}})
        except AssertionError as error:
            raise AssertionError(relay.output) from error
        assert await relay.stop() == 0
    assert "WARN" not in relay.output


@pytest.mark.long
async def test_the_nats_cli_shows_it(
    connection: asyncpg.Connection, filler: Filler, bucket: Bucket
) -> None:
    """Into a bucket that it made itself, as docs/key-value.md has it."""
    nats = (tools.program("nats"), "--server", bucket.url, "kv")
    made = await asyncio.create_subprocess_exec(
        *guarded([*nats, "add", bucket.name, "--history", "10"]), stdout=asyncio.subprocess.DEVNULL
    )
    assert await made.wait() == 0
    watching = await asyncio.create_subprocess_exec(
        *guarded([*nats, "watch", bucket.name]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    watch = Daemon(watching)
    await _users(connection, 1)
    await filler.drain()
    await connection.execute("update users set id = 2; delete from users")
    await connection.execute("insert into users values (3, 'three')")
    await connection.execute("truncate users")
    await filler.drain()
    await watch.line("PURGE")
    await watch.kill()

    lines = [line.strip().partition("] ")[2] for line in watch.stdout]
    assert [re.sub(r"\s+", " ", line) for line in lines if bucket.name in line] == [
        f'PUT {bucket.name} > 1: {{"id":1,"name":"user 1"}}',
        f"DELETE {bucket.name} > 1",
        f'PUT {bucket.name} > 2: {{"id":2,"name":"user 1"}}',
        f"DELETE {bucket.name} > 2",
        f'PUT {bucket.name} > 3: {{"id":3,"name":"three"}}',
        f"PURGE {bucket.name} > 3",
    ]
