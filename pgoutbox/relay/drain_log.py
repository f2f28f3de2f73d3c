"""Saying now and then how far a relay is that drains."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database import connection as database
from pgoutbox.errors import PgoutboxError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("pgoutbox.relay")

INTERVAL = 5.0  # seconds


@asynccontextmanager
async def running(
    connect: Callable[[], AbstractAsyncContextManager[Connection]],
    relay: str,
    recorded: Callable[[], int],
) -> AsyncIterator[None]:
    """Log inside a ``with`` block how far a drain is; ``recorded`` returns how many events that is.

    ``connect`` opens a connection, on which the events are counted once.
    """
    task = asyncio.create_task(_run(connect, relay, recorded))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(
    connect: Callable[[], AbstractAsyncContextManager[Connection]],
    relay: str,
    recorded: Callable[[], int],
) -> None:
    began = time.monotonic()
    await asyncio.sleep(INTERVAL)  # most drains are over by then
    total = await _count(connect, relay, recorded)
    while True:
        done = recorded()
        rate = done / (time.monotonic() - began)
        said = {"done": done, "events_s": round(rate)}
        if total is not None:
            said["left"] = max(0, total - done)
            if rate:
                said["seconds_left"] = round(said["left"] / rate)
        log.info("draining", extra=said)
        await asyncio.sleep(INTERVAL)


async def _count(
    connect: Callable[[], AbstractAsyncContextManager[Connection]],
    relay: str,
    recorded: Callable[[], int],
) -> int | None:
    """Return how many events it will be in all; None if that can't be counted."""
    try:
        async with connect() as connection:
            before = recorded()
            return before + int(
                await connection.fetchval("select events from pgoutbox.backlog($1)", relay)
            )
    except (TimeoutError, PgoutboxError, *database.FAILURES):
        return None
