"""Whether what was read is on PostgreSQL's disk; only then may it be published."""

from __future__ import annotations

import asyncpg

# A server that keeps its write-ahead log to itself, as Aurora does without wal_level = logical.
_KEPT_TO_ITSELF = (
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
)

# Up to where the log has to be on disk for all that the statement's snapshot shows: a transaction
# has written its commit record before anybody sees it. 0 where that is so already; null where the
# server doesn't tell.
WRITTEN = """
case when {tells} then
    case when pg_catalog.pg_current_wal_flush_lsn() >= pg_catalog.pg_current_wal_insert_lsn()
        then '0/0' else pg_catalog.pg_current_wal_insert_lsn() end
end
"""


class Disk:
    """Tells whether the disk has what was read; of the session that has read it."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self.tells = False  # the server

    async def look(self) -> None:
        """Find out whether the server tells."""
        try:
            await self._connection.fetchval(f"select {WRITTEN.format(tells='true')}")
        except _KEPT_TO_ITSELF:
            self.tells = False
        else:
            self.tells = True

    async def has(self, written: int | None) -> bool:
        """Return True if the log up to ``written`` is known to be on disk.

        That is what :data:`WRITTEN` has returned.
        """
        if not written:
            return written == 0
        return bool(
            await self._connection.fetchval(
                "select pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.pg_lsn", written
            )
        )
