"""A server is away for an hour, which the relay lives through in fast motion."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from pgoutbox.demo.process import free_port
from tests.conftest import Servers
from tests.faults.test_nats import Own, own
from tests.support import fast_motion, http, ledger
from tests.support.commands import pgoutbox
from tests.support.nursery import Nursery, Relay
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene
from tests.support.streams import Stream
from tests.support.waiting import eventually

__all__ = ["own"]

each_length = pytest.mark.parametrize(
    "seconds", [600, pytest.param(3_600, marks=pytest.mark.long)], ids=["minutes", "hour"]
)

NATS, POSTGRESQL = "NATS", "PostgreSQL"
EAGER = ("--ack-timeout", "500ms", "--window", "4000")
IN_FLIGHT = 2 * 20  # messages: two batches of the scene's size


class InFlight:
    """Counts what a relay sends behind what it knows to be stored.

    In the middle of a backlog, once, it gets no more acknowledgements until it gives up.
    """

    def __init__(self) -> None:
        self.most = self._stored = 0
        self._ids: set[bytes] = set()  # of all messages, which have the stream to themselves
        self._loses_from: int | None = None

    def lose_once(self, after: int) -> None:
        """Lose acknowledgements once so many more messages are stored."""
        self._loses_from = self._stored + after

    def __call__(self, frame: bytes) -> bool:
        if found := re.search(rb'"last_seq":(\d+)', frame):  # with which a connection begins
            if self._is_losing:
                self._loses_from = None
            self._stored = int(found[1])
        elif frame.startswith(b"HPUB"):
            self._ids.add(frame.partition(b"Nats-Msg-Id:")[2].split()[0])
            self.most = max(self.most, len(self._ids) - self._stored)
        elif self._is_losing:
            return b'"seq":' in frame
        elif found := re.search(rb'"seq":(\d+)', frame):
            self._stored = max(self._stored, int(found[1]))
        return False

    @property
    def _is_losing(self) -> bool:
        return self._loses_from is not None and self._stored > self._loses_from


async def lives_through(relay: Relay, file: Path, seconds: float, outage: str, port: int) -> None:
    """Wait until the relay has seen so much of an outage, and has said nothing but its reason."""
    await relay.line(f"{outage} unavailable; retrying")
    said, memory = len(relay.lines), psutil.Process(relay.pid).memory_info().rss
    end = fast_motion.passed(file) + seconds

    await eventually(lambda: fast_motion.passed(file) > end, timeout=240, pause=0.1)

    grown = psutil.Process(relay.pid).memory_info().rss - memory
    assert await http.status(port, "/ready") == 503
    assert await http.status(port, "/healthz") == 200
    assert len(relay.lines) <= said + 1, relay.output
    assert grown < 20 * 2**20


def outlasted(relay: Relay, outage: str) -> float:
    """Return how long an outage took by the relay's log, which has one line at either end.

    Further ones are said where the reason changes: the connection was lost, then nobody listens,
    then the server is starting up.
    """
    assert relay.output.count(f"{outage} unavailable; retrying") <= 3, relay.output
    [taken] = re.findall(f"{outage} available again seconds=([0-9.]+)", relay.output)
    return float(taken)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a relay in fast motion says how much of its time has passed."""
    return tmp_path / "passed"


@each_length
async def test_nats_is_away(own: Own, file: Path, seconds: float) -> None:
    """What was written meanwhile goes out in no larger bursts than ever."""
    own.env = {fast_motion.VARIABLE: str(file)}
    in_flight, port = InFlight(), free_port()
    async with proxy(port_of(own.stream.url), in_flight) as network:
        own.nats_url = through(own.stream.url, network)
        relay = await own.relay("--health-addr", str(port), *EAGER)
        await relay.line("connected to NATS")
        async with own.load(writers=2):
            await own.pause(0.2, 0.4)
        await own.all_sent()
        own.server.stop()
        await write_singly(own, 300)
        await lives_through(relay, file, seconds, NATS, port)
        done = await asyncio.to_thread(pgoutbox, "status", "--dsn", own.database.dsn)
        assert "relay default can't publish" in done.stdout
        in_flight.lose_once(after=100)
        own.server.start()
        await relay.line(f"{NATS} available again", timeout=30)
        await own.all_sent()
        assert await http.status(port, "/ready") == 200
        assert await relay.stop() == 0

    assert outlasted(relay, NATS) > seconds
    assert in_flight.most == IN_FLIGHT
    await _check(own)


async def write_singly(own: Own, count: int) -> None:
    """Commit single changes, which nothing keeps from going out together."""
    owner = await own.database.connect()
    for number in range(count):
        await own.commit(owner, f"insert into bulk values ({number}, 'single')")


async def _check(own: Own) -> int:
    """Check over a connection of now; the earlier one has seen the server go."""
    from tests.faults.test_nats import _stream

    async with _stream(own.server, own.stream.topic) as own.stream:
        return await own.check()


@pytest.fixture
async def apart(
    servers: Servers, stream: Stream, nursery: Nursery, seed: int
) -> AsyncIterator[Scene]:
    """A scene on a PostgreSQL of its own."""
    cluster = await servers.cluster(max_connections="60")
    database = await cluster.create_database()
    await ledger.prepare(database)
    yield Scene(database, stream, nursery, seed)
    await database.disconnect()


@each_length
async def test_postgresql_is_away(apart: Scene, file: Path, seconds: float) -> None:
    """Also from the relay's start on: it begins by itself."""
    server = apart.database.cluster.server
    assert server is not None
    apart.env = {fast_motion.VARIABLE: str(file)}
    port = free_port()
    server.stop()
    relay = await apart.relay("--health-addr", str(port))
    await lives_through(relay, file, seconds, POSTGRESQL, port)
    server.start()
    async with apart.load():
        await relay.line(f"{POSTGRESQL} available again", timeout=30)
        await apart.pause(0.2, 0.4)
    await apart.all_sent()
    assert await http.status(port, "/ready") == 200
    assert await relay.stop() == 0

    assert outlasted(relay, POSTGRESQL) > seconds
    await apart.check()
