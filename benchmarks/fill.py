"""What is written to the tables: by loops inside the server, so that no client's time counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

from benchmarks.rig import NOTE, Database, backend_seconds, connect

VARIANTS = ("none", "usual", "pgoutbox")  # tables …_none and so on; see rig.SETUP
SESSIONS = 8  # that fill a backlog, as in real life
WARM_UP = 500  # transactions before a session's CPU time is read


@dataclass(frozen=True)
class Writes:
    """Transactions of one kind: a statement of PL/pgSQL that inserts ``rows`` rows.

    ``{variant}`` in it is which of the tables it writes to, ``i`` the transaction's number;
    ``declare`` is what it needs beside that. ``warm_up`` transactions make a session warm.
    """

    insert: str
    rows: int = 1
    declare: str = ""
    warm_up: int = WARM_UP

    def loop(self, variant: str, transactions: int) -> str:
        """Return a statement that commits so many transactions."""
        insert = self.insert.format(variant=variant)
        return (
            f"do $$ declare {self.declare} begin"
            f" for i in 1..{transactions} loop {insert}; commit; end loop; end $$"
        )


ITEMS = Writes(f"insert into item_{{variant}} (name, note) values ('row ' || i, '{NOTE}')")


def batches(rows: int) -> Writes:
    """Return transactions of several rows of 300 bytes."""
    return Writes(
        "insert into item_{variant} (name, note)"
        f" select 'row ' || i || ' ' || j, '{NOTE}' from generate_series(1, {rows}) j",
        rows=rows,
    )


def sized(size: int, warm_up: int = WARM_UP) -> Writes:
    """Return transactions of one row of about ``size`` bytes that can't be compressed."""
    text = f"(select string_agg(md5(j::text), '') from generate_series(1, {size // 32 + 1}) j)"
    return Writes(
        "insert into item_{variant} (name, note) values ('row ' || i, body)",
        declare=f"body text := left({text}, {max(1, size - 70)});",
        warm_up=warm_up,
    )


async def fill(database: Database, writes: Writes, count: int) -> int:
    """Commit ``count`` captured rows from several sessions; return how many it became.

    That is a whole number of transactions. Each waits for the disk.
    """
    transactions = -(-count // writes.rows)
    shares = [transactions // SESSIONS + (n < transactions % SESSIONS) for n in range(SESSIONS)]

    async def write(share: int) -> None:
        async with connect(database.dsn) as connection:
            await connection.execute(writes.loop("pgoutbox", share))

    await asyncio.gather(*map(write, shares))
    return transactions * writes.rows


async def us_per_row(database: Database, writes: Writes, variant: str, count: int) -> float:
    """Return the backend's CPU time per row, of single sessions that have done the same before."""
    async with connect(database.dsn) as connection:
        # Without waiting for the disk: the system's time for that would drown the rest.
        await connection.execute("set synchronous_commit = off")
        await connection.execute(writes.loop(variant, writes.warm_up))
        return await spent(connection, writes.loop(variant, count)) * 1e6 / count / writes.rows


async def spent(connection: asyncpg.Connection, statement: str) -> float:
    """Return the CPU seconds that a session's backend spends on a statement."""
    pid = connection.get_server_pid()
    began = backend_seconds(pid)
    await connection.execute(statement)
    return backend_seconds(pid) - began


async def overhead(database: Database, writes: Writes, count: int) -> dict[str, float]:
    """Return CPU time per row: without a trigger, and what pgoutbox's adds to it."""
    us = {v: await us_per_row(database, writes, v, count) for v in ("none", "pgoutbox")}
    return {"none_us": us["none"], "over_us": us["pgoutbox"] - us["none"]}
