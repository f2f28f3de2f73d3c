"""Fixtures of the tests that look at the database alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from .outbox import Outbox

Capture = Callable[..., Awaitable[None]]


@pytest.fixture
async def outbox(connection: asyncpg.Connection) -> Outbox:
    """The test's outbox."""
    return Outbox(connection)


@pytest.fixture
async def capture(connection: asyncpg.Connection) -> Capture:
    """Make a table and capture it: ``await capture("t", "id int primary key")``."""

    async def make(table: str, columns: str = "", /, **arguments: object) -> None:
        if columns:
            await connection.execute(f"create table {table} ({columns})")
        names = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 2))
        await connection.execute("set client_min_messages = warning")
        await connection.fetchval(
            f"select pgoutbox.capture_table($1::text::regclass{names})", table, *arguments.values()
        )

    return make
