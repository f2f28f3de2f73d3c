"""The tour: a table, a relay, a consumer and a snapshot, on servers of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.demo.process import guarded
from pgoutbox.errors import PgoutboxError
from pgoutbox.relay.signals import stop_on_signal

Say = Callable[[str], None]

ROLE = DATABASE = "shop"
TOPIC = "wal_listener"  # the relay's default
PEOPLE = {
    "John Wick": "john.wick@continental.example",
    "James Bond": "james.bond@universal-exports.example",
    "Elim Garak": "elim.garak@deep-space-9.example",
    "Sarah Walker": "sarah.walker@buy-more.example",
}
EARLIER = "Malcolm Reynolds"  # there before anything is captured
TIMEOUT = 30.0  # seconds for the relay to start, and for an event to arrive

_TABLE = """
create table users (
    id uuid primary key default gen_random_uuid(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    name text not null,
    email text not null unique
)
"""

_UPSERT = """
INSERT INTO users (name, email) VALUES ($1, $2)
ON CONFLICT (email) DO UPDATE SET name = excluded.name, updated_at = now()
"""


def run(say: Say, *, keep: bool = False) -> None:
    """Take the tour, saying each step; with ``keep``, wait for Ctrl-C before stopping it all.

    However it ends, it leaves no process and no file behind.

    Raises:
        PgoutboxError: a step failed.
        KeyboardInterrupt: SIGINT or SIGTERM came before the end.

    """
    # A shell that starts it in the background has SIGINT ignored, and SIGTERM becomes one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(_tour(say, keep=keep))
    except KeyboardInterrupt:
        say("\nInterrupted: the servers are stopped, and their files removed.")
        raise


async def _tour(say: Say, *, keep: bool) -> None:
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, signal.raise_signal, signal.SIGINT
    )
    say("pgoutbox demo: row changes in PostgreSQL become messages on NATS.\n")
    with (
        _temporary_folder() as folder,
        PostgresServer(
            folder / "postgres", settings={"wal_level": "minimal", "max_wal_senders": "0"}
        ) as postgres,
        NatsServer(folder / "nats") as nats_server,
    ):
        _say_servers(say, postgres, nats_server)
        dsn = await _create_table(say, postgres)
        _install(say, dsn)
        with _relay(dsn, nats_server.url, folder / "relay.log") as relay:
            async with _subscribed(say, nats_server.url, relay) as subscription:
                await _upsert_and_receive(say, dsn, subscription)
                await _take_snapshot(say, dsn, subscription)
            if keep:
                await _wait_for_ctrl_c(say, dsn, postgres, nats_server, folder)
    say("\nThe servers are stopped, and their files removed.")
    if not keep:
        say(f"To look around while all of it runs: {command_line()} demo --keep")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pgoutbox-demo-"))
    folder.chmod(0o711)  # started by root, PostgreSQL runs as another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say_servers(say: Say, postgres: PostgresServer, nats_server: NatsServer) -> None:
    say(
        f"1. Started PostgreSQL {postgres.version} and nats-server {nats_server.version}"
        " in a temporary folder.\n"
        "   Logical replication is off (wal_level = minimal): pgoutbox needs none.\n"
        "     with servers of your own:\n"
        "     $ export DATABASE_URL=postgresql://USER:PASSWORD@HOST/DATABASE\n"
    )


async def _create_table(say: Say, postgres: PostgresServer) -> str:
    """Create a role, its database and its table; return the role's connection string."""
    admin = await asyncpg.connect(postgres.dsn())
    try:
        await admin.execute(f"create role {ROLE} login password '{postgres.password}'")
        await admin.execute(f"create database {DATABASE} owner {ROLE}")
    finally:
        await admin.close()
    dsn = postgres.dsn(database=DATABASE, user=ROLE)
    owner = await asyncpg.connect(dsn)
    try:
        await owner.execute(_TABLE)
        await owner.execute(_UPSERT, EARLIER, "mal@serenity.example")
    finally:
        await owner.close()
    say(
        f"2. Created the table users, as role {ROLE}: no superuser, no right to replicate.\n"
        "     create table users (id uuid, created_at, updated_at timestamptz,\n"
        "                         name text, email text unique)\n"
        f"   {EARLIER} is in it already.\n"
    )
    return dsn


def _run(dsn: str, *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603
        guarded([*_pgoutbox(), *arguments]),
        env=_environment(dsn),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PgoutboxError(f"pgoutbox {arguments[0]} failed: {done.stderr.strip()}")


def _install(say: Say, dsn: str) -> None:
    _run(dsn, "install", "--table", "users")
    say(
        "3. Installed the outbox (schema pgoutbox), and triggers on users that fill it.\n"
        f"     $ {command_line()} install --table users\n"
    )


@contextmanager
def _relay(dsn: str, nats_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the relay, its output going to ``log``; stopped at the end as one would stop it."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            guarded([*_pgoutbox(), "relay", "--nats-url", nats_url]),
            env=_environment(dsn),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
        if process.poll() is not None:
            raise PgoutboxError(f"the relay has ended: {log.read_text().strip()}")
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()


@asynccontextmanager
async def _subscribed(
    say: Say, nats_url: str, relay: subprocess.Popen[bytes]
) -> AsyncIterator[JetStreamContext.PushSubscription]:
    """Wait for the relay to make its stream, and subscribe to what it will store there."""
    client = await nats.connect(nats_url, allow_reconnect=False)
    try:
        jetstream = client.jetstream()
        await asyncio.wait_for(_stream_exists(jetstream, relay), TIMEOUT)
        say(
            f"4. Started the relay; it made the stream {TOPIC} on NATS.\n"
            f"     $ {command_line()} relay --nats-url nats://HOST:4222\n"
        )
        subscription = await jetstream.subscribe(f"{TOPIC}.*", ordered_consumer=True)
        task = asyncio.current_task()
        if task and task.cancelling():
            raise asyncio.CancelledError  # the NATS client swallows one that comes while it flushes
        yield subscription
    finally:
        await client.close()


async def _stream_exists(jetstream: JetStreamContext, relay: subprocess.Popen[bytes]) -> None:
    while relay.poll() is None:
        try:
            await jetstream.stream_info(TOPIC)
            return
        except NotFoundError:
            await asyncio.sleep(0.02)


async def _upsert_and_receive(
    say: Say, dsn: str, subscription: JetStreamContext.PushSubscription
) -> None:
    say("5. receive-event subscribes to the stream, and four people are upserted twice.")
    say("     with NATS's own command line, https://github.com/nats-io/natscli:")
    say(f"     $ nats subscribe '{TOPIC}.*'")
    say("     INSERT INTO users (name, email) VALUES (…) ON CONFLICT (email) DO UPDATE …\n")
    try:
        async with asyncio.TaskGroup() as tasks:
            received = tasks.create_task(receive_event(say, subscription, 2 * len(PEOPLE)))
            tasks.create_task(_upsert_twice(dsn))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    last = json.loads(received.result().data)
    say(f"\n   The last message, whole:\n{_indented(json.dumps(last, indent=2))}")


async def _take_snapshot(
    say: Say, dsn: str, subscription: JetStreamContext.PushSubscription
) -> None:
    say(
        f"\n6. {EARLIER} was there before the triggers, and has had no event."
        " A snapshot publishes\n   the rows that a table has, each where it belongs among its"
        f" events.\n     $ {command_line()} snapshot start users\n"
    )
    await asyncio.gather(
        asyncio.to_thread(_run, dsn, "snapshot", "start", "users"),
        receive_event(say, subscription, len(PEOPLE) + 1),
    )


async def _upsert_twice(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(2):
            for name, email in PEOPLE.items():
                await connection.execute(_UPSERT, name, email)
    finally:
        await connection.close()


async def receive_event(
    say: Say, subscription: JetStreamContext.PushSubscription, count: int
) -> Msg:
    """Say each of ``count`` events as it arrives; return the last one's message."""
    for _ in range(count):
        try:
            message = await subscription.next_msg(timeout=TIMEOUT)
        except nats.errors.TimeoutError as error:
            raise PgoutboxError(f"no event arrived within {TIMEOUT:.0f} seconds") from error
        arrived_at = datetime.now(UTC)
        event = json.loads(message.data)
        delay = arrived_at - datetime.fromisoformat(event["commitTime"])
        delay_ms = delay.total_seconds() * 1000
        since = "it was read" if event["action"] == "READ" else "its commit"
        say(
            f"   receive-event  {message.subject}  {event['action']}"
            f"  {event['data']['name']:<16}  {delay_ms:5.1f} ms after {since}"
        )
    return message


async def _wait_for_ctrl_c(
    say: Say, dsn: str, postgres: PostgresServer, nats_server: NatsServer, folder: Path
) -> None:
    stop = asyncio.Event()
    with stop_on_signal(stop):
        say(
            "\nAll of it runs until you press Ctrl-C. To look around, in another terminal:\n"
            f"     $ export DATABASE_URL={dsn}\n"
            f"     $ {postgres.bin / 'psql'} $DATABASE_URL\n"
            f"     $ {command_line()} status\n"
            f"     $ nats --server {nats_server.url} subscribe '{TOPIC}.*'\n"
            f"   The logs are in {folder}: relay.log, postgres/log, nats/log."
        )
        await stop.wait()


def _pgoutbox() -> list[str]:
    return [sys.executable, "-m", "pgoutbox"]


def command_line() -> str:
    """Return how to call pgoutbox from the current directory."""
    if shutil.which("pgoutbox"):
        return "pgoutbox"
    script = Path(sys.executable).with_name("pgoutbox")
    program, *arguments = [str(script)] if script.exists() else _pgoutbox()
    relative = os.path.relpath(program)
    return shlex.join([program if relative.startswith("..") else relative, *arguments])


def _environment(dsn: str) -> dict[str, str]:
    """Return our environment with the demo's database, and nothing that points elsewhere."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "WAL_"))}
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**ours, "DATABASE_URL": dsn, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
