"""Asking for snapshots of tables, looking at them, and steering them; relays do the work."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import asyncpg

from pgoutbox.database import schema
from pgoutbox.database.tables import Say, Table, printable, resolve
from pgoutbox.errors import InstallError, SchemaMissing

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

ENDED = ("done", "cancelled", "failed")

_LOOK_INTERVAL = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: which rows, under what action and subject, and how fast.

    ``allow_no_key`` takes tables without a key, too, of which a row that changes meanwhile may
    come twice.
    """

    condition: str | None = None
    action: Literal["READ", "INSERT"] = "READ"
    subject: str | None = None
    rate: int | None = None  # rows a second
    allow_no_key: bool = False
    once: bool = False  # unless one has been done already


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """How far one relay is with one snapshot; the names are those of the JSON."""

    id: str
    table: str
    relay: str
    state: str  # one of the table's check
    rows: int
    estimated_rows: int | None  # of the whole table
    last_key: list[str] | None
    where: str | None
    action: str
    subject: str | None
    rate: int | None
    allow_no_key: bool
    error: str | None
    detached: list[str]  # partitions that were read and have been detached since
    asked_at: str
    ended_at: str | None


async def start(
    conn: Connection,
    names: Sequence[str],
    wish: Wish,
    relays: Sequence[str],
    default: str,
    say: Say,
) -> list[str]:
    """Ask ``relays``, or all that are known, for snapshots of tables; return their ids.

    Where one is asked for already that isn't over, that one's. ``default`` is asked where no relay
    has run yet.

    Raises:
        InstallError: a table isn't captured, or can't be read in order; nothing is asked for then.
    """
    await _require_schema(conn)
    tables = await resolve(conn, names)
    for table in tables:
        await _check(conn, table, wish, say)
    asked = await _asked(conn, relays, default)
    ids = []
    for table in tables:
        async with conn.transaction():
            ids.append(await _ask(conn, table, wish, asked, say))
    await _wake(conn)
    return ids


async def _require_schema(conn: Connection) -> None:
    if (await schema.state(conn)).functions_version is None:
        raise SchemaMissing(
            "this database has no schema pgoutbox", hint="Run: pgoutbox install --table NAME"
        )


async def _check(conn: Connection, table: Table, wish: Wish, say: Say) -> None:
    actions = await conn.fetchval(
        "select c.actions from pgoutbox.captured_table c where c.relation = $1::oid", table.oid
    )
    if actions is None:
        raise InstallError(
            f"{table.name} isn't captured, so what changes after the snapshot would be missed",
            hint="Nothing was asked for. Capture it first: pgoutbox install --table NAME",
        )
    await _check_key(conn, table, wish, say)
    missing = [one for one in ("INSERT", "UPDATE", "DELETE", "TRUNCATE") if one not in actions]
    if missing:
        say(
            f"{table.name}: {', '.join(missing).lower()} isn't captured, so what a consumer makes"
            " of snapshot and events can differ from the table"
        )
    try:
        await conn.execute(
            "select pgoutbox.check_snapshot($1::oid::regclass, $2)", table.oid, wish.condition
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise InstallError(
            f"{table.name}: {error}",
            hint="Snapshots are read by the owner of the schema pgoutbox, whom no policy may keep"
            " from any row.",
        ) from error
    except asyncpg.PostgresError as error:
        if conn.is_closed() or wish.condition is None:
            raise
        raise InstallError(
            f"{table.name}: the condition can't be used: {error}",
            hint="It is an SQL expression of the table's columns; other names need their schema.",
        ) from error


async def _check_key(conn: Connection, table: Table, wish: Wish, say: Say) -> None:
    keyless = await conn.fetchval(_KEYLESS, table.oid)
    if not keyless:
        return
    meaning = (
        f"{keyless} has no key that tells its rows apart, so a row that changes while the snapshot"
        f" runs may come as an event and as {wish.action}, too"
    )
    if not wish.allow_no_key:
        raise InstallError(
            meaning,
            hint="Nothing was asked for. Give it a primary key, or a unique index of columns that"
            " are NOT NULL; or accept that: --allow-no-key",
        )
    say(f"{meaning}; consumers that count rows would count it twice")


async def _asked(conn: Connection, relays: Sequence[str], default: str) -> list[str]:
    rows = await conn.fetch("select p.relay from pgoutbox.progress p order by 1")
    known = [row["relay"] for row in rows]
    unknown = [relay for relay in relays if relay not in known]
    if unknown:
        names = f" Known: {', '.join(map(printable, known))}." if known else ""
        raise InstallError(
            f"there is no relay {printable(unknown[0])} in this database",
            hint=f"Nothing was asked for.{names}",
        )
    return list(relays) or known or [default]


async def _ask(conn: Connection, table: Table, wish: Wish, relays: Sequence[str], say: Say) -> str:
    """Insert what is asked for; return its id."""
    values = (
        table.oid, wish.condition, wish.action, wish.subject, wish.rate, wish.allow_no_key
    )  # fmt: skip
    await conn.execute("lock table pgoutbox.snapshot in share row exclusive mode")
    states = ["waiting", "running", "paused", *(["done"] if wish.once else [])]
    before = await conn.fetchrow(_SAME, *values, relays, states)
    if before is not None:
        say(f"{table.name}: there is such a snapshot, {before['state']}: {before['id']}")
        return str(before["id"])
    number = str(uuid4())
    await conn.execute(_INSERT, *values, relays, number)
    to = ", ".join(map(printable, relays))
    say(f"{table.name}: snapshot {number} asked of the relay{'s' * (len(relays) > 1)} {to}")
    return number


async def _wake(conn: Connection) -> None:
    """Have relays that sleep look."""
    await conn.execute("select pg_catalog.pg_notify('pgoutbox', '')")


async def gather(conn: Connection, ids: Sequence[str] | None = None) -> list[SnapshotStatus]:
    """Return how far snapshots are: those of ``ids``, or all, the latest last."""
    rows = await conn.fetch(_LIST, ids)
    return [_status(row) for row in rows]


def _status(row: asyncpg.Record) -> SnapshotStatus:
    place = json.loads(row["place"] or "{}")
    return SnapshotStatus(
        id=str(row["id"]),
        table=row["name"],
        relay=row["relay"],
        state=row["state"],
        rows=row["rows"],
        estimated_rows=row["estimate"],
        last_key=place.get("last"),
        where=row["condition"],
        action=row["action"],
        subject=row["subject"],
        rate=row["rate"],
        allow_no_key=row["allows_no_key"],
        error=row["error"],
        detached=list(row["detached"]),
        asked_at=row["asked_at"].isoformat(),
        ended_at=row["ended_at"] and row["ended_at"].isoformat(),
    )


async def follow(conn: Connection, ids: Sequence[str]) -> AsyncIterator[list[SnapshotStatus]]:
    """Yield how far the snapshots are, every half second until all are over."""
    while True:
        found = await gather(conn, ids)
        yield found
        if all(one.state in (*ENDED, "paused") for one in found):
            return
        await asyncio.sleep(_LOOK_INTERVAL)


Step = Literal["pause", "resume", "cancel"]

_STEPS: dict[Step, tuple[tuple[str, ...], str]] = {
    "pause": (("waiting", "running"), "'paused'"),
    "resume": (
        ("paused", "failed"), "case when place is null then 'waiting' else 'running' end",
    ),
    "cancel": (("waiting", "running", "paused", "failed"), "'cancelled'"),
}  # fmt: skip


async def steer(conn: Connection, step: Step, names: Sequence[str], say: Say) -> None:
    """Pause, resume or cancel snapshots, by the beginning of their ids.

    Raises:
        InstallError: an id is unknown, or that of several.
    """
    await _require_schema(conn)
    ids = [await _find(conn, name) for name in names]
    before, after = _STEPS[step]
    for one in ids:
        rows = await conn.fetch(
            f"update pgoutbox.snapshot set state = {after}, error = null,"  # noqa: S608 - ours
            " ended_at = case when $3 then pg_catalog.clock_timestamp() end"
            " where id = $1::text::uuid and state = any ($2) returning relay, state",
            one,
            before,
            step == "cancel",
        )
        for row in rows:
            say(f"snapshot {one} of relay {printable(row['relay'])}: {row['state']}")
        if not rows:
            states = {status.state for status in await gather(conn, [one])}
            say(f"snapshot {one}: {', '.join(sorted(states))} already")
    await _wake(conn)


async def _find(conn: Connection, name: str) -> str:
    rows = []
    if re.fullmatch(r"[0-9a-f-]+", name):
        rows = await conn.fetch(
            "select distinct id::text from pgoutbox.snapshot where id::text like $1 || '%'", name
        )
    if len(rows) != 1:
        what = "is the beginning of several snapshots' ids" if rows else "is no snapshot's id"
        raise InstallError(
            f"{printable(name)} {what}", hint="`pgoutbox snapshot list` has the ids."
        )
    return str(rows[0]["id"])


_KEYLESS = """
select p.relation::text from pgoutbox.snapshot_parts($1::oid::regclass) p
where pgoutbox.captured_as(p.relation) = $1::oid
  and not exists (select from pgoutbox.key_order(p.relation))
order by 1 limit 1
"""

_SAME = """
select s.id, s.state from pgoutbox.snapshot s
where s.relation = $1::oid and s.state = any ($8::text[])
  and (s.condition, s.action, s.subject, s.rate, s.allows_no_key)
      is not distinct from ($2::text, $3::text, $4::text, $5::integer, $6::boolean)
  and s.relay = any ($7::text[])
order by s.asked_at desc limit 1
"""

_INSERT = """
insert into pgoutbox.snapshot
    (relation, table_name, condition, action, subject, rate, allows_no_key, relay, id)
select
    $1::oid::regclass, pgoutbox.qualified_name($1::oid), $2, $3, $4, $5, $6, r.name,
    $8::text::uuid
from pg_catalog.unnest($7::text[]) r (name)
"""

# About how many rows the table of snapshot `s` has; null where it was never analysed.
ESTIMATED_ROWS = """(
        select (pg_catalog.sum(p.reltuples) filter (where p.reltuples > 0))::bigint
        from pgoutbox.snapshot_parts(s.relation) p
    )"""

_LIST = f"""
select
    s.*, coalesce(pgoutbox.qualified_name(s.relation), s.table_name) as name,
    {ESTIMATED_ROWS} as estimate,
    array(
        select pgoutbox.qualified_name(d.part::oid)
        from pg_catalog.jsonb_array_elements_text(s.place -> 'done' || (s.place -> 'gone')) d (part)
        join pg_catalog.pg_class c on c.oid = d.part::oid
        where d.part::oid <> s.relation and not c.relispartition
        order by 1
    ) as detached
from pgoutbox.snapshot s
where $1::text[] is null or s.id::text = any ($1)
order by s.asked_at, s.id, s.relay
"""  # noqa: S608 - the text is ours
