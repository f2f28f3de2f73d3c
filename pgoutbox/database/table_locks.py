"""Patience with locks: short tries, pauses between them, and who is in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from pgoutbox.backoff import Backoff
from pgoutbox.config.settings import InstallConfig
from pgoutbox.config.values import show_duration
from pgoutbox.database.tables import Table
from pgoutbox.errors import InstallError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Result = TypeVar("Result")
Say = Callable[[str], None]

_FIRST_PAUSE = 0.25  # seconds between the first two tries at a lock

# Somebody else's transaction is in the way of ours.
_LOCK_FAILURES = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,  # the locks of all partitions together took too long
    asyncpg.DeadlockDetectedError,
)


async def lock_table(conn: Connection, table: Table, mode: str) -> None:
    """Lock the table, with its partitions, before any is changed.

    All locks together take no longer than lock_timeout, for whoever comes after us waits for
    the first of them.
    """
    await conn.execute(
        "select pg_catalog.set_config('statement_timeout',"
        " pg_catalog.current_setting('lock_timeout'), true)"
    )
    only = "" if table.is_partitioned else "only "
    await conn.execute(f"lock table {only}{table.name} in {mode} mode")
    await conn.execute("set local statement_timeout = 0")


async def patiently(
    conn: Connection,
    table: Table,
    work: Callable[[], Awaitable[Result]],
    settings: InstallConfig,
    say: Say,
) -> Result:
    """Do ``work`` in a transaction; where a lock is in the way, again and again for a while."""
    deadline = time.monotonic() + settings.lock_wait
    backoff = Backoff(first=_FIRST_PAUSE)
    while True:
        try:
            async with conn.transaction():
                await conn.execute(
                    "select pg_catalog.set_config('lock_timeout', $1, true)",
                    f"{max(1, round(settings.lock_timeout * 1000))}ms",
                )
                return await work()
        except _LOCK_FAILURES as error:
            holders = await _holders(conn, table)
            left = deadline - time.monotonic()
            if left <= 0:
                raise _gave_up(table, holders, settings) from error
            say(f"{table.name}: waiting for a lock that {_name_all(holders)} holds")
        await asyncio.sleep(min(left, backoff.next()))


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who has a lock on a table: a session, or a prepared transaction."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        return f"pid {self.pid}{self.name}" if self.pid else self.name


async def _holders(conn: Connection, table: Table) -> list[_Holder]:
    """Return who keeps the table, or a partition of it, locked; the oldest transaction first."""
    rows = await conn.fetch(_HOLDERS, table.oid)
    # Reading is in the way of dropping a trigger only.
    rows = [row for row in rows if not row["only_reads"]] or rows
    return [_Holder(row["pid"], row["name"]) for row in rows]


# Not with pg_partition_tree(), which would wait for the very lock in question.
_HOLDERS = """
with recursive tree (oid) as (
    select $1::oid
    union select i.inhrelid from tree t join pg_catalog.pg_inherits i on i.inhparent = t.oid
)
select l.pid, case
    when l.pid is null then coalesce(
        'the prepared transaction ' || pg_catalog.quote_literal(min(p.gid)),
        'a prepared transaction')
    else coalesce(' (' || nullif(min(a.application_name), '') || ')', '') end as name,
    bool_and(l.mode in ('AccessShareLock', 'RowShareLock')) as only_reads
from pg_catalog.pg_locks l
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
left join pg_catalog.pg_locks x
    on l.pid is null and x.pid is null and x.locktype = 'transactionid'
    and x.virtualtransaction = l.virtualtransaction
left join pg_catalog.pg_prepared_xacts p on p.transaction = x.transactionid
where l.locktype = 'relation' and l.granted
  and l.database = (
      select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
  and l.relation in (select t.oid from tree t)
  and l.pid is distinct from pg_catalog.pg_backend_pid()
group by l.pid, l.virtualtransaction
order by min(a.xact_start), l.pid
"""


def _name_all(holders: Sequence[_Holder]) -> str:
    return ", ".join(map(str, holders[:5])) or "a transaction that has just ended"


def _gave_up(table: Table, holders: Sequence[_Holder], settings: InstallConfig) -> InstallError:
    pids = [holder.pid for holder in holders if holder.pid]
    end_it = f", or end it: select pg_terminate_backend({pids[0]})" if pids else ""
    return InstallError(
        f"{table.name}: no lock within {show_duration(settings.lock_wait)};"
        f" {_name_all(holders)} holds it",
        hint=f"Let that transaction end{end_it}; then run this again.",
    )
