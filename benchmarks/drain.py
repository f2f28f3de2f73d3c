"""How fast a backlog reaches the stream, and what each process spends on an event."""

from __future__ import annotations

import asyncio
import time

from nats.aio.client import Client

from benchmarks.report import Column, Table
from benchmarks.rig import (
    NOTE,
    TOPIC,
    CpuClock,
    Database,
    Failed,
    Rig,
    connect,
    delete_stream,
    nats_client,
    stored_per_second,
)

EVENTS = 200_000
BASELINE = 20_000  # messages; its rate doesn't depend on how many
WRITERS = 8

Message = tuple[str, bytes, dict[str, str]]

_FILL = """
do $$ begin
    for i in 1..{count} loop
        insert into item_pgoutbox (name, note) values ('row {writer} ' || i, '{note}');
        commit;
    end loop;
end $$
"""


async def run(rig: Rig) -> list[Table]:
    """Drain single-row transactions of 300-byte rows with ``pgoutbox relay --drain``.

    Against a client that publishes the same messages to the same server with one
    ``await js.publish`` after another. Rates are by the stream's clock, first message to last;
    the relay's CPU time is that of the whole process, its start included.
    """
    count = rig.scaled(EVENTS)
    table = Table(
        "drain",
        (
            Column("js.publish/s", "baseline_per_s", digits=0),
            Column("pgoutbox/s", "per_s", digits=0),
            Column("ratio", "per_s", per="baseline_per_s"),
            Column("relay µs", "relay_us"),
            Column("PostgreSQL µs", "postgres_us"),
            Column("nats-server µs", "nats_us"),
        ),
        note="µs: CPU time of each process per event; js.publish: one awaited after another",
    )
    for _ in range(rig.runs):
        async with rig.database() as database:
            await fill(database, count)
            figures, messages = await _relay(rig, database, count)
        figures |= await _publish_one_by_one(rig, messages)
        table.add(f"{count:,} single-row transactions", **figures)
    return [table]


async def fill(database: Database, count: int) -> None:
    """Commit ``count`` transactions, from several sessions as in real life."""
    shares = [count // WRITERS + (writer < count % WRITERS) for writer in range(WRITERS)]

    async def write(writer: int, share: int) -> None:
        async with connect(database.dsn) as connection:
            await connection.execute(_FILL.format(count=share, writer=writer, note=NOTE))

    await asyncio.gather(*(write(writer, share) for writer, share in enumerate(shares)))


async def _relay(rig: Rig, database: Database, count: int) -> tuple[dict[str, float], list]:
    """Drain the outbox; return the figures, and messages for the baseline to publish again."""
    async with nats_client(rig.nats) as client:
        await delete_stream(client)
    clock = CpuClock(postgres_us=rig.postgres.pid, nats_us=rig.nats.pid)
    began = time.monotonic()
    relay_us = rig.drain(database) * 1e6 / count
    seconds = time.monotonic() - began
    figures = {**clock.us_per(count), "relay_us": relay_us, "seconds_with_start": seconds}
    async with nats_client(rig.nats) as client:
        figures["per_s"] = await stored_per_second(client, count)
        return figures, await _read(client, min(count, BASELINE))


async def _read(client: Client, count: int) -> list[Message]:
    """Return the stream's first messages, as :func:`_publish_one_by_one` wants them."""
    subscription = await client.jetstream().subscribe(f"{TOPIC}.*", ordered_consumer=True)
    received = [await subscription.next_msg(timeout=10) for _ in range(count)]
    await subscription.unsubscribe()
    if len({message.headers["Nats-Msg-Id"] for message in received}) != count:
        raise Failed("message ids are not unique")
    return [
        (message.subject, message.data, {"Nats-Msg-Id": message.headers["Nats-Msg-Id"]})
        for message in received
    ]


async def _publish_one_by_one(rig: Rig, messages: list[Message]) -> dict[str, float]:
    """Publish into an empty stream, each message once the one before is acknowledged."""
    async with nats_client(rig.nats) as client:
        await delete_stream(client)
        jetstream = client.jetstream()
        await jetstream.add_stream(name=TOPIC, subjects=[f"{TOPIC}.*"])
        clock = CpuClock(baseline_nats_us=rig.nats.pid)
        began = time.process_time()
        for subject, payload, headers in messages:
            await jetstream.publish(subject, payload, headers=headers)
        client_us = (time.process_time() - began) * 1e6 / len(messages)
        figures = {**clock.us_per(len(messages)), "baseline_client_us": client_us}
        figures["baseline_per_s"] = await stored_per_second(client, len(messages))
        await delete_stream(client)
    return figures
