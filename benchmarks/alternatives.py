"""pgoutbox beside what one would use else: a slot reader, and an outbox written by hand.

``python -m benchmarks.alternatives --wal-listener PATH`` takes the program of wal-listener
(https://github.com/ihippik/wal-listener), which you build yourself; without it the slot is left
out. All of them publish the same rows into the same kind of stream, on the same machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import click
import psutil
import yaml

from benchmarks.latency import consuming, delays, percentiles, write_to
from benchmarks.report import Column, Report, Table
from benchmarks.rig import (
    TOPIC,
    CpuClock,
    Database,
    Failed,
    Rig,
    connect,
    make_stream,
    nats_client,
    rig,
    until,
)
from benchmarks.writers import PGBENCH_SECONDS, pgbench
from pgoutbox.demo.postgres import SUPERUSER
from pgoutbox.errors import PgoutboxError

RATE = 200  # transactions a second
SECONDS = 20
CLIENTS = 8
SLOT = "bench"

LATENCY_COLUMNS = (
    Column("p50", "p50", digits=2),
    Column("p99", "p99", digits=2),
    Column("÷ direct p50", "p50", per="direct_p50", digits=1),
    Column("÷ direct p99", "p99", per="direct_p99", digits=1),
    Column("publisher µs", "publisher_us", digits=0),
    Column("PostgreSQL µs", "postgres_us", digits=0),
)
WRITERS_COLUMNS = (
    Column("no capture/s", "none", digits=0),
    Column("captured/s", "alone", digits=0),
    Column("published, too/s", "tps", digits=0),
    Column("÷ no capture", "tps", per="none", digits=2),
    Column("PostgreSQL µs", "postgres_us", digits=0),
)


@dataclass
class Way:
    """One way from a table to the stream.

    ``variant`` says which of the rig's tables is written to, and ``servers`` where that is.
    """

    name: str
    variant: str
    servers: Rig
    command: Sequence[str | Path] = field(default_factory=tuple)

    @contextmanager
    def publishing(self, database: Database) -> Iterator[psutil.Process]:
        """Run what publishes."""
        if not self.command:
            with self.servers.relay(database) as process:
                yield process
            return
        addresses = (database.dsn, self.servers.nats.url)
        with self._running((*self.command, *addresses), database) as process:
            yield process

    @contextmanager
    def _running(
        self, command: Sequence[str | Path], database: Database
    ) -> Iterator[psutil.Process]:
        with self.servers.running(command, database) as (process, log):
            yield psutil.Process(process.pid)
            if process.poll() is not None:
                raise Failed(f"{self.name} has ended: {log.read_text().strip()[-500:]}")

    @asynccontextmanager
    async def ready(self, database: Database) -> AsyncIterator[psutil.Process]:
        """Run what publishes, and wait until it would miss nothing."""
        with self.publishing(database) as process:
            yield process


@dataclass
class Slot(Way):
    """wal-listener, reading a replication slot that is gone with it."""

    program: Path = Path()

    @contextmanager
    def publishing(self, database: Database) -> Iterator[psutil.Process]:
        """Run wal-listener with a configuration of its own."""
        with NamedTemporaryFile("w", suffix=".yml") as config:
            yaml.safe_dump(self._config(database), config)
            config.flush()
            command: Sequence[str | Path] = (self.program, "--config", config.name)
            with self._running(command, database) as process:
                yield process

    @asynccontextmanager
    async def ready(self, database: Database) -> AsyncIterator[psutil.Process]:
        """Run it once its slot is active; drop the slot afterwards, so that the database can go."""
        dsn = self.servers.postgres.dsn(database=database.name)
        async with connect(dsn) as admin:

            async def is_active() -> bool:
                return bool(await admin.fetchval("select active from pg_replication_slots"))

            async def is_dropped() -> bool:
                await admin.execute(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                    " where not active"
                )
                return not await admin.fetchval("select count(*) from pg_replication_slots")

            try:
                with self.publishing(database) as process:
                    await until(is_active, "wal-listener reads its slot")
                    yield process
            finally:
                await until(is_dropped, "the slot is dropped")

    def _config(self, database: Database) -> dict[str, object]:
        server = self.servers.postgres
        return {
            "listener": {
                "slotName": SLOT,
                "refreshConnection": "30s",
                "heartbeatInterval": "10s",
                "filter": {"tables": {f"item_{self.variant}": ["insert"]}},
            },
            "logger": {"level": "error", "fmt": "json"},
            "database": {
                "host": "127.0.0.1",
                "port": server.port,
                "name": database.name,
                "user": SUPERUSER,
                "password": server.password,
            },
            "publisher": {
                "type": "nats",
                "address": self.servers.nats.url.removeprefix("nats://"),
                "topic": TOPIC,
            },
        }


async def _latency(ways: Sequence[Way]) -> Table:
    """Measure from the return of COMMIT to a consumer, as ``benchmarks.latency`` does."""
    table = Table(
        f"latency at {RATE} transactions/s, ms",
        LATENCY_COLUMNS,
        note="direct: core NATS publish by the writer right after COMMIT; µs: CPU per event,"
        " PostgreSQL's with the writer's",
    )
    for _ in range(ways[0].servers.runs):
        for way in ways:
            table.add(way.name, **await _latency_of(way))
    return table


async def _latency_of(way: Way) -> dict[str, float]:
    servers, name = way.servers, f"item_{way.variant}"
    count = RATE * max(2, round(SECONDS * servers.scale))
    async with (
        servers.database() as database,
        consuming(servers) as consumer,
        way.ready(database) as publisher,
    ):
        await write_to(servers, database, consumer, 100, 20, name)  # until all is warm
        clock = CpuClock(publisher_us=publisher.pid, postgres_us=servers.postgres.pid)
        committed = await write_to(servers, database, consumer, RATE, count, name)
        us = clock.us_per(count)
    ours = delays(consumer.arrived, committed)
    direct = delays(consumer.arrived_directly, committed)
    return {**percentiles(ours, "p"), **percentiles(direct, "direct_p"), **us}


async def _writers(ways: Sequence[Way]) -> Table:
    """Measure what writers do while it publishes, against the same writers without capture."""
    table = Table(
        f"{CLIENTS} writers as fast as they can, fsync on",
        WRITERS_COLUMNS,
        note="no capture: a plain table on the same server, that of the slot with wal_level ="
        " logical; captured: nothing publishes, and there is no slot; µs: CPU per event, that of"
        " the writers included",
    )
    for _ in range(ways[0].servers.runs):
        for way in ways:
            table.add(way.name, **await _writers_of(way))
    return table


async def _writers_of(way: Way) -> dict[str, float]:
    servers = way.servers
    seconds = max(1, round(PGBENCH_SECONDS * servers.scale))
    figures: dict[str, float] = {}
    for figure, variant in (("none", "none"), ("alone", way.variant)):
        async with servers.database() as database:
            _, figures[figure] = pgbench(servers, database, variant, CLIENTS, seconds)
    async with servers.database() as database, nats_client(servers.nats) as client:
        await make_stream(client)
        async with way.ready(database):
            clock = CpuClock(postgres_us=servers.postgres.pid)
            done, figures["tps"] = await asyncio.to_thread(
                pgbench, servers, database, way.variant, CLIENTS, seconds
            )
            figures |= clock.us_per(done)
    return figures


@click.command()
@click.option(
    "--wal-listener",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
)
@click.option("--scale", default=1.0, show_default=True, help="Size of each, 1 being the full one.")
@click.option("--runs", default=5, show_default=True, help="Runs to take the median of.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures there.")
def main(wal_listener: Path | None, scale: float, runs: int, json_file: Path | None) -> None:
    """Compare pgoutbox with a slot reader and with an outbox written by hand."""
    try:
        with rig(scale, runs) as plain, rig(scale, runs, {"wal_level": "logical"}) as logical:
            report = Report(plain.setting())
            click.echo(report.headline())
            ways = _ways(plain, logical, wal_listener)
            report.tables["alternatives"] = asyncio.run(_compare(ways))
    except (Failed, PgoutboxError) as error:
        sys.exit(f"error: {error}")
    if json_file:
        report.write(json_file)


def _ways(plain: Rig, logical: Rig, wal_listener: Path | None) -> list[Way]:
    by_hand = [sys.executable, "-m", "benchmarks.by_hand"]
    ways = [
        Way("pgoutbox", "pgoutbox", plain),
        Way("outbox by hand, LISTEN", "usual", plain, (*by_hand, "listen")),
        Way("outbox by hand, poll 100 ms", "usual", plain, (*by_hand, "poll")),
    ]
    if wal_listener:
        ways.append(Slot("wal-listener, slot", "none", logical, program=wal_listener))
    return ways


async def _compare(ways: Sequence[Way]) -> list[Table]:
    for servers in {id(way.servers): way.servers for way in ways}.values():
        await servers.prepare()
    tables = []
    for measure in (_latency, _writers):
        tables.append(await measure(ways))
        click.echo(f"\n{tables[-1].to_text()}")
    return tables


if __name__ == "__main__":
    main()
