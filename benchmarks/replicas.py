"""What the order costs on a stream with three replicas, alone and beside other publishers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

from nats.aio.client import Client

from benchmarks.drain import CPU_COLUMNS
from benchmarks.fill import ITEMS, fill
from benchmarks.report import Column, Table
from benchmarks.rig import TOPIC, CpuClock, Database, Failed, Rig, make_stream, nats_client, settled
from pgoutbox.demo.nats_server import NatsServer

EVENTS = 50_000
SLOW_EVENTS = 5_000  # where each message waits for three servers
FOREIGN = (0, 40, 500)  # messages a second of another client
REPLICAS = 3

# What the stream accepts decides how the relay publishes.
WAYS: Mapping[str, Mapping[str, bool]] = {
    "fast-ingest batches": {"allow_batched": True},
    "atomic batches": {"allow_atomic": True},
    "one message at a time": {},
}
ONE_REPLICA = "one replica, chained by id"

_SUBJECT = f"{TOPIC}.public_item_pgoutbox"


async def run(rig: Rig) -> list[Table]:
    """Drain single-row transactions into a stream of three servers, in each way there is.

    Another client publishes small messages into the same stream meanwhile, by which batches and
    expected sequences are refused. Against the same on a stream with one replica. Rates are by the
    stream's clock, from the first event to the last. The three servers share the machine.
    """
    table = Table(
        "three replicas",
        (
            Column("events/s", "per_s", digits=0),
            Column("÷ one replica, alone", "per_s", per="one_replica_per_s", digits=2),
            *CPU_COLUMNS,
        ),
        note="others: small messages a second that another client publishes into the stream; µs:"
        " CPU time per event, that of all three servers, the relay's with its start",
    )
    with rig.nats_cluster(REPLICAS) as cluster:
        for _ in range(rig.runs):
            alone = 0.0
            for foreign in FOREIGN:
                figures = await _measure(rig, [rig.nats], EVENTS, foreign)
                alone = alone or figures["per_s"]
                table.add(_label(ONE_REPLICA, foreign), **figures, one_replica_per_s=alone)
            for way, accepts in WAYS.items():
                count = EVENTS if accepts else SLOW_EVENTS
                for foreign in FOREIGN:
                    figures = await _measure(rig, cluster, count, foreign, **accepts)
                    table.add(_label(way, foreign), **figures, one_replica_per_s=alone)
    return [table]


def _label(way: str, foreign: int) -> str:
    return f"{way}, beside {foreign} others/s" if foreign else way


async def _measure(
    rig: Rig, servers: Sequence[NatsServer], count: int, foreign: int, **accepts: bool
) -> dict[str, float]:
    """Drain a new backlog into a new stream with a replica on each server."""
    count = rig.scaled(count)
    async with rig.database() as database, nats_client(servers[0]) as client:
        await fill(database, ITEMS, count)
        await make_stream(client, num_replicas=len(servers), **accepts)
        await settled(database)
        await rig.checkpoint()
        async with _others(client, foreign):
            figures = await _drain(rig, database, servers, count)
        return {**figures, "per_s": (count - 1) / await _seconds(client, count)}


async def _drain(
    rig: Rig, database: Database, servers: Sequence[NatsServer], count: int
) -> dict[str, float]:
    pids = {server.url: server.pid for server in servers}
    clock = CpuClock(postgres_us=rig.postgres.pid, **pids)
    drained = await asyncio.to_thread(rig.drain, database, "--nats-url", ",".join(pids))
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
    asked = {"subjects_filter": _SUBJECT}
    info = await _ask(client, f"INFO.{TOPIC}", asked)
    if (found := info["state"].get("subjects", {}).get(_SUBJECT, 0)) != count:
        raise Failed(f"the stream holds {found} events instead of {count}")
    ends = ({"seq": 1, "next_by_subj": _SUBJECT}, {"last_by_subj": _SUBJECT})
    first, last = [(await _ask(client, f"MSG.GET.{TOPIC}", end))["message"]["time"] for end in ends]
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


async def _ask(client: Client, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.STREAM.{what}", json.dumps(request).encode())
    return dict(json.loads(answer.data))
