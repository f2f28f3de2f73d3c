"""The stream loses messages that it had confirmed, and the relay sends them again."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import nats.errors
import pytest
from nats.js.api import RetentionPolicy, StreamConfig, StreamSource

from pgoutbox.demo.nats_server import NatsServer
from tests.conftest import Connect, Servers
from tests.support import ledger
from tests.support.cluster import Cluster, Database
from tests.support.commands import pgoutbox
from tests.support.nats_cluster import Network, start_cluster
from tests.support.nursery import Nursery, Relay
from tests.support.scene import Scene
from tests.support.streams import Stored, Stream, nats_client
from tests.support.waiting import eventually, unique

NOTICED = "the stream lacks messages that it had confirmed; sending them again"
HEALED = "the stream had lost messages; they were sent again"


def resent(relay: Relay) -> list[int]:
    """Return how many events were sent again, by the warnings that say so."""
    warnings = [line for line in relay.lines if HEALED in line and "WARN" in line]
    return [int(line.partition("events=")[2].split()[0]) for line in warnings]


async def drained(scene: Scene, *flags: str) -> Relay:
    """Run a relay until all is sent."""
    relay = await scene.relay("--drain", *flags)
    assert await relay.wait() == 0, relay.output
    return relay


async def written(scene: Scene) -> None:
    """Write for a moment, and until there is something to send."""
    before = len(scene.book.returned)
    async with scene.load():
        await scene.pause(0.1, 0.3)
        await eventually(lambda: len(scene.book.returned) > before)


async def make_again(stream: Stream, messages: list[Stored], **settings: object) -> None:
    """Delete the stream and make it anew with ``messages``, as a restored copy would have them."""
    await stream.jetstream.delete_stream(stream.topic)
    await stream.jetstream.add_stream(
        StreamConfig(name=stream.topic, subjects=[f"{stream.topic}.*"], **settings)  # type: ignore[arg-type]
    )
    for message in messages:
        headers = {"Nats-Msg-Id": message.headers["Nats-Msg-Id"]}
        await stream.jetstream.publish(message.subject, message.data, headers=headers)


class Own(Scene):
    """A scene on a nats-server of its own, whose store can be copied and put back."""

    server: NatsServer

    @property
    def store(self) -> Path:
        """Where the server keeps its streams."""
        return self.server.folder / "jetstream"

    @asynccontextmanager
    async def reconnected(self) -> AsyncIterator[None]:
        """Work on the server over a connection of now; earlier ones have seen it die."""
        async with nats_client(self.server.url) as client:
            self.stream = Stream(self.stream.topic, self.server.url, client.jetstream())
            yield

    async def check(self) -> int:
        """Check the stream against the ledger."""
        async with self.reconnected():
            return await super().check()

    async def count(self) -> int:
        """Return how many messages the stream has."""
        async with self.reconnected():
            return await self.stream.count()


@pytest.fixture
async def own(
    servers: Servers, database: Database, nursery: Nursery, seed: int
) -> AsyncIterator[Own]:
    await ledger.prepare(database)
    server = servers.nats()
    async with nats_client(server.url) as client:
        own = Own(database, Stream(unique("t"), server.url, client.jetstream()), nursery, seed)
        own.server = server
        yield own


@pytest.mark.parametrize("dies", [False, True], ids=["relay runs", "relay is killed, too"])
async def test_store_rolled_back_to_an_earlier_copy(own: Own, tmp_path: Path, dies: bool) -> None:
    relay = await own.relay()
    await written(own)
    await own.all_sent()
    own.server.stop()
    shutil.copytree(own.store, tmp_path / "copy")
    own.server.start()
    before = await own.count()
    await written(own)
    await own.all_sent()
    lost = await own.count() - before
    own.server.kill()
    shutil.rmtree(own.store)
    shutil.copytree(tmp_path / "copy", own.store)
    if dies:
        await relay.kill()
    own.server.start()
    if dies:
        relay = await own.relay()
    await relay.line(HEALED)
    await written(own)
    await own.all_sent()
    status = pgoutbox("status", "--dsn", own.database.dsn)
    assert await relay.stop() == 0

    assert lost
    assert resent(relay) == [lost]
    assert f"had lost messages, and has sent {lost:,} event" in status.stdout
    await own.check()


async def test_stream_deleted_and_made_again_by_somebody(scene: Scene) -> None:
    """With messages of their own in it, and while the relay is connected."""
    relay = await scene.relay()
    await written(scene)
    await scene.all_sent()
    lost = await scene.stream.count()
    await make_again(scene.stream, [])
    for number in range(lost + 10):
        await scene.stream.jetstream.publish(f"{scene.stream.topic}.other", b"%d" % number)
    await written(scene)
    await relay.line(HEALED)
    await scene.all_sent()
    assert await relay.stop() == 0

    assert resent(relay) == [lost]
    assert "WARN" not in relay.output.replace(HEALED, "").replace("WARN  ", "", 1)
    await scene.check()


async def test_promoted_mirror_that_lags(scene: Scene) -> None:
    """The messages that it has stand where they stood, in a stream of another name."""
    await written(scene)
    await drained(scene)
    jetstream, topic = scene.stream.jetstream, scene.stream.topic
    kept = await scene.stream.count()
    mirror = StreamConfig(name=f"{topic}-mirror", mirror=StreamSource(name=topic))
    await jetstream.add_stream(mirror)

    async def has_all() -> bool:
        return (await jetstream.stream_info(f"{topic}-mirror")).state.messages == kept

    await eventually(has_all)
    await jetstream.update_stream(name=f"{topic}-mirror", subjects=[])
    await written(scene)
    await drained(scene)
    lost = await scene.stream.count() - kept
    await jetstream.delete_stream(topic)
    await jetstream.update_stream(name=f"{topic}-mirror", subjects=[f"{topic}.*"])
    await written(scene)
    relay = await drained(scene)

    assert resent(relay) == [lost]
    await ledger.check(scene.database, Mirrored(topic, scene.stream.url, jetstream), scene.book)


class Mirrored(Stream):
    """A stream that has another name than its topic."""

    @property
    def stream_name(self) -> str:
        """Its name."""
        return f"{self.topic}-mirror"


@pytest.mark.parametrize("how", ["purge", "limit", "work queue"])
async def test_what_somebody_has_removed_is_not_lost(scene: Scene, how: str) -> None:
    jetstream, topic = scene.stream.jetstream, scene.stream.topic
    await jetstream.add_stream(
        StreamConfig(
            name=topic,
            subjects=[f"{topic}.*"],
            retention=RetentionPolicy.WORK_QUEUE if how == "work queue" else None,
            max_msgs=5 if how == "limit" else None,
        )
    )
    await written(scene)
    await drained(scene)
    if how == "purge":
        await jetstream.purge_stream(topic)
    elif how == "work queue":
        consumer = await jetstream.pull_subscribe(f"{topic}.*", "worker", stream=topic)
        while await scene.stream.count():
            for message in await consumer.fetch(100):
                await message.ack_sync()
    before = (await jetstream.stream_info(topic)).state.last_seq
    relay = await drained(scene)

    assert (await jetstream.stream_info(topic)).state.last_seq == before
    assert "the stream had lost" not in relay.output


async def test_postgresql_is_restored_at_the_same_time(
    own: Own, cluster: Cluster, tmp_path: Path
) -> None:
    """To a later moment than the stream: what lies between is sent again, from the copy."""
    await written(own)
    await drained(own)
    own.server.stop()
    shutil.copytree(own.store, tmp_path / "copy")
    own.server.start()
    before = await own.count()
    await written(own)
    await drained(own)
    lost = await own.count() - before
    copy = await restored(cluster, own.database)
    await written(own)
    await drained(own)

    own.server.kill()
    shutil.rmtree(own.store)
    shutil.copytree(tmp_path / "copy", own.store)
    own.server.start()
    own.database = copy
    await written(own)
    relay = await drained(own)

    assert lost
    assert resent(relay) == [lost]
    await own.check()
    await cluster.drop_database(copy)


async def restored(cluster: Cluster, database: Database) -> Database:
    """Return a copy of the database as it is now."""
    await database.disconnect()
    copy = Database(unique("pgoutbox_test_"), cluster)
    admin = await asyncpg.connect(cluster.admin_dsn)
    try:
        await admin.execute(f"create database {copy.name} template {database.name} owner app_owner")
    finally:
        await admin.close()
    return copy


async def test_transaction_that_the_stream_has_in_part_is_finished_first(
    scene: Scene, connect: Connect
) -> None:
    """Not torn by one that stands before it in the outbox, and became visible later."""
    late, owner = await connect(), await connect()
    await owner.execute("create table users (id int)")
    await owner.execute("select pgoutbox.capture_table('users')")
    await late.execute("begin; insert into users values (1); set constraints all immediate")
    await owner.execute("insert into users values (2), (3), (4)")
    await drained(scene)
    await late.execute("commit")
    await owner.execute("insert into users values (5)")
    await drained(scene)
    messages = await scene.stream.messages()
    assert [json.loads(message.data)["data"]["id"] for message in messages] == [2, 3, 4, 1, 5]

    await owner.execute("delete from pgoutbox.mark where sequence > 0")  # far apart, say
    await make_again(scene.stream, messages[:2])
    await drained(scene)

    messages = await scene.stream.messages()
    assert [json.loads(message.data)["data"]["id"] for message in messages] == [2, 3, 4, 1, 5]


async def test_any_part_of_the_stream_is_made_whole(scene: Scene) -> None:
    """Cut anywhere, with somebody else's messages behind."""
    relay = await scene.relay()
    async with scene.load():
        await scene.pause(1.5, 2.5)
    await scene.all_sent()
    assert await relay.stop() == 0
    messages = await scene.stream.messages()
    count = scene.draw.randrange(len(messages))
    await make_again(scene.stream, messages[:count])
    for number in range(scene.draw.randrange(50)):
        await scene.stream.jetstream.publish(f"{scene.stream.topic}.other", b"%d" % number)
    await written(scene)
    relay = await drained(scene)

    print(f"{count} of {len(messages)}")
    await scene.check()
    assert resent(relay)[0] >= len(messages) - count


async def test_relay_that_may_not_read_goes_by_sequences(
    servers: Servers, database: Database, nursery: Nursery, seed: int, tmp_path: Path
) -> None:
    """And says once that it can't look at messages."""
    await ledger.prepare(database)
    deny = '{publish: {deny: "$JS.API.STREAM.MSG.GET.>"}}'
    server = servers.nats(
        "authorization {users: [{user: admin, password: x},"
        f" {{user: relay, password: x, permissions: {deny}}}]}}"
    )
    async with nats_client(server.url.replace("//", "//admin:x@")) as client:
        stream = Stream(unique("t"), server.url, client.jetstream())
        scene = Scene(database, stream, nursery, seed)
        scene.nats_url = server.url.replace("//", "//relay:x@")
        relay = await scene.relay()
        await written(scene)
        await scene.all_sent()
        lost = await stream.count()
        await make_again(stream, [])
        await written(scene)
        await relay.line(HEALED)
        await scene.all_sent()
        assert await relay.stop() == 0

        assert resent(relay) == [lost]
        assert sum("reading it is denied" in line for line in relay.lines) == 1
        await scene.check()


async def test_relay_that_takes_over_heals_what_its_predecessor_had_sent(scene: Scene) -> None:
    await written(scene)
    await drained(scene, "--name", "before")
    messages = await scene.stream.messages()
    await drained(scene, "--name", "after", "--begin-after", "before")
    await make_again(scene.stream, messages[: len(messages) // 2])
    relay = await drained(scene, "--name", "after")

    assert resent(relay)
    assert len(await scene.stream.messages()) == len(messages)
    await scene.check()


async def test_another_stream_has_lost_nothing(scene: Scene) -> None:
    """Where the settings name another one, it begins with what is unsent."""
    await written(scene)
    await drained(scene)
    count = await scene.stream.count()
    relay = await drained(scene, "--topic", f"{scene.stream.topic}2")

    assert "publishing into another stream" in relay.output
    assert "sent=0" in relay.output
    assert await scene.stream.count() == count


@pytest.mark.long
async def test_two_of_three_servers_come_back_with_old_stores(
    servers: Servers, database: Database, nursery: Nursery, seed: int, tmp_path: Path
) -> None:
    """One of them leads then, and the third server gives up what it has beyond that."""
    await ledger.prepare(database)
    cluster = start_cluster(servers, Network())
    urls = ",".join(server.url for server in cluster)
    topic = unique("t")
    async with nats_client(urls) as client:
        scene = Scene(database, Stream(topic, urls, client.jetstream()), nursery, seed)
        relay = await scene.relay("--stream-replicas", "3")
        await written(scene)
        await scene.all_sent()
    for server in cluster:
        server.stop()
    for server in cluster[:2]:
        shutil.copytree(server.folder / "jetstream", tmp_path / server.folder.name)
    for server in cluster:
        server.start()
    await written(scene)
    await scene.all_sent(timeout=90)

    for server in cluster:
        server.kill()
    for server in cluster[:2]:
        shutil.rmtree(server.folder / "jetstream")
        shutil.copytree(tmp_path / server.folder.name, server.folder / "jetstream")
        server.start()
    await relay.line(HEALED, timeout=90)
    cluster[2].start()
    await written(scene)
    await scene.all_sent(timeout=90)
    assert await relay.stop() == 0

    assert len(resent(relay)) == 1
    async with nats_client(urls) as client:
        scene.stream = Stream(topic, urls, client.jetstream())

        async def answers() -> bool:
            with contextlib.suppress(nats.errors.Error):
                return await scene.stream.count() > 0
            return False

        await eventually(answers, timeout=90)
        await scene.check()


async def test_rows_of_a_snapshot_that_were_lost_are_read_again(
    scene: Scene, connect: Connect
) -> None:
    """Of one that is over, and of one that a mark is in the middle of."""
    owner = await connect()
    await owner.execute(
        "create table rows (id integer primary key);"
        "insert into rows select generate_series(1, 2500);"
    )
    await owner.execute("select pgoutbox.capture_table('rows')")
    await drained(scene)
    for expected in (2500, 5000):
        done = pgoutbox("snapshot", "start", "rows", "--detach", "--dsn", scene.database.dsn)
        assert done.returncode == 0, done.stderr
        await drained(scene)
        assert await scene.stream.count() == expected
    kept = (await scene.stream.messages())[:600]
    await make_again(scene.stream, kept)

    await drained(scene)

    stored = await scene.stream.messages()
    read = [json.loads(message.data)["data"]["id"] for message in stored]
    assert sorted(read) == sorted([*range(1, 2501), *range(1, 2501)])
    states = await owner.fetch("select state, rows from pgoutbox.snapshot")
    assert [tuple(row) for row in states] == [("done", 2500), ("done", 2500)]
