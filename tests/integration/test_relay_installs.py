"""A relay that first installs what wal-listener's file names: the image is all that changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgoutbox.demo.process import free_port
from tests.conftest import StartDaemon
from tests.support.cluster import WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.http import ask
from tests.support.streams import Stream
from tests.support.waiting import eventually


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


@pytest.fixture
def second_file(file: Path, tmp_path: Path) -> Path:
    """A file for another slot, with other actions."""
    settings = json.loads(file.read_text())
    settings["listener"] |= {"slotName": "slot_2", "filter": {"tables": {"users": ["update"]}}}
    settings["publisher"]["topicPrefix"] = "2_"
    settings["monitoring"] = {"promAddr": f"127.0.0.1:{free_port()}"}
    second_file = tmp_path / "second.yml"
    second_file.write_text(json.dumps(settings))
    return second_file


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
    assert ("no effect in pgoutbox: listener.refreshConnection, listener.heartbeatInterval") in said


async def test_a_table_that_cant_be_locked_is_captured_later_and_keeps_nobody_waiting(
    file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner, application = [await empty_database.connect() for _ in range(2)]
    await owner.execute("create table users (id int); create table orders (id int)")

    async with application.transaction():
        await application.execute("insert into orders values (1)")
        relay = await daemon("relay", "--install", "-c", file, "--log-level", "debug")
        await relay.line("install failed; retrying")
        await owner.execute("insert into users values (1)")
        assert await subjects(stream, 1) == ["public_users"]
        await eventually(lambda: relay.output.count("public.users: already captured") > 1)
    await relay.line("install succeeded")
    await owner.execute("insert into orders values (2)")

    assert await subjects(stream, 2) == ["public_users", "public_orders"]
    lines = [json.loads(line) for line in relay.stderr]
    news = [line["msg"] for line in lines if line["level"] == "INFO"]
    assert news.count("public.users: already captured") == 1
    assert news.count("public.orders: captured") == 1


async def test_two_files_serve_one_database_each_with_its_own_tables_and_actions(
    file: Path, second_file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """As two wal-listeners did, each with a slot."""
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")

    first = await daemon("relay", "--install", "-c", file)
    await first.line("connected to NATS")
    second = await daemon("relay", "--install", "-c", second_file)
    metrics = int(json.loads(await second.line("listening"))["addr"].rpartition(":")[2])
    await second.line("connected to NATS")
    await owner.execute("insert into users values (1); update users set id = 2")
    await owner.execute("insert into orders values (3)")

    published = await subjects(stream, 3)
    assert sorted(published) == ["2_public_users", "public_orders", "public_users"]

    async def skipped() -> bool:
        name, app = "filter_skipped_events_total", 'app="wal-listener"'
        scraped = (await ask(metrics, "/metrics")).body
        return all(f'{name}{{{app},table="{t}"}} 1.0' in scraped for t in ("users", "orders"))

    await eventually(skipped)
    assert [await relay.stop() for relay in (first, second)] == [0, 0]
    status = json.loads(pgoutbox("status", "--json", "--dsn", empty_database.dsn).stdout)
    assert {relay["relay"]: relay["backlog"] for relay in status["relays"]} == {
        "myslot_1": 0,
        "slot_2": 0,
    }


async def test_what_the_filter_leaves_out_is_passed_over_for_good(
    file: Path, empty_database: Database, stream: Stream
) -> None:
    """Also where it is all that there is, in many batches and in the middle of a transaction."""
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table notes (id int)")
    assert pgoutbox("install", "-c", file).returncode == 0
    assert pgoutbox("install", "--table", "notes", "--dsn", empty_database.dsn).returncode == 0
    drain = ("relay", "--drain", "-c", file, "--batch-events", "7")

    await owner.execute("insert into notes select generate_series(1, 50)")
    assert pgoutbox(*drain).returncode == 0
    high = await owner.fetchval("select high from pgoutbox.progress")
    await owner.execute(
        "begin; insert into notes select generate_series(1, 10); insert into users values (1);"
        "insert into notes select generate_series(1, 20); insert into users values (2); commit"
    )
    assert pgoutbox(*drain).returncode == 0

    assert high == 1  # though nothing was published of it
    assert await subjects(stream, 2) == ["public_users", "public_users"]
    assert await owner.fetchval("select high from pgoutbox.progress") == 2


async def test_a_table_of_the_filter_that_is_created_later_is_captured(
    file: Path, empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create table users (id int)")
    relay = await daemon("relay", "--install", "-c", file)
    await relay.line("orders: the filter names it, but no schema has such a table")

    await owner.execute("create table orders (id int)")
    await relay.line("public.orders: captured", timeout=60)
    await owner.execute("insert into orders values (1)")

    assert await subjects(stream, 1) == ["public_orders"]


async def test_a_table_that_is_made_anew_is_captured_as_it_was(
    empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    """Without a filter, too."""
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")
    dsn = ("--dsn", empty_database.dsn)
    assert pgoutbox("install", "--table", "users", "--table", "orders", *dsn).returncode == 0
    await owner.execute("drop table users; create table users (id int)")
    await owner.execute("alter table orders rename to old; create table orders (id int)")
    relay = await daemon(
        "relay", "--install", *dsn, "--topic", stream.topic, "--nats-url", stream.url
    )
    await relay.line("public.users: captured", timeout=60)
    await relay.line("public.orders: captured", timeout=60)
    await owner.execute("insert into users values (1)")

    assert await subjects(stream, 1) == ["public_users"]
    assert status_problems(empty_database) == {"public.old": None} | dict.fromkeys(
        ("public.users", "public.orders")
    )


async def test_a_relay_that_doesnt_install_says_what_isnt_captured_any_more(
    empty_database: Database, stream: Stream, daemon: StartDaemon
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create table users (id int); create table orders (id int)")
    dsn = ("--dsn", empty_database.dsn)
    assert pgoutbox("install", "--table", "users", "--table", "orders", *dsn).returncode == 0
    await owner.execute("drop table users; create table users (id int)")
    await owner.execute("alter table orders rename to old")
    relay = await daemon("relay", *dsn, "--topic", stream.topic, "--nats-url", stream.url)
    replaced = await relay.line("a table that has taken the name of a captured one isn't captured")
    renamed = await relay.line("a captured table was renamed")

    assert "table=public.users" in replaced
    assert "table=public.old was=public.orders" in renamed
    assert status_problems(empty_database) == {"public.users": "replaced", "public.old": None}
    text = pgoutbox("status", *dsn).stdout
    assert (
        "not captured: it has taken the name of a captured table;"
        " run: pgoutbox install --table public.users"
    ) in text
    assert "ok; renamed since it was captured, was public.orders" in text


def status_problems(database: Database) -> dict[str, str | None]:
    """Return what `status` says of each captured table."""
    found = json.loads(pgoutbox("status", "--json", "--dsn", database.dsn).stdout)
    return {table["table"]: table["problem"] for table in found["tables"]}


async def test_a_relay_that_cant_install_the_schema_ends_with_installs_own_words(
    file: Path, empty_database: Database
) -> None:
    ended = pgoutbox("relay", "--install", "-c", file, "--dsn", empty_database.dsn_as(WRITER))

    assert ended.returncode == 6
    assert "error: the schema pgoutbox can't be installed: permission denied" in ended.stderr
    assert "retrying" not in ended.stderr


async def test_a_filter_that_names_no_table_is_a_warning(
    file: Path, empty_database: Database, daemon: StartDaemon
) -> None:
    relay = await daemon("relay", "--install", "-c", file)

    line = json.loads(await relay.line("no table is captured"))

    assert (line["level"], line["msg"]) == ("WARN", "no table is captured; check listener.filter")


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
