"""``pgoutbox doctor``: what it finds before an installation, after it, and when all is well."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from pgoutbox.config.settings import Config, DatabaseConfig
from pgoutbox.database import connection
from pgoutbox.demo.process import free_port
from pgoutbox.doctor import catalogs, postgresql
from tests.conftest import Servers
from tests.support.cluster import ADMIN, WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream
from tests.support.terminal import on_terminal
from tests.support.waiting import unique


def examined(*arguments: str, code: int) -> list[dict[str, Any]]:
    """Return the findings of ``doctor --json``."""
    done = pgoutbox("doctor", "--json", *arguments)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    found = json.loads(done.stdout)
    assert found["needs_attention"] == (code == 7)
    checks: list[dict[str, Any]] = found["checks"]
    return checks


def said(checks: list[dict[str, Any]], check: str, level: str = "attention") -> str:
    """Return what a check says at a level, with what to do; empty where it says nothing."""
    return "\n".join(
        f"{one['said']}; {one['remedy']}" if one["remedy"] else one["said"]
        for one in checks
        if (one["check"], one["level"]) == (check, level)
    )


def attention(checks: list[dict[str, Any]]) -> set[str]:
    return {one["check"] for one in checks if one["level"] == "attention"}


async def test_before_and_after_an_installation_without_a_fault(
    empty_database: Database, stream: Stream
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create table users (id int primary key, name text)")
    await owner.execute("insert into users values (1, 'a')")
    where = ("--dsn", empty_database.dsn, "--nats-url", stream.url, "--topic", stream.topic)

    before = examined(*where, "--table", "users", code=0)
    assert said(before, "rights", "ok") == "role app_owner may install the schema pgoutbox"
    assert "run: pgoutbox install" in said(before, "schema", "note")
    assert f"the relay will create '{stream.topic}'" in said(before, "stream", "note")

    assert pgoutbox("install", "--table", "users", *where[:2]).returncode == 0
    assert pgoutbox("relay", "--drain", *where).returncode == 0
    after = examined(*where, code=0)
    assert said(after, "status", "ok") == "nothing is wrong with tables and relays"
    assert said(after, "subjects", "ok") == "those of 1 table are stored"
    assert "repeats are dropped within 2 min" in said(after, "duplicates", "ok")
    assert "sync_interval" in said(after, "replicas", "note")
    assert {one["side"] for one in after} == {"PostgreSQL", "NATS", "settings"}

    with on_terminal("doctor", *where, columns=200) as terminal:
        assert terminal.end() == 0
    shown = [line for line in terminal.lines if line]
    assert len(shown) == len(after) + 4, "a line for each check, three headings and a sum"
    assert shown[-1] == "nothing needs attention"


async def test_faults_of_postgresql_are_each_named_with_what_to_do(
    empty_database: Database,
) -> None:
    owner = await empty_database.connect()
    admin = await empty_database.connect(ADMIN)
    await owner.execute(
        "create table users (id int primary key, boss int references users deferrable);"
        "create function nothing() returns trigger language plpgsql as 'begin return new; end';"
        'create trigger "00_early" after update on users for each row execute function nothing();'
        "create table log (id int, at date) partition by range (at);"
        "create table log_1 partition of log for values from ('2026-01-01') to ('2027-01-01');"
        "create table parent (id int); create table child () inherits (parent)"
    )
    where = ("--no-nats", "--dsn")
    await admin.execute(f"revoke create on database {empty_database.name} from public")
    writer = examined(*where, empty_database.dsn_as(WRITER), "--table", "users", code=7)
    assert attention(writer) == {"rights", "owner"}
    assert "users belongs to app_owner" in said(writer, "owner")
    assert "there is no table nowhere" in said(
        examined(*where, empty_database.dsn, "--table", "nowhere", code=7), "tables"
    )

    tables = ("--table", "users", "--table", "log", "--table", "parent")
    assert pgoutbox("install", *tables, "--dsn", empty_database.dsn).returncode == 0
    role = unique("replicator")
    await admin.execute(
        f"create publication everything for all tables; create role {role};"
        f"alter role {role} set session_replication_role = replica;"
        "alter table log_1 disable trigger user; alter table users disable trigger user;"
        "create function stop() returns event_trigger language plpgsql as 'begin end';"
        "create event trigger watcher on ddl_command_end execute function stop()"
    )
    try:
        found = examined(*where, empty_database.dsn, code=7)
    finally:
        await admin.execute(f"drop role {role}")

    assert "everything; docs/publications.md" in said(found, "publications")
    assert role in said(found, "replica role")
    assert "log_1" in said(found, "partitions")
    assert "trigger missing or disabled" in said(found, "status")
    assert "users_boss_fkey on public.users" in said(found, "deferrable", "note")
    assert "child" in said(found, "children", "note")
    assert "watcher" in said(found, "event triggers", "note")
    assert said(found, "triggers", "ok") == "none", "disabled ones don't fire"
    await admin.execute("alter table pgoutbox.shard_key owner to postgres")
    found = examined(*where, empty_database.dsn, code=7)
    assert "table pgoutbox.shard_key belongs to role postgres" in said(found, "connection")


async def test_a_trigger_that_fires_first_and_a_row_that_is_too_large(
    database: Database, stream: Stream
) -> None:
    owner = await database.connect()
    await owner.execute(
        "create table users (id int primary key, name text);"
        "insert into users values (1, repeat('x', 600000));"
        "create function nothing() returns trigger language plpgsql as 'begin return new; end';"
        'create trigger "00_early" after update on users for each row execute function nothing();'
        "select pgoutbox.capture_table('users')"
    )
    where = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)

    found = examined(*where, code=7)

    assert "00_early on public.users" in said(found, "triggers", "note")
    assert attention(found) == {"message size"}
    assert "an UPDATE of public.users may take 1 MiB" in said(found, "message size")


async def test_faults_of_a_stream_are_each_named(database: Database, stream: Stream) -> None:
    owner = await database.connect()
    await owner.execute(
        "create table users (id int primary key); create table orders (id int primary key);"
        "select pgoutbox.capture_table('users'), pgoutbox.capture_table('orders')"
    )
    await stream.jetstream.add_stream(
        StreamConfig(
            stream.topic,
            subjects=[f"{stream.topic}.public_users"],
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.NEW,
            max_msgs=1,
            duplicate_window=5,
        )
    )
    await stream.jetstream.publish(f"{stream.topic}.public_users", b"{}")
    where = ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)

    found = examined(*where, code=7)

    assert attention(found) == {"storage", "limits", "duplicates", "subjects"}
    assert f"doesn't take {stream.topic}.public_orders" in said(found, "subjects")
    assert "publishing stops (discard new)" in said(found, "limits")


async def test_permissions_that_a_relay_lacks_are_seen_without_publishing(
    database: Database, servers: Servers
) -> None:
    owner = await database.connect()
    await owner.execute("create table users (id int primary key)")
    await owner.execute("select pgoutbox.capture_table('users')")
    server = servers.nats(
        "authorization { users: [{user: relay, password: pw, permissions: {"
        ' publish: ["$JS.API.>", "$SYS.REQ.USER.INFO", "topic.public_orders"],'
        ' subscribe: "_INBOX.>"}}] }'
    )
    url = server.url.replace("nats://", "nats://relay:pw@")

    found = examined("--dsn", database.dsn, "--nats-url", url, "--topic", "topic", code=7)

    assert attention(found) == {"permissions"}
    assert "may not publish to topic.public_users" in said(found, "permissions")


async def test_provider_is_known_by_its_marks(database: Database) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute("create function aurora_version() returns text language sql as 'select 1'")

    found = examined("--no-nats", "--dsn", database.dsn, code=0)

    assert "Amazon Aurora" in said(found, "provider", "note")
    assert "see docs/providers.md#amazon-aurora" in said(found, "provider", "note")


def test_servers_that_are_away_need_attention_each() -> None:
    nowhere = free_port()

    found = examined(
        *("--dsn", f"postgresql://joe@127.0.0.1:{nowhere}/db"),
        *("--nats-url", f"nats://127.0.0.1:{nowhere}"),
        code=7,
    )

    assert [(one["side"], one["check"]) for one in found if one["level"] == "attention"] == [
        ("PostgreSQL", "connection"),
        ("NATS", "connection"),
    ]


async def test_transactions_that_are_open_or_prepared_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits five minutes here, so that is what is taken away."""
    for name in ("TRANSACTIONS", "PREPARED"):
        query = getattr(catalogs, name)
        assert "interval '5 minutes'" in query
        monkeypatch.setattr(catalogs, name, query.replace("5 minutes", "0"))
    writer, other = [await database.connect() for _ in range(2)]
    await writer.execute("begin; create table a (); prepare transaction 'left behind'")
    await other.execute("begin; create table b ()")
    config = Config(database=DatabaseConfig(dsn=database.dsn))

    async with connection.session(config.database, purpose="doctor", primary=False) as conn:
        found = await postgresql.examine(postgresql.Patient(conn, config, ()))

    await other.execute("rollback")
    await writer.execute("rollback prepared 'left behind'")
    said = {one.said.partition(" for ")[0]: one for one in found if one.check == "transactions"}
    assert said["left behind has been prepared"].level == "attention"
    assert said[f"pid {other.get_server_pid()} (no name) has been in one"].level == "note"


def test_what_is_wrong_with_the_settings_is_said_first() -> None:
    done = pgoutbox("doctor", "--dsn", "mysql://joe@h/db")

    assert (done.returncode, done.stdout) == (2, "")
