"""Notifications don't reach the relay, while its connection looks alive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from pgoutbox.demo.process import free_port
from pgoutbox.relay.wakeup import WakeUp
from tests.conftest import Connect
from tests.support import http
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene
from tests.support.waiting import eventually

DEAF = "notifications are not arriving; events wait for the next poll"
HEARS = "notifications are arriving again"

# A proxy replaces the first by the second, which is as long.
LISTEN, CALL = b'LISTEN "pgoutbox"', b"select public.f()"
NO_STATUS = "could not access status of transaction 742"
UNLISTEN, FAIL = b'UNLISTEN "pgoutbox"', b"select 1/0 -- again"
REFUSE = f"raise sqlstate '58P01' using message = '{NO_STATUS}';"
DO_NOTHING = ""
DO_LISTEN = "listen pgoutbox;"
_NOTIFICATION = re.compile(rb"A\x00\x00\x00.{5}pgoutbox\x00[^\x00]*\x00", re.DOTALL)


def without_notifications(piece: bytes) -> bytes:
    """Drop the server's notifications, as a proxy does that doesn't know of them."""
    return _NOTIFICATION.sub(b"", piece)


@pytest.mark.parametrize(
    ("does", "reason"),
    [(REFUSE, f"LISTEN failed: {NO_STATUS}"), (DO_NOTHING, "didn't come back")],
    ids=["refused", "silent"],
)
async def test_listen_has_no_effect(scene: Scene, connect: Connect, does: str, reason: str) -> None:
    """Events flow at the poll interval, and it listens again by itself once that works."""
    owner = await connect()
    await owner.execute(listening(does))
    async with proxy(port_of(scene.database.dsn)) as network:
        network.alters = lambda piece: piece.replace(LISTEN, CALL)
        scene.dsn = through(scene.database.dsn, network)
        port = free_port()
        relay = await scene.relay("--health-addr", str(port))
        assert reason in await relay.line(DEAF)
        async with scene.load():
            await scene.pause(0.3, 0.6)
        await scene.all_sent()
        assert await http.status(port, "/ready") == 200, "it publishes"
        for command in ("status", "doctor"):
            assert reason in await told(command, scene)

        await owner.execute(listening(DO_LISTEN))
        await relay.line(HEARS)
        async with scene.load():
            await scene.pause(0.1, 0.3)
        await scene.all_sent()
        assert reason not in await told("status", scene)
        assert await relay.stop() == 0

    await scene.check()
    assert relay.output.count(DEAF) == relay.output.count(HEARS) == 1
    assert len(relay.lines) == 10, relay.output


def listening(does: str) -> str:
    """Return what defines what the relay calls instead of LISTEN."""
    return f"""
    create or replace function f() returns integer language plpgsql as
        $$ begin {does} return 1; end $$
    """


async def told(command: str, scene: Scene) -> str:
    """Return what a command says of relays that only poll."""
    where = ["--dsn", scene.database.dsn]
    if command == "doctor":
        where += ["--nats-url", scene.stream.url]
    done = await asyncio.to_thread(pgoutbox, command, *where)
    assert done.returncode in (0, 7), done.stderr
    return "".join(re.findall("relay default only polls.*", done.stdout))


@pytest.mark.long
async def test_notifications_stop_coming_later(scene: Scene, connect: Connect) -> None:
    """An event that only a poll has found is the reason to look."""
    owner = await connect()
    count = 0
    async with proxy(port_of(scene.database.dsn)) as network:
        scene.dsn = through(scene.database.dsn, network)
        relay = await scene.relay()
        await relay.line("connected to NATS")
        await scene.pause(1.0, 1.5)  # it has heard its own notification by then
        network.alters = without_notifications

        async def is_found_out() -> bool:
            nonlocal count
            count += 1
            await owner.execute("insert into bulk values (1, 'unheard')")
            return DEAF in relay.output

        await eventually(is_found_out, timeout=60, pause=0.5)
        network.alters = None
        await relay.line(HEARS)
        await scene.all_sent()
        assert await relay.stop() == 0

    assert await scene.stream.count() == count
    assert relay.output.count(DEAF) == relay.output.count(HEARS) == 1


@asynccontextmanager
async def no_connection() -> AsyncIterator[asyncpg.Connection]:
    raise OSError
    yield


async def test_a_session_that_once_heard_is_asked_again_only_in_doubt(database: Database) -> None:
    """Its notifications get lost, and come again."""
    async with proxy(port_of(database.dsn)) as network:
        connection = await asyncpg.connect(through(database.dsn, network))
        wake_up = WakeUp(connection, "r", no_connection)
        await wake_up.start()
        assert await wake_up.probe() is None
        network.alters = without_notifications
        assert await wake_up.probe() is None, "it isn't asked for an echo"

        wake_up.doubt()
        silence = await wake_up.probe()
        assert silence is not None
        assert "didn't come back" in silence.reason

        network.alters = lambda piece: piece.replace(UNLISTEN, FAIL)
        silence = await wake_up.probe()
        assert silence is not None
        assert silence.reason == "UNLISTEN failed: division by zero"
        network.alters = None
        assert await wake_up.fall_asleep()
        assert not await wake_up.wait(0)
        assert await wake_up.probe() is None
        assert await wake_up.wait(0), "what came while nobody listened is looked for"
        await connection.close()
