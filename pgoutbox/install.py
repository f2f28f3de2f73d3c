"""Capture tables, and release them, without holding up the application that writes them."""

from __future__ import annotations

import asyncio
import difflib
import random
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from pgoutbox import schema
from pgoutbox.config import InstallConfig
from pgoutbox.errors import InstallError, one_a_line
from pgoutbox.kinds import ACTIONS, show_duration
from pgoutbox.outbox import TABLES_NAMED, leader_lock

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
Say = Callable[[str], None]
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between two tries at a lock

# Somebody else's transaction is in the way of ours.
_LOCK_FAILURES = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,  # the locks of all partitions together took too long
    asyncpg.DeadlockDetectedError,
)

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a composite type",
}

_NO_SCHEMA = "this database has no schema pgoutbox: nothing to do"
_BE_OWNER = "Run this as a role that owns the table and the schema pgoutbox."

_FOREIGN_SCHEMAS = ("pg_catalog", "information_schema", "pg_toast", "pgoutbox")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as PostgreSQL found it; ``name`` is qualified and quoted."""

    oid: int
    name: str
    is_partitioned: bool = False
    is_there: bool = True  # False: captured once, dropped since


@asynccontextmanager
async def _as_owner() -> AsyncIterator[None]:
    """Say what is wrong where the role lacks a right."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise InstallError(f"this role may not do that: {error}", hint=_BE_OWNER) from error


@_as_owner()
async def install(
    conn: Connection,
    tables: Sequence[str],
    settings: InstallConfig,
    say: Say,
    *,
    actions: Sequence[str] | None = None,
    grant_relay: Sequence[str] = (),
    warn: Say | None = None,
) -> None:
    """Bring the schema up to date and capture ``tables``, or else those of the filter.

    Actions and old values that aren't given stay as they are; those of the filter are added to
    what others have captured, for each relay picks what its own filter names. Nothing is changed
    where a name is wrong. A table that fails keeps no other from being captured; InstallError
    then names what failed and what is done. ``warn``, else ``say``, is told that something
    in the filter has nothing to capture.
    """
    warn = warn or say
    wanted = dict.fromkeys(await resolve(conn, tables), actions)
    if not tables:
        wanted = await _filtered(conn, settings, warn)
    roles = [await _role(conn, name) for name in grant_relay]
    await _install_schema(conn, settings, say)
    await _name_publications(conn, say)

    async def capture(table: Table) -> str:
        return await _capture(conn, table, wanted[table], settings, say, widens=not tables)

    await _each(conn, list(wanted), capture, say)
    if settings.tables and not tables:
        await _name_left_out(conn, {table.oid for table in wanted}, say)
    if not await conn.fetchval("select exists (select from pgoutbox.captured_table)"):
        remedy = (
            "check listener.filter" if settings.tables else "run: pgoutbox install --table NAME"
        )
        warn(f"no table is captured; {remedy}")
    for name, oid in roles:
        await conn.execute("select pgoutbox.grant_relay($1::oid::regrole)", oid)
        say(f"role {name}: may run the relay")


@_as_owner()
async def uninstall(
    conn: Connection, tables: Sequence[str], settings: InstallConfig, say: Say
) -> None:
    """Stop capturing ``tables``; events that they have already written stay and are sent."""
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    await _release_each(conn, await _resolve_captured(conn, tables), settings, say)


@_as_owner()
async def forget_relay(conn: Connection, relay: str, say: Say) -> None:
    """Remove what is known of a relay that no longer runs, so that nothing is kept for it.

    Refuses while it leads; holding its lock keeps it from starting meanwhile.
    """
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    async with conn.transaction():
        if not await conn.fetchval(
            "select pg_catalog.pg_try_advisory_xact_lock($1, $2)", *leader_lock(relay)
        ):
            raise InstallError(
                f"the relay {_said(relay)} is running", hint="Stop it first, then run this again."
            )
        known, parked = [
            await conn.fetch(f"delete from pgoutbox.{table} where relay = $1 returning 1", relay)  # noqa: S608 - ours
            for table in ("progress", "parked")
        ]
        await conn.execute(_FORGET_SHARD_KEYS)
    what = f"forgotten, with {_count(len(parked), 'parked event')}" if parked else "forgotten"
    say(f"relay {_said(relay)}: {what if known or parked else 'was not known'}")


# Of sets of shards of which no relay is left.
_FORGET_SHARD_KEYS = """
delete from pgoutbox.shard_key k where not exists (
    select from pgoutbox.progress p
    where pg_catalog.regexp_replace(p.relay, '-[0-9]+(-of-[0-9]+)$', '\\1') = k.shards
)
"""


@_as_owner()
async def uninstall_all(
    conn: Connection, settings: InstallConfig, say: Say, *, drop_unsent: bool = False
) -> None:
    """Stop capturing, then drop the schema with all that is in it.

    Refuses while an event is neither sent nor given up with ``drop_unsent``: before anything
    is changed, and once more when nobody can write any more.
    """
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    if not drop_unsent:
        await _refuse_unsent(conn)
    await _release_each(conn, await _captured(conn), settings, say)

    async def drop() -> None:
        await conn.execute("lock table pgoutbox.event, pgoutbox.transaction")
        if not drop_unsent:
            await _refuse_unsent(conn)
        await conn.execute("drop schema pgoutbox cascade")

    whole = Table(await _oid(conn, "pgoutbox.event") or 0, "schema pgoutbox", is_partitioned=True)
    await _patiently(conn, whole, drop, settings, say)
    say("schema pgoutbox: dropped")


async def resolve(conn: Connection, names: Sequence[str]) -> list[Table]:
    """Find tables as PostgreSQL does in a session of this role; InstallError names all missing.

    ``users``, ``billing.invoices``, ``"Odd Name"."T"``; each table once.
    """
    found: dict[int, Table] = {}
    problems: list[str] = []
    async with conn.transaction(readonly=True):
        # A session of ours has another search_path; the role's own one is that to reset to.
        await conn.execute(
            "select pg_catalog.set_config('search_path', reset_val, true)"
            " from pg_catalog.pg_settings where name operator(pg_catalog.=) 'search_path'"
        )
        oids = [(name, await _find(conn, name)) for name in names]
    for name, oid in oids:
        problem = await _describe(conn, name, oid, found)
        problems += [problem] if problem else []
    if problems:
        raise InstallError(
            one_a_line(problems, "names can't be used"),
            hint=f"Nothing was changed.{_how_to_name([name for name, oid in oids if not oid])}",
        )
    return list(found.values())


def _how_to_name(missing: Sequence[str]) -> str:
    if any("," in name for name in missing):
        return " Give --table once for each table."
    if missing:
        return (
            " Names are read as PostgreSQL reads them:"
            " capitals and special characters need double quotes."
        )
    return ""


async def _find(conn: Connection, name: str) -> int | None:
    try:
        async with conn.transaction():
            return await _oid(conn, name)
    except (
        asyncpg.InvalidNameError,
        asyncpg.PostgresSyntaxError,
        asyncpg.FeatureNotSupportedError,
        asyncpg.CharacterNotInRepertoireError,
        asyncpg.InvalidSchemaNameError,
        asyncpg.DataError,  # not even Unicode
    ):
        return None


async def _oid(conn: Connection, name: str) -> int | None:
    oid: int | None = await conn.fetchval("select pg_catalog.to_regclass($1)::oid", name)
    return oid


async def _describe(
    conn: Connection, name: str, oid: int | None, found: dict[int, Table]
) -> str | None:
    """Add the table to ``found``, or return what is wrong with it."""
    if oid is None:
        return f"there is no table {_said(name)}{await _similar(conn, name)}"
    row = await conn.fetchrow(
        "select c.oid::regclass::text as name, c.relkind::text as kind, n.nspname"
        " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where c.oid = $1",
        oid,
    )
    if row is None:
        return f"there is no table {_said(name)}"
    if row["kind"] not in ("r", "p"):
        return f"{row['name']} is {_KINDS.get(row['kind'], 'no table')}, not a table"
    if row["nspname"] in _FOREIGN_SCHEMAS:
        return f"{row['name']} belongs to PostgreSQL or to pgoutbox"
    found[oid] = Table(oid, row["name"], is_partitioned=row["kind"] == "p")
    return None


def _said(name: str) -> str:
    return name if name.isprintable() else repr(name)


async def _similar(conn: Connection, name: str) -> str:
    rows = await conn.fetch(
        "select c.oid::regclass::text as full_name, c.relname"
        " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'p') and n.nspname !~ '^pg_'"
        " and n.nspname not in ('information_schema', 'pgoutbox') limit 10000"
    )
    names = {row["full_name"].lower(): row["full_name"] for row in rows}
    names |= {row["relname"].lower(): row["full_name"] for row in rows}
    close = difflib.get_close_matches(name.lower().replace('"', ""), names, n=1, cutoff=0.7)
    return f" (did you mean {names[close[0]]}?)" if close else ""


async def _filtered(
    conn: Connection, settings: InstallConfig, warn: Say
) -> dict[Table, Sequence[str] | None]:
    """Return the tables of wal-listener's filter, which names them without their schema."""
    named = settings.actions_by_name
    rows = await conn.fetch(
        "select c.oid, c.oid::regclass::text as name, c.relname, c.relkind::text as kind"
        f" {TABLES_NAMED} order by 2",
        list(named),
    )
    found = {row["relname"] for row in rows}
    for name in settings.tables:
        if not found & {name, name.lower()}:
            warn(f"{_said(name)}: the filter names it, but no schema has such a table yet")
    return {
        Table(row["oid"], row["name"], row["kind"] == "p"): named[row["relname"]]
        for row in rows
        if named[row["relname"]]
    }


async def _name_left_out(conn: Connection, wanted: set[int], say: Say) -> None:
    """Say which tables stay captured although the filter doesn't name them.

    They aren't released: a relay with another file may be there for them.
    """
    for table in await _captured(conn):
        if table.oid not in wanted:
            release = f"pgoutbox uninstall --table {shlex.quote(table.name)}"
            say(f"{table.name}: captured, though not in this filter; to stop: {release}")


async def _role(conn: Connection, name: str) -> tuple[str, int]:
    row = await conn.fetchrow(
        "select r.oid, pg_catalog.quote_ident(r.rolname) as name"
        " from pg_catalog.pg_roles r where r.rolname = $1",
        name,
    )
    if row is None:
        raise InstallError(f"there is no role {_said(name)}", hint="Nothing was changed.")
    return row["name"], row["oid"]


async def _install_schema(conn: Connection, settings: InstallConfig, say: Say) -> None:
    async def work() -> bool:
        return await schema.apply(conn)

    whole = Table(await _oid(conn, "pgoutbox.event") or 0, "schema pgoutbox", is_partitioned=True)
    try:
        is_changed = await _patiently(conn, whole, work, settings, say)
    except asyncpg.InsufficientPrivilegeError as error:
        raise InstallError(
            f"the schema pgoutbox can't be installed: {error}",
            hint="Run this as a role that may create schemas in this database, or that owns"
            " the schema pgoutbox; or have an administrator apply: pgoutbox install --print-sql",
        ) from error
    release = schema.functions_version().partition("+")[0]
    say(f"schema pgoutbox {release}: {'installed' if is_changed else 'up to date'}")


async def _name_publications(conn: Connection, say: Say) -> None:
    """Name the publications that have tables of schema pgoutbox, as those of all tables do."""
    names = await conn.fetchval(_PUBLICATIONS)
    if names:
        say(
            f"publishing the tables of schema pgoutbox, too: {', '.join(names)}; a PostgreSQL"
            " subscriber without these tables stops; docs/publications.md tells how to leave"
            " them out"
        )


_PUBLICATIONS = """
select pg_catalog.array_agg(pg_catalog.quote_ident(p.pubname) order by p.pubname)
from pg_catalog.pg_publication p
where (p.pubinsert or p.pubupdate or p.pubdelete or p.pubtruncate) and exists (
    select from pg_catalog.pg_publication_tables t
    where t.pubname = p.pubname and t.schemaname = 'pgoutbox'
)
"""


async def _capture(
    conn: Connection,
    table: Table,
    actions: Sequence[str] | None,
    settings: InstallConfig,
    say: Say,
    *,
    widens: bool,
) -> str:
    """Capture one table, or bring it in line; return what became of it."""

    async def work() -> str:
        before = await conn.fetchrow(
            "select t.actions, t.old_values, t.problem,"
            " pg_catalog.has_function_privilege("
            "'pgoutbox.capture_table(regclass, text[], text)', 'execute') as may_capture"
            " from pgoutbox.table_state t where t.relation = $1::oid",
            table.oid,
        )
        installed = (_ordered(before["actions"]), before["old_values"]) if before else None
        kept_actions, kept_old_values = installed or (ACTIONS, "full")
        wanted_actions = actions or kept_actions
        if widens and installed:
            wanted_actions = (*wanted_actions, *kept_actions)
        wanted = (_ordered(wanted_actions), settings.old_values or kept_old_values)
        if wanted != installed or (before and before["problem"]):
            await _lock(conn, table, "share row exclusive")
        elif before and not before["may_capture"]:
            return "already captured"  # as far as a relay's role can see
        is_changed = await conn.fetchval(
            "select pgoutbox.capture_table($1::oid::regclass, $2::text[], $3)", table.oid, *wanted
        )
        if installed in (wanted, None):
            return "captured" if is_changed else "already captured"
        return f"from now on: {','.join(wanted[0]).lower()}; old values: {wanted[1]}"

    return await _patiently(conn, table, work, settings, say)


def _ordered(actions: Sequence[str]) -> tuple[str, ...]:
    return tuple(action for action in ACTIONS if action in actions)


async def _release_each(
    conn: Connection, tables: Sequence[Table], settings: InstallConfig, say: Say
) -> None:
    async def release(table: Table) -> str:
        is_changed = await _release(conn, table, settings, say)
        return "no longer captured" if is_changed else "was not captured"

    await _each(conn, tables, release, say)


async def _release(conn: Connection, table: Table, settings: InstallConfig, say: Say) -> bool:
    async def work() -> bool:
        is_captured = await conn.fetchval(
            "select exists (select from pgoutbox.captured_table c where c.relation = $1::oid)",
            table.oid,
        )
        if not is_captured:
            return False
        if table.is_there:
            await _lock(conn, table, "access exclusive")
        is_changed: bool = await conn.fetchval(
            "select pgoutbox.release_table($1::oid::regclass)", table.oid
        )
        return is_changed

    return await _patiently(conn, table, work, settings, say)


async def _lock(conn: Connection, table: Table, mode: str) -> None:
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


async def _patiently(
    conn: Connection,
    table: Table,
    work: Callable[[], Awaitable[Result]],
    settings: InstallConfig,
    say: Say,
) -> Result:
    """Do ``work`` in a transaction; where a lock is in the way, again and again for a while."""
    deadline = time.monotonic() + settings.lock_wait
    pause = _FIRST_PAUSE
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
        await asyncio.sleep(min(left, pause * random.uniform(0.5, 1)))  # noqa: S311 - no secret
        pause = min(2 * pause, _LONGEST_PAUSE)


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


async def _each(
    conn: Connection,
    tables: Sequence[Table],
    work: Callable[[Table], Awaitable[str]],
    say: Say,
) -> None:
    """Do ``work`` for each table and say how it went; fail at the end if one failed."""
    failures: list[InstallError] = []
    done: list[str] = []
    for table in tables:
        try:
            say(f"{table.name}: {await work(table)}")
            done.append(table.name)
        except InstallError as error:
            failures.append(error)
        except asyncpg.PostgresError as error:
            if conn.is_closed():
                raise
            failures.append(_refused(table, error))
    if failures:
        raise _failed(failures, done)


def _refused(table: Table, error: asyncpg.PostgresError) -> InstallError:
    hint = error.hint
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        hint = _BE_OWNER
    return InstallError(f"{table.name}: {error}", hint=hint)


def _failed(failures: Sequence[InstallError], done: Sequence[str]) -> InstallError:
    message = one_a_line(map(str, failures), "tables failed")
    if done:
        separator = " " if len(failures) == 1 else "\n  "
        message += f"{separator}(done: {', '.join(done)})"
    hints: Mapping[str, None] = dict.fromkeys(error.hint for error in failures if error.hint)
    return InstallError(message, hint=" ".join(hints) or None)


async def _captured(conn: Connection) -> list[Table]:
    """Return all captured tables, those that were dropped included."""
    rows = await conn.fetch(
        "select t.relation::oid as oid, t.schema_name, t.table_name, c.relkind::text as kind,"
        " coalesce(c.oid::regclass::text, pg_catalog.format('%I.%I', t.schema_name, t.table_name))"
        " as name from pgoutbox.captured_table t"
        " left join pg_catalog.pg_class c on c.oid = t.relation order by t.number"
    )
    return [
        Table(row["oid"], row["name"], row["kind"] == "p", row["kind"] is not None) for row in rows
    ]


async def _resolve_captured(conn: Connection, names: Sequence[str]) -> list[Table]:
    """Find tables to release; also by the name of a captured table that was dropped."""
    gone = {name: found for name in names if (found := await _dropped(conn, name))}
    return [*gone.values(), *await resolve(conn, [name for name in names if name not in gone])]


async def _dropped(conn: Connection, name: str) -> Table | None:
    """Return the captured table of that name, with or without its schema, if it was dropped."""
    dropped = [table for table in await _captured(conn) if not table.is_there]
    if not dropped:
        return None
    try:
        parts = await conn.fetchval("select pg_catalog.parse_ident($1)", name)
    except (asyncpg.InvalidParameterValueError, asyncpg.DataError):
        return None
    rows = await conn.fetch(
        "select c.relation::oid as oid from pgoutbox.captured_table c"
        " where array[c.schema_name, c.table_name] = $1 or array[c.table_name] = $1",
        parts,
    )
    oids = {row["oid"] for row in rows}
    return next((table for table in dropped if table.oid in oids), None)


async def _refuse_unsent(conn: Connection) -> None:
    """Raise where events would be lost with the schema."""
    relays = await conn.fetch(
        "select r.relay, b.events from ("
        "  select p.relay from pgoutbox.progress p"
        "  union all select 'default' where not exists (select from pgoutbox.progress)"
        ") r cross join lateral pgoutbox.backlog(r.relay) b order by r.relay"
    )
    unsent = [(row["relay"], row["events"]) for row in relays if row["events"]]
    if unsent:
        drain = ", ".join(_drain(relay) for relay, _ in unsent)
        forget = "; forget a relay that no longer runs: pgoutbox uninstall --relay NAME"
        raise InstallError(
            one_a_line(
                (
                    f"{_count(events, 'event is', 'events are')} not sent yet"
                    f" by the relay {_said(relay)}"
                    for relay, events in unsent
                ),
                "relays haven't sent everything",
            ),
            hint=f"Send them first: {drain}{forget if len(relays) > 1 else ''};"
            " or give them up with --drop-unsent.",
        )
    if parked := await conn.fetchval("select count(*) from pgoutbox.parked"):
        raise InstallError(
            f"{_count(parked, 'event is', 'events are')} parked, and would be lost",
            hint="Save what you need of pgoutbox.parked, then give them up with --drop-unsent.",
        )


def _drain(relay: str) -> str:
    name = "" if relay == "default" else f" --name {shlex.quote(relay)}"
    return f"pgoutbox relay --drain{name}"


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"
