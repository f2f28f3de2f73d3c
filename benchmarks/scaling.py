"""How fast several relays drain one outbox, each a shard of it, and what that costs."""

from __future__ import annotations

import asyncio
from datetime import datetime

from nats.aio.client import Client

from benchmarks.fill import ITEMS, fill
from benchmarks.report import Column, Table
from benchmarks.rig import (
    CpuClock,
    Database,
    Failed,
    Rig,
    children_seconds,
    delete_stream,
    nats_client,
    settled,
    stream_state,
)

EVENTS = 200_000
RELAYS = (1, 2, 4)


async def run(rig: Rig) -> list[Table]:
    """Drain the same backlog with 1, 2 and 4 relays on one server, each into its own stream.

    Each event is read by all of them and published by one. ``alone`` is one relay without
    ``--shard``. Rates are by the streams' clock, from the first message in any to the last in any;
    the relays' CPU time is that of all their processes, their starts included.
    """
    count = rig.scaled(EVENTS)
    table = Table(
        "scaling",
        (
            Column("events/s", "per_s", digits=0),
            Column("ratio", "per_s", per="alone_per_s"),
            Column("relays µs", "relays_us"),
            Column("PostgreSQL µs", "postgres_us"),
            Column("nats-server µs", "nats_us"),
            Column("all µs", "all_us"),
        ),
        note=f"µs: CPU time per event of all processes; {count:,} single-row transactions",
    )
    for _ in range(rig.runs):
        alone = await _measure(rig, count, {"wal_listener": ()})
        table.add("one relay of all events", **alone, alone_per_s=alone["per_s"])
        for relays in RELAYS:
            flags: dict[str, tuple[str, ...]] = {
                f"shard_{n}": ("--shard", f"{n}/{relays}") for n in range(1, relays + 1)
            }
            figures = await _measure(rig, count, flags)
            table.add(f"{relays} of --shard", **figures, alone_per_s=alone["per_s"])
    return [table]


async def _measure(rig: Rig, count: int, flags: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Drain a new backlog with one relay for each topic in ``flags``."""
    async with rig.database() as database, nats_client(rig.nats) as client:
        await fill(database, ITEMS, count)
        for topic in flags:
            await delete_stream(client, topic)
        await settled(database)
        await rig.checkpoint()
        clock = CpuClock(postgres_us=rig.postgres.pid, nats_us=rig.nats.pid)
        relays_us = await _drain(rig, database, flags) * 1e6 / count
        figures = {**clock.us_per(count), "relays_us": relays_us}
        figures["per_s"] = count / await _seconds(client, count, list(flags))
        for topic in flags:
            await delete_stream(client, topic)
    return {
        **figures,
        "all_us": sum(figures[f"{name}_us"] for name in ("relays", "postgres", "nats")),
    }


async def _drain(rig: Rig, database: Database, flags: dict[str, tuple[str, ...]]) -> float:
    """Run the relays side by side; return the CPU seconds that they took."""
    before = children_seconds()
    await asyncio.gather(
        *(
            asyncio.to_thread(rig.drain, database, "--topic", topic, *more)
            for topic, more in flags.items()
        )
    )
    return children_seconds() - before


async def _seconds(client: Client, count: int, streams: list[str]) -> float:
    """Return how long it took to store all ``count`` messages, by the streams' own clock."""
    states = [await stream_state(client, stream) for stream in streams]
    stored = sum(state["messages"] for state in states)
    if stored != count:
        raise Failed(f"the streams hold {stored} messages instead of {count}")
    filled = [state for state in states if state["messages"]]
    firsts, lasts = (
        [datetime.fromisoformat(state[key]) for state in filled] for key in ("first_ts", "last_ts")
    )
    return (max(lasts) - min(firsts)).total_seconds()
