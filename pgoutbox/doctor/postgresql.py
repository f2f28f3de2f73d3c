"""The checks of PostgreSQL: each looks once, changes nothing, and may find nothing to look at."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from pgoutbox.config.settings import Config
from pgoutbox.database import connection as database
from pgoutbox.database import status
from pgoutbox.database.sessions import Guest
from pgoutbox.database.status.problems import age
from pgoutbox.database.status.text import size_of
from pgoutbox.database.tables import EARLIER_TRIGGERS, printable
from pgoutbox.doctor import catalogs
from pgoutbox.doctor.finding import Finding, Level
from pgoutbox.doctor.providers import Marks, Provider, is_pooler, provider_of
from pgoutbox.errors import ConfigError, PgoutboxError

NEWEST_SERVER = 18  # that was tried

_SKEW = 5.0  # seconds
_FEW_CONNECTIONS = 10
_MUCH = 10 * 1024**3  # bytes on disk
_LONG = 3600.0  # seconds that a transaction may be open without being an alarm
_SAMPLE = 2_000  # rows of a table
_SAMPLED_TABLES = 50
_SAMPLE_TIMEOUT = "3s"


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """A table that is captured or to be, and what one of its events may take, in bytes."""

    schema: str
    name: str
    largest: int | None = None

    def __str__(self) -> str:
        return printable(f"{self.schema}.{self.name}")


@dataclass(slots=True)
class Patient:
    """The database that is looked at, and what is known of it so far."""

    conn: Guest
    config: Config
    tables: Sequence[str]  # named on the command line
    is_installed: bool = False
    oids: list[int] = field(default_factory=list)
    checked: list[CheckedTable] = field(default_factory=list)


def finding(check: str, level: Level, said: str, remedy: str | None = None) -> Finding:
    """Return a finding about PostgreSQL."""
    return Finding("PostgreSQL", check, level, said, remedy)


Findings = AsyncIterator[Finding]


async def examine(patient: Patient) -> list[Finding]:
    """Do all checks; one that isn't allowed to look says so."""
    found: list[Finding] = []
    for name, check in _CHECKS.items():
        try:
            found += [one async for one in check(patient)]
        except asyncpg.PostgresError as error:
            found.append(finding(name, "note", f"can't be looked at: {error}"))
    return found


def _listed(rows: Sequence[asyncpg.Record], most: int = 5) -> str:
    names = [printable(row["name"]) for row in rows]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True, slots=True)
class _Names:
    """A check of the names that a query returns, put into ``said``; ok where there are none."""

    check: str
    query: str
    level: Level
    said: str
    remedy: str | None
    needs_schema: bool = False

    async def find(self, patient: Patient) -> Findings:
        if self.needs_schema and not patient.is_installed:
            return
        arguments = (patient.oids,) if "$1" in self.query else ()
        rows = await patient.conn.fetch(self.query, *arguments)
        if rows:
            yield finding(self.check, self.level, self.said.format(_listed(rows)), self.remedy)
        else:
            yield finding(self.check, "ok", "none")


async def _server(patient: Patient) -> Findings:
    before = time.time()
    row = await patient.conn.fetchrow(catalogs.SERVER)
    after = time.time()
    tls = "with TLS" if row["tls"] else "without TLS"
    where = patient.conn.whereabouts
    yield finding("connection", "ok", f"{where.server}, {tls}, from {where.source}")
    is_known = row["major"] <= NEWEST_SERVER
    yield finding(
        "version",
        "ok" if is_known else "note",
        f"PostgreSQL {row['version']}"
        + ("" if is_known else f", newer than {NEWEST_SERVER}, the newest that was tried"),
    )
    if row["is_standby"]:
        yield finding("standby", "attention", "this is a standby", "give the primary's address")
    yield _queue(row["queue"])
    yield _connections(row["max_connections"], row["connections"])
    yield _skew(before, row["now"], after)
    if row["wal_level"] == "logical":
        yield finding("wal_level", "note", "logical, which pgoutbox doesn't need")
    else:
        yield finding("wal_level", "ok", f"{row['wal_level']}, which is enough")


def _queue(used: float) -> Finding:
    if used < 0.5:
        return finding("notifications", "ok", f"the queue is {used:.0%} full")
    return finding(
        "notifications",
        "attention",
        f"the queue is {used:.0%} full, so relays only poll",
        "find the session that listens and has been in a transaction the longest",
    )


def _connections(limit: int, used: int) -> Finding:
    said = f"{used} of {limit} in use"
    if limit - used >= _FEW_CONNECTIONS:
        return finding("connections", "ok", said)
    remedy = "a relay takes up to four: close others, or raise max_connections"
    return finding("connections", "attention", said, remedy)


def _skew(before: float, there: float, after: float) -> Finding:
    skew = max(before - there, there - after, 0.0)
    if skew < _SKEW:
        return finding("clock", "ok", "the server's agrees with ours")
    remedy = "have both synchronized; times of the log and --since are wrong until then"
    return finding("clock", "attention", f"the server's is {age(skew)} off ours", remedy)


async def _provider(patient: Patient) -> Findings:
    row = await patient.conn.fetchrow(catalogs.MARKS)
    host, _, port = patient.conn.whereabouts.server.rpartition(":")
    marks = Marks(frozenset(row["roles"]), frozenset(row["functions"]), host, int(port))
    provider = provider_of(marks)
    if provider is None:
        yield finding("provider", "ok", "none that is known")
        return
    yield finding(
        "provider", "note", f"{provider.name}: {provider.particular}", _read_more(provider)
    )
    if is_pooler(provider, marks):
        yield finding(
            "provider's pooler",
            "attention",
            f"{patient.conn.whereabouts.server} is that of {provider.name} in transaction mode",
            "writers and commands may use it; give the relay the direct address",
        )


def _read_more(provider: Provider) -> str:
    return f"see docs/providers.md#{provider.anchor}"


async def _pooler(patient: Patient) -> Findings:
    try:
        session = await database.connect(patient.config.database, purpose="doctor")
    except ConfigError as error:
        remedy = "writers and commands may use it; give the relay a direct address"
        yield finding("pooler", "attention", str(error), remedy)
    except PgoutboxError as error:
        yield finding("pooler", "attention", f"a second session failed: {error}", error.hint)
    else:
        await database.close(session)
        yield finding("pooler", "ok", "sessions are whole, as the relay needs them")


async def _rights(patient: Patient) -> Findings:
    row = await patient.conn.fetchrow(catalogs.RIGHTS)
    role, owner = printable(row["role"]), printable(str(row["owner"]))
    patient.is_installed = row["is_installed"]
    if not row["is_installed"]:
        if row["may_create"]:
            yield finding("rights", "ok", f"role {role} may install the schema pgoutbox")
        else:
            yield finding(
                "rights",
                "attention",
                f"role {role} may not install the schema pgoutbox in this database",
                f"have an administrator run: create schema pgoutbox authorization {role}; or apply:"
                " pgoutbox install --print-sql",
            )
        return
    if row["is_owner"]:
        yield finding("rights", "ok", f"role {role} has those of {owner}, who owns the schema")
    elif row["may_use"]:
        yield finding("rights", "ok", f"role {role} may use the schema, which {owner} owns")
    else:
        remedy = f"as {owner}, run: pgoutbox install --grant-relay {role}"
        yield finding("rights", "attention", f"role {role} may not use the schema", remedy)


async def _status(patient: Patient) -> Findings:
    if not patient.is_installed:
        yield finding("schema", "note", "not installed yet", "run: pgoutbox install --table NAME")
        return
    found = await status.gather(patient.conn)
    problems = status.problems(found)
    if not found.schema.problem:
        yield finding("schema", "ok", f"pgoutbox {found.schema.installed}")
        yield _disk(found.outbox_bytes)
    for problem in problems:
        yield finding("status", "attention", problem)
    for relay in found.relays:
        if relay.pause:
            yield finding("pause", "note", f"relay {printable(relay.relay)} is paused")
    if not problems:
        yield finding("status", "ok", "nothing is wrong with tables and relays")


def _disk(size: int) -> Finding:
    if size < _MUCH:
        return finding("disk", "ok", f"the outbox takes {size_of(size)}")
    remedy = "pgoutbox status says which relay it is kept for"
    return finding("disk", "attention", f"the outbox takes {size_of(size)}", remedy)


async def _tables(patient: Patient) -> Findings:
    async for found in _find_tables(patient):
        yield found
    rows = await patient.conn.fetch(catalogs.TABLES, patient.oids)
    for row in rows:
        table = CheckedTable(row["schema"], row["name"])
        if not row["is_owner"] and not patient.is_installed:
            owner = printable(row["owner"])
            remedy = f"run install as {owner}, or as a role that is granted it"
            yield finding("owner", "attention", f"{table} belongs to {owner}", remedy)
        largest = None
        if row["may_read"] and len(patient.checked) < _SAMPLED_TABLES:
            largest = await _largest(patient.conn, row)
        patient.checked.append(CheckedTable(row["schema"], row["name"], largest))
    if not rows:
        yield finding("tables", "note", "none is captured", "run: pgoutbox install --table NAME")


async def _find_tables(patient: Patient) -> Findings:
    """Note the tables that are captured, or are to be; yield those that there aren't."""
    filtered = [] if patient.tables else list(patient.config.install.tables)
    async with patient.conn.transaction():
        await patient.conn.execute(catalogs.OWN_SEARCH_PATH)
        named = await patient.conn.fetch(catalogs.NAMED, list(patient.tables))
    found = [*named, *(await patient.conn.fetch(catalogs.FILTERED, filtered))]
    patient.oids = [row["oid"] for row in found if row["oid"] is not None]
    if patient.is_installed:
        patient.oids += [row["oid"] for row in await patient.conn.fetch(catalogs.CAPTURED)]
    for row in found:
        if row["oid"] is None:
            name = printable(row["name"])
            yield finding("tables", "attention", f"there is no table {name}", "check its name")


async def _largest(conn: Guest, row: asyncpg.Record) -> int | None:
    """Return what the largest of a sample of a table's rows takes as JSON, in bytes."""
    schema, name = (part.replace('"', '""') for part in (row["schema"], row["name"]))
    percent = min(100.0, 100.0 * 500 / row["pages"])
    try:
        async with conn.transaction(readonly=True):
            await conn.execute(f"set local statement_timeout = '{_SAMPLE_TIMEOUT}'")
            largest: int | None = await conn.fetchval(
                "select max(pg_catalog.octet_length(pg_catalog.to_json(t)::text)) from ("  # noqa: S608 - quoted
                f' select * from "{schema}"."{name}" tablesample system ({percent})'
                f" limit {_SAMPLE}) t"
            )
    except asyncpg.PostgresError:  # a slow disk, a foreign partition, a value that can't be read
        return None
    return largest


async def _idle_slots(patient: Patient) -> Findings:
    rows = await patient.conn.fetch(catalogs.IDLE_SLOTS)
    if not rows:
        yield finding("replication slots", "ok", "none that nobody reads")
    for row in rows:
        yield finding(
            "replication slots",
            "attention",
            f"nobody reads {printable(row['name'])}, and PostgreSQL keeps {row['kept']} of WAL",
            "drop it once nobody needs it: select pg_drop_replication_slot(…)",
        )


async def _transactions(patient: Patient) -> Findings:
    rows = await patient.conn.fetch(catalogs.TRANSACTIONS)
    for row in rows:
        yield finding(
            "transactions",
            "attention" if row["open_s"] > _LONG else "note",
            f"pid {row['pid']} ({printable(row['application'])}) has been in one for"
            f" {age(row['open_s'])}",
            "its events wait for its end, and so may install",
        )
    prepared = await patient.conn.fetch(catalogs.PREPARED)
    for row in prepared:
        yield finding(
            "transactions",
            "attention",
            f"{printable(row['name'])} has been prepared for {age(row['open_s'])}",
            "commit prepared or rollback prepared",
        )
    if not (rows or prepared):
        yield finding("transactions", "ok", "none is open for long")


_NAMES = (
    _Names(
        "partitions",
        catalogs.UNCAPTURED_PARTITIONS,
        "attention",
        "partitions of captured tables without a trigger of pgoutbox: {}",
        "run: pgoutbox install",
        needs_schema=True,
    ),
    _Names(
        "children",
        catalogs.UNCAPTURED_CHILDREN,
        "note",
        "tables that inherit from a captured one aren't captured with it: {}",
        "name them in pgoutbox install, if they are to be",
        needs_schema=True,
    ),
    _Names(
        "triggers",
        EARLIER_TRIGGERS,
        "note",
        "triggers that fire before pgoutbox's: {}",
        "what they change is captured first; rename them if that matters",
    ),
    _Names(
        "event triggers",
        catalogs.EVENT_TRIGGERS,
        "note",
        "they fire on what install does, and may refuse it: {}",
        None,
    ),
    _Names(
        "deferrable",
        catalogs.DEFERRABLE,
        "note",
        "a transaction gets its place in the order behind these checks, which costs it time: {}",
        "docs/how-it-works.md says how",
    ),
    _Names(
        "replica role",
        catalogs.REPLICA_ROLES,
        "attention",
        "session_replication_role is replica for {}, whose writes fire no trigger",
        "take that setting away, or capture them: pgoutbox install --always",
    ),
    _Names(
        "subscriptions",
        catalogs.SUBSCRIBED,
        "attention",
        "rows that are replicated into a table fire no ordinary trigger: {}",
        "to capture them: pgoutbox install --always",
    ),
    _Names(
        "publications",
        catalogs.PUBLICATIONS,
        "attention",
        "these include the tables of schema pgoutbox, or will: {}",
        "docs/publications.md shows how to leave them out",
    ),
)

# In their order: what one finds out, later ones may need.
_CHECKS: Mapping[str, Callable[[Patient], Findings]] = {
    "server": _server,
    "provider": _provider,
    "pooler": _pooler,
    "rights": _rights,
    "status": _status,
    "tables": _tables,
    **{names.check: names.find for names in _NAMES},
    "replication slots": _idle_slots,
    "transactions": _transactions,
}
