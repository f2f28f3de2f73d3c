"""Each check of ``pgoutbox doctor`` that takes more than a table to be made to speak.

What no server can be brought to in a test (another age, another clock) is taken from the limits
that it is compared with; all else is as it is.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from pgoutbox.config.settings import Config, DatabaseConfig, MessageConfig, NatsConfig
from pgoutbox.config.settings import StreamConfig as StreamSettings
from pgoutbox.database import connection
from pgoutbox.database.sessions import Whereabouts
from pgoutbox.demo.process import version_of
from pgoutbox.doctor import finding, nats, postgresql
from pgoutbox.doctor.examine import examine
from pgoutbox.doctor.finding import Finding, Level
from pgoutbox.nats import inspection
from tests.conftest import Servers
from tests.integration.test_database import make_standby
from tests.support.cluster import ADMIN, Cluster, Database
from tests.support.pgbouncer import pgbouncer
from tests.support.streams import Stream, nats_client
from tests.support.waiting import unique


async def of_postgresql(dsn: str, *tables: str) -> list[Finding]:
    return await examine(Config(database=DatabaseConfig(dsn=dsn)), tables, with_nats=False)


async def of_nats(url: str, topic: str, *, jetstream: bool = True) -> list[Finding]:
    config = Config(
        database=DatabaseConfig(dsn="postgresql://joe@127.0.0.1/db"),
        nats=NatsConfig(url=url),
        messages=MessageConfig(topic=topic),
        stream=StreamSettings(jetstream=jetstream),
    )
    return await nats.examine(config, "db", [postgresql.CheckedTable("public", "users")])


def said(found: list[Finding], check: str, level: Level = "attention") -> str:
    """Return what a check says at a level, with what to do; empty where it says nothing."""
    return "\n".join(
        f"{one.said}; {one.remedy}" for one in found if (one.check, one.level) == (check, level)
    )


def attention(found: list[Finding]) -> set[str]:
    assert finding.needs_attention(found) == any(one.level == "attention" for one in found)
    return {one.check for one in found if one.level == "attention"}


def an_hour_off() -> SimpleNamespace:
    return SimpleNamespace(time=lambda: time.time() + 3600)


async def test_a_server_that_runs_short(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    is_17 = int(version_of(servers.installation / "bin" / "postgres").split(".")[0]) >= 17
    small = {"max_notify_queue_pages": "64"} if is_17 else {}
    cluster = await servers.cluster(wal_level="logical", max_connections="10", **small)
    database = await cluster.create_database()
    admin = await database.connect(ADMIN)
    await admin.execute("select pg_create_physical_replication_slot('forgotten', true)")
    if is_17:
        listener = await database.connect()
        await listener.execute("listen x")
        await listener.execute("begin")
        await admin.execute(
            "select pg_notify('x', repeat('y', 7000) || g) from generate_series(1, 45) g"
        )
    monkeypatch.setattr(postgresql, "NEWEST_SERVER", 12)
    monkeypatch.setattr(postgresql, "time", an_hour_off())
    monkeypatch.setattr(postgresql, "_MUCH", 0)

    found = await of_postgresql(database.dsn)

    await database.disconnect()
    expected = {"connections", "clock", "replication slots", "disk"}
    assert attention(found) == expected | ({"notifications"} if is_17 else set())
    assert "a relay takes up to four" in said(found, "connections")
    assert "the server's is 60 min off ours; have both synchronized" in said(found, "clock")
    assert "nobody reads forgotten, and PostgreSQL keeps" in said(found, "replication slots")
    assert "pgoutbox status says which relay it is kept for" in said(found, "disk")
    assert "so relays only poll" in said(found, "notifications") or not is_17
    assert "newer than 12, the newest that was tried" in said(found, "version", "note")
    assert "which pgoutbox doesn't need" in said(found, "wal_level", "note")
    assert "none is captured" in said(found, "tables", "note")


async def test_a_standby_and_a_pooler(servers: Servers, database: Database) -> None:
    async with pgbouncer(database.dsn, "transaction", default_pool_size=2) as pooler:
        pooled = await of_postgresql(pooler.dsn(database.dsn))
    server = servers.postgres()
    make_standby(server)
    standby = await of_postgresql(server.dsn())

    assert "is a pooler in transaction mode" in said(pooled, "pooler")
    assert "writers and commands may use it" in said(pooled, "pooler")
    assert "give the primary's address" in said(standby, "standby")


async def test_the_address_of_a_providers_pooler(database: Database) -> None:
    host = "ep-cool-1-pooler.eu-central-1.aws.neon.tech"
    config = Config(database=DatabaseConfig(dsn=database.dsn))
    async with connection.session(config.database, purpose="doctor", primary=False) as conn:
        conn.whereabouts = Whereabouts(database.name, f"{host}:5432", "a test")
        found = await postgresql.examine(postgresql.Patient(conn, config, ()))

    assert "Neon" in said(found, "provider", "note")
    assert f"{host}:5432 is that of Neon in transaction mode" in said(found, "provider's pooler")


async def test_rights_on_a_schema_that_is_there(database: Database, cluster: Cluster) -> None:
    role = unique("app_doctor_")
    await cluster.add_role(role)
    admin = await database.connect(ADMIN)
    await admin.execute("revoke select on pg_catalog.pg_prepared_xacts from public")
    try:
        without = await of_postgresql(database.dsn_as(role))
        await admin.execute(f"select pgoutbox.grant_relay('{role}')")
        with_rights = await of_postgresql(database.dsn_as(role))
    finally:
        await admin.execute(f"drop owned by {role}; drop role {role}")
    own = await of_postgresql(database.dsn)

    assert f"as app_owner, run: pgoutbox install --grant-relay {role}" in said(without, "rights")
    assert "may use the schema, which app_owner owns" in said(with_rights, "rights", "ok")
    assert "has those of app_owner" in said(own, "rights", "ok")
    assert said(own, "transactions", "note").startswith("can't be looked at: permission denied")


async def test_a_relay_that_is_paused_and_a_table_that_is_subscribed(database: Database) -> None:
    owner, admin = await database.connect(), await database.connect(ADMIN)
    await owner.execute(
        "create table users (id int primary key); select pgoutbox.capture_table('users');"
        "insert into pgoutbox.progress (relay) values ('default');"
        "insert into pgoutbox.relay_pause (relay, paused_by) values ('default', 'somebody')"
    )
    name = unique("sub_")
    await admin.execute(
        f"create subscription {name} connection 'dbname=nowhere' publication p"
        " with (connect = false, enabled = false, create_slot = false, slot_name = none)"
    )
    try:
        await admin.execute(
            "set allow_system_table_mods = on;"
            "insert into pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " select s.oid, 'users'::regclass, 'r' from pg_subscription s"
            f" where s.subname = '{name}'"
        )
        found = await of_postgresql(database.dsn_as(ADMIN))
        await owner.execute("select pgoutbox.fire_always('users', true)")
        always = await of_postgresql(database.dsn_as(ADMIN))
    finally:
        await admin.execute(f"drop subscription {name}")

    assert f"users by subscription {name}; to capture them" in said(found, "subscriptions")
    assert said(always, "subscriptions", "ok")
    assert "relay default is paused" in said(found, "pause", "note")


async def test_settings_without_effect(database: Database) -> None:
    dsn = f"{database.dsn}?connection_limit=1"
    config = Config(database=DatabaseConfig(dsn=dsn), warnings=("no such thing",))

    found = await examine(config, (), with_nats=False)

    assert said(found, "effect").startswith("no such thing")
    assert "connection_limit" in said(found, "effect", "note")


async def test_limits_and_clock_of_a_stream(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.jetstream.add_stream(
        StreamConfig(
            stream.topic,
            subjects=[f"{stream.topic}.*"],
            max_msgs_per_subject=1,
            max_bytes=10_000_000,
            discard=DiscardPolicy.OLD,
        )
    )
    monkeypatch.setattr(inspection, "time", an_hour_off())
    monkeypatch.setattr(nats, "_OLDEST", (99, 0))

    found = await of_nats(stream.url, stream.topic)

    assert attention(found) == {"version", "clock"}
    assert "is too old; upgrade to" in said(found, "version")
    assert "the server's is 60 min off ours" in said(found, "clock")
    assert "only the last 1 of each subject are kept" in said(found, "limits", "note")
    assert "old messages leave after 10,000,000 bytes" in said(found, "limits", "note")
    assert "one: a power cut takes what wasn't synced" in said(found, "replicas", "note")


async def test_an_account_that_is_nearly_full_and_permissions_that_are_missing(
    servers: Servers,
) -> None:
    permissions = 'publish: ["$JS.API.STREAM.>", "t.>"], subscribe: "_INBOX.>"'
    server = servers.nats(
        "accounts { A { jetstream: {max_file: 1M}, users: ["
        "{user: all, password: pw},"
        f"{{user: some, password: pw, permissions: {{{permissions}}}}},"
        '{user: none, password: pw, permissions: {publish: ">", subscribe: "t.>"}}] } }'
    )

    def url(user: str) -> str:
        return server.url.replace("nats://", f"nats://{user}:pw@")

    async with nats_client(url("all")) as client:
        await client.jetstream().add_stream(name="t", subjects=["t.*"])
        await client.jetstream().publish("t.public_users", b"x" * 900_000)

    full, some = await of_nats(url("all"), "t"), await of_nats(url("some"), "t")

    assert attention(full) == {"account"}
    assert "raise the account's limit" in said(full, "account")
    assert attention(some) == set()
    assert "its limits can't be seen: $JS.API.INFO isn't allowed" in said(some, "account", "note")
    assert "can't be seen" in said(some, "permissions", "note")


async def test_where_there_is_no_jetstream_and_where_none_is_wanted(servers: Servers) -> None:
    server = servers.nats("accounts { A { users: [{user: joe, password: pw}] } }")
    url = server.url.replace("nats://", "nats://joe:pw@")

    missing, unwanted = await of_nats(url, "t"), await of_nats(url, "t", jetstream=False)

    assert attention(missing) == {"stream"}
    assert "JetStream" in said(missing, "stream")
    assert attention(unwanted) == set()
    assert "subscribers that are offline miss messages" in said(unwanted, "jetstream", "note")


def test_replicas_and_batches() -> None:
    """Of a cluster, which takes longer to start than to describe."""
    replicated = {"num_replicas": 3, "storage": "file"}

    plain = list(nats._durability(replicated))
    batched = list(nats._durability({**replicated, "allow_batched": True}))

    assert [(one.check, one.level) for one in plain] == [("replicas", "ok"), ("batches", "note")]
    assert "one at a time" in plain[1].said
    assert [(one.check, one.level) for one in batched] == [("replicas", "ok")]
