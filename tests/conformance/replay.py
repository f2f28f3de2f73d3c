"""Run a recorded case against a database, and read what the outbox then holds."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from tests.support import ADMIN

from .cases import Case, Message, parse

Connect = Callable[..., Awaitable[asyncpg.Connection]]

CAPTURE = """
    select pgoutbox.capture_table(c.oid, $2, 'identity')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence <> 't'
      and n.nspname !~ '^(pg_|pgoutbox$|information_schema$)'
      and c.relname = $1
    order by c.relkind, n.nspname
"""
UNSENT = "select * from pgoutbox.next_batch(0, '{}', '{}', null, null, 100000, 1000000000)"
IS_BLOCKED = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"


async def replay(case: Case, connect: Connect) -> tuple[list[Message], dict[int, str]]:
    """Run the case; return the messages it gives, and the SQLSTATE of each step that failed."""
    owner = await connect()
    database = await owner.fetchval("select current_database()")
    for statement in case.setup + case.server_sql:
        if statement.startswith("create extension"):
            await (await connect(ADMIN)).execute(statement)
        else:
            await owner.execute(localize(statement, database))
    await capture(owner, case)
    failures = await run_steps(case, connect, owner, database)
    return await messages(case, owner), failures


async def capture(owner: asyncpg.Connection, case: Case) -> None:
    """Install what the case's filter names; an upper-case name also finds its lower-case table."""
    names = await owner.fetchval("select array_agg(relname::text) from pg_class")
    for name, actions in case.filter.items():
        known = {action.upper() for action in actions} & {"INSERT", "UPDATE", "DELETE", "TRUNCATE"}
        table = name if name in names else name.lower()
        if known and table in names:
            await owner.execute("set client_min_messages = warning")
            await owner.fetch(CAPTURE, table, sorted(known))


async def run_steps(
    case: Case, connect: Connect, owner: asyncpg.Connection, database: str
) -> dict[int, str]:
    """Run the steps, each session on a connection of its own; a step may wait for a lock."""
    sessions: dict[str, asyncpg.Connection] = {}
    running: dict[str, asyncio.Task[None]] = {}
    failures: dict[int, str] = {}

    async def run(step: dict[str, Any], number: int, connection: asyncpg.Connection) -> None:
        try:
            if "copy_data" in step:
                await copy(connection, step["sql"], step["copy_data"])
            else:
                await connection.execute(localize(step["sql"], database))
        except asyncpg.PostgresError as error:
            failures[number] = error.sqlstate

    for number, step in enumerate(case.steps):
        if "sql" not in step:
            continue
        session = step.get("session", "")
        if session not in sessions:
            sessions[session] = await connect()
        if session in running:
            await running[session]
        running[session] = asyncio.create_task(run(step, number, sessions[session]))
        pid = sessions[session].get_server_pid()
        while not running[session].done() and not await owner.fetchval(IS_BLOCKED, pid):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running[session]), 0.01)
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
    """Keep a statement about the server, a role or a database to this test's own database."""
    if statement.startswith(("create publication", "select pg_reload_conf")):
        return "select"
    statement = statement.replace("alter system set", f"alter database {database} set")
    statement = statement.replace("alter role postgres", "alter role current_user")
    return statement.replace("database golden", f"database {database}")


async def messages(case: Case, connection: asyncpg.Connection) -> list[Message]:
    """Read the outbox as the relay does, each event under its plain subject."""
    publisher = case.config.get("publisher", {})
    topics = {
        name.lower(): topic
        for name, topic in case.config.get("listener", {}).get("topicsMap", {}).items()
    }
    found = []
    for row in await connection.fetch(UNSENT):
        name = f"{row['schema_name']}_{row['table_name']}"
        topic = publisher.get("topic", "wal_listener")
        suffix = topics.get(name, name)
        subject = f"{topic}.{publisher.get('topicPrefix', '')}{suffix}"
        found.append(Message(subject, parse(row["payload"])))
    return found
