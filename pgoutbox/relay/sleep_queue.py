"""Waiting for the sleep lock behind those who share it, so that writers notify meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database import connection as database
from pgoutbox.errors import PgoutboxError
from pgoutbox.locks import SLEEP_LOCK

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("pgoutbox.relay")

_RETRY = 60.0  # seconds after the connection failed
_UNUSED = 60.0  # seconds, then the connection is closed
_LOOKS = 10  # for the request in the queue, at most
_LOOK_AGAIN = 0.001  # seconds

_IS_WAITING = """
select exists (
    select from pg_catalog.pg_locks l
    where l.pid = $1 and l.locktype = 'advisory' and l.objsubid = 2
      and l.classid = $2 and l.objid = $3 and not l.granted
)
"""


class SleepQueue:
    """Asks for the sleep lock while others share it, on a connection that ``connect`` opens.

    While the request waits (``sql/relay/await_sleep_lock.sql``) no further writer can share the
    lock, so those that come notify. ``on_end`` is called when it waits no longer: those who shared
    the lock before have ended, or it has waited for long enough and is to be made anew.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        on_end: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._pid: int | None = None  # of the session, while there is one
        self._is_asking = asyncio.Event()
        self._retry_at = 0.0  # of the monotonic clock
        self.is_joined = False

    async def join(self, watching: Connection) -> bool:
        """Return True once a request waits, which another connection sees, ``watching``.

        False where there is none yet, since the connection is only being opened, or the lock free.
        """
        if self._task is None or self._task.done():
            if time.monotonic() >= self._retry_at:
                self._task = asyncio.create_task(self._serve())
            return False
        if self._pid is None:
            return False
        self._is_asking.set()
        looks = 0
        while self._is_asking.is_set() and not self.is_joined and looks < _LOOKS:
            await asyncio.sleep(_LOOK_AGAIN)
            is_waiting = await watching.fetchval(_IS_WAITING, self._pid, *SLEEP_LOCK)
            self.is_joined = is_waiting and self._is_asking.is_set()
            looks += 1
        return self.is_joined

    async def close(self) -> None:
        """Give up the request, and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            async with self._connect() as connection:
                # Not what the server told at the beginning: a pooler makes that up.
                self._pid = await connection.fetchval("select pg_catalog.pg_backend_pid()")
                while await self._is_wanted():
                    await connection.execute("select pgoutbox.await_sleep_lock()")
                    self._end()
        except (PgoutboxError, *database.FAILURES) as error:
            self._retry_at = time.monotonic() + _RETRY
            log.debug("cannot wait for the sleep lock", extra={"error": str(error)})
        finally:
            self._pid = None
            self._end()

    async def _is_wanted(self) -> bool:
        """Wait until a request is wanted; False where none is for long."""
        try:
            async with asyncio.timeout(_UNUSED):
                await self._is_asking.wait()
        except TimeoutError:
            return False
        return True

    def _end(self) -> None:
        self._is_asking.clear()
        if self.is_joined:
            self.is_joined = False
            self._on_end()
