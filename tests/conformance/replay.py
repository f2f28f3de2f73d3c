"""Run recorded cases through the real commands, and read what the stream then holds."""

from __future__ import annotations

import asyncio
import io
import json
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import yaml

from tests.support.cluster import ADMIN, OWNER, Cluster, Database
from tests.support.nursery import Nursery, open_nursery
from tests.support.streams import Stored, Stream, nats_client

from .cases import Case

AT_ONCE = 3  # cases; while one waits for a server, another has the processor
LONGEST_WAIT = 150.0  # seconds
TOPIC = "wal_listener"  # where a case doesn't say otherwise
# All but the schema pgoutbox, which takes longest to install.
CLEAR = f"""
do $$
declare statement text;
begin
    for statement in
        select format('select pgoutbox.release_table(%s)', c.relation::oid)
        from pgoutbox.captured_table c
        union all select 'delete from pgoutbox.event'
        union all select 'delete from pgoutbox.transaction'
        union all select format('drop schema %I cascade', nspname) from pg_namespace
        where nspname !~ '^pg_' and nspname not in ('information_schema', 'pgoutbox')
        union all select format('drop publication %I', pubname) from pg_publication
    loop
        execute statement;
    end loop;
    create schema public authorization {OWNER};
end $$
"""
IS_BLOCKED = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"


def nats_config() -> str:
    """Return the configuration of a nats-server with an account for each case at work.

    All cases publish into a stream of the same name.
    """
    accounts = (
        f'case{number} {{ jetstream: enabled, users: [{{ user: "case{number}", password: "x" }}] }}'
        for number in range(AT_ONCE)
    )
    return f"accounts {{ {', '.join(accounts)} }}"


@dataclass(frozen=True)
class Refusal:
    """How a command ended that didn't do what it was asked for."""

    code: int
    output: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    stored: Sequence[Stored] = ()
    stream: dict[str, Any] | None = None  # its configuration
    failing_steps: Mapping[int, str] = field(default_factory=dict)  # index → SQLSTATE
    refusal: Refusal | None = None


class Replays:
    """Replays cases in the background, some of them at once."""

    def __init__(self, cases: Sequence[Case], cluster: Cluster, nats_url: str) -> None:
        self._cluster = cluster
        self._nats_url = nats_url
        self._outcomes: dict[str, Future[Outcome]] = {case.name: Future() for case in cases}
        self._left = iter(cases)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))
        self._thread.start()

    def outcome(self, case: Case) -> Outcome:
        """Wait for what becomes of a case, or raise what went wrong."""
        return self._outcomes[case.name].result(LONGEST_WAIT)

    def close(self) -> None:
        """Begin no further case, and wait for the end of those that have begun."""
        self._left = iter(())
        self._thread.join()

    async def _work(self) -> None:
        try:
            async with open_nursery() as nursery:
                await asyncio.gather(*(self._one_by_one(nursery, n) for n in range(AT_ONCE)))
        finally:
            for outcome in self._outcomes.values():
                if not outcome.done():
                    outcome.set_exception(RuntimeError("the replays ended before this case"))

    async def _one_by_one(self, nursery: Nursery, number: int) -> None:
        url = self._nats_url.replace("://", f"://case{number}:x@")
        async with Desk(self._cluster) as desk:
            while case := next(self._left, None):
                try:
                    database = await desk.clear(case.encoding)
                    outcome = await replay(case, database, nursery, url)
                except Exception as error:
                    self._outcomes[case.name].set_exception(error)
                else:
                    self._outcomes[case.name].set_result(outcome)


class Desk:
    """A database for one case after another: creating one takes longer than clearing it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._databases: dict[str | None, Database] = {}

    async def __aenter__(self) -> Desk:
        return self

    async def __aexit__(self, *_: object) -> None:
        for database in self._databases.values():
            await self._cluster.drop_database(database)

    async def clear(self, encoding: str | None) -> Database:
        """Return a database of an encoding, UTF8 if None, with no table in it."""
        database = self._databases.get(encoding)
        if database is None:
            database = self._databases[encoding] = await self._create(encoding)
        await database.disconnect()
        admin = await database.connect(ADMIN, client_min_messages="error", lock_timeout="10s")
        await admin.execute(CLEAR)
        for name in (f"database {database.name}", f"role {OWNER} in database {database.name}"):
            await admin.execute(f"alter {name} reset all")
        return database

    async def _create(self, encoding: str | None) -> Database:
        if encoding is None:
            return await self._cluster.create_database()
        return await self._cluster.create_encoded_database(encoding)


async def replay(case: Case, database: Database, nursery: Nursery, nats_url: str) -> Outcome:
    """Install, run the case, drain the outbox, and read the stream."""
    owner = await database.connect()
    for statement in case.setup + case.server_sql:
        is_for_admin = statement.startswith("create extension")
        runner = await database.connect(ADMIN) if is_for_admin else owner
        await runner.execute(localize(statement, database.name))
    settings = configuration(case, database, nats_url)
    with configuration_file(settings) as file:
        install = await nursery.start(
            "install", "--old-values", "identity", "-c", file, env=case.environment
        )
        if code := await install.wait():
            return Outcome(refusal=Refusal(code, install.output))
        failures = await run_steps(case, database, owner)
        async with case_stream(case, settings, nats_url) as stream:
            relay = await nursery.start("relay", "--drain", "-c", file, env=case.environment)
            if code := await relay.wait():
                return Outcome(refusal=Refusal(code, relay.output))
            return Outcome(await stream.messages(), await stream.config(), failures)


@contextmanager
def configuration_file(settings: dict[str, Any]) -> Iterator[Path]:
    """Write a configuration file, and remove it at the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, allow_unicode=True)
        file.flush()
        yield Path(file.name)


def configuration(case: Case, database: Database, nats_url: str) -> dict[str, Any]:
    """Return the configuration file as it was written for wal-listener."""
    address = urlsplit(database.dsn)
    return {
        "listener": {
            "slotName": "conformance",
            "refreshConnection": "30s",
            "heartbeatInterval": "10s",
            "filter": {"tables": case.filter},
            **case.config.get("listener", {}),
        },
        "logger": {"level": "info", "fmt": "json"},
        "database": {
            "host": address.hostname,
            "port": address.port,
            "name": database.name,
            "user": OWNER,
            "password": unquote(address.password or ""),
        },
        "publisher": {
            "type": "nats",
            "address": nats_url,
            "topic": TOPIC,
            **case.config.get("publisher", {}),
        },
    }


class CaseStream(Stream):
    """The stream of a case."""

    async def config(self) -> dict[str, Any]:
        """Return its configuration, as the server gives it."""
        answer = await self.jetstream._nc.request(f"$JS.API.STREAM.INFO.{self.topic}")
        return dict(json.loads(answer.data)["config"])


@asynccontextmanager
async def case_stream(
    case: Case, settings: dict[str, Any], nats_url: str
) -> AsyncIterator[CaseStream]:
    """Make the streams that were there beforehand; remove the case's stream at the end."""
    async with nats_client(nats_url) as client:
        jetstream = client.jetstream()
        for stream in case.streams:
            await jetstream.add_stream(name=stream["name"], subjects=stream["subjects"])
        try:
            yield CaseStream(settings["publisher"]["topic"], nats_url, jetstream)
        finally:
            for info in await jetstream.streams_info():
                # Once, under load, a new stream of that name had the old one's messages.
                name = info.config.name or ""
                await jetstream.purge_stream(name)
                await jetstream.delete_stream(name)


async def run_steps(case: Case, database: Database, owner: asyncpg.Connection) -> dict[int, str]:
    """Run the steps, each session on a connection of its own; a step may wait for a lock.

    Returns the SQLSTATE of each step that failed.
    """
    sessions: dict[str, asyncpg.Connection] = {}
    running: dict[str, asyncio.Task[None]] = {}
    failures: dict[int, str] = {}

    async def run(step: dict[str, Any], number: int, connection: asyncpg.Connection) -> None:
        try:
            if "copy_data" in step:
                await copy(connection, step["sql"], step["copy_data"])
            else:
                await connection.execute(localize(step["sql"], database.name))
        except asyncpg.PostgresError as error:
            failures[number] = error.sqlstate

    for number, step in enumerate(case.steps):
        if "sql" not in step:
            continue
        session = step.get("session", "")
        if session not in sessions:
            sessions[session] = await database.connect()
        if session in running:
            await running[session]
        running[session] = asyncio.create_task(run(step, number, sessions[session]))
        pid = sessions[session].get_server_pid()
        while not running[session].done() and not await owner.fetchval(IS_BLOCKED, pid):
            await asyncio.wait([running[session]], timeout=0.01)
    for task in running.values():
        await task
    return failures


async def copy(connection: asyncpg.Connection, statement: str, data: str) -> None:
    """Run COPY … FROM STDIN, which asyncpg wants in parts."""
    table, columns, is_csv = re.match(
        r"copy (\w+)(?:\(([^)]+)\))? from stdin( with \(format csv\))?$", statement
    ).groups()  # type: ignore[union-attr]
    await connection.copy_to_table(
        table,
        source=io.BytesIO(data.encode()),
        columns=columns.split(",") if columns else None,
        format="csv" if is_csv else "text",
    )


def localize(statement: str, database: str) -> str:
    """Keep a statement about the server, a role or a database to the case's own database."""
    if statement.startswith(("create publication", "select pg_reload_conf")):
        return "select"
    statement = statement.replace("alter system set", f"alter database {database} set")
    statement = statement.replace("alter role postgres", "alter role current_user")
    return statement.replace("database golden", f"database {database}")
