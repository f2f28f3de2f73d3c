"""What servers, disks and links run out of: space, numbers, bandwidth, time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import free_port, unprivileged_user
from pgoutbox.locks import SLEEP_LOCK
from tests.conftest import Connect, Servers
from tests.support import http, ledger
from tests.support.cluster import ADMIN, WRITER, Cluster, Database
from tests.support.nursery import Nursery, Relay
from tests.support.proxy import port_of, proxy, through
from tests.support.ring import slots_of
from tests.support.scene import Scene
from tests.support.streams import Stream, nats_client
from tests.support.waiting import eventually, unique

NATS_FAILS = "NATS unavailable; retrying"
NATS_WORKS = "NATS available again"
POSTGRESQL_FAILS = "PostgreSQL unavailable; retrying"
POSTGRESQL_WORKS = "PostgreSQL available again"
LOCKS = (SLEEP_LOCK, (1885826915, 0), (1885826916, 0))  # all that were ever ours


def said(relay: Relay, part: str) -> int:
    """Count log lines."""
    return sum(part in line for line in relay.lines)


@contextlib.asynccontextmanager
async def stream_on(server: NatsServer) -> AsyncIterator[Stream]:
    async with nats_client(server.url) as client:
        yield Stream("wal_listener", server.url, client.jetstream())


async def check_on(scene: Scene, server: NatsServer) -> int:
    """Check over a connection of now; earlier ones have seen the server go."""
    async with stream_on(server) as scene.stream:
        return await scene.check()


async def test_an_account_that_runs_out_of_storage(
    servers: Servers, database: Database, nursery: Nursery, seed: int
) -> None:
    account = (
        "accounts {{ A {{ jetstream: {{max_file: {}}}, users: [{{user: a, password: a}}] }} }}\n"
        "no_auth_user: a"
    )
    server = servers.nats(account.format("40K"))
    await ledger.prepare(database)
    async with stream_on(server) as stream:
        scene = Scene(database, stream, nursery, seed)
        relay = await scene.relay()
        async with scene.load():
            await relay.line(NATS_FAILS)
            server.config_text = account.format("100M")
            server.restart()
            await relay.line(NATS_WORKS)
        await scene.all_sent()
    assert await relay.stop() == 0

    await check_on(scene, server)
    assert said(relay, NATS_FAILS) == said(relay, NATS_WORKS) <= 2
    assert "resource" in relay.output or "limit" in relay.output, relay.output
    assert len(relay.lines) <= 12, relay.output


async def test_a_limit_for_each_subject(scene: Scene) -> None:
    """A subject takes no more; then it does."""
    jetstream, topic = scene.stream.jetstream, scene.stream.topic
    tight = StreamConfig(
        name=topic,
        subjects=[f"{topic}.*"],
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_msgs_per_subject=5,
    )
    await jetstream.add_stream(tight)
    relay = await scene.relay()
    async with scene.load():
        await relay.line(NATS_FAILS)
        await jetstream.update_stream(
            tight.evolve(max_msgs_per_subject=-1, discard_new_per_subject=False)
        )
        await relay.line(NATS_WORKS)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    assert said(relay, NATS_FAILS) == said(relay, NATS_WORKS) <= 2


async def test_a_link_of_64_kib_a_second(scene: Scene) -> None:
    """Slower than what is written: memory stays as it is, and nothing times out."""
    async with proxy(port_of(scene.stream.url)) as slow:
        slow.rate = 2**16
        scene.nats_url = through(scene.stream.url, slow)
        relay = await scene.relay()
        await relay.line("connected to NATS")
        memory = psutil.Process(relay.pid).memory_info().rss
        async with scene.load():
            await asyncio.sleep(3)
        grown = psutil.Process(relay.pid).memory_info().rss - memory
        slow.rate = None
        await scene.all_sent()
        assert await relay.stop() == 0

    await scene.check()
    assert grown < 20 * 2**20
    assert said(relay, NATS_FAILS) == 0, relay.output
    assert slow.connections == 1


async def test_acknowledgements_that_come_late(scene: Scene) -> None:
    """All answers are held back beyond the time-out, and then come after all."""
    async with proxy(port_of(scene.stream.url)) as late:
        scene.nats_url = through(scene.stream.url, late)
        relay = await scene.relay("--ack-timeout", "500ms")
        await relay.line("connected to NATS")
        async with scene.load():
            for _ in range(3):
                await scene.pause(0.2, 0.5)
                late.stall()
                await scene.pause(0.3, 1.2)
                late.flow()
        await scene.all_sent()
        assert await relay.stop() == 0

    await scene.check()
    assert said(relay, NATS_FAILS) == said(relay, NATS_WORKS) <= 3


async def test_a_log_that_takes_nothing(scene: Scene) -> None:
    """As where the pod's disk is full."""
    where = ("--dsn", scene.database.dsn, "--nats-url", scene.stream.url)
    relay = await scene.nursery.start(
        "relay", *where, "--topic", scene.stream.topic, output=Path("/dev/full")
    )
    async with scene.load():
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()


async def test_numbers_near_their_end(scene: Scene, connect: Connect) -> None:
    """Sequences as after 9 * 10^18 transactions."""
    admin = await connect(ADMIN)
    for name in ("position_seq", "event_seq"):
        await admin.execute(f"select setval('pgoutbox.{name}', 9223372036854775807 - 100000)")
    await admin.execute("update pgoutbox.progress set high = 9223372036854775807 - 100001")
    relay = await scene.relay()
    await relay.line("leading")
    async with scene.load():
        await scene.pause(0.5, 1.0)
        await relay.kill()
        relay = await scene.relay()
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()


@pytest.fixture
async def own(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> AsyncIterator[Scene]:
    """A scene on a PostgreSQL of its own, which can be a primary."""
    cluster = await servers.cluster(
        max_connections="60", wal_level="replica", max_wal_senders="3", hot_standby="on"
    )
    database = await cluster.create_database()
    await ledger.prepare(database)
    yield Scene(database, stream, nursery, seed)
    await database.disconnect()


async def test_a_full_notification_queue_fails_no_writer(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> None:
    cluster = await servers.cluster(max_connections="60")
    assert cluster.server is not None
    if int(cluster.server.version.split(".")[0]) < 17:
        pytest.skip("before PostgreSQL 17 the queue is fixed at 8 GB")
    cluster.server.settings["max_notify_queue_pages"] = "64"
    cluster.server.restart()
    database = await cluster.create_database()
    await ledger.prepare(database)
    scene = Scene(database, stream, nursery, seed)
    deaf = await database.connect()
    # So every writer notifies. A relay that sleeps would keep it for as long as nothing is written.
    await deaf.execute("select pg_advisory_lock($1, $2)", *SLEEP_LOCK)
    relay = await scene.relay()
    await relay.line("leading")
    await deaf.execute("listen noise")
    await deaf.execute("begin")  # it reads nothing until that transaction ends
    noisy = await database.connect()
    for text in ("x" * 7900, ""):  # until not even a notification without text finds room
        with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
            await _notify_without_end(noisy, text)

    notifying: dict[str, Any] = {"pgoutbox.notify": "on"}
    async with scene.load(prepares=False, **notifying):
        await scene.pause(0.5, 1.0)
    await scene.all_sent()
    await deaf.execute("rollback")
    assert await relay.stop() == 0

    await scene.check()
    await database.disconnect()


async def test_strangers_hold_every_lock_that_anybody_may_take(
    scene: Scene, connect: Connect
) -> None:
    """Events come no later than the relay looks for them, and one relay takes over from another."""
    strangers = [await connect(WRITER) for _ in range(3)]
    relay = await scene.relay()
    await relay.line("connected to NATS")
    async with scene.load():
        for stranger, (kind, key) in zip(strangers, LOCKS, strict=True):
            await stranger.execute("select pg_advisory_lock($1, $2)", kind, key)
        lines = len(relay.lines)
        memory = psutil.Process(relay.pid).memory_info().rss
        await scene.pause(0.5, 1.0)
        successor = await scene.relay()
        await successor.line("standing by")
        assert len(relay.lines) <= lines + 1, relay.output
        assert psutil.Process(relay.pid).memory_info().rss - memory < 20 * 2**20
        await relay.kill()
        await successor.line("leading")
    await scene.all_sent()
    assert await successor.stop() == 0
    await scene.check()


async def test_a_standby_is_waited_for_until_it_is_promoted(own: Scene) -> None:
    """The relay says once that it is one, and is not ready meanwhile."""
    server, port = own.database.cluster.server, free_port()
    assert server is not None
    async with own.load():
        await own.pause(0.2, 0.4)
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()

    relay = await own.relay("--health-addr", str(port))
    assert "is a standby" in await relay.line(POSTGRESQL_FAILS)
    assert await http.status(port, "/ready") == 503
    assert await http.status(port, "/healthz") == 200
    promoter = await asyncpg.connect(server.dsn())
    assert await promoter.fetchval("select pg_promote()")
    await promoter.close()
    await relay.line("leading", timeout=30)
    async with own.load():
        await own.pause(0.2, 0.4)
    await own.all_sent()
    assert await http.status(port, "/ready") == 200
    assert await relay.stop() == 0
    await own.check()
    assert said(relay, POSTGRESQL_FAILS) == said(relay, POSTGRESQL_WORKS) == 1


async def _notify_without_end(connection: asyncpg.Connection, text: str) -> None:
    while True:
        await connection.execute(f"notify noise, '{text}'")


def standby_of(primary: PostgresServer, folder: Path) -> PostgresServer:
    """Return a streaming standby of a server, started."""
    if not (primary.bin / "pg_basebackup").exists():
        pytest.skip("this PostgreSQL comes without pg_basebackup")
    standby = PostgresServer(folder, settings=primary.settings, installation=primary.installation)
    user = unprivileged_user()
    standby.password = primary.password
    folder.mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    subprocess.run(
        [
            primary.bin / "pg_basebackup",
            *("--pgdata", standby.data, "--write-recovery-conf", "--checkpoint", "fast"),
            *("--dbname", primary.dsn() + "?application_name=standby"),
        ],
        check=True,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
        cwd=folder,
    )
    return standby.start()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter."""
    folder = Path("/tmp", unique("pgoutbox-standby-"))
    folder.mkdir(mode=0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_fail_over_to_a_synchronous_standby(own: Scene, folder: Path) -> None:
    """The relay names both; what writers were told is committed is on the new primary, too."""
    primary = own.database.cluster.server
    assert primary is not None
    standby = await asyncio.to_thread(standby_of, primary, folder / "standby")
    admin = await own.database.connect(ADMIN)
    await admin.execute("alter system set synchronous_standby_names = 'standby'")
    await admin.execute("select pg_reload_conf()")
    await eventually(partial(admin.fetchval, "select sync_state = 'sync' from pg_stat_replication"))
    address = f"127.0.0.1:{primary.port}"
    own.dsn = own.database.dsn.replace(address, f"{address},127.0.0.1:{standby.port}")
    relay = await own.relay()
    await relay.line("leading")
    try:
        async with own.load(prepares=False):
            await own.pause(0.5, 1.0)
            primary.kill()
            await relay.line(POSTGRESQL_FAILS)
            promoter = await asyncpg.connect(standby.dsn())
            assert await promoter.fetchval("select pg_promote()")
            await promoter.close()
            own.database.cluster = Cluster(standby.dsn(), standby)  # where writers go from now on
            await relay.line(POSTGRESQL_WORKS)
            await own.pause(0.5, 1.0)
        await own.all_sent()
        assert await relay.stop() == 0
        await own.check()
        assert said(relay, POSTGRESQL_FAILS) == said(relay, POSTGRESQL_WORKS) == 1
    finally:
        await own.database.disconnect()
        standby.kill()


@pytest.mark.long
async def test_fail_over_to_an_asynchronous_standby_that_lags(own: Scene, folder: Path) -> None:
    """It lacks what was published last; all that it has is sent, and what comes goes on."""
    primary = own.database.cluster.server
    assert primary is not None
    standby = await asyncio.to_thread(standby_of, primary, folder / "standby")
    owner, admin = await own.database.connect(), await own.database.connect(ADMIN)
    await owner.execute("create table t (id integer); select pgoutbox.capture_table('t')")
    address = f"127.0.0.1:{primary.port}"
    own.dsn = own.database.dsn.replace(address, f"{address},127.0.0.1:{standby.port}")
    relay = await own.relay()
    await relay.line("leading")
    await owner.execute("insert into t select generate_series(1, 5)")
    flushed = await admin.fetchval("select pg_current_wal_flush_lsn()::text")
    promoter = await asyncpg.connect(standby.dsn())
    await eventually(
        partial(promoter.fetchval, f"select pg_last_wal_replay_lsn() >= '{flushed}'::pg_lsn")
    )
    await promoter.execute("alter system set primary_conninfo = ''")
    await promoter.execute("select pg_reload_conf()")
    receivers = "select not exists (select from pg_stat_wal_receiver)"
    await eventually(partial(promoter.fetchval, receivers))
    for number in range(6, 9):
        await owner.execute(f"insert into t values ({number})")
    await eventually(partial(_has, own.stream, 8))
    try:
        await own.database.disconnect()
        primary.kill()
        await relay.line(POSTGRESQL_FAILS)
        assert await promoter.fetchval("select pg_promote()")
        await promoter.close()
        own.database.cluster = Cluster(standby.dsn(), standby)
        await relay.line(POSTGRESQL_WORKS)
        owner = await own.database.connect()
        for number in range(9, 12):
            await owner.execute(f"insert into t values ({number})")
        await own.all_sent()
        assert await relay.stop() == 0

        assert [row["id"] for row in await owner.fetch("select id from t order by id")] == [
            *range(1, 6),
            *range(9, 12),
        ]
        messages = await own.stream.messages()
        assert [json.loads(message.data)["data"]["id"] for message in messages] == [*range(1, 12)]
        assert len({message.id for message in messages}) == 11
        assert said(relay, POSTGRESQL_FAILS) == said(relay, POSTGRESQL_WORKS) == 1
    finally:
        await own.database.disconnect()
        standby.kill()


async def _has(stream: Stream, count: int) -> bool:
    return await stream.count() >= count


@pytest.mark.long
async def test_slots_that_are_emptied_at_night_cancel_no_dump_of_a_standby(
    own: Scene, folder: Path
) -> None:
    """A standby cancels who reads what the primary has truncated; outside the hours nothing is."""
    primary = own.database.cluster.server
    assert primary is not None
    # So that nothing cancels a reader but a lock that the primary has taken.
    primary.settings |= {"max_standby_streaming_delay": "100ms", "hot_standby_feedback": "on"}
    standby = await asyncio.to_thread(standby_of, primary, folder / "standby")
    owner = await own.database.connect()
    await owner.execute(slots_of(1))
    hour = int(await owner.fetchval("select extract(hour from now() at time zone 'UTC')"))
    away = f"{(hour + 10) % 24:02}:00-{(hour + 14) % 24:02}:00"
    here = f"{(hour - 2) % 24:02}:00-{(hour + 2) % 24:02}:00"
    reader = await asyncpg.connect(standby.dsn(database=own.database.name))
    watcher = await asyncpg.connect(standby.dsn())
    try:
        relay = await own.relay("--retention", "1s", "--rotate-between", away)
        async with own.load(prepares=False):
            await own.pause(0.5, 1.0)
        await own.all_sent()
        await reader.execute("begin isolation level repeatable read")
        before = await reader.fetchval("select count(*) from pgoutbox.outbox")
        async with own.load(prepares=False):
            await own.pause(6.0, 7.0)  # a lap of the ring, and more
        await own.all_sent()
        assert await reader.fetchval("select count(*) from pgoutbox.outbox") == before > 0
        await reader.execute("commit")
        assert await relay.stop() == 0
        cancelled = "select confl_lock > 0 from pg_stat_database_conflicts where datname = $1"
        assert not await watcher.fetchval(cancelled, own.database.name)

        await reader.execute("begin isolation level repeatable read")
        await reader.fetchval("select count(*) from pgoutbox.outbox")
        relay = await own.relay("--retention", "1s", "--rotate-between", here)
        await relay.line("slot emptied")
        await eventually(partial(watcher.fetchval, cancelled, own.database.name))
        assert await relay.stop() == 0
    finally:
        reader.terminate()
        await watcher.close()
        await own.database.disconnect()
        standby.kill()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, with a file that can fill it."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", folder],
        check=False,
        capture_output=True,
    )
    if mounting.returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(filler: Path) -> None:
    """Leave no byte on a file's disk."""
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(2**14))
            file.flush()


async def write_until_it_fails(owner: asyncpg.Connection) -> None:
    while True:
        await owner.execute(
            "insert into t (body) select string_agg(md5(random()::text), '')"
            " from generate_series(1, 3000)"
        )


async def test_postgresqls_disk_is_full(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int, folder: Path
) -> None:
    """Writers get PostgreSQL's own error, and what they had committed arrives, and no more."""
    with small_disk(folder / "disk", "220m") as disk:
        server = PostgresServer(
            disk / "postgres",
            settings={"max_wal_size": "32MB", "min_wal_size": "32MB", "shared_buffers": "16MB"},
            installation=servers.installation,
        )
        server.start()
        try:
            cluster = Cluster(server.dsn(), server)
            await cluster.prepare()
            database = await cluster.create_database()
            owner = await database.connect()
            await owner.execute("create table t (id serial primary key, body text)")
            await owner.execute("select pgoutbox.capture_table('t')")
            scene = Scene(database, stream, nursery, seed)
            relay = await scene.relay()
            await relay.line("leading")

            await asyncio.to_thread(fill, disk / "filler")
            with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)) as error:
                await write_until_it_fails(owner)
            assert "pgoutbox" not in str(error.value), error.value
            (disk / "filler").unlink()
            if server.pid is None:
                server.start()
            await scene.all_sent(timeout=60)
            assert await relay.stop() == 0

            owner = await database.connect()
            committed = {row["id"] for row in await owner.fetch("select id from t")}
            stored = [json.loads(one.data)["data"]["id"] for one in await stream.messages()]
            assert sorted(stored) == sorted(committed)
            await database.disconnect()
        finally:
            server.kill()


async def test_natss_disk_is_full(scene: Scene, folder: Path) -> None:
    with small_disk(folder / "disk", "6m") as disk:
        server = NatsServer(disk / "nats")
        server.start()
        try:
            scene.nats_url = server.url
            scene.stream = Stream(scene.stream.topic, server.url, scene.stream.jetstream)
            relay = await scene.relay()
            await relay.line("connected to NATS")
            async with scene.load():
                await asyncio.to_thread(fill, disk / "filler")
                await relay.line(NATS_FAILS)
                await scene.pause(0.3, 0.6)
                (disk / "filler").unlink()
                server.restart()
                await relay.line(NATS_WORKS, timeout=40)
            await scene.all_sent()
            assert await relay.stop() == 0
            async with nats_client(server.url) as client:
                scene.stream = Stream(scene.stream.topic, server.url, client.jetstream())
                await scene.check()
            assert len(relay.lines) < 40, relay.output
        finally:
            server.kill()


async def test_lame_duck(servers: Servers, database: Database, nursery: Nursery, seed: int) -> None:
    """nats-server is told to send its clients away, as before an upgrade, and comes back."""
    server = servers.nats('lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"')
    await ledger.prepare(database)
    async with stream_on(server) as stream:
        scene = Scene(database, stream, nursery, seed)
        relay = await scene.relay()
        await relay.line("connected to NATS")
        async with scene.load():
            server.send_signal(signal.SIGUSR2)
            await eventually(lambda: server.pid is None, timeout=60)
            server.restart()
            await relay.line(NATS_WORKS, timeout=40)
        await scene.all_sent()
    assert await relay.stop() == 0

    await check_on(scene, server)
    assert said(relay, NATS_FAILS) == said(relay, NATS_WORKS) == 1
