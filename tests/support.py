"""What the tests stand on: a cluster with roles and a template, the real command, waiting."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import nats
import nats.js
import nats.js.api
from nats.aio.client import Client

from pgoutbox import schema
from pgoutbox.embedded import PostgresServer, guarded

ROOT = Path(__file__).resolve().parent.parent

OWNER = "app_owner"  # owns the databases; neither superuser nor allowed to replicate, as on RDS
WRITER = "app_writer"  # writes the owner's tables in schema public; no right on schema pgoutbox
ADMIN = "postgres"  # the superuser; only for what tests can't do otherwise

# For tests only: a crash of the machine may destroy such a cluster.
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "50",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "track_functions": "all",
}

_numbers = itertools.count(1)

Fact = TypeVar("Fact")


def unique(prefix: str) -> str:
    """Return a name that nobody else uses, not even another run on the same server."""
    return f"{prefix}{os.getpid()}n{next(_numbers)}"


async def eventually(
    fact: Callable[[], Awaitable[Fact] | Fact], *, timeout: float = 10.0, pause: float = 0.02
) -> Fact:
    """Return what ``fact`` returns once that is true; fail with its last answer after a while.

    An AssertionError in ``fact`` counts as not yet true.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        answer: object = None
        try:
            answer = fact()
            if inspect.isawaitable(answer):
                answer = await answer
        except AssertionError as error:
            answer, failure = None, error
        if answer:
            return answer  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not so within {timeout} s: the answer is {answer!r}")
        await asyncio.sleep(pause)


@dataclass
class Database:
    """One test's own database, owned by ``app_owner``."""

    name: str
    cluster: Cluster
    _connections: list[asyncpg.Connection] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """The connection string of the database's owner."""
        return self.dsn_as(OWNER)

    def dsn_as(self, role: str) -> str:
        """Return the connection string of another role."""
        return self.cluster.dsn(role, self.name)

    async def connect(self, role: str = OWNER, **settings: str) -> asyncpg.Connection:
        """Connect as a role; closed after the test."""
        connection = await asyncpg.connect(self.dsn_as(role), server_settings=settings or None)
        self._connections.append(connection)
        return connection

    async def disconnect(self) -> None:
        """Close every connection that came from here."""
        for connection in self._connections:
            if not connection.is_closed():
                connection.terminate()
        self._connections.clear()
        await asyncio.sleep(0)  # lets the transports close


class Cluster:
    """A PostgreSQL server as the tests see it: roles, a template, a database a test."""

    def __init__(
        self, admin_dsn: str, server: PostgresServer | None = None, *, is_published: bool = False
    ) -> None:
        self._admin_dsn = admin_dsn
        self._is_published = is_published
        self._template = unique("pgoutbox_template_")
        self._made: set[str] = set()
        self.server = server

    @property
    def admin_dsn(self) -> str:
        """The superuser's connection string."""
        return self._admin_dsn

    def dsn(self, role: str, database: str) -> str:
        """Return the connection string of a role for a database."""
        parts = urlsplit(self._admin_dsn)
        password = parts.password or "pgoutbox"
        user = parts.username if role == ADMIN and parts.username else role
        address = (parts.netloc.rsplit("@", 1))[-1]
        return urlunsplit(
            parts._replace(
                netloc=f"{quote(user)}:{quote(password)}@{address}", path=f"/{quote(database)}"
            )
        )

    async def prepare(self) -> None:
        """Make the roles, and the template with pgoutbox's schema installed by the owner."""
        password = urlsplit(self._admin_dsn).password or "pgoutbox"
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            for role in (OWNER, WRITER):
                await _make_role(admin, role, password)
            await self._create(admin, self._template, template=None)
        finally:
            await admin.close()
        owner = await asyncpg.connect(self.dsn(OWNER, self._template))
        try:
            await owner.execute(
                f"alter default privileges in schema public"
                f" grant select, insert, update, delete, truncate on tables to {WRITER};"
                f"alter default privileges in schema public grant usage on sequences to {WRITER}"
            )
            await schema.apply(owner)
        finally:
            await owner.close()
        await self._publish(self._template)

    async def create_database(self, *, installed: bool = True) -> Database:
        """Return a new database, with pgoutbox's schema or without."""
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            name = unique("pgoutbox_test_")
            await self._create(admin, name, template=self._template if installed else None)
        finally:
            await admin.close()
        return Database(name, self)

    async def create_encoded_database(self, encoding: str) -> Database:
        """Return a new database whose text has that encoding, with pgoutbox's schema."""
        database = Database(unique("pgoutbox_test_"), self)
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            await admin.execute(
                f"create database {database.name} owner {OWNER} template template0"
                f" encoding '{encoding}' lc_collate 'C' lc_ctype 'C'"
            )
            self._made.add(database.name)
        finally:
            await admin.close()
        await schema.apply(await database.connect())
        await self._publish(database.name)
        return database

    async def drop_database(self, database: Database) -> None:
        """Drop a database, with whoever is still connected to it."""
        await database.disconnect()
        await self._drop(database.name)

    async def clean_up(self) -> None:
        """Drop what is left; the roles stay, for others may use them."""
        for name in list(self._made):
            await self._drop(name)

    async def _create(self, admin: asyncpg.Connection, name: str, *, template: str | None) -> None:
        source = f' template "{template}"' if template else ""
        await admin.execute(f'create database "{name}" owner {OWNER}{source}')
        self._made.add(name)

    async def _publish(self, name: str) -> None:
        """Publish all tables of ours, where asked to, as a publication of all tables does.

        Those of the tests are left out: whether these have a replica identity is their affair.
        """
        if not self._is_published:
            return
        admin = await asyncpg.connect(self.dsn(ADMIN, name))
        try:
            await admin.execute("create publication everything for tables in schema pgoutbox")
        finally:
            await admin.close()

    async def _drop(self, name: str) -> None:
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            await admin.execute(f'drop database if exists "{name}" with (force)')
        finally:
            await admin.close()
        self._made.discard(name)


async def _make_role(admin: asyncpg.Connection, role: str, password: str) -> None:
    if not await admin.fetchval("select true from pg_roles where rolname = $1", role):
        await admin.execute(f"create role {role} login")
    await admin.execute(
        f"alter role {role} nosuperuser noreplication nobypassrls nocreatedb nocreaterole"
        f" password '{password}'"
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream has it."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """What one test's relay publishes into: a topic, and the stream of the same name."""

    topic: str
    url: str
    jetstream: nats.js.JetStreamContext

    async def count(self) -> int:
        """Return how many messages the stream holds; 0 where there is no stream yet."""
        try:
            info = await self.jetstream.stream_info(self.topic)
        except nats.js.errors.NotFoundError:
            return 0
        return info.state.messages

    async def messages(self, first: int = 1) -> list[Stored]:
        """Return the stream's messages in the order in which it stored them."""
        last = (await self.jetstream.stream_info(self.topic)).state.last_seq
        if last < first:
            return []
        subscription = await self.jetstream.subscribe(
            f"{self.topic}.>",
            stream=self.topic,
            ordered_consumer=True,
            config=nats.js.api.ConsumerConfig(
                deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first
            ),
        )
        stored: list[Stored] = []
        while not stored or stored[-1].sequence < last:
            message = await subscription.next_msg(timeout=10)
            stored.append(
                Stored(
                    message.metadata.sequence.stream,
                    message.subject,
                    message.headers or {},
                    message.data,
                )
            )
        await subscription.unsubscribe()
        return stored


@asynccontextmanager
async def nats_client(url: str) -> AsyncIterator[Client]:
    """Connect to NATS without reconnecting; closed at the end."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what configures pgoutbox or libpq, and with ``env``."""
    ours = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "WAL_", "DATABASE_URL"))
    }
    return {**ours, **(env or {})}


def pgoutbox(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    return subprocess.run(
        guarded([sys.executable, "-m", "pgoutbox", *arguments]),
        cwd=ROOT,
        env=clean_environment(env),
        input=input,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Daemon:
    """A running pgoutbox command, its output, and its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            asyncio.create_task(_collect(process.stdout, self.stdout)),
            asyncio.create_task(_collect(process.stderr, self.stderr)),
        ]

    @property
    def output(self) -> str:
        """All that it has written so far, for messages of failing tests."""
        return "".join(self.stdout + self.stderr)

    async def line(self, part: str, *, timeout: float = 20.0) -> str:
        """Wait for a line on either stream that contains ``part``, and return it."""

        def found() -> str | None:
            if self.process.returncode is not None and not any(
                part in line for line in self.stdout + self.stderr
            ):
                raise RuntimeError(f"ended without {part!r}:\n{self.output}")
            return next((line for line in self.stdout + self.stderr if part in line), None)

        try:
            return str(await eventually(found, timeout=timeout))
        except AssertionError as error:
            raise AssertionError(f"no line with {part!r} in:\n{self.output}") from error

    def send_signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    async def wait(self, *, timeout: float = 30.0) -> int:
        """Wait for its end, and return the exit code."""
        code = await asyncio.wait_for(self.process.wait(), timeout)
        await asyncio.gather(*self._readers)
        return code

    async def stop(self) -> int:
        """Ask it to end with SIGTERM, and return the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """End it with SIGKILL if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.wait()


async def start_daemon(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Daemon:
    """Start the real command, and return while it runs; the fixture ``daemon`` ends it."""
    process = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", "pgoutbox", *arguments]),
        cwd=ROOT,
        env={"PYTHONUNBUFFERED": "1", **clean_environment(env)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    return Daemon(process)


async def _collect(stream: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert stream is not None
    async for line in stream:
        lines.append(line.decode(errors="replace"))
