"""Emptying slots of the outbox, on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database import connection as database
from pgoutbox.errors import PgoutboxError
from pgoutbox.relay.outage import Outage

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("pgoutbox.relay")


class Rotation:
    """Empties slots beside the relay, which publishes meanwhile: a large one takes seconds.

    ``connect`` opens a connection.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        self._connect = connect
        self._outage = Outage("slot rotation failed; retrying", "slot rotation succeeded")
        self._task: asyncio.Task[None] | None = None

    def begin(self, slots: Sequence[int]) -> None:
        """Empty ``slots`` if everything in them is sent by every relay, unless that is going on."""
        if slots and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._empty(slots))

    async def stop(self) -> None:
        """End what is going on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _empty(self, slots: Sequence[int]) -> None:
        try:
            async with self._connect() as connection:
                for slot in slots:
                    if await connection.fetchval("select pgoutbox.rotate($1)", slot):
                        log.info("slot emptied", extra={"slot": slot})
            self._outage.end()
        except (PgoutboxError, *database.FAILURES) as error:
            self._outage.begin(database.explain(error))
