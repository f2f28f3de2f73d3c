"""How it stands: the schema, the captured tables, the relays, and what is in the way."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox import __version__
from pgoutbox.database import schema
from pgoutbox.database.sessions import Whereabouts
from pgoutbox.database.tables import printable
from pgoutbox.locks import LEADER_LOCK_CLASS, SLEEP_LOCK, leader_lock
from pgoutbox.names import ACTIONS
from pgoutbox.sql_files import ring

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


_LOCK_TIMEOUT = "500ms"  # for a look at a captured table
_SECOND_LOOK = 0.3  # seconds after which nobody in a commit stage is still in it


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The version of pgoutbox that the database has, and whether it fits this one."""

    pgoutbox: str
    installed: str | None
    problem: str | None = None
    remedy: str | None = None

    @property
    def is_missing(self) -> bool:
        """There is no schema pgoutbox."""
        return self.installed is None


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A captured table, what is wrong with it, and what mends that.

    ``table`` is its present name; where that is gone or another table has taken it, the one under
    which it was captured. ``other_name`` is the other of the two where they differ. ``problem``
    is one of ``_PROBLEMS``.
    """

    table: str
    other_name: str | None
    actions: tuple[str, ...]
    old_values: str
    problem: str | None
    remedy: str | None
    locked_by: str | None = None  # who keeps us from looking, with the problem "locked"


@dataclass(frozen=True, slots=True)
class Leader:
    """The session that leads a relay."""

    pid: int
    application: str
    leading_s: float | None  # None where what it leads was dropped beneath it
    method: str | None  # how it publishes, in words


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """What one relay has to do, and who does it."""

    relay: str
    backlog: int
    oldest_unsent_s: float | None
    gaps: int
    parked: int
    high: int
    leader: Leader | None
    is_idle: bool
    share: str  # what it publishes, as flags; empty where that is everything
    error: str | None = None  # why it publishes nothing
    error_s: float | None = None  # how long ago it said so


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session that isn't ours and holds the sleep lock, so that relays only poll."""

    pid: int
    application: str
    mode: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that is open after it was given positions, which relays then wait for.

    Its session; or none, where it is prepared.
    """

    pid: int | None
    application: str
    open_s: float | None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot of the ring."""

    slot: int
    bytes: int
    is_written: bool


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one moment."""

    schema: SchemaStatus
    tables: tuple[TableStatus, ...] = ()
    relays: tuple[RelayStatus, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    holders: tuple[Holder, ...] = ()
    slots: tuple[SlotStatus, ...] = ()
    outbox_bytes: int = 0  # on disk
    database: Whereabouts | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What needs attention, a sentence each."""
        if self.schema.problem:
            return (f"the schema is {self.schema.problem}; run: {self.schema.remedy}",)
        return (
            *(sentence for table in self.tables for sentence in _table_problems(table)),
            *(said for one in self.relays for said in _relay_problems(one, self.relays)),
            *(_stranger_problem(stranger) for stranger in self.strangers),
            *(_holder_problem(holder) for holder in self.holders if _is_long(holder)),
        )

    def to_json(self) -> str:
        """Return it for machines."""
        values = asdict(self) | {"problems": self.problems}
        return json.dumps(values, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """Return it for people."""
        lines = [str(self.database)] if self.database else []
        lines += _schema_lines(self.schema)
        if self.schema.is_missing:
            return "\n".join(lines)
        lines += ["", *_relay_lines(self.relays), "", *_table_lines(self.tables)]
        lines += ["", _outbox_line(self.outbox_bytes, self.slots)]
        lines += [f"! {problem}" for problem in self.problems if not self.schema.problem]
        return "\n".join(lines)


async def gather(conn: Connection, database: Whereabouts | None = None) -> Status:
    """Look at everything once; changes nothing. ``database`` says where ``conn`` leads."""
    found = _schema_status(await schema.state(conn))
    if found.is_missing:
        return Status(found, database=database)
    return Status(
        database=database,
        schema=found,
        tables=await _tables(conn),
        relays=await _relays(conn),
        strangers=await _strangers(conn),
        holders=await _holders(conn),
        slots=await _slots(conn),
        outbox_bytes=await conn.fetchval("select pgoutbox.outbox_bytes()"),
    )


def _schema_status(state: schema.SchemaState) -> SchemaStatus:
    if state.functions_version is None:
        return SchemaStatus(__version__, None, "not installed", "pgoutbox install")
    installed = state.functions_version.partition("+")[0]
    if state.is_newer:
        problem = state.breaking or "newer than this pgoutbox"
        return SchemaStatus(__version__, installed, problem, f"upgrade pgoutbox to {installed}")
    if state.is_older:
        problem = "older than this pgoutbox" if installed != __version__ else "of another build"
        return SchemaStatus(__version__, installed, problem, "pgoutbox install")
    return SchemaStatus(__version__, installed)


async def _tables(conn: Connection) -> tuple[TableStatus, ...]:
    rows = await conn.fetch(
        "select t.relation::oid as oid, t.actions, t.old_values, n.name, n.other_name"
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
        )
        for row in rows
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
    return {row["oid"]: _session(row["pid"], row["application"]) for row in rows}


def _session(pid: int | None, application: str | None) -> str:
    return f"pid {pid} ({application or 'no name'})" if pid else "a prepared transaction"


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
    r.share, e.error,
    extract(epoch from pg_catalog.clock_timestamp() - e.since)::float8 as error_s
from (
    select p.relay, p.high, p.gap_first, p.gap_last, p.method, p.started_at, p.share
    from pgoutbox.progress p
    union all
    select 'default', 0, '{}', '{}', null, null, '' where not exists (select from pgoutbox.progress)
) r
cross join lateral pgoutbox.backlog(r.relay) b
left join pgoutbox.relay_error e on e.relay = r.relay
order by r.relay
"""

_LOCKS = """
select l.classid::bigint, l.objid::bigint, l.mode, l.pid, a.application_name as application
from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.objsubid = 2 and l.granted and l.pid is not null
  and l.database = (
      select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
order by l.pid
"""


async def _relays(conn: Connection) -> tuple[RelayStatus, ...]:
    locks = await conn.fetch(_LOCKS)
    idle = {lock["pid"] for lock in locks if _is_sleep_lock(lock)}
    found = []
    for row in await conn.fetch(_RELAYS):
        classid, objid = leader_lock(row["relay"])
        lock = _find(locks, classid, objid)
        leader = _leader(lock, row) if lock else None
        found.append(
            RelayStatus(
                relay=row["relay"],
                backlog=row["backlog"],
                oldest_unsent_s=row["oldest_unsent_s"],
                gaps=row["gaps"],
                parked=row["parked"],
                high=row["high"],
                leader=leader,
                is_idle=bool(leader and leader.pid in idle),
                share=row["share"],
                error=row["error"],
                error_s=row["error_s"],
            )
        )
    return tuple(found)


def _leader(lock: asyncpg.Record, row: asyncpg.Record) -> Leader:
    return Leader(lock["pid"], lock["application"] or "", row["leading_s"], row["method"])


def _find(locks: Iterable[asyncpg.Record], classid: int, objid: int) -> asyncpg.Record | None:
    # pg_locks has the keys as unsigned numbers.
    keys = (classid, objid % 2**32)
    return next((lock for lock in locks if (lock["classid"], lock["objid"]) == keys), None)


def _is_sleep_lock(lock: asyncpg.Record) -> bool:
    return (lock["classid"], lock["objid"]) == SLEEP_LOCK


async def _strangers(conn: Connection) -> tuple[Stranger, ...]:
    """Return who keeps the sleep lock without being a relay, or a writer about to commit."""
    first = await _sleep_lock_holders(conn)
    if not first:
        return ()
    await asyncio.sleep(_SECOND_LOOK)
    return tuple(first[pid] for pid in first.keys() & (await _sleep_lock_holders(conn)).keys())


async def _sleep_lock_holders(conn: Connection) -> dict[int, Stranger]:
    locks = await conn.fetch(_LOCKS)
    leaders = {lock["pid"] for lock in locks if lock["classid"] == LEADER_LOCK_CLASS}
    return {
        lock["pid"]: Stranger(lock["pid"], lock["application"] or "", lock["mode"])
        for lock in locks
        if _is_sleep_lock(lock) and lock["pid"] not in leaders
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


async def _holders(conn: Connection) -> tuple[Holder, ...]:
    rows = await conn.fetch(_HOLDERS)
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


def _schema_lines(status: SchemaStatus) -> list[str]:
    line = f"schema   {status.installed or 'none'}"
    if status.problem:
        line += f": {status.problem} ({status.pgoutbox}); run: {status.remedy}"
    return [line]


def _relay_lines(relays: Sequence[RelayStatus]) -> list[str]:
    header = ("relay", "backlog", "oldest unsent", "gaps", "parked", "leader")
    lines = _columns([header, *(_relay_row(relay, relays) for relay in relays)])
    lines += [f"{one.relay} publishes {one.share}" for one in relays if one.share and one.leader]
    return lines


def _run_or_forget(relay: RelayStatus, relays: Sequence[RelayStatus]) -> str:
    """Return what to do about a relay without a leader, one of ``relays``."""
    run = f"run: {' '.join(['pgoutbox relay', *_flags(relay)])}"
    if len(relays) == 1:  # it is rather one that wasn't started yet
        return run
    # The outbox keeps everything until all of them have sent it.
    name = printable(shlex.quote(relay.relay))
    return f"{run}; or forget it: pgoutbox uninstall --relay {name}"


def _relay_row(relay: RelayStatus, relays: Sequence[RelayStatus]) -> tuple[str, ...]:
    oldest = "-" if relay.oldest_unsent_s is None else _age(relay.oldest_unsent_s)
    leader = f"nobody; {_run_or_forget(relay, relays)}"
    if relay.leader:
        doing = ", idle" if relay.is_idle else ""
        method = f"; {relay.leader.method}" if relay.leader.method else ""
        since = "" if relay.leader.leading_s is None else f" for {_age(relay.leader.leading_s)}"
        leader = f"pid {relay.leader.pid}{since}{doing}{method}"
    return (
        relay.relay,
        f"{relay.backlog:,}",
        oldest,
        f"{relay.gaps:,}",
        f"{relay.parked:,}",
        leader,
    )


_PATIENCE = 300.0  # seconds that an event may be unsent, or a transaction hold positions


def _relay_problems(relay: RelayStatus, relays: Sequence[RelayStatus]) -> Iterator[str]:
    name = printable(relay.relay)
    if relay.error:
        ago = _age(relay.error_s or 0)
        yield f"relay {name} can't publish (reported {ago} ago): {relay.error}"
    if relay.leader is None and relay.backlog:
        what = _run_or_forget(relay, relays)
        yield f"nobody publishes the unsent events of relay {name}; {what}"
    elif relay.leader and not relay.error and (relay.oldest_unsent_s or 0) > _PATIENCE:
        age = _age(relay.oldest_unsent_s or 0)
        yield f"relay {name} is behind: its oldest unsent event is {age} old"
    if relay.parked:
        events, are = ("events", "are") if relay.parked > 1 else ("event", "is")
        yield f"{relay.parked:,} {events} of relay {name} {are} parked; see pgoutbox.parked"
    if relay.leader and relay.leader.leading_s is None:
        yield (
            f"pid {relay.leader.pid} leads relay {name}, which has no progress here: the schema was"
            " created anew while it ran; restart it"
        )


def _table_problems(table: TableStatus) -> Iterator[str]:
    if table.problem not in (None, "locked", "drift"):  # a relay mends drift by itself
        yield f"{printable(table.table)}: {_table_state(table)}"


def _stranger_problem(stranger: Stranger) -> str:
    who = _session(stranger.pid, stranger.application)
    return f"{who} holds the sleep lock, so relays look for events only once a poll interval"


def _is_long(holder: Holder) -> bool:
    return (holder.open_s or 0) > _PATIENCE


def _holder_problem(holder: Holder) -> str:
    who = _session(holder.pid, holder.application)
    return f"{who} has held back its events for {_age(holder.open_s or 0)}; end that transaction"


def _flags(relay: RelayStatus) -> Iterator[str]:
    """Yield what makes `pgoutbox relay` this relay."""
    shard = re.search(r"--shard (\d+)/(\d+)$", relay.share)
    name = relay.relay.removesuffix("-{}-of-{}".format(*shard.groups())) if shard else relay.relay
    if name != "default":
        yield f"--name {shlex.quote(name)}"
    if relay.share:
        yield relay.share


def _table_lines(tables: Sequence[TableStatus]) -> list[str]:
    if not tables:
        return ["tables   none is captured; run: pgoutbox install --table NAME"]
    rows = [
        (
            printable(table.table),
            ",".join(action.lower() for action in table.actions),
            table.old_values,
            _table_state(table),
        )
        for table in tables
    ]
    return _columns([("table", "actions", "old values", "state"), *rows])


_PROBLEMS = {
    None: "ok",
    "locked": "locked",
    "drift": "columns changed",
    "trigger": "trigger missing or disabled",
    "not_always": "trigger no longer ENABLE ALWAYS",
    "missing": "table is gone",
    "replaced": "not captured: it has taken the name of a captured table",
}


def _table_state(table: TableStatus) -> str:
    said = _PROBLEMS.get(table.problem) or str(table.problem)
    if table.locked_by:
        said += f" by {table.locked_by}"
    if table.other_name:
        other = printable(table.other_name)
        said += (
            f", now {other}"
            if table.problem == "replaced"
            else f"; renamed since it was captured, was {other}"
        )
    return f"{said}; run: {table.remedy}" if table.remedy else said


def _outbox_line(size: int, slots: Sequence[SlotStatus]) -> str:
    sizes = (f"{_size(slot.bytes)}{'*' if slot.is_written else ''}" for slot in slots)
    return f"outbox   {_size(size)} on disk; slots: {'  '.join(sizes)}   (* is being written)"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.1f} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
