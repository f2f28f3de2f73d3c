"""What order costs on streams with replicas and beside other publishers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from nats.aio.client import Client

from benchmarks.drain import CPU_COLUMNS
from benchmarks.fill import ITEMS, fill
from benchmarks.report import Column, Table
from benchmarks.rig import (
    TOPIC,
    CpuClock,
    Database,
    Failed,
    Rig,
    ask_stream,
    make_stream,
    nats_client,
    settled,
)
from pgoutbox.demo.nats_server import NatsServer

FOREIGN = (0, 40, 500)  # messages a second of another client
REPLICAS = 3


class Way(NamedTuple):
    """How a relay publishes: what its flags ask for, and the stream's settings allow."""

    name: str
    replicas: int
    accepts: Mapping[str, bool]
    flags: Sequence[str] = ()
    events: int = 50_000


WAYS = (
    Way("one replica, chained by id", 1, {}),
    Way("one replica, --mode fast", 1, {"allow_batched": True}, ("--mode", "fast")),
    Way("three, fast-ingest batches", REPLICAS, {"allow_batched": True}),
    Way("three, atomic batches", REPLICAS, {"allow_atomic": True}),
    Way("three, one message at a time", REPLICAS, {}, events=5_000),
)

_SUBJECT = f"{TOPIC}.public_item_pgoutbox"


async def run(rig: Rig) -> list[Table]:
    """Drain single-row transactions into a stream of three servers, in each way there is.

    Another client publishes small messages into the same stream meanwhile, by which batches and
    expected sequences are refused. Against a stream with one replica that nobody else uses. Rates
    are by the stream's clock, from the first event to the last. All servers share the machine.
    """
    table = Table(
        "streams that others publish into",
        (
            Column("events/s", "per_s", digits=0),
            Column("÷ the first", "per_s", per="first_per_s", digits=2),
            *CPU_COLUMNS,
        ),
        note="others: small messages a second that another client publishes into the stream; µs:"
        " CPU time per event, that of all three servers, the relay's with its start",
    )
    with rig.nats_cluster(REPLICAS) as cluster:
        for _ in range(rig.runs):
            first = 0.0
            for way in WAYS:
                servers = cluster if way.replicas > 1 else [rig.nats]
                for foreign in FOREIGN:
                    figures = await _measure(rig, servers, way, foreign)
                    first = first or figures["per_s"]
                    beside = f", beside {foreign} others/s" if foreign else ""
                    table.add(way.name + beside, **figures, first_per_s=first)
    return [table]


async def _measure(
    rig: Rig, servers: Sequence[NatsServer], way: Way, foreign: int
) -> dict[str, float]:
    """Drain a new backlog into a new stream with a replica on each server."""
    count = rig.scaled(way.events)
    async with rig.database() as database, nats_client(servers[0]) as client:
        await fill(database, ITEMS, count)
        await make_stream(client, num_replicas=way.replicas, **way.accepts)
        await settled(database)
        await rig.checkpoint()
        async with _others(client, foreign):
            figures = await _drain(rig, database, servers, way, count)
        return {**figures, "per_s": (count - 1) / await _seconds(client, count)}


async def _drain(
    rig: Rig, database: Database, servers: Sequence[NatsServer], way: Way, count: int
) -> dict[str, float]:
    pids = {server.url: server.pid for server in servers}
    clock = CpuClock(postgres_us=rig.postgres.pid, **pids)
    drained = await asyncio.to_thread(rig.drain, database, "--nats-url", ",".join(pids), *way.flags)
    us = clock.us_per(count)
    return {
        "relay_us": drained.cpu_seconds * 1e6 / count,
        "postgres_us": us["postgres_us"],
        "nats_us": sum(us[url] for url in pids),
    }


@asynccontextmanager
async def _others(client: Client, rate: int) -> AsyncIterator[None]:
    """Have another client publish so many messages a second into the stream meanwhile."""

    async def publish() -> None:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), 0
        while True:
            for _ in range(done, due := round((loop.time() - began) * rate)):
                await client.publish(f"{TOPIC}.foreign", b"")
            done = due
            await asyncio.sleep(0.5 / rate)

    publishing = asyncio.create_task(publish()) if rate else None
    try:
        yield
    finally:
        if publishing:
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing


async def _seconds(client: Client, count: int) -> float:
    """Return how long it took to store the events, by the stream's own clock."""
    info = await ask_stream(client, f"INFO.{TOPIC}", subjects_filter=_SUBJECT)
    if (found := info["state"].get("subjects", {}).get(_SUBJECT, 0)) != count:
        raise Failed(f"the stream holds {found} events instead of {count}")
    first = await ask_stream(client, f"MSG.GET.{TOPIC}", seq=1, next_by_subj=_SUBJECT)
    last = await ask_stream(client, f"MSG.GET.{TOPIC}", last_by_subj=_SUBJECT)
    began, ended = (datetime.fromisoformat(one["message"]["time"]) for one in (first, last))
    return (ended - began).total_seconds()
