"""Publishing only what is on PostgreSQL's disk.

A transaction that commits asynchronously is visible before it is on disk, and nothing in its rows
can tell: it may switch ``synchronous_commit`` off behind its commit stage. The write-ahead log
tells. Each transaction has written its commit record before anybody sees it, so all that a snapshot
shows lies in the log before the position that is asked for behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

# A server that keeps its write-ahead log to itself, as Aurora does without wal_level = logical.
_KEPT_TO_ITSELF = (
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
)

_PATIENCE = 0.005  # seconds; a writer's commit takes about a millisecond
_BUSY = 0.001  # seconds for which it looks without a pause, about ten times
_FEW = 4  # events; with more, writers commit so often that one is about to flush
_MANY = 50  # events; with more, each look takes CPU that busy writers need
_PAUSE = 0.001  # seconds; event loops can't sleep for less

# Columns of a query whose snapshot is looked at: see Sight. Null where the server doesn't tell.
LOOK = """
case when {tells} then
    case when pg_catalog.pg_current_wal_flush_lsn() >= pg_catalog.pg_current_wal_insert_lsn()
        then '0/0' else pg_catalog.pg_current_wal_insert_lsn() end
end as written,
pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint as ended_below
"""

_IS_FLUSHED = "select pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.pg_lsn"


class Sight(NamedTuple):
    """What a snapshot of the database shows, by the log.

    ``written`` is the log position up to which everything must be flushed: 0 where it is, None
    where the server doesn't tell. Transactions with ids below ``ended_below`` had ended by then.
    """

    written: int | None
    ended_below: int


class Disk:
    """Tells whether the disk has what was read; of the session that has read it."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._kept_below = 0  # transactions with lower ids are on disk, if they have committed
        self._has_own = False  # in the log is what this session committed asynchronously
        self.tells = False  # the server

    async def look(self) -> None:
        """Find out whether the server tells."""
        try:
            await self._connection.fetchval(f"select {LOOK.format(tells='true')}")
        except _KEPT_TO_ITSELF:
            self.tells = False
        else:
            self.tells = True

    def lacks(self, sight: Sight, xids: Iterable[int]) -> bool:
        """Return True if one of ``xids`` may not be on disk, as of this sight.

        Restored events have ids of the cluster they come from. Too high ones cost a look at the
        log; too low ones pass for flushed, which they are, unless a restore that commits
        asynchronously still goes on behind the first look.
        """
        if sight.written == 0:
            self.keeps(sight)
            return False
        return max(xids, default=-1) >= self._kept_below

    def keeps(self, sight: Sight) -> None:
        """Note that all that was seen is on disk."""
        self._kept_below = max(self._kept_below, sight.ended_below)
        self._has_own = False

    def wrote(self) -> None:
        """Note that this session has committed something asynchronously."""
        self._has_own = True

    async def flushes(self, sight: Sight, events: int) -> bool:
        """Check whether others' commits have flushed what was seen.

        With many ``events`` it waits a little. With few it barely does: perhaps somebody keeps
        writing and nobody commits, and flushing is then quicker than waiting. What this session
        has written itself would wait for the WAL writer, which takes longer.
        """
        if not sight.written:
            return sight.written == 0
        began = time.monotonic()
        patience = 0 if self._has_own else _BUSY if events <= _FEW else _PATIENCE
        while not await self._connection.fetchval(_IS_FLUSHED, sight.written):
            waited = time.monotonic() - began
            if waited >= patience:
                return False
            await asyncio.sleep(0 if waited < _BUSY and events <= _MANY else _PAUSE)
        self.keeps(sight)
        return True

    async def force(self, change: str, *arguments: object) -> None:
        """Execute ``change``, and wait until the log is flushed up to that.

        Nothing has to be asked of the log then. ``change`` must change a row, or nothing is
        flushed.
        """
        async with self._connection.transaction():
            await self._connection.execute("set local synchronous_commit = local")
            await self._connection.execute(change, *arguments)
