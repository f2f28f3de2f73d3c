"""What is put beneath a relay that runs is noticed at once: never taken for the outbox before."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from itertools import chain

import asyncpg
import pytest

from pgoutbox.config.settings import DatabaseConfig, MessageConfig
from pgoutbox.database import connection as db
from pgoutbox.database import status
from pgoutbox.errors import LeadershipLost, OutboxReplaced
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.relay import wakeup
from pgoutbox.relay.leadership import REPLACED
from pgoutbox.relay.wakeup import WakeUp
from tests.conftest import Connect, StartDaemon
from tests.integration.test_copies import BIN, sent
from tests.support.cluster import ADMIN, Cluster, Database
from tests.support.commands import Daemon, clean_environment, pgoutbox
from tests.support.leading import lead, led_once
from tests.support.streams import Stream
from tests.support.waiting import eventually

TABLE = "create table users (id int primary key, name text)"


def run(*command: object, data: bytes | None = None) -> bytes:
    """Run a program of PostgreSQL's, and return what it writes."""
    done = subprocess.run(
        [str(part) for part in command], input=data, capture_output=True, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def dump(database: Database) -> bytes:
    """Return all of it."""
    return run(BIN / "pg_dump", "-Fc", database.dsn_as(ADMIN))


async def restore(database: Database, dumped: bytes) -> None:
    """Put a dump in the place of what is there, as one does beneath what runs."""
    script = run(BIN / "pg_restore", "--clean", "--if-exists", "-f", "-", data=dumped)
    script = script.replace(b"SET transaction_timeout = 0;", b"")  # unknown before PostgreSQL 17
    psql = (BIN / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", database.dsn_as(ADMIN))
    await asyncio.to_thread(run, *psql, data=script)


async def write(owner: asyncpg.Connection, numbers: Iterable[int]) -> None:
    """Insert rows, each in a transaction of its own."""
    for number in numbers:
        await owner.execute("insert into users values ($1, 'x') on conflict do nothing", number)


async def arrive(stream: Stream, numbers: Iterable[int]) -> None:
    """Wait until the stream has these rows."""
    wanted = set(numbers)

    async def are_there() -> bool:
        return wanted <= {row.get("id") for _, _, row in await sent(stream)}

    await eventually(are_there, timeout=30)


async def check(stream: Stream, relay: Daemon, *numbers: Iterable[int]) -> None:
    """Check that the stream has these rows, in that order, once each, and the log is short."""
    assert await relay.stop() == 0, relay.output
    assert [row["id"] for _, _, row in await sent(stream)] == list(chain(*numbers))
    assert len({message.id for message in await stream.messages()}) == await stream.count()
    assert len(relay.stderr) < 30, relay.output


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """The owner's connection, to a captured table."""
    owner = await database.connect()
    await owner.execute(TABLE)
    await owner.execute("select pgoutbox.capture_table('users')")
    return owner


@pytest.fixture
async def relay(database: Database, stream: Stream, daemon: StartDaemon) -> Daemon:
    """A relay that looks often, and is at work."""
    process = await daemon(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic),
        *("--poll-interval", "200ms"),
    )
    await process.line("connected to NATS")
    return process


async def make_anew(database: Database, owner: asyncpg.Connection) -> None:
    script = pgoutbox("install", "--print-sql", "--table", "users").stdout
    await owner.execute(f"begin; drop schema pgoutbox cascade; {script} commit")


async def uninstall_and_install(database: Database, owner: asyncpg.Connection) -> None:
    for command in (("uninstall", "--all", "--drop-unsent"), ("install", "--table", "users")):
        done = await asyncio.to_thread(pgoutbox, *command, "--dsn", database.dsn)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("replace", [make_anew, uninstall_and_install])
async def test_an_outbox_that_is_installed_anew(
    database: Database,
    owner: asyncpg.Connection,
    stream: Stream,
    relay: Daemon,
    replace: Callable[[Database, asyncpg.Connection], Awaitable[None]],
) -> None:
    """Its positions begin at 1 again, all of them below what was sent."""
    await write(owner, range(30))
    await arrive(stream, range(30))

    await replace(database, owner)
    await write(owner, range(100, 120))

    await arrive(stream, range(100, 120))
    assert pgoutbox("status", "--check", "--dsn", database.dsn).returncode == 0
    await check(stream, relay, range(30), range(100, 120))
    assert relay.output.count(REPLACED) == 1


async def test_a_dump_of_itself(
    database: Database, owner: asyncpg.Connection, stream: Stream, relay: Daemon
) -> None:
    """It names the same leadership, pid and role as the relay that runs."""
    await write(owner, range(10))
    await arrive(stream, range(10))
    dumped = dump(database)
    await write(owner, range(10, 40))
    await arrive(stream, range(10, 40))

    await restore(database, dumped)
    await write(await database.connect(), range(100, 110))

    await arrive(stream, range(100, 110))
    await check(stream, relay, range(40), range(100, 110))
    assert relay.output.count(REPLACED) == 1, relay.output


async def test_the_dump_of_another_database(
    cluster: Cluster, database: Database, owner: asyncpg.Connection, stream: Stream, relay: Daemon
) -> None:
    """As staging is refreshed from production: what that hadn't sent is sent."""
    production = await cluster.create_database()
    source = await production.connect()
    await source.execute(TABLE)
    await source.execute("select pgoutbox.capture_table('users')")
    await led_once(source, "default")
    await write(source, range(200, 203))
    await write(owner, range(40))
    await arrive(stream, range(40))

    await restore(database, dump(production))
    await write(await database.connect(), range(300, 305))

    await arrive(stream, [*range(200, 203), *range(300, 305)])
    await check(stream, relay, range(40), range(200, 203), range(300, 305))
    assert relay.output.count(REPLACED) == 1, relay.output
    await cluster.drop_database(production)


async def test_positions_that_fall_behind_stop_the_relay_until_install_mends_them(
    database: Database, owner: asyncpg.Connection, stream: Stream, relay: Daemon
) -> None:
    await write(owner, range(30))
    await arrive(stream, range(30))

    # As in a copy, whose rows aren't written by the transactions that they are about.
    await owner.execute("update pgoutbox.transaction set position = position")
    await owner.execute("select setval('pgoutbox.position_seq', 1, false)")
    await write(owner, range(100, 105))
    line = await relay.line("waiting for the schema pgoutbox")

    assert "this database is a copy without its sequences' values" in line
    text = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "a copy without its sequences' values" in text
    assert pgoutbox("install", "--dsn", database.dsn).returncode == 0
    await arrive(stream, range(100, 105))
    await check(stream, relay, range(30), range(100, 105))


async def test_a_table_of_progress_that_is_rewritten_is_the_same(
    owner: asyncpg.Connection, stream: Stream, relay: Daemon
) -> None:
    await write(owner, range(3))
    await arrive(stream, range(3))

    await owner.execute("vacuum full pgoutbox.progress")
    await write(owner, range(3, 6))

    await arrive(stream, range(3, 6))
    await check(stream, relay, range(6))
    assert REPLACED not in relay.output
    assert relay.output.count(" leading ") == 1


PLAN = '[{"high": 1, "gaps": [], "partial": null}]'
WRITES = [
    ("update pgoutbox.progress set high = high", None),
    ("update pgoutbox.progress set high = high + 1", OutboxReplaced),
    (f"update pgoutbox.progress set plan = '{PLAN}'", OutboxReplaced),
    ("update pgoutbox.progress set leadership = gen_random_uuid()", LeadershipLost),
    ("delete from pgoutbox.progress", OutboxReplaced),
    ("update pgoutbox.installation set id = gen_random_uuid()", OutboxReplaced),
    ("delete from pgoutbox.installation", OutboxReplaced),
]
QUESTIONS: dict[str, Callable[[Outbox], Awaitable[object]]] = {
    "next_batch": lambda outbox: outbox.next_batch(Progress()),
    "advance": lambda outbox: outbox.advance(Progress(7)),
    "note_method": lambda outbox: outbox.note_method("in words"),
    "take_share": lambda outbox: outbox.take_share("--tables users"),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_what_somebody_else_writes_is_noticed_by_the_next_question(
    connect: Connect, question: str
) -> None:
    relay, other = [await connect() for _ in range(2)]
    for statement, error in WRITES:
        outbox = Outbox(
            relay, format_of(MessageConfig(), "app"), relay="r", batch_events=9, batch_bytes=2**20
        )
        await lead(outbox, relay, "r")
        await other.execute(statement)
        if error is None or (question != "next_batch" and "installation" in statement):
            await QUESTIONS[question](outbox)
        else:
            with pytest.raises(error):
                await QUESTIONS[question](outbox)
        await other.execute(
            "delete from pgoutbox.progress;"
            "insert into pgoutbox.installation default values on conflict do nothing"
        )


async def test_a_leadership_that_is_gone_from_the_database_is_noticed_before_publishing(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "_VERIFIED_FOR", 0.0)
    listening = await connect()
    wake_up = WakeUp(listening, "r", lambda: nullcontext(listening))
    await wake_up.start()
    assert await wake_up.try_lead()
    await wake_up.verify()

    await listening.execute("delete from pgoutbox.progress")

    with pytest.raises(OutboxReplaced):
        await wake_up.verify()


async def test_status_says_what_is_missing_while_a_restore_is_on_its_way(
    database: Database, owner: asyncpg.Connection
) -> None:
    """Without any one of the tables, views and functions: no traceback, and something is said."""
    await led_once(owner, "default")
    config = DatabaseConfig(dsn=database.dsn)
    async with db.session(config, purpose="status", primary=False) as conn:
        for kind, found, name in await owner.fetch(OBJECTS):
            await owner.execute(f"alter {kind} {found} rename to is_gone")
            assert status.to_text(await status.gather(conn))
            await owner.execute(f"alter {kind} pgoutbox.is_gone rename to {name}")
        assert not status.problems(await status.gather(conn))


OBJECTS = """
select
    case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
    c.oid::regclass::text, c.relname
from pg_class c
where c.relnamespace = 'pgoutbox'::regnamespace and c.relkind in ('r', 'v', 'S')
union all
select 'function', p.oid::regprocedure::text, p.proname from pg_proc p
where p.pronamespace = 'pgoutbox'::regnamespace
"""
