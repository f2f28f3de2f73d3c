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


async def _users(connection: asyncpg.Connection, rows: int = 50) -> None:
    await connection.execute(
        "create table users (id int primary key, name text);"
        f"insert into users select n, 'user ' || n from generate_series(1, {rows}) n"
    )


async def test_install_and_drain_publish_the_rows_that_were_there_once(
    database: Database, connection: asyncpg.Connection, stream: Stream
) -> None:
    await _users(connection)
    for expected in (50, 50):
        for arguments in (
            ("install", "--table", "users", "--snapshot", "--dsn", database.dsn),
            ("relay", "--drain", *_relay_flags(database, stream)),
        ):
            done = await asyncio.to_thread(pgoutbox, *arguments)
            assert done.returncode == 0, done.stderr
        assert await stream.count() == expected


async def test_a_table_without_a_key_is_taken_if_that_is_allowed(
    database: Database, connection: asyncpg.Connection, stream: Stream
) -> None:
    """What it means is said either way."""
    await connection.execute("create table keyless (id int); insert into keyless values (1), (1)")
    flags = ("--snapshot", "--dsn", database.dsn)
    for command, code, said in (
        (("install", "--allow-no-key", "--dsn", database.dsn), 2, "goes with --snapshot"),
        (("install", "--table", "keyless", *flags), 6, "as an event and as READ, too"),
        (("install", "--table", "keyless", *flags), 6, "accept that: --allow-no-key"),
        (("install", "--table", "keyless", *flags, "--allow-no-key"), 0, "count it twice"),
        (("relay", "--drain", *_relay_flags(database, stream)), 0, ""),
        (
            (
                "snapshot",
                "start",
                "keyless",
                "--as",
                "insert",
                "--allow-no-key",
                "--detach",
                *flags[1:],
            ),
            0,
            "as an event and as INSERT, too; consumers that count rows would count it twice",
        ),
    ):
        done = await asyncio.to_thread(pgoutbox, *command)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert _rows(await stream.messages()) == [("READ", {"id": 1})] * 2


async def test_pause_resume_and_cancel(
    database: Database, connection: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    await _users(connection)
    await connection.execute("select pgoutbox.capture_table('users')")
    await daemon("relay", *_relay_flags(database, stream))
    (found,) = await _snapshot(database, "start", "users", "--rate", "10", "--detach")
    assert found["state"] == "waiting"
    await _has(stream, 3)

    async def steer(step: str) -> str:
        done = await asyncio.to_thread(
            pgoutbox, "snapshot", step, str(found["id"])[:8], "--dsn", database.dsn
        )
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()[-1]

    async def listed() -> dict[str, object]:
        return (await _snapshot(database, "list"))[0]

    assert await steer("pause") == f"snapshot {found['id']} of relay default: paused"

    async def is_still() -> bool:
        before = await listed()
        await connection.execute("insert into users select max(id) + 1, 'event' from users")
        return before["rows"] == (await listed())["rows"]

    await eventually(is_still)
    paused = await listed()
    assert (paused["state"], paused["last_key"]) == ("paused", [str(paused["rows"])])
    assert await steer("resume") == f"snapshot {found['id']} of relay default: running"

    async def goes_on() -> bool:
        return int(str((await listed())["rows"])) > int(str(paused["rows"]))

    await eventually(goes_on)
    assert await steer("cancel") == f"snapshot {found['id']} of relay default: cancelled"
    assert await steer("resume") == f"snapshot {found['id']}: cancelled already"
    text = await asyncio.to_thread(pgoutbox, "snapshot", "list", "--dsn", database.dsn)
    assert text.stdout.splitlines()[1].split()[:4] == [
        str(found["id"])[:8], "public.users", "default", "cancelled",
    ]  # fmt: skip


async def test_a_subject_that_no_stream_has_fails_the_snapshot_and_no_event(
    database: Database, connection: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> None:
    await _users(connection)
    await connection.execute("select pgoutbox.capture_table('users')")
    relay = await daemon("relay", *_relay_flags(database, stream), "--poll-interval", "200ms")
    await relay.line("connected to NATS")

    done = await asyncio.to_thread(
        pgoutbox, "snapshot", "start", "users", "--subject", "nowhere.{table}",
        "--dsn", database.dsn,
    )  # fmt: skip
    await connection.execute("insert into users values (0, 'event')")
    await _has(stream, 1)

    assert done.returncode == 6
    assert "no stream has the message's subject" in done.stderr
    status = await asyncio.to_thread(pgoutbox, "status", "--dsn", database.dsn, "--check")
    assert status.returncode == 7
    assert "the snapshot of public.users by relay default has failed" in status.stdout


async def test_a_row_that_is_too_large_is_parked_and_the_rest_goes_on(
    database: Database, connection: asyncpg.Connection, stream: Stream
) -> None:
    await _users(connection, 3)
    await connection.execute("update users set name = repeat('x', 2000000) where id = 2")
    for arguments in (
        ("install", "--table", "users", "--snapshot", "--dsn", database.dsn),
        ("relay", "--drain", *_relay_flags(database, stream)),
    ):
        done = await asyncio.to_thread(pgoutbox, *arguments)
        assert done.returncode == 0, done.stderr

    assert [row["id"] for _, row in _rows(await stream.messages())] == [1, 3]
    parked = await connection.fetchval("select array_agg(subject) from pgoutbox.parked")
    assert parked == [f"{stream.topic}.public_users"]
    assert await connection.fetchval("select state from pgoutbox.snapshot") == "done"


async def test_what_cannot_be_asked_for_is_said_and_nothing_is_asked(
    database: Database, connection: asyncpg.Connection
) -> None:
    await _users(connection)
    await connection.execute("create table keyless (id int); create table bare (id int)")
    for table in ("users", "keyless"):
        await connection.execute("select pgoutbox.capture_table($1::text::regclass)", table)
    for arguments, code, said in (
        (("start", "bare"), 6, "bare isn't captured"),
        (("start", "users", "keyless"), 6, "keyless has no key that tells its rows apart"),
        (("start", "nothing"), 6, "there is no table nothing"),
        (("start", "users", "--where", "nam = 'x'"), 6, 'column "nam" does not exist'),
        (("start", "users", "--where", "true) or"), 6, "the condition can't be used"),
        (("start", "users", "--subject", "a b"), 2, "--subject must make a subject"),
        (("start", "users", "--relay", "other"), 6, "there is no relay other"),
        (("pause", "12345678"), 6, "12345678 is no snapshot's id"),
    ):
        done = await asyncio.to_thread(pgoutbox, "snapshot", *arguments, "--dsn", database.dsn)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert await connection.fetchval("select count(*) from pgoutbox.snapshot") == 0
