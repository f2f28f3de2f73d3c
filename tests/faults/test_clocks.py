"""Clocks are set, back and ahead, while what goes by them runs: PostgreSQL's, and the relay's."""

from __future__ import annotations

import asyncio
import itertools
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import free_port
from tests.conftest import Connect, Servers, StartDaemon
from tests.integration.test_monitoring import Watched
from tests.support import ledger
from tests.support.cluster import Cluster
from tests.support.commands import Daemon, pgoutbox
from tests.support.nursery import Nursery
from tests.support.proxy import Proxy, port_of, proxy, through
from tests.support.ring import slots_of
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import eventually

RESTING = "select slot, since from pgoutbox.slot_rest where since is not null order by slot"
IS_NOTED = """
select "position" is not null and since > now() - interval '10 s'
from pgoutbox.slot_rest where slot = $1
"""
IS_EMPTY = "select not exists (select from pgoutbox.event_in_slot where slot = $1)"
JUMPS = ("+2h", "-1d", "+30d", "+0")  # of the server, from the true time
NOTIFYING: dict[str, Any] = {"prepares": False, "pgoutbox.notify": "on"}  # writers


class Clock:
    """What a process takes for the time of day; how time goes on isn't libfaketime's affair."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library()),
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
        }

    def set(self, offset: str) -> None:
        """Set it to the true time plus ``offset``, such as ``-1d``."""
        self._file.write_text(offset)
        self._file.chmod(0o644)


class ClockedPostgres(PostgresServer):
    """A server with a clock of its own."""

    @property
    def clock(self) -> Clock:
        """What it takes for the time of day."""
        return Clock(self.folder / "offset")

    def _command(self) -> list[str | Path]:
        clock = self.clock.environment
        return ["/usr/bin/env", *(f"{key}={clock[key]}" for key in clock), *super()._command()]

    def _prepare(self) -> None:
        super()._prepare()
        self.clock.set("+0")


def library() -> Path:
    """Return libfaketime, from its wheel or Debian's package; skip the test where there is none."""
    in_wheel = Path("libfaketime/vendor/libfaketime/src/libfaketime.so.1")
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        found += filter(Path.exists, (Path(folder) / in_wheel for folder in sys.path))
    if not found:
        pytest.skip("no libfaketime for this platform (Debian's package libfaketime has it)")
    return found[-1]


@pytest.mark.long
async def test_the_servers_clock_jumps(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> None:
    """Order holds, and no slot is emptied because of hours that nobody has lived through."""
    server = servers.postgres_of(ClockedPostgres)
    assert isinstance(server, ClockedPostgres)
    cluster = Cluster(server.dsn(), server)
    await cluster.prepare()
    database = await cluster.create_database()
    scene = Scene(database, stream, nursery, seed)
    writer = await database.connect()
    await writer.execute("create table t (id integer); select pgoutbox.capture_table('t')")
    numbers = itertools.count(1)
    relay = await scene.relay("--retention", "55m")
    await relay.line("leading")
    for offset in JUMPS:
        server.clock.set(offset)
        for _ in range(20):
            await writer.execute(f"insert into t values ({next(numbers)})")
    await scene.all_sent()
    assert await relay.stop() == 0

    await writer.execute("update pgoutbox.slot_rest set since = null")
    relay = await scene.relay("--retention", "12s")
    slot, since = await eventually(partial(writer.fetchrow, RESTING), timeout=30)
    server.clock.set("+2h")
    await writer.execute(f"insert into t values ({next(numbers)})")
    filled = await writer.fetchval("select pgoutbox.slot(now())")
    moved_on = f"select since > $1 from pgoutbox.slot_rest where slot = {slot}"
    await eventually(partial(writer.fetchval, moved_on, since + timedelta(hours=1)), timeout=30)
    assert "slot emptied" not in relay.output
    await relay.line("slot emptied", timeout=60)

    server.clock.set("+3h")
    await writer.execute(f"insert into t values ({next(numbers)})")
    await eventually(partial(writer.fetchval, IS_NOTED, filled), timeout=60)
    server.clock.set("-1d")
    await eventually(partial(writer.fetchval, IS_EMPTY, filled), timeout=60)
    await scene.all_sent()
    assert await relay.stop() == 0
    ids = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert ids == [*range(1, next(numbers))]
    await database.disconnect()


@dataclass
class Jumpy:
    """A relay whose clock jumps; its connections to NATS can be cut."""

    scene: Scene
    watched: Watched
    clock: Clock
    network: Proxy

    @property
    def emptied(self) -> int:
        """How many slots it has emptied."""
        return self.watched.process.output.count("slot emptied")

    async def empties_a_slot(self) -> None:
        """Wait until it has emptied one more."""
        before = self.emptied
        await eventually(lambda: self.emptied > before, timeout=30)

    async def publishes_at_once(self) -> None:
        """Commit a change, and see it long before the relay would look for it."""
        owner = await self.scene.database.connect()
        before = await self.scene.stream.count()
        await self.scene.commit(owner, "insert into bulk values (1, 'after a jump')")
        await owner.close()

        async def is_there() -> bool:
            return await self.scene.stream.count() > before

        await eventually(is_there)

    async def tells_true_times(self) -> None:
        """Look at what it has told since its start; no jump is in that."""
        latency = "pgoutbox_publish_latency_seconds"
        count = await self.watched.value(f"{latency}_count")
        assert await self.watched.value(f"{latency}_bucket", le="300.0") == count
        last = await self.watched.value("pgoutbox_last_success_timestamp_seconds")
        assert last is not None
        assert abs(last - time.time()) < 600


async def jump_under_load(jumpy: Jumpy, jumps: Sequence[str]) -> None:
    """Set the clock beside a transaction that stays open, and connections that end."""
    scene, held = jumpy.scene, await jumpy.scene.database.connect()
    label = scene.book.label()
    await held.execute(f"begin; {ledger.note(label)}; insert into bulk values (0, 'held')")
    await held.execute("set constraints all immediate")  # it has its position, which is a gap
    async with scene.load(**NOTIFYING):
        for offset in jumps:
            jumpy.clock.set(offset)
            await jumpy.empties_a_slot()
            jumpy.network.cut()
            await scene.pause(0.3, 0.6)
    scene.book.issue(label)
    await held.execute("commit")
    scene.book.confirm(label)
    await held.close()
    await scene.all_sent()


async def jump_while_paused(jumpy: Jumpy, jumps: Sequence[str]) -> None:
    """Set the clock while an event waits; its age stays what it is."""
    scene, oldest = jumpy.scene, "pgoutbox_oldest_unsent_seconds"
    await command("pause", scene)
    owner = await scene.database.connect()
    await scene.commit(owner, "insert into bulk values (2, 'waits')")
    await owner.close()
    await eventually(jumpy.watched.has(oldest, lambda age: age > 0), timeout=30)
    for offset in jumps:
        jumpy.clock.set(offset)
        age = await jumpy.watched.value(oldest)
        assert age is not None
        assert 0 < age < 600
    await command("resume", scene)
    await scene.all_sent()


async def command(name: str, scene: Scene) -> None:
    """Run a command about the scene's relay."""
    done = await asyncio.to_thread(pgoutbox, name, "default", "--dsn", scene.database.dsn)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "jumps",
    [("+30h", "-3h"), pytest.param(("+3h", "-30h", "+700h", "-4h") * 5, marks=pytest.mark.long)],
    ids=["two", "many"],
)
async def test_the_relays_clock_jumps(
    scene: Scene, connect: Connect, daemon: StartDaemon, tmp_path: Path, jumps: Sequence[str]
) -> None:
    """It keeps the lead, publishes at once, empties slots, and tells ages as they are."""
    clock, port, owner = Clock(tmp_path / "offset"), free_port(), await connect()
    clock.set("+0")
    await owner.execute(slots_of(1))
    await owner.execute("create table huge (t text); select pgoutbox.capture_table('huge')")
    async with proxy(port_of(scene.stream.url)) as network:
        scene.nats_url = through(scene.stream.url, network)
        relay = await daemon(
            *scene.command("--poll-interval", "30s", "--metrics-addr", str(port)),
            *("--retention", "1s", "--parked-retention", "1h", "--on-oversize", "park"),
            *("--rotate-between", await hours_around_now(owner)),
            env=clock.environment,
        )
        jumpy = Jumpy(scene, Watched(relay, 0, port), clock, network)
        await relay.line("leading")
        standby = await scene.relay()  # its clock is right
        await standby.line("standing by")
        await owner.execute("insert into huge values (repeat('x', 2 * 1024 * 1024))")
        await relay.line("parked")
        await jumpy.publishes_at_once()
        said, memory = len(relay.stderr), rss(relay)

        await jump_under_load(jumpy, jumps)
        await jumpy.tells_true_times()
        await jump_while_paused(jumpy, jumps)
        for offset in jumps:
            clock.set(offset)
            await jumpy.publishes_at_once()
        await jumpy.tells_true_times()
        assert len(relay.stderr) - said - jumpy.emptied <= 3 * len(jumps) + 5, relay.output
        assert rss(relay) - memory < 20 * 2**20
        assert await owner.fetchval("select count(*) from pgoutbox.parked") == 1
        assert "leading" not in standby.output
        assert await relay.stop() == 0
        await standby.line("leading")
        await jumpy.publishes_at_once()
        assert await standby.stop() == 0
    await scene.check()


async def hours_around_now(connection: asyncpg.Connection) -> str:
    """Return hours of the day, in UTC, that none of the jumps ends in."""
    now = "extract(hour from now() at time zone 'UTC')::integer"
    hour = int(await connection.fetchval(f"select {now}"))
    return f"{(hour - 1) % 24:02}:00-{(hour + 2) % 24:02}:00"


def rss(relay: Daemon) -> int:
    """Return how many bytes of memory a relay takes."""
    return int(psutil.Process(relay.process.pid).memory_info().rss)
