"""Who leads a relay, and that nobody without rights can be in the way of it."""

from __future__ import annotations

import asyncio
import importlib

import asyncpg
import pytest

from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.outbox.progress import Gap, Progress
from pgoutbox.relay import chores
from tests.conftest import Connect
from tests.integration.test_other_relays import chores_of
from tests.support.cluster import ADMIN, OWNER, WRITER, Database
from tests.support.commands import pgoutbox
from tests.support.leading import LEAD
from tests.support.streams import Stream
from tests.support.waiting import eventually

LEADS = "select pgoutbox.is_led(p) from pgoutbox.progress p where p.relay = 'r'"
NUMBER = "select pgoutbox.leader_lock(p.leadership) from pgoutbox.progress p"
LOCKS = """
select count(*) from pg_locks where locktype = 'advisory'
and database = (select oid from pg_database where datname = current_database())
"""


async def ended(connection: asyncpg.Connection, observer: asyncpg.Connection) -> None:
    """Close a connection, and wait until the server has noticed."""
    pid = connection.get_server_pid()
    await connection.close()

    async def is_gone() -> bool:
        return not await observer.fetchval(
            "select exists (select from pg_stat_activity where pid = $1)", pid
        )

    await eventually(is_gone)


async def test_one_leads_as_long_as_its_session_lasts(connect: Connect) -> None:
    first, second = [await connect() for _ in range(2)]

    assert await first.fetchval(LEAD, "r") is not None
    assert await second.fetchval(LEAD, "r") is None
    assert await second.fetchval(LEADS)
    await ended(first, second)
    assert not await second.fetchval(LEADS)
    assert await second.fetchval(LEAD, "r") is not None


async def test_of_many_that_find_nobody_one_leads(connect: Connect) -> None:
    """Also where a leader has just ended; the others hold no lock afterwards."""
    observer = await connect()
    for _ in range(5):
        all_of_them = [await connect() for _ in range(8)]

        answers = await asyncio.gather(*(each.fetchval(LEAD, "r") for each in all_of_them))

        [leadership] = [answer for answer in answers if answer is not None]
        leader = all_of_them[answers.index(leadership)]
        assert await observer.fetchval("select leadership from pgoutbox.progress") == leadership
        assert await observer.fetchval(LOCKS) == 1
        await ended(leader, observer)
        assert not await observer.fetchval(LEADS)


@pytest.mark.parametrize("role", [WRITER, OWNER])
async def test_a_stranger_that_queues_for_the_lock_leads_nothing(
    connect: Connect, role: str
) -> None:
    """Also one of the leader's own role."""
    leader, standby = [await connect() for _ in range(2)]
    stranger = await connect(role)
    await leader.execute(LEAD.replace("$1", "'r'"))
    number = await standby.fetchval(NUMBER)
    queueing = asyncio.create_task(stranger.execute(f"select pg_advisory_lock({number})"))
    await ended(leader, standby)
    await queueing

    assert not await standby.fetchval(LEADS)
    assert await standby.fetchval(LEAD, "r") is not None


async def test_a_stranger_with_the_pid_of_the_last_leader_leads_nothing(connect: Connect) -> None:
    """PostgreSQL gives pids again one day."""
    leader, standby = [await connect() for _ in range(2)]
    stranger = await connect(WRITER)
    await leader.execute(LEAD.replace("$1", "'r'"))
    await ended(leader, standby)
    await stranger.execute(f"select pg_advisory_lock({await standby.fetchval(NUMBER)})")
    await standby.execute("update pgoutbox.progress set leader_pid = $1", stranger.get_server_pid())

    assert not await standby.fetchval(LEADS)
    assert await standby.fetchval(LEAD, "r") is not None


async def test_a_lock_in_another_database_leads_nothing_here(
    connect: Connect, database: Database
) -> None:
    """As of production's relay, on the same server as a restored copy."""
    leader, copy = await connect(), await connect()
    elsewhere = await asyncpg.connect(database.dsn_as(ADMIN).replace(database.name, "postgres"))
    await leader.execute(LEAD.replace("$1", "'r'"))
    number = await copy.fetchval(NUMBER)
    await ended(leader, copy)
    await elsewhere.execute(f"select pg_advisory_lock({number})")
    await copy.execute(
        "update pgoutbox.progress p set leader_pid = a.pid, leader_role = a.usesysid"
        " from pg_stat_activity a where a.pid = $1",
        elsewhere.get_server_pid(),
    )

    assert not await copy.fetchval(LEADS)
    await elsewhere.close()


async def test_a_standby_writes_nothing_while_it_waits(connect: Connect) -> None:
    leader, standby = [await connect() for _ in range(2)]
    await leader.execute(LEAD.replace("$1", "'r'"))

    async with standby.transaction():
        assert await standby.fetchval(LEAD, "r") is None
        assert await standby.fetchval("select pg_current_xact_id_if_assigned()") is None
    assert await leader.fetchval(LOCKS) == 1


async def test_a_session_that_a_pooler_gives_again_takes_over_from_itself(
    connect: Connect,
) -> None:
    """With what its last client has locked."""
    pooled = await connect()
    before = await pooled.fetchval(LEAD, "r")

    assert await pooled.fetchval(LEAD, "r") not in (None, before)


async def test_nobody_takes_the_lead_of_a_relay_that_another_begins_after(
    connect: Connect,
) -> None:
    beginning, other = [await connect() for _ in range(2)]
    await other.execute("insert into pgoutbox.progress (relay, high) values ('old', 7)")

    async with beginning.transaction():
        await beginning.fetchval("select pgoutbox.begin_after('new', '{old}', '')")
        leading = asyncio.create_task(other.fetchval(LEAD, "old"))
        done, _ = await asyncio.wait({leading}, timeout=0.2)
        assert not done

    assert await leading is not None
    assert await other.fetchval("select high from pgoutbox.progress where relay = 'new'") == 7


async def test_what_any_role_may_lock_stops_no_command(
    empty_database: Database, stream: Stream
) -> None:
    """A stranger takes each number that was ever ours, as far as it can know it."""
    stranger = await empty_database.connect(WRITER)
    for lock_class in range(1885826914, 1885826917):
        await stranger.execute(f"select pg_advisory_lock({lock_class}, 0)")
    await stranger.execute("select pg_advisory_lock(1885826915, -480378657)")  # of relay default
    owner = await empty_database.connect()
    await owner.execute("create table users (id int primary key)")
    where = ("--dsn", empty_database.dsn)

    assert pgoutbox("install", *where, "--table", "users").returncode == 0
    await owner.execute("insert into users values (1)")
    drained = pgoutbox(
        *("relay", *where, "--nats-url", stream.url, "--topic", stream.topic, "--drain")
    )
    assert drained.returncode == 0, drained.stderr
    assert await stream.count() == 1
    assert pgoutbox("uninstall", *where, "--relay", "default").returncode == 0
    assert pgoutbox("uninstall", *where, "--all", "--drop-unsent").returncode == 0


@pytest.mark.parametrize("mode", ["", "_shared"])
async def test_who_holds_the_sleep_lock_is_named(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: str,
) -> None:
    """Whoever holds it for a moment only isn't, nor is a relay."""
    monkeypatch.setattr(chores, "_STRANGERS_INTERVAL", 0.0)
    working, listening, sleeper = [await database.connect() for _ in range(3)]
    stranger = await database.connect(WRITER, application_name="innocent")
    work = await chores_of(working, listening, Monitor())

    def said() -> int:
        return caplog.text.count("somebody else holds the sleep lock")

    await sleeper.execute(LEAD.replace("$1", "'asleep'"))
    await sleeper.execute("select pg_advisory_lock(1885826914, 0)")
    for _ in range(3):
        await work.do(Progress())
    assert said() == 0
    await sleeper.execute("select pg_advisory_unlock_all()")

    await stranger.execute(f"select pg_advisory_lock{mode}(1885826914, 0)")
    for expected in (0, 1, 1):
        await work.do(Progress())
        assert said() == expected
    [line] = [record for record in caplog.records if "sleep lock" in record.message]
    assert vars(line)["pid"] == stranger.get_server_pid()
    assert vars(line)["application"] == "innocent"


async def test_who_holds_positions_back_for_long_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chores, "_HOLDERS_INTERVAL", 0.0)
    working, listening, owner = [await database.connect() for _ in range(3)]
    await owner.execute("create table t (id int)")
    await owner.execute("select pgoutbox.capture_table('t')")
    holder = await database.connect(application_name="holder")
    await holder.execute("begin; insert into t values (1); set constraints all immediate")
    work = await chores_of(working, listening, Monitor())
    behind = Progress(2, (Gap(1, 1),))

    await work.do(behind)
    assert "holds its events back" not in caplog.text

    # The package has a function of that name.
    problems = importlib.import_module("pgoutbox.database.status.problems")
    monkeypatch.setattr(problems, "_PATIENCE", 0.0)
    for progress in (Progress(2), behind, behind):
        await work.do(progress)
    [line] = [record for record in caplog.records if "holds its events back" in record.message]
    assert vars(line)["pid"] == holder.get_server_pid()
    assert vars(line)["application"] == "holder"
