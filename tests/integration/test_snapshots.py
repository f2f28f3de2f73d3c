"""``pgoutbox snapshot``, as a user runs it: the relay publishes the rows that a table has."""

from __future__ import annotations

import asyncio
import json

import asyncpg

from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stored, Stream
from tests.support.waiting import eventually


def _relay_flags(database: Database, stream: Stream) -> tuple[str, ...]:
    return ("--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic)


async def _snapshot(database: Database, *arguments: str) -> list[dict[str, object]]:
    done = await asyncio.to_thread(
        pgoutbox, "snapshot", *arguments, "--dsn", database.dsn, "--json"
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def _rows(stored: list[Stored]) -> list[tuple[str, dict[str, object]]]:
    return [((load := json.loads(one.data))["action"], load["data"]) for one in stored]


async def _has(stream: Stream, count: int) -> None:
    async def has() -> bool:
        return await stream.count() >= count

    await eventually(has)


async def test_rows_that_were_there_come_first(
    database: Database, connection: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    await connection.execute(
        "create table users (id int primary key, name text);"
        "insert into users select n, 'user ' || n from generate_series(1, 2500) n"
    )
    await connection.execute("select pgoutbox.capture_table('users')")
    await daemon("relay", *_relay_flags(database, stream))

    found = await _snapshot(database, "start", "users")
    await connection.execute("update users set name = 'new' where id = 7")
    await _has(stream, 2501)

    assert [(one["state"], one["rows"]) for one in found] == [("done", 2500)]
    stored = await stream.messages()
    assert _rows(stored[:2500]) == [
        ("READ", {"id": n, "name": f"user {n}"}) for n in range(1, 2501)
    ]
    headers = [one.headers["Pgoutbox-Snapshot"] for one in stored[:2500]]
    assert headers[0] == f"{found[0]['id']}; chunk=1; rows=1000"
    assert headers[-2:] == [
        f"{found[0]['id']}; chunk=3; rows=500", f"{found[0]['id']}; chunk=3; rows=500; last",
    ]  # fmt: skip
    assert _rows(stored[2500:]) == [("UPDATE", {"id": 7, "name": "new"})]
