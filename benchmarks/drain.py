"""How fast a backlog reaches the stream, and what each process spends on an event."""

from __future__ import annotations

import time

from nats.aio.client import Client

from benchmarks.fill import ITEMS, fill
from benchmarks.report import Column, Goal, Table
from benchmarks.rig import (
    NOTE,
    TOPIC,
    CpuClock,
    Database,
    Failed,
    Rig,
    connect,
    delete_stream,
    make_stream,
    nats_client,
    settled,
    stored,
)

EVENTS = 200_000
LARGE = 1_000_000  # rows of one transaction
BASELINE = 20_000  # messages; its rate doesn't depend on how many

Message = tuple[str, bytes, dict[str, str]]

CPU_COLUMNS = (
    Column("relay µs", "relay_us"),
    Column("PostgreSQL µs", "postgres_us"),
    Column("nats-server µs", "nats_us"),
)
COLUMNS = (
    Column("js.publish/s", "baseline_per_s", digits=0),
    Column("pgoutbox/s", "per_s", digits=0),
    Column("ratio", "per_s", per="baseline_per_s"),
    Column("from launch to exit/s", "whole_per_s", digits=0),
    Column("ratio", "whole_per_s", per="baseline_per_s"),
    *CPU_COLUMNS,
    Column("relay MiB", "relay_mib"),
)
NOTE_ON_CPU = (
    "js.publish: one awaited after another; pgoutbox: first message to last; µs: CPU time of each"
    " process per event, the relay's with its start; MiB: resident at the peak"
)

COLUMNS_OF_LARGE = (
    *COLUMNS,
    Column("first event ms", "first_ms", digits=0),
    Column("from launch ms", "first_from_launch_ms", digits=0),
)
NOTE_ON_LARGE = (
    f"{NOTE_ON_CPU}; first event: stored so long after the relay's line 'relay starts', and after"
    " the launch"
)


async def run(rig: Rig) -> list[Table]:
    """Drain single-row transactions of 300-byte rows with ``pgoutbox relay --drain``.

    Against a client that publishes the same messages to the same server with one
    ``await js.publish`` after another. A checkpoint comes first, so that the disk is done with
    the backlog. Rates are by the stream's clock, first message to last, and those of the whole
    process, from its launch to its exit, which the goal is about; its CPU time includes its start.
    """
    count = rig.scaled(EVENTS)
    label = f"{count:,} single-row transactions"
    table = Table("drain", COLUMNS, NOTE_ON_CPU)
    for _ in range(rig.runs):
        async with rig.database() as database:
            await fill(database, ITEMS, count)
            table.add(label, **await _beside_baseline(rig, database, count))
    table.goals = [_rate(label, goal=13, beyond=16, figure="whole_per_s")]
    return [table]


async def run_transaction(rig: Rig) -> list[Table]:
    """Drain one transaction of many rows; against the same as :func:`run`.

    Until the first event is stored it takes the interpreter's start and imports, then the
    relay's own start, from its line "relay starts" on: connecting, leading, reading, publishing.
    The goal is about the latter; both are shown. Memory is the most that was resident (VmHWM).
    """
    count = rig.scaled(LARGE)
    label = f"one transaction of {count:,} rows"
    table = Table("drain of a large transaction", COLUMNS_OF_LARGE, NOTE_ON_LARGE)
    for _ in range(rig.runs):
        async with rig.database() as database:
            await _one_transaction(database, count)
            table.add(label, **await _beside_baseline(rig, database, count))
    table.goals = [
        _rate(label, goal=18, beyond=24),
        Goal(
            f"{label}: relay's memory",
            label,
            "relay_mib",
            80,
            at_most=True,
            unit=" MiB",
            has_cpu=False,
        ),
        Goal(
            f"{label}: first event",
            label,
            "first_ms",
            100,
            at_most=True,
            unit=" ms",
            digits=0,
            has_cpu=False,
        ),
    ]
    return [table]


def _rate(label: str, goal: float, beyond: float, figure: str = "per_s") -> Goal:
    per = "baseline_per_s"
    return Goal(f"drain, {label}", label, figure, goal, beyond, per, unit="/s", digits=0)


async def _one_transaction(database: Database, count: int) -> None:
    async with connect(database.dsn) as connection:
        await connection.execute(
            "insert into item_pgoutbox (name, note)"
            f" select 'row ' || i, '{NOTE}' from generate_series(1, {count}) i"
        )


async def _beside_baseline(rig: Rig, database: Database, count: int) -> dict[str, float]:
    figures = await drain(rig, database, count)
    async with nats_client(rig.nats) as client:
        messages = await _read(client, min(count, BASELINE))
    return figures | await _publish_one_by_one(rig, messages)


# What an earlier relay sent there would be sent again, as lost with the stream.
FORGET_STREAM = "update pgoutbox.progress set last_stored = null; delete from pgoutbox.mark"


async def drain(rig: Rig, database: Database, count: int) -> dict[str, float]:
    """Drain ``count`` events into an empty stream; return rates, CPU time per event, memory."""
    async with nats_client(rig.nats) as client:
        await delete_stream(client)
    async with connect(database.dsn) as connection:
        await connection.execute(FORGET_STREAM)
    await settled(database)
    await rig.checkpoint()
    clock = CpuClock(postgres_us=rig.postgres.pid, nats_us=rig.nats.pid)
    drained = rig.drain(database)
    figures = {**clock.us_per(count), "relay_us": drained.cpu_seconds * 1e6 / count}
    async with nats_client(rig.nats) as client:
        result = await stored(client, count)
    return figures | {
        "per_s": result.per_second,
        "whole_per_s": count / (drained.exited - drained.launched),
        "seconds": result.last - drained.connected,
        "bytes_per_s": result.per_second * result.bytes / count,
        "message_bytes": result.bytes / count,
        "relay_mib": drained.peak_mib,
        "first_ms": (result.first - drained.started) * 1e3,
        "first_from_launch_ms": (result.first - drained.launched) * 1e3,
    }


async def _read(client: Client, count: int) -> list[Message]:
    """Return the stream's first messages, as :func:`_publish_one_by_one` wants them."""
    subscription = await client.jetstream().subscribe(f"{TOPIC}.*", ordered_consumer=True)
    received = [await subscription.next_msg(timeout=10) for _ in range(count)]
    await subscription.unsubscribe()
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in received]
    if len(set(ids)) != count:
        raise Failed("message ids are not unique")
    return [
        (message.subject, message.data, {"Nats-Msg-Id": message_id})
        for message, message_id in zip(received, ids, strict=True)
    ]


async def _publish_one_by_one(rig: Rig, messages: list[Message]) -> dict[str, float]:
    """Publish into an empty stream, each message once the one before is acknowledged."""
    async with nats_client(rig.nats) as client:
        await make_stream(client)
        jetstream = client.jetstream()
        clock = CpuClock(baseline_nats_us=rig.nats.pid)
        began = time.process_time()
        for subject, payload, headers in messages:
            await jetstream.publish(subject, payload, headers=headers)
        client_us = (time.process_time() - began) * 1e6 / len(messages)
        figures = {**clock.us_per(len(messages)), "baseline_client_us": client_us}
        figures["baseline_per_s"] = (await stored(client, len(messages))).per_second
        await delete_stream(client)
    return figures
