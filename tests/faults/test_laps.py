"""Laps of the ring, with slots of a second: nothing is emptied that isn't sent by everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tests.conftest import Connect
from tests.support import ledger
from tests.support.proxy import port_of, proxy, through
from tests.support.ring import slots_of
from tests.support.scene import Scene
from tests.support.waiting import eventually


def is_more(count: Callable[[], int], before: int) -> bool:
    return count() > before


@pytest.mark.parametrize(
    ("rounds", "outage"),
    [(1, 5.5), pytest.param(4, 16.0, marks=pytest.mark.long)],
    ids=["a lap", "many laps"],
)
async def test_slots_are_emptied_lap_after_lap_and_nothing_is_lost(
    scene: Scene, connect: Connect, rounds: int, outage: float
) -> None:
    """Of two relays, while readers hold the slots and NATS is away for longer than a lap."""
    owner, reader = await connect(), await connect()
    await owner.execute(slots_of(1))
    flags = ("--retention", "1s")
    async with proxy(port_of(scene.stream.url)) as network:
        scene.nats_url = through(scene.stream.url, network)
        relay = await scene.relay(*flags)
        scene.nats_url = None
        second = ("--name", "second", "--topic", f"{scene.stream.topic}-2", "--no-jetstream")
        other = await scene.relay(*flags, *second)

        def emptied() -> int:
            return sum(one.output.count("slot emptied") for one in (relay, other))

        async with scene.load():
            for _ in range(rounds):
                await eventually(partial(is_more, emptied, emptied()), timeout=30)
                async with reader.transaction(isolation="repeatable_read"):
                    await reader.fetchval("select count(*) from pgoutbox.outbox")
                    await scene.pause(0.8, 1.6)
                network.stall()
                await asyncio.sleep(outage)
                network.flow()
                network.cut()
                await scene.pause(0.5, 1.0)
        for name in ("default", "second"):
            await ledger.all_sent(scene.database, name)
        await ledger.all_emptied(scene.database)
        for one in (relay, other):
            assert await one.stop() == 0, one.output
    print(f"{emptied()} slots emptied")
    await scene.check()


async def test_slots_are_emptied_at_their_hours_only(scene: Scene, connect: Connect) -> None:
    """Outside of them the ring goes round, lap upon lap."""
    owner = await connect()
    await owner.execute(slots_of(1))
    hour = int(await owner.fetchval("select extract(hour from now() at time zone 'UTC')"))
    away = f"{(hour + 10) % 24:02}:00-{(hour + 14) % 24:02}:00"
    here = f"{(hour - 2) % 24:02}:00-{(hour + 2) % 24:02}:00"
    relay = await scene.relay("--retention", "1s", "--rotate-between", away)
    async with scene.load():
        await scene.pause(6, 6.5)
    await scene.all_sent()
    assert await relay.stop() == 0
    assert "slot emptied" not in relay.output

    relay = await scene.relay("--retention", "1s", "--rotate-between", here)
    await relay.line("slot emptied")
    assert await relay.stop() == 0
    await scene.check()
