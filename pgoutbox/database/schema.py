"""The schema pgoutbox in a database: its files, its versions, how it is brought up to date."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from pgoutbox import __version__
from pgoutbox.database import ownership
from pgoutbox.errors import SchemaError, SchemaMissing
from pgoutbox.sql_files import sql_root

_BREAKING = "-- breaking:"
_RUN_INSTALL = "Run: pgoutbox install"
# Views come last: they are bound to the functions that they call when they are made.
_FUNCTION_FOLDERS = (
    "writer", "slow_path", "application", "rendering", "capture", "slots", "snapshots", "relay",
    "parking",
    "views",
)  # fmt: skip

# Not to_regclass(): a session remembers that there was no such schema, and doesn't learn of the
# one that was made while it waited for the lock until it reads a table.
IS_THERE = """exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgoutbox' and c.relname = 'migration'
)"""


# Changes of the schema take turns by this lock, which keeps neither writers nor relays waiting, and
# needs rights on the table.
LOCK = "lock table only pgoutbox.event in share row exclusive mode"


# How many migrations the structure has, where its rows weren't copied: its comment tells.
MIGRATIONS_OF_COPY = r"""coalesce(pg_catalog.substring(
    pg_catalog.obj_description(pg_catalog.to_regclass('pgoutbox.migration'), 'pg_class'),
    'migrations 1 to (\d+)'
)::pg_catalog.int4, 0)"""


# The numbers of a version's release, which an array compares; see _release().
RELEASE = """array(
                select m[1]::pg_catalog.int4 from pg_catalog.regexp_matches(
                    pg_catalog.split_part({version}, '+', 1), '[0-9]+', 'g') m)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered file of sql/migrations; immutable once released."""

    number: int
    name: str
    sql: str

    @property
    def breaking(self) -> str | None:
        """Why a relay that is older than this migration must not go on; None where it may."""
        first_line = self.sql.partition("\n")[0]
        return first_line.removeprefix(_BREAKING).strip() if _is_breaking(first_line) else None


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a database has of the schema, beside what this pgoutbox knows.

    ``functions_version`` is None where there is no schema.
    """

    functions_version: str | None
    missing: tuple[int, ...]  # migrations that the database lacks
    unknown: tuple[int, ...]  # migrations that this pgoutbox lacks
    breaking: str | None  # why the unknown ones forbid this pgoutbox to go on
    positions_behind: int = 0  # how far the sequence of positions lies behind what is sent

    @property
    def is_hollow(self) -> bool:
        """It is a copy of the structure alone, or of that so far."""
        return self.functions_version == ""

    @property
    def is_newer(self) -> bool:
        """The database was brought up to date by a later pgoutbox than this one."""
        theirs = _release(self.functions_version or "")
        return bool(self.unknown) or theirs > _release(functions_version())

    @property
    def is_older(self) -> bool:
        """`pgoutbox install` has something to do."""
        if self.functions_version is None or self.missing or self.positions_behind:
            return True
        return self.functions_version != functions_version() and not self.is_newer


def _is_breaking(line: str) -> bool:
    return line.startswith(_BREAKING)


def _release(version: str) -> tuple[int, ...]:
    """Return the release of a functions version, comparable; the checksum has no order."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _sql_files(folder: str) -> list[Path]:
    return sorted((sql_root() / folder).glob("*.sql"))


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations in their order."""
    return tuple(
        Migration(
            number=int(entry.name.partition("_")[0]),
            name=entry.name.removesuffix(".sql"),
            sql=entry.read_text("utf-8"),
        )
        for entry in _sql_files("migrations")
    )


@cache
def functions() -> tuple[str, ...]:
    """Return the text of each file of functions and views, in the order to apply them."""
    return tuple(
        entry.read_text("utf-8") for folder in _FUNCTION_FOLDERS for entry in _sql_files(folder)
    )


@cache
def functions_version() -> str:
    """Return the version of functions and views: this release, and a checksum of their files."""
    digest = hashlib.sha256("\0".join(functions()).encode()).hexdigest()
    return f"{__version__}+{digest[:12]}"


async def state(conn: asyncpg.Connection[Any]) -> SchemaState:
    """Compare the database with this pgoutbox; changes nothing."""
    known = {migration.number for migration in migrations()}
    if not await conn.fetchval(f"select {IS_THERE}"):
        return SchemaState(None, tuple(sorted(known)), (), None)
    applied = await conn.fetch("select number, breaking from pgoutbox.migration order by number")
    numbers = [row["number"] for row in applied]
    if not numbers:  # a copy of the structure alone
        numbers = list(range(1, 1 + await conn.fetchval(f"select {MIGRATIONS_OF_COPY}")))
    version = await conn.fetchval("select functions_version from pgoutbox.installation")
    is_current = version == functions_version()
    behind = await conn.fetchval("select pgoutbox.positions_behind()") if is_current else 0
    reasons = [row["breaking"] for row in applied if row["number"] not in known and row["breaking"]]
    return SchemaState(
        functions_version=version or "",
        missing=tuple(sorted(known.difference(numbers))),
        unknown=tuple(number for number in numbers if number not in known),
        breaking="; ".join(reasons) or None,
        positions_behind=behind,
    )


async def check(conn: asyncpg.Connection[Any]) -> str | None:
    """Make sure that a relay of this release can work with the database's schema.

    SchemaError, with the command to run, where it can't; SchemaMissing where that may change
    beneath a relay that waits. Where the schema is newer and the relay may go on: a sentence for
    the log.
    """
    found = await state(conn)
    if found.functions_version is None:
        raise SchemaMissing("pgoutbox isn't installed in this database", hint=_RUN_INSTALL)
    if found.breaking:
        raise SchemaError(
            f"the schema pgoutbox is newer than this relay ({__version__}): {found.breaking}",
            hint=f"Upgrade pgoutbox to {_said_release(found)} or later.",
        )
    if found.is_hollow:
        raise SchemaMissing(
            "the schema pgoutbox is the copy of one without its rows, or is being restored",
            hint=_RUN_INSTALL,
        )
    if found.positions_behind:
        raise SchemaMissing(
            "this database is a copy without its sequences' values: the next"
            f" {found.positions_behind} transactions would count as sent",
            hint=_RUN_INSTALL,
        )
    if found.is_older:
        raise SchemaError(
            f"the schema pgoutbox ({_said_release(found)}) is older than this relay"
            f" ({functions_version()})",
            hint=_RUN_INSTALL,
        )
    if not await conn.fetchval(_HAS_KEYS):
        raise SchemaMissing(
            "the schema pgoutbox has no primary keys yet; is it being restored?",
            hint="Let the restore end. A dump whose restore has failed is to be restored again.",
        )
    if found.is_newer:
        return f"the schema pgoutbox ({_said_release(found)}) is newer than this relay"
    return None


# pg_restore makes them after all rows are there; until then a relay would get into its way.
_HAS_KEYS = """
select exists (
    select from pg_catalog.pg_constraint c
    where c.conrelid = 'pgoutbox.progress'::pg_catalog.regclass and c.contype = 'p'
)
"""


def _said_release(found: SchemaState) -> str:
    release = (found.functions_version or "").partition("+")[0]
    # Between two releases only the checksum tells.
    return release if release != __version__ else found.functions_version or ""


async def apply(conn: asyncpg.Connection[Any]) -> bool:
    """Bring the schema up to date in one transaction; True where something was changed.

    Any number of these at once agree: they take turns, and the first does the work.
    """
    trusted = getattr(conn, "trusts", None)
    while (found := await _not_newer(conn, trusted)).is_older:
        try:
            async with conn.transaction():
                return await _bring_up_to_date(
                    conn, trusted, is_new=found.functions_version is None
                )
        except _MADE_BY_ANOTHER:
            if not await conn.fetchval(f"select {IS_THERE}"):
                raise
    await _close_to_others(conn, trusted)
    return False


# There is nothing yet that could be locked when a schema is made for the first time.
_MADE_BY_ANOTHER = (
    asyncpg.DuplicateSchemaError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
    asyncpg.UniqueViolationError,
)


async def _bring_up_to_date(
    conn: asyncpg.Connection[Any], trusted: str | None, *, is_new: bool
) -> bool:
    if not is_new:
        await conn.execute(LOCK)
    found = await _not_newer(conn, trusted)
    await conn.execute(f"select {NOTE_KNOWN_OBJECTS}")
    for migration in migrations():
        if migration.number in found.missing:
            await _migrate(conn, migration)
    if found.is_older:
        await _apply_functions(conn)
    await ownership.look(conn, trusted)
    return found.is_older


async def _not_newer(conn: asyncpg.Connection[Any], trusted: str | None) -> SchemaState:
    await ownership.look(conn, trusted, mends=True)
    found = await state(conn)
    if found.is_newer:
        raise SchemaError(
            f"the schema pgoutbox ({_said_release(found)}) is newer than this pgoutbox"
            f" ({__version__})",
            hint=f"Use pgoutbox {_said_release(found)} or later.",
        )
    return found


async def _close_to_others(conn: asyncpg.Connection[Any], trusted: str | None) -> None:
    """Take the right to create objects in the schema away from others, if it is this role's."""
    owned = await ownership.look(conn, trusted, mends=True)
    if owned and owned.is_open and owned.owner == await conn.fetchval("select current_user"):
        await conn.execute("select pgoutbox.close_to_others(pgoutbox.known_objects())")
    await ownership.look(conn, trusted)


async def _migrate(conn: asyncpg.Connection[Any], migration: Migration) -> None:
    if migration.number == 1:
        await conn.execute(migration.sql)  # makes the table of migrations
    await conn.execute(
        "insert into pgoutbox.migration (number, name, breaking) values ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.breaking,
    )
    if migration.number > 1:
        await conn.execute(migration.sql)


# What is there before anything is made: see close_to_others().
NOTE_KNOWN_OBJECTS = """pg_catalog.set_config('pgoutbox.known_objects', array(
    select o.oid from (
        select c.oid, c.relnamespace as schema from pg_catalog.pg_class c
        union all select p.oid, p.pronamespace from pg_catalog.pg_proc p
        union all select t.oid, t.typnamespace from pg_catalog.pg_type t
    ) o join pg_catalog.pg_namespace n on n.oid = o.schema where n.nspname = 'pgoutbox'
)::pg_catalog.text, true)"""


async def _apply_functions(conn: asyncpg.Connection[Any]) -> None:
    for statement in function_statements():
        await conn.execute(statement)


def function_statements() -> Iterable[str]:
    """Yield what makes functions and views those of this release; repeatable."""
    # Functions call one another, in no order of their files.
    yield "set local check_function_bodies = off;\n"
    yield from functions()
    yield "revoke execute on all functions in schema pgoutbox from public;\n"
    yield _make_whole()
    yield _REFRESH
    yield f"update pgoutbox.installation set functions_version = '{functions_version()}';\n"  # noqa: S608 - ours


def _make_whole() -> str:
    """Return what fills in what a copy of the schema lacks, and notes how far migrations are."""
    known = [{"number": m.number, "name": m.name, "breaking": m.breaking} for m in migrations()]
    last = known[-1]["number"]
    return f"""
do $$ begin
    perform pgoutbox.make_whole({literal(json.dumps(known))});
end $$;
comment on table pgoutbox.migration is
    'Which files of sql/migrations this database has: migrations 1 to {last}.';
"""


# Capture functions are made by the functions just replaced; roles need their rights on new ones.
_REFRESH = """\
do $$
declare
    captured regclass;
begin
    for captured in
        select t.relation from pgoutbox.captured_table t
        join pg_catalog.pg_class c on c.oid = t.relation order by t.number
    loop
        perform pgoutbox.refresh_capture(captured);
    end loop;
    perform pgoutbox.close_to_others(
        pg_catalog.current_setting('pgoutbox.known_objects')::pg_catalog.oid[]);
    perform pgoutbox.renew_grants();
end
$$;
"""


def literal(text: str | None) -> str:
    """Return ``text`` as a literal of SQL, right under every setting of the reading session."""
    if text is None:
        return "null"
    if "\0" in text:
        raise ValueError("a name can't hold a NUL character")
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'" + quoted.replace("\\", "\\\\") + "'"
