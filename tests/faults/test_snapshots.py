"""Snapshots under writers that are as fast as they can, and relays that die, freeze and change."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.support import frontier
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stream
from tests.support.waiting import eventually


@pytest.mark.parametrize("snapshots", [1, pytest.param(8, marks=pytest.mark.long)])
async def test_each_row_is_read_as_the_events_before_it_have_left_it(
    database: Database, stream: Stream, nursery: Nursery, seed: int, snapshots: int
) -> None:
    left = iter(range(snapshots))
    await frontier.judged(database, stream, nursery, seed, lambda: next(left, None) is not None)


async def _relay(nursery: Nursery, database: Database, stream: Stream) -> Relay:
    return await nursery.start(
        *("relay", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)
    )


async def _ask(database: Database, *arguments: str) -> None:
    done = await asyncio.to_thread(
        pgoutbox, "snapshot", "start", *arguments, "--detach", "--dsn", database.dsn
    )
    assert done.returncode == 0, done.stderr


async def _table(connection: asyncpg.Connection, rows: int, bytes_: int) -> None:
    await connection.execute(
        "create table users (id int primary key, name text);"
        f"insert into users select n, repeat('x', {bytes_}) from generate_series(1, {rows}) n"
    )
    await connection.execute("select pgoutbox.capture_table('users')")


async def _is_done(connection: asyncpg.Connection) -> bool:
    state = await connection.fetchval("select state from pgoutbox.snapshot")
    assert state != "failed"
    return bool(state == "done")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_relay_is_killed_or_freezes_within_a_chunk(
    database: Database,
    connection: asyncpg.Connection,
    stream: Stream,
    nursery: Nursery,
    fault: signal.Signals,
) -> None:
    """PostgreSQL ends the session of a frozen one, which would hold up vacuum; nothing is lost."""
    await _table(connection, 25, 10)
    relay = await _relay(nursery, database, stream)
    await _ask(database, "users", "--where", "pg_sleep(0.02) is not null")
    reads = "select pid from pg_stat_activity where query ~ $1 and state = 'active'"
    pid = await eventually(
        lambda: connection.fetchval(reads, r"^select \* from pgoutbox.read_chunk")
    )

    relay.send_signal(fault)
    if fault == signal.SIGKILL:
        relay = await _relay(nursery, database, stream)
    else:
        there = "select not exists (select from pg_stat_activity where pid = $1)"
        await eventually(lambda: connection.fetchval(there, pid), timeout=20)
        relay.send_signal(signal.SIGCONT)

    await eventually(lambda: _is_done(connection), timeout=30)
    ids = [json.loads(message.data)["data"]["id"] for message in await stream.messages()]
    assert ids == list(range(1, 26))
    assert await relay.stop() == 0, relay.output


def _memory(pid: int, what: str) -> int:
    """Return a process's memory, in MiB: VmHWM, the most so far, or RssAnon, what it has alone."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("rows", "bytes_"),
    [
        (60_000, 2_000),
        pytest.param(10_000_000, 100, marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
    ],
)
async def test_a_table_of_any_size_takes_bounded_memory(
    database: Database,
    connection: asyncpg.Connection,
    stream: Stream,
    nursery: Nursery,
    rows: int,
    bytes_: int,
) -> None:
    """Of the relay and of its session in PostgreSQL."""
    await stream.jetstream.add_stream(
        name=stream.topic, subjects=[f"{stream.topic}.*"], max_msgs=1_000
    )
    await _table(connection, rows, bytes_)
    relay = await _relay(nursery, database, stream)
    await _ask(database, "users")
    peaks: list[tuple[int, int]] = []

    async def is_over() -> bool:
        pids = await connection.fetch(
            "select pid from pg_stat_activity"
            " where datname = current_database() and application_name ~ '^pgoutbox relay'"
        )
        sessions = max((_memory(row["pid"], "RssAnon") for row in pids), default=0)
        if await connection.fetchval("select sum(rows) from pgoutbox.snapshot"):
            peaks.append((_memory(relay.pid, "VmHWM"), sessions))
        return await _is_done(connection)

    await eventually(is_over, timeout=3_000, pause=0.1)

    print(f"MiB of relay and session: {peaks[0]} at first, {max(peaks)} at most")
    (first, first_of_session), (last, last_of_session) = (
        peaks[0],
        map(max, zip(*peaks, strict=True)),
    )
    assert last - first < 40
    assert last_of_session - first_of_session < 20
    final = (await stream.messages(rows))[-1]
    assert (final.sequence, json.loads(final.data)["data"]["id"]) == (rows, rows)
