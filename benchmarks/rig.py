"""What the benchmarks run on: servers and databases of their own, the relay, CPU clocks."""

from __future__ import annotations

import asyncio
import compileall
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import nats
import psutil
from nats.aio.client import Client
from nats.js.errors import NotFoundError, ServerError, ServiceUnavailableError

import pgoutbox
from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import HOST, free_port, guarded

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


_RELAY_SESSIONS = """
select pid from pg_stat_activity
where datname = current_database() and application_name like 'pgoutbox%'
"""

Fact = TypeVar("Fact")


# The statistics that a transaction sees stay as they were at its first look.
_WAIT_FOR_OTHERS = """
do $$ begin
    while exists (
        select from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend'
          and pid <> pg_backend_pid() and state is distinct from 'idle in transaction'
          and application_name like '{}'
    ) loop
        perform pg_sleep(0.05), pg_stat_clear_snapshot();
    end loop;
end $$
"""


class Failed(Exception):
    """A benchmark didn't get what it was to measure."""


class Rig:
    """Both servers with default settings, and a database with pgoutbox to clone."""

    def __init__(
        self, folder: Path, scale: float, runs: int, settings: Mapping[str, str] | None = None
    ) -> None:
        self.scale = scale
        self.runs = runs
        self.postgres = PostgresServer(folder / "postgres", settings=settings)
        self.nats = NatsServer(folder / "nats")
        self._folder = folder
        self._numbers = itertools.count(1)

    def scaled(self, count: int) -> int:
        """Return how many of ``count`` things to do in this run."""
        return max(20, round(count * self.scale))

    def setting(self) -> dict[str, Any]:
        """Return what the figures depend on."""
        return {
            "versions": {
                "pgoutbox": pgoutbox.__version__,
                "PostgreSQL": self.postgres.version,
                "nats-server": self.nats.version,
                "Python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("asyncpg", "nats-py")},
            },
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cores(),
            "load": round(os.getloadavg()[0], 1),
            "scale": self.scale,
            "runs": self.runs,
        }

    async def prepare(self) -> None:
        """Make the database that the others are clones of, as ``pgoutbox install`` leaves it.

        And compile the modules, as pip does: some set-ups keep Python from doing that later.
        """
        compileall.compile_dir(ROOT / "pgoutbox", quiet=1)
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

    async def settle(self, database: Database) -> None:
        """Do now what autovacuum and checkpointer would do while something is measured."""
        async with connect(self.postgres.dsn(database=database.name)) as admin:
            await admin.execute("vacuum analyze")
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write out what was changed before, so that nothing measured waits for it."""
        await self._administer("checkpoint")

    def _dsn(self, database: str) -> str:
        return self.postgres.dsn(database=database, user=OWNER)

    def drain(self, database: Database, *flags: str) -> Drained:
        """Run ``pgoutbox relay --drain`` to its end."""
        before, launched, peak = children_seconds(), time.time(), 0.0
        with self._started(database, "--drain", *flags) as (process, log):
            while process.poll() is None:
                peak = max(peak, peak_mib(process.pid))
                time.sleep(0.02)
            exited = time.time()
        if process.returncode != 0:
            raise Failed(f"the relay failed: {_last_line(log)}")
        started, connected = (
            _said_at(words, log) for words in ("relay starts", "connected to NATS")
        )
        return Drained(children_seconds() - before, peak, launched, started, connected, exited)

    def install(self, database: Database, *tables: str, flags: Sequence[str] = ()) -> None:
        """Run ``pgoutbox install`` for tables."""
        named = (f"--table={table}" for table in tables)
        self._pgoutbox(database.name, "install", *named, *flags)

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
    def nats_cluster(self, size: int) -> Iterator[list[NatsServer]]:
        """Run so many nats-servers that form a cluster."""
        ports = [free_port() for _ in range(size)]
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        with ExitStack() as servers:
            yield [
                servers.enter_context(
                    NatsServer(
                        self._folder / f"nats-{port}",
                        config_text=f"server_name: bench-{port}\n"
                        f'cluster {{ name: bench, listen: "{HOST}:{port}", routes: [{routes}] }}',
                    )
                )
                for port in ports
            ]

    @contextmanager
    def relay(self, database: Database, *flags: str, without: str = "") -> Iterator[psutil.Process]:
        """Run the relay as a daemon; stopped at the end as one would stop it.

        ``without`` names a package that it finds missing.
        """
        with self._started(database, *flags, without=without) as (process, log):
            yield psutil.Process(process.pid)
            if process.poll() is not None:
                raise Failed(f"the relay has ended: {_last_line(log)}")

    @contextmanager
    def _started(
        self, database: Database, *flags: str, without: str = ""
    ) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Run the relay, which writes into a file; what still runs at the end is stopped."""
        program = ["-m", "pgoutbox"]
        if without:
            hide = f"import sys; sys.modules[{without!r}] = None"
            program = ["-c", f"{hide}; from pgoutbox.cli import main; main()"]
        command = [sys.executable, *program, "relay", "--nats-url", self.nats.url]
        with self.running([*command, *flags], database) as started:
            yield started

    @contextmanager
    def running(
        self, command: Sequence[str | Path], database: Database
    ) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Run a program, which writes into a file; stopped at the end as one would stop it."""
        path = self._folder / f"{next(self._numbers)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                guarded(command),
                env=self._environment(database.name),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process, path
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


@dataclass(frozen=True)
class Drained:
    """What a drain took: CPU time, its start and end included, and memory at its peak.

    When the process was launched, when the relay in it said that it starts, and that it is
    connected to NATS, and when the process had ended are in seconds since 1970. Between the first
    two lie the interpreter's start and the imports.
    """

    cpu_seconds: float
    peak_mib: float
    launched: float
    started: float
    connected: float
    exited: float


@contextmanager
def rig(scale: float, runs: int, settings: Mapping[str, str] | None = None) -> Iterator[Rig]:
    """Start the servers, PostgreSQL with ``settings``; nothing is left behind at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pgoutbox-bench-"))
    folder.chmod(0o711)  # started by root, PostgreSQL runs as another user
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        made = Rig(folder, scale, runs, settings)
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

    async def ignore(_: Exception) -> None:
        """Whatever matters is raised, too."""

    client = await nats.connect(
        server.url, allow_reconnect=False, max_reconnect_attempts=1, error_cb=ignore
    )
    try:
        yield client
    finally:
        await client.close()


async def delete_stream(client: Client, stream: str = TOPIC) -> None:
    """Delete a relay's stream if there is one.

    Purged first: nats-server 2.15 now and then keeps the few messages of a stream that is
    deleted right after them, and a stream of that name made at once has them again.
    """
    with suppress(NotFoundError):
        await client.jetstream().purge_stream(stream)
        await client.jetstream().delete_stream(stream)


async def make_stream(client: Client, **settings: Any) -> None:
    """Make a relay's stream anew, empty, with further ``settings``.

    nats-server may still be removing the old one's files, and a new cluster has no leader yet.
    """

    async def is_made() -> bool:
        with suppress(ServerError, ServiceUnavailableError, nats.errors.TimeoutError):
            await delete_stream(client)
            await client.jetstream().add_stream(name=TOPIC, subjects=[f"{TOPIC}.*"], **settings)
            return True
        return False

    await until(is_made, f"nats-server makes the stream {TOPIC}")


async def settled(database: Database, writers: str = "%") -> None:
    """Return when the writers' sessions are over, so that their CPU time stands where it counts.

    One that holds a snapshot may stay, and so may those whose names aren't like ``writers``.
    """
    async with connect(database.dsn) as connection:
        await connection.execute(_WAIT_FOR_OTHERS.format(writers))


def _said_at(words: str, log: Path) -> float:
    """Return when a relay wrote a line, in seconds since 1970."""
    line = next((line for line in log.read_text().splitlines() if words in line), None)
    if line is None:
        raise Failed(f"the relay didn't say {words!r} but: {_last_line(log)}")
    return datetime.fromisoformat(line.split()[0]).timestamp()


def _last_line(log: Path) -> str:
    return (log.read_text().strip().splitlines() or ["nothing"])[-1]


def peak_mib(pid: int) -> float:
    """Return the most memory that a process had resident; what it has now, off Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except FileNotFoundError:
        return float(psutil.Process(pid).memory_info().rss / 2**20)
    except (OSError, IndexError):  # it is just ending
        return 0.0


def children_seconds() -> float:
    """Return the CPU time of our children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
    return float(total)


def backend_seconds(pid: int) -> float:
    """Return the CPU time of one backend, to the nanosecond where the kernel tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


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


@dataclass(frozen=True)
class Stored:
    """What the relay's stream holds; times are the stream's, in seconds since 1970."""

    messages: int
    bytes: int
    first: float
    last: float

    @property
    def per_second(self) -> float:
        """The rate from the first message to the last, so that nobody's start counts."""
        return (self.messages - 1) / (self.last - self.first)


async def stored(client: Client, count: int) -> Stored:
    """Return what the stream holds, which must be ``count`` messages."""
    state = await stream_state(client)
    if state["messages"] != count:
        raise Failed(f"the stream holds {state['messages']} messages instead of {count}")
    first, last = (datetime.fromisoformat(state[key]) for key in ("first_ts", "last_ts"))
    return Stored(count, state["bytes"], first.timestamp(), last.timestamp())


async def stream_state(client: Client, stream: str = TOPIC) -> dict[str, Any]:
    """Return the state of a relay's stream, with the times that the client leaves out.

    That of an empty one where there is none yet.
    """
    return dict((await ask_stream(client, f"INFO.{stream}")).get("state", {"messages": 0}))


async def ask_stream(client: Client, what: str, **request: Any) -> dict[str, Any]:
    """Return what JetStream answers to a request about a stream, such as ``INFO.name``."""
    answer = await client.request(f"$JS.API.STREAM.{what}", json.dumps(request).encode())
    return dict(json.loads(answer.data))


async def until(fact: Callable[[], Awaitable[Fact]], what: str, patience: float = 30.0) -> Fact:
    """Return what ``fact`` returns once that is true; fail after ``patience`` seconds."""
    deadline = now() + patience
    while not (answer := await fact()):
        if now() > deadline:
            raise Failed(f"not so within {patience:g} s: {what}")
        await asyncio.sleep(0.02)
    return answer


async def relay_sessions(watcher: asyncpg.Connection) -> list[int]:
    """Return the backends of the relay's sessions in this database, once they are there."""

    async def pids() -> list[int]:
        found = [row["pid"] for row in await watcher.fetch(_RELAY_SESSIONS)]
        return found if len(found) >= 2 else []

    return await until(pids, "the relay is connected")


def cores() -> int:
    """Return on how many cores this process and its servers may run."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def now() -> float:
    """Return a time that all processes of this machine share, in seconds."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
