"""Asks the database how it stands."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox import __version__
from pgoutbox.database import schema
from pgoutbox.database.choice import described
from pgoutbox.database.connection import GONE
from pgoutbox.database.patterns import matches
from pgoutbox.database.sessions import Whereabouts
from pgoutbox.database.snapshots import ESTIMATED_ROWS
from pgoutbox.database.status.model import (
    Holder,
    Leader,
    LossStatus,
    PauseStatus,
    Reading,
    RelayStatus,
    ResendStatus,
    SchemaStatus,
    SlotStatus,
    Status,
    Stranger,
    TableStatus,
    UncapturedTable,
)
from pgoutbox.database.status.problems import session_name
from pgoutbox.names import ACTIONS
from pgoutbox.sql_files import ring

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


_LOCK_TIMEOUT = "500ms"  # for a look at a captured table
_SECOND_LOOK = 0.3  # seconds after which nobody in a commit stage is still in it


async def gather(conn: Connection, database: Whereabouts | None = None) -> Status:
    """Look at everything once; changes nothing. ``database`` says where ``conn`` leads."""
    found: SchemaStatus | None = None
    try:
        found = _schema_status(await schema.state(conn))
        if found.is_missing:
            return Status(found, database=database)
        return await _gather(conn, found, database)
    except GONE as error:
        problem = f"incomplete, for {error}; let its restore end, or restore it again"
        if found is None or found.problem is None:
            found = SchemaStatus(__version__, None, problem)
        return Status(found, database=database)


async def _gather(conn: Connection, found: SchemaStatus, database: Whereabouts | None) -> Status:
    patterns = await conn.fetch(
        "select p.pattern from pgoutbox.captured_pattern p order by p.pattern"
    )
    return Status(
        database=database,
        schema=found,
        patterns=tuple(row["pattern"] for row in patterns),
        uncaptured=await _uncaptured(conn) if patterns else (),
        tables=await _tables(conn),
        relays=await _relays(conn),
        strangers=await _strangers(conn),
        holders=await gap_holders(conn),
        slots=await _slots(conn),
        snapshots=await _snapshots(conn),
        resends=await _resends(conn),
        event_trigger=await conn.fetchval(_EVENT_TRIGGER),
        outbox_bytes=await conn.fetchval("select pgoutbox.outbox_bytes()"),
    )


async def _snapshots(conn: Connection) -> tuple[Reading, ...]:
    rows = await conn.fetch(_SNAPSHOTS)
    return tuple(Reading(**row) for row in rows)


_SNAPSHOTS = f"""
select
    s.id::text, coalesce(pgoutbox.qualified_name(s.relation), s.table_name) as "table",
    s.relay, s.state, s.rows, {ESTIMATED_ROWS} as estimated_rows
from pgoutbox.snapshot s
where s.state not in ('done', 'cancelled')
order by s.asked_at, s.id, s.relay
"""  # noqa: S608 - the text is ours


_EVENT_TRIGGER = """
select case when t.evtenabled in ('O', 'A') then 'enabled' else 'disabled' end
from pg_catalog.pg_event_trigger t where t.evtname = 'pgoutbox_capture'
"""


async def _resends(conn: Connection) -> tuple[ResendStatus, ...]:
    rows = await conn.fetch(_RESENDS)
    return tuple(ResendStatus(**row) for row in rows)


_RESENDS = """
select r.number, r.relay, r.events, r.sent, r.asked_by as by,
    extract(epoch from pg_catalog.clock_timestamp() - r.asked_at)::float8 as asked_s
from pgoutbox.resend r
where r.ended_at is null
order by r.number
"""


def _schema_status(state: schema.SchemaState) -> SchemaStatus:
    if state.functions_version is None:
        return SchemaStatus(__version__, None, "not installed", "pgoutbox install")
    installed = state.functions_version.partition("+")[0]
    if state.is_newer:
        problem = state.breaking or "newer than this pgoutbox"
        return SchemaStatus(__version__, installed, problem, f"upgrade pgoutbox to {installed}")
    if state.is_hollow:
        problem = "a copy without its rows, or is being restored"
        return SchemaStatus(__version__, None, problem, "pgoutbox install")
    if state.positions_behind:
        problem = "a copy without its sequences' values"
        return SchemaStatus(__version__, installed, problem, "pgoutbox install")
    if state.is_older:
        problem = "older than this pgoutbox" if installed != __version__ else "of another build"
        return SchemaStatus(__version__, installed, problem, "pgoutbox install")
    return SchemaStatus(__version__, installed)


async def _tables(conn: Connection) -> tuple[TableStatus, ...]:
    rows = await conn.fetch(
        "select t.relation::oid as oid, t.actions, t.old_values, t.choice, n.name, n.other_name"
        " from pgoutbox.table_state t cross join lateral ("
        "  select case when t.successor is null and t.present_name is not null"
        "   then array[t.present_name, t.asked_name] else array[t.asked_name, t.present_name] end"
        " ) names (names) cross join lateral ("
        "  select names[1], nullif(names[2], names[1])"
        " ) n (name, other_name) order by n.name"
    )
    problems = await _problems(conn, [row["oid"] for row in rows])
    holders = await _lock_holders(conn, [oid for oid, said in problems.items() if said == "locked"])
    return tuple(
        TableStatus(
            row["name"],
            row["other_name"],
            tuple(action for action in ACTIONS if action in row["actions"]),
            row["old_values"],
            problems[row["oid"]],
            _remedy(row["name"], problems[row["oid"]]),
            holders.get(row["oid"]),
            described(row["choice"]),
        )
        for row in rows
    )


async def _uncaptured(conn: Connection) -> tuple[UncapturedTable, ...]:
    return tuple(
        UncapturedTable(match.table.name, match.pattern)
        for match in await matches(conn)
        if match.may_capture and not match.is_captured
    )


async def _lock_holders(conn: Connection, oids: Sequence[int]) -> dict[int, str]:
    """Return who has an exclusive lock on each table, as words."""
    rows = await conn.fetch(
        "select l.relation as oid, l.pid, nullif(a.application_name, '') as application"
        " from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid"
        " where l.locktype = 'relation' and l.granted and l.mode = 'AccessExclusiveLock'"
        " and l.relation = any ($1::oid[]) and l.database = ("
        "  select d.oid from pg_catalog.pg_database d"
        "  where d.datname = pg_catalog.current_database())",
        oids,
    )
    return {row["oid"]: session_name(row["pid"], row["application"]) for row in rows}


async def _problems(conn: Connection, oids: Sequence[int]) -> dict[int, str | None]:
    """Return what is wrong with each table; 'locked' where a lock keeps us from looking.

    All at once if possible, else one after the other.
    """
    try:
        async with conn.transaction():
            await conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
            rows = await conn.fetch(
                "select s.relation::oid as oid, s.problem from pgoutbox.table_state s"
                " where s.relation = any ($1::oid[])",
                oids,
            )
    except asyncpg.LockNotAvailableError:
        if len(oids) == 1:
            return {oids[0]: "locked"}
        middle = len(oids) // 2
        return await _problems(conn, oids[:middle]) | await _problems(conn, oids[middle:])
    return {oid: None for oid in oids} | {row["oid"]: row["problem"] for row in rows}


def _remedy(name: str, problem: str | None) -> str | None:
    """Return the command that mends a table; a running relay mends drift by itself."""
    if problem in (None, "locked"):
        return None
    command = "uninstall" if problem == "missing" else "install"
    return f"pgoutbox {command} --table {shlex.quote(name)}"


# Before any relay has run, what `pgoutbox relay` would find.
_RELAYS = """
select
    r.relay, r.high, r.method, b.events as backlog,
    extract(epoch from pg_catalog.clock_timestamp() - b.oldest)::float8 as oldest_unsent_s,
    coalesce((
        select sum(g.last - g.first + 1)
        from unnest(r.gap_first, r.gap_last) g (first, last)
    ), 0)::bigint as gaps,
    (select count(*) from pgoutbox.parked k where k.relay = r.relay) as parked,
    extract(epoch from pg_catalog.clock_timestamp() - r.started_at)::float8 as leading_s,
    r.share, r.pid, a.application_name as application, e.error, o.reason as polling,
    extract(epoch from pg_catalog.clock_timestamp() - e.since)::float8 as error_s,
    s.paused_by, s.reason as pause_reason,
    extract(epoch from pg_catalog.clock_timestamp() - s.since)::float8 as paused_s,
    l.stream as lost_stream, l.events as lost_events,
    extract(epoch from pg_catalog.clock_timestamp() - l.noticed_at)::float8 as lost_s
from (
    select
        p.relay, p.high, p.gap_first, p.gap_last, p.method, p.started_at, p.share,
        case when pgoutbox.is_led(p) then p.leader_pid end
    from pgoutbox.progress p
    union all
    select 'default', 0, '{}', '{}', null, null, '', null
    where not exists (select from pgoutbox.progress)
) r (relay, high, gap_first, gap_last, method, started_at, share, pid)
left join pg_catalog.pg_stat_activity a on a.pid = r.pid
cross join lateral pgoutbox.backlog(r.relay) b
left join pgoutbox.relay_error e on e.relay = r.relay
left join pgoutbox.relay_polling o on o.relay = r.relay and r.pid is not null
left join pgoutbox.relay_pause s on s.relay = r.relay
left join pgoutbox.loss l on l.relay = r.relay
order by r.relay
"""

_SLEEP_LOCK = "select * from pgoutbox.sleep_lock_holders()"


async def _relays(conn: Connection) -> tuple[RelayStatus, ...]:
    idle = {row["pid"] for row in await conn.fetch(_SLEEP_LOCK)}
    return tuple(
        RelayStatus(
            relay=row["relay"],
            backlog=row["backlog"],
            oldest_unsent_s=row["oldest_unsent_s"],
            gaps=row["gaps"],
            parked=row["parked"],
            high=row["high"],
            leader=_leader(row),
            is_idle=row["pid"] in idle,
            share=row["share"],
            error=row["error"],
            error_s=row["error_s"],
            polling=row["polling"],
            pause=_pause(row),
            loss=_loss(row),
        )
        for row in await conn.fetch(_RELAYS)
    )


def _loss(row: asyncpg.Record) -> LossStatus | None:
    if row["lost_stream"] is None:
        return None
    return LossStatus(row["lost_stream"], row["lost_s"], row["lost_events"])


def _pause(row: asyncpg.Record) -> PauseStatus | None:
    if row["paused_by"] is None:
        return None
    return PauseStatus(row["paused_s"], row["paused_by"], row["pause_reason"])


def _leader(row: asyncpg.Record) -> Leader | None:
    if row["pid"] is None:
        return None
    return Leader(row["pid"], row["application"] or "", row["leading_s"], row["method"])


async def _strangers(conn: Connection) -> tuple[Stranger, ...]:
    """Return who keeps the sleep lock without being a relay, or a writer about to commit."""
    first = await _without_a_lead(conn)
    if not first:
        return ()
    await asyncio.sleep(_SECOND_LOOK)
    return tuple(first[pid] for pid in first.keys() & (await _without_a_lead(conn)).keys())


async def _without_a_lead(conn: Connection) -> dict[int, Stranger]:
    return {
        row["pid"]: Stranger(row["pid"], row["application"], row["mode"])
        for row in await conn.fetch(_SLEEP_LOCK)
        if not row["leads"]
    }


# As pgoutbox.gap_holders() tells them.
_HOLDERS = """
select l.pid, coalesce(a.application_name, '') as application,
    extract(epoch from pg_catalog.clock_timestamp()
        - coalesce(a.xact_start, min(p.prepared)))::float8 as open_s
from pg_catalog.pg_locks l
join pg_catalog.pg_inherits i on i.inhrelid = l.relation
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
left join pg_catalog.pg_locks x
    on l.pid is null and x.pid is null and x.locktype = 'transactionid'
    and x.virtualtransaction = l.virtualtransaction
left join pg_catalog.pg_prepared_xacts p on p.transaction = x.transactionid
where l.locktype = 'relation' and l.mode = 'RowExclusiveLock'
  and i.inhparent = 'pgoutbox.transaction'::regclass
  and l.database = (
      select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
group by l.pid, l.virtualtransaction, a.application_name, a.xact_start
order by open_s desc nulls last
"""


async def gap_holders(conn: Connection, timeout: float | None = None) -> tuple[Holder, ...]:
    """Return the transactions that hold positions back; ``timeout`` is in seconds."""
    rows = await conn.fetch(_HOLDERS, timeout=timeout)
    return tuple(Holder(row["pid"], row["application"], row["open_s"]) for row in rows)


async def _slots(conn: Connection) -> tuple[SlotStatus, ...]:
    rows = await conn.fetch(
        "select s.slot,"
        " (select pg_catalog.sum(pg_catalog.pg_total_relation_size(i.inhrelid))"
        "   from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid"
        "   where i.inhparent in ('pgoutbox.event'::regclass, 'pgoutbox.transaction'::regclass)"
        "   and c.relname ~ ('_' || s.slot || '$'))::bigint as bytes,"
        " (extract(epoch from pg_catalog.now())::bigint / $1) % $2 = s.slot as is_written"
        " from pg_catalog.generate_series(0, $2 - 1) s (slot) order by 1",
        *ring(),
    )
    return tuple(SlotStatus(row["slot"], row["bytes"], row["is_written"]) for row in rows)
