"""The relay is killed, frozen, asked to stop, or there are several of it."""

from __future__ import annotations

import asyncio
import re
import signal
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.conftest import Connect
from tests.support.cluster import ADMIN, WRITER
from tests.support.nursery import Relay
from tests.support.proxy import port_of, proxy, through
from tests.support.scene import Scene, Watcher
from tests.support.waiting import eventually

PUBLISHED_AGAIN = "published again beyond what was unconfirmed"


@pytest.mark.parametrize("kills", [40, pytest.param(100, marks=pytest.mark.long)])
async def test_killed_again_and_again_under_load(scene: Scene, nats: Client, kills: int) -> None:
    """At random moments: what was unconfirmed comes again, with the same ids."""
    watcher = await Watcher.of(nats, scene.stream.topic)
    async with scene.load():
        for _ in range(kills):
            relay = await scene.relay()
            await scene.pause(0.1, 0.4)
            await relay.kill()
    relay = await scene.relay()
    await scene.all_sent()
    assert await relay.stop() == 0

    await scene.check()
    print(f"{kills} kills, {watcher.repeats} of {len(watcher.payloads)} published again")
    assert watcher.changed == []
    assert watcher.repeats <= kills * 50, PUBLISHED_AGAIN


def _memory(relay: Relay) -> int:
    """Return the most memory that a relay has had so far, in MiB."""
    status = Path(f"/proc/{relay.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "rows",
    [200_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
)
async def test_killed_in_the_middle_of_a_large_transaction(
    scene: Scene, connect: Connect, nats: Client, rows: int
) -> None:
    """It goes on where it was, with memory that doesn't grow with the transaction."""
    owner = await connect()
    await owner.execute("create table large (id integer, body text)")
    await owner.execute("select pgoutbox.capture_table('large')")
    order: list[int] = []
    seen: set[str] = set()

    async def note(message: Msg) -> None:
        name = (message.headers or {})["Nats-Msg-Id"]
        if name not in seen:
            seen.add(name)
            found = re.search(rb'"data":\{"body":"[^"]*","id":(\d+)', message.data)
            order.append(int(found[1]) if found else -1)

    subscription = await nats.subscribe(
        f"{scene.stream.topic}.>", cb=note, pending_msgs_limit=0, pending_bytes_limit=0
    )
    await nats.flush()
    scene.flags = ()

    await owner.execute(
        f"insert into large select n, repeat('x', 200) from generate_series(1, {rows}) n"
    )

    peaks: list[int] = []
    for least in (rows // 10, rows // 3, rows // 2, rows):
        relay = await scene.relay()

        await eventually(partial(_is_so_far, scene, least), timeout=240, pause=0.05)
        if least == rows:
            await scene.all_sent()
        peaks.append(_memory(relay))
        await relay.kill()

    print(f"peak memory in MiB: {peaks}, seen: {len(order)} of {rows}")
    assert await scene.stream.count() == rows
    await eventually(lambda: len(order) == rows, timeout=60)
    assert order == list(range(1, rows + 1))
    assert max(peaks) < 150
    await subscription.unsubscribe()


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
async def test_asked_to_stop_under_load(scene: Scene, nats: Client, signum: signal.Signals) -> None:
    """It waits for what is on its way, exits 0, and nothing is published twice."""
    watcher = await Watcher.of(nats, scene.stream.topic)
    async with scene.load():
        for _ in range(6):
            relay = await scene.relay()
            await relay.line("leading")
            await scene.pause(0.05, 0.4)
            relay.send_signal(signum)
            assert await relay.wait() == 0, relay.output
            assert "relay stops" in relay.lines[-1]
    await (await scene.relay()).line("leading")
    await scene.all_sent()

    await scene.check()
    assert watcher.repeats == 0


async def test_second_signal_ends_it_at_once_and_nothing_is_lost(scene: Scene) -> None:
    """While the stream confirms nothing, the first signal alone would wait."""
    async with scene.load():
        for _ in range(4):
            relay = await scene.relay()
            await relay.line("leading")
            await scene.pause(0.05, 0.3)
            relay.send_signal(signal.SIGSTOP)  # both signals meet a relay in the middle of its work
            relay.send_signal(signal.SIGTERM)
            relay.send_signal(signal.SIGCONT)
            await asyncio.sleep(0)
            relay.send_signal(signal.SIGINT)
            assert await relay.wait() in (0, -signal.SIGINT, -signal.SIGTERM)
    await scene.relay()
    await scene.all_sent()

    await scene.check()


async def test_second_relay_takes_over_when_the_leader_is_killed(
    scene: Scene, connect: Connect
) -> None:
    """Again and again, though a stranger queues for its lock; there is never more than one."""
    owner, stranger = await connect(), await connect(WRITER)
    async with scene.load():
        leader = await scene.relay()
        await leader.line("leading")
        for _ in range(4):
            standby = await scene.relay()
            await standby.line("another relay leads; standing by")
            await scene.pause(0.05, 0.4)
            assert not [line for line in standby.lines if " leading " in line]
            number = await owner.fetchval(
                "select pgoutbox.leader_lock(p.leadership) from pgoutbox.progress p"
            )
            queueing = asyncio.create_task(stranger.execute(f"select pg_advisory_lock({number})"))
            await asyncio.wait({queueing}, timeout=0.05)
            await leader.kill()
            await standby.line(" leading ", timeout=5)
            await queueing
            leader = standby
    await scene.all_sent()

    assert await leader.stop() == 0
    await scene.check()


async def test_frozen_leader_publishes_nothing_after_another_took_over(
    scene: Scene, connect: Connect
) -> None:
    """Its session is gone when it wakes up, and what it had in hand is refused."""
    admin = await connect(ADMIN)
    async with scene.load():
        frozen = await scene.relay()
        await frozen.line("leading")
        for turn in range(1, 4):
            other = await scene.relay()
            await other.line("standing by")
            await scene.pause(0.1, 0.5)
            frozen.send_signal(signal.SIGSTOP)
            await eventually(partial(_is_ended, admin, frozen, scene), timeout=10, pause=0.05)
            await other.line(" leading ", timeout=10)
            await scene.pause(0.1, 0.5)
            frozen.send_signal(signal.SIGCONT)
            await frozen.line("standing by", timeout=20)
            assert await frozen.stop() == 0, frozen.output
            frozen = other
            print(f"turn {turn}")
    await scene.all_sent()

    await scene.check()


async def test_leader_that_is_cut_off_from_postgres_stands_by_for_the_next(
    scene: Scene, connect: Connect
) -> None:
    """Its connections are half open, until the server misses it; NATS it could still reach."""
    admin = await connect(ADMIN)
    async with proxy(port_of(scene.database.dsn)) as network:
        scene.dsn = through(scene.database.dsn, network)
        cut_off = await scene.relay()
        scene.dsn = None
        await cut_off.line("leading")
        async with scene.load():
            other = await scene.relay()
            await other.line("standing by")
            network.stall()
            await scene.pause(0.3, 0.6)
            await eventually(partial(_is_ended, admin, cut_off, scene), timeout=10, pause=0.05)
            await other.line(" leading ", timeout=10)
            await scene.pause(0.1, 0.5)
            network.flow()
            await cut_off.line("standing by", timeout=30)
        await scene.all_sent()
        assert await cut_off.stop() == 0, cut_off.output

    await scene.check()


async def _is_so_far(scene: Scene, least: int) -> bool:
    return await scene.stream.count() >= least


async def _is_ended(admin: asyncpg.Connection, frozen: Relay, scene: Scene) -> bool:
    """End the session that leads, as a server does that misses its client."""
    ended = await admin.fetch(
        "select pg_terminate_backend(leader_pid) from pgoutbox.progress p where pgoutbox.is_led(p)"
    )
    return bool(ended)


async def test_what_is_said_of_an_orderly_life_is_little(scene: Scene) -> None:
    """One line for each change of state, whatever was published meanwhile."""
    relay = await scene.relay()
    async with scene.load():
        await scene.pause(1, 1.5)
    await scene.all_sent()
    assert await relay.stop() == 0

    said = [" ".join(line.split(" ")[2:4]) for line in relay.lines]
    changes = ["connected to", "a new", "leading relay=default", "stream created", "connected to"]
    assert ["relay starts", *changes, "relay stops"] == said


@pytest.mark.parametrize("batch_events", ["2000", "7"])
async def test_killed_between_two_events_of_a_transaction(
    scene: Scene, connect: Connect, batch_events: str
) -> None:
    """One with a lower position that becomes visible meanwhile doesn't get in between."""
    owner, preparing = [await connect(**{"pgoutbox.notify": "off"}) for _ in range(2)]
    late, torn = scene.book.label(), scene.book.label()
    await preparing.execute(
        f"begin; insert into ledger_transaction (label) values ({late});"
        "insert into bulk values (0, 'late')"
    )
    scene.book.issue(late)
    await preparing.execute("prepare transaction 'late'")
    scene.book.issue(torn)
    await owner.execute(
        f"insert into ledger_transaction (label) values ({torn});"
        "insert into bulk select n, 'torn' from generate_series(1, 1500) n"
    )
    scene.book.confirm(torn)

    async with proxy(port_of(scene.stream.url)) as network:
        direct, scene.nats_url = scene.nats_url, through(scene.stream.url, network)
        killed = await scene.relay("--batch-events", batch_events, "--window", "4")

        async def is_in_the_middle() -> bool:
            return await scene.stream.count() > 100

        await eventually(is_in_the_middle, pause=0.002)
        network.stall()
        await killed.kill()
        network.cut()
    assert await scene.stream.count() < 1_500
    await preparing.execute("commit prepared 'late'")
    scene.book.confirm(late)

    scene.nats_url = direct
    relay = await scene.relay("--drain")
    assert await relay.wait() == 0, relay.output
    assert await scene.check() == 2
