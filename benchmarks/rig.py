"""What the benchmarks run on: servers and databases of their own, the relay, CPU clocks."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg
import nats
import psutil
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from pgoutbox.embedded import NatsServer, PostgresServer, guarded

ROOT = Path(__file__).resolve().parent.parent
OWNER = "bench"  # owns the databases; no superuser, no right to replicate
TOPIC = "wal_listener"  # the relay's default
STOP_TIMEOUT = 30.0  # seconds

# One table three times: without a trigger, with the outbox trigger that one usually finds, and
# with pgoutbox's. The usual one is spared what makes it slower: its notifications are all the
# same, so that PostgreSQL sends one a transaction.
SETUP = (
    "".join(
        f"""
create table item_{variant} (
    id uuid primary key default gen_random_uuid(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    name text not null,
    note text not null
);
"""
        for variant in ("none", "usual", "pgoutbox")
    )
    + """
create table outbox (
    id bigserial primary key,
    created_at timestamptz not null default now(),
    table_name text not null,
    action text not null,
    payload jsonb not null
);

create function write_outbox() returns trigger language plpgsql as $$
begin
    insert into outbox (table_name, action, payload)
    values (tg_table_name, tg_op, jsonb_build_object('old', to_jsonb(old), 'new', to_jsonb(new)));
    perform pg_notify('outbox', '');
    return null;
end
$$;

create trigger write_outbox after insert or update or delete on item_usual
for each row execute function write_outbox();
"""
)

NOTE = "x" * 230  # makes a row of 300 bytes


class Failed(Exception):
    """A benchmark didn't get what it was to measure."""


class Rig:
    """Both servers with default settings, and a database with pgoutbox to clone."""

    def __init__(self, folder: Path, scale: float, runs: int) -> None:
        self.scale = scale
        self.runs = runs
        self.postgres = PostgresServer(folder / "postgres")
        self.nats = NatsServer(folder / "nats")
        self._log = folder / "relay.log"
        self._numbers = itertools.count(1)

    def scaled(self, count: int) -> int:
        """Return how many of ``count`` things to do in this run."""
        return max(20, round(count * self.scale))

    async def prepare(self) -> None:
        """Make the database that the others are clones of, as ``pgoutbox install`` leaves it."""
        await self._administer(
            f"create role {OWNER} login password '{self.postgres.password}'",
            f"create database template owner {OWNER}",
        )
        async with connect(self._dsn("template")) as owner:
            await owner.execute(SETUP)
        self._pgoutbox("template", "install", "--table", "item_pgoutbox")

    async def _administer(self, *statements: str) -> None:
        async with connect(self.postgres.dsn()) as admin:
            for statement in statements:
                await admin.execute(statement)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Give a database in which nothing has happened yet, right after a checkpoint."""
        name = f"bench_{next(self._numbers)}"
        await self._administer(
            f"create database {name} owner {OWNER} template template", "checkpoint"
        )
        try:
            yield Database(name, self._dsn(name))
        finally:
            await self._administer(f"drop database {name} (force)")

    def _dsn(self, database: str) -> str:
        return self.postgres.dsn(database=database, user=OWNER)

    def drain(self, database: Database, *flags: str) -> float:
        """Run ``pgoutbox relay --drain`` to its end; return the CPU seconds it took in all."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._pgoutbox(database.name, "relay", "--drain", "--nats-url", self.nats.url, *flags)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _pgoutbox(self, database: str, *arguments: str) -> None:
        done = subprocess.run(
            guarded([sys.executable, "-m", "pgoutbox", *arguments]),
            env=self._environment(database),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Failed(f"pgoutbox {arguments[0]} failed: {done.stderr.strip()}")

    @contextmanager
    def relay(self, database: Database) -> Iterator[psutil.Process]:
        """Run the relay as a daemon; stopped at the end as one would stop it."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                guarded([sys.executable, "-m", "pgoutbox", "relay", "--nats-url", self.nats.url]),
                env=self._environment(database.name),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield psutil.Process(process.pid)
            if process.poll() is not None:
                raise Failed(f"the relay has ended: {self._log.read_text().strip()}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            finally:
                process.kill()
                process.wait()

    def _environment(self, database: str) -> dict[str, str]:
        """Return our environment without settings that would reach pgoutbox."""
        foreign = ("PG", "WAL_", "NATS", "DATABASE_URL")
        ours = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**ours, "DATABASE_URL": self._dsn(database)}

    def run_tool(self, name: str, database: Database, *arguments: str) -> str:
        """Run a program of PostgreSQL's, such as pgbench, as the owner; return what it prints."""
        address: Mapping[str, str] = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.postgres.port),
            "PGUSER": OWNER,
            "PGPASSWORD": self.postgres.password,
            "PGDATABASE": database.name,
        }
        done = subprocess.run(
            guarded([self.postgres.bin / name, *arguments]),
            env={**os.environ, **address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Failed(f"{name} failed: {done.stderr.strip()}")
        return done.stdout


@dataclass(frozen=True)
class Database:
    """One run's own database."""

    name: str
    dsn: str


@contextmanager
def rig(scale: float, runs: int) -> Iterator[Rig]:
    """Start the servers; nothing is left behind at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pgoutbox-bench-"))
    folder.chmod(0o711)  # started by root, PostgreSQL runs as another user
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        made = Rig(folder, scale, runs)
        with made.postgres, made.nats:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to PostgreSQL."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def nats_client(server: NatsServer) -> AsyncIterator[Client]:
    """Connect to NATS."""
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def delete_stream(client: Client, stream: str = TOPIC) -> None:
    """Delete the relay's stream if there is one."""
    with suppress(NotFoundError):
        await client.jetstream().delete_stream(stream)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process, its children, and its children that have ended."""
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def backend_seconds(pid: int) -> float:
    """Return the CPU time of one backend, to the nanosecond where the kernel tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


class CpuClock:
    """Measures the CPU time of several processes from now on; names are the caller's."""

    def __init__(self, **pids: int | None) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._began = {name: cpu_seconds(process) for name, process in self._processes.items()}

    def us_per(self, count: int) -> dict[str, float]:
        """Return the microseconds of each process for each of ``count`` things."""
        return {
            name: (cpu_seconds(process) - self._began[name]) * 1e6 / count
            for name, process in self._processes.items()
        }


async def stored_per_second(client: Client, count: int) -> float:
    """Return the rate at which ``count`` messages were stored, by the stream's own clock.

    From the first one to the last one, so that nobody's start counts.
    """
    state = await stream_state(client)
    if state["messages"] != count:
        raise Failed(f"the stream holds {state['messages']} messages instead of {count}")
    first, last = (datetime.fromisoformat(state[key]) for key in ("first_ts", "last_ts"))
    return (count - 1) / (last - first).total_seconds()


async def stream_state(client: Client, stream: str = TOPIC) -> dict:
    """Return the state of the relay's stream, with the times that the client leaves out."""
    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}")
    return json.loads(answer.data)["state"]


def now() -> float:
    """Return a time that all processes of this machine share, in seconds."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
