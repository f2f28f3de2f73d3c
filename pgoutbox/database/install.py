"""Capture tables, and release them, without holding up the application that writes them."""

from __future__ import annotations

import shlex
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

import asyncpg

from pgoutbox.config.settings import InstallConfig
from pgoutbox.database import draining, ownership, schema
from pgoutbox.database import patterns as kept
from pgoutbox.database.choice import AS_INSTALLED, Choice, described
from pgoutbox.database.table_locks import lock_table, patiently
from pgoutbox.database.tables import (
    EARLIER_TRIGGERS,
    Table,
    captured_tables,
    oid_of,
    printable,
    resolve,
    resolve_captured,
    successors,
    tables_of_filter,
)
from pgoutbox.errors import InstallError, one_a_line
from pgoutbox.names import suggest
from pgoutbox.patterns import Pattern

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Say = Callable[[str], None]
Found = TypeVar("Found")
Args = ParamSpec("Args")

_NO_SCHEMA = "pgoutbox isn't installed in this database: nothing to do"

# What each kind of grant gives a role; pgoutbox.grant_<kind>() gives it.
GRANTS = {
    "relay": "may run the relay",
    "capture": "may capture the tables that it owns",
    "emit": "may emit events",
    "reader": "may see all of `pgoutbox status`",
}


def _explains_rights(
    work: Callable[Args, Coroutine[Any, Any, None]],
) -> Callable[Args, Coroutine[Any, Any, None]]:
    """Say whose right it is where the role lacks one; the first argument is the connection."""

    @wraps(work)
    async def wrapped(*arguments: Args.args, **options: Args.kwargs) -> None:
        try:
            await work(*arguments, **options)
        except asyncpg.InsufficientPrivilegeError as error:
            raise InstallError(
                f"this role lacks a privilege: {error}",
                hint=await ownership.remedy(cast("Connection", arguments[0])),
            ) from error

    return wrapped


@_explains_rights
async def install(
    conn: Connection,
    tables: Sequence[str],
    settings: InstallConfig,
    say: Say,
    *,
    patterns: Sequence[Pattern] = (),
    excepted: Sequence[Pattern] = (),
    actions: Sequence[str] | None = None,
    fires_always: bool | None = None,
    event_trigger: bool | None = None,
    grants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    context: bool | None = None,
    all_checks: bool | None = None,
    choice: Choice = AS_INSTALLED,
    warn: Say | None = None,
    alarm: Say | None = None,
) -> None:
    """Bring the schema up to date and capture ``tables``, or else those of the filter.

    What isn't given of actions, old values, ``choice``, ``context`` and ``all_checks`` stays as it
    is; actions of the filter are added to what others have captured, for each relay picks what its
    own filter names. ``patterns`` but for what is ``excepted`` are kept: without ``tables`` and
    ``patterns`` those tables are captured, too, that match kept ones, or have taken the names of
    captured tables.
    Nothing is changed where a name is wrong. A table that fails keeps no other from being captured;
    InstallError then names what failed and what is done. ``grants`` are roles by what they are
    granted, of GRANTS. ``warn``, else ``say``, is told that something in the filter has nothing to
    capture; ``alarm``, else ``say``, of a table in a schema that is newer than its pattern.
    """
    warn = warn or say
    warnings: list[str] = []
    is_asked = bool(tables or patterns)

    async def find() -> tuple[dict[Table, _Wanted], list[_Grant]]:
        warnings.clear()
        roles = [await _grant(conn, kind, name) for kind in grants for name in grants[kind]]
        if is_asked:
            return await find_asked(), roles
        named = await tables_of_filter(conn, settings, warnings.append)
        found = dict.fromkeys(await successors(conn), _Wanted(old_values=settings.old_values))
        found |= {
            match.table: _Wanted(match.actions, match.old_values, match.fires_always, match)
            for match in await kept.matches(conn)
            if match.may_capture and not match.is_captured
        }
        return found | {
            table: _Wanted(named[table], settings.old_values, is_named=True) for table in named
        }, roles

    async def find_asked() -> dict[Table, _Wanted]:
        options = actions, settings.old_values, fires_always
        found = await kept.keep(conn, patterns, excepted, *options)
        warnings.extend(kept.about(patterns, found))
        asked = await resolve(conn, tables)
        asked += [match.table for match in found if match.may_capture]
        return dict.fromkeys(asked, _Wanted(*options))

    wanted, roles = await _install_schema(conn, settings, say, find)
    for warning in warnings:
        warn(warning)
    await _name_publications(conn, say)
    await _set_for_all_tables(conn, context, all_checks, say)

    async def capture(table: Table) -> str:
        return await _capture(
            conn, table, wanted[table], choice, settings, say, widens=not is_asked
        )

    await _each(conn, list(wanted), capture, say)
    await _name_earlier_triggers(conn, list(wanted), say)
    await _name_new_schemas(conn, wanted.values(), alarm or say)
    if settings.tables and not is_asked:
        named = {table.oid for table, each in wanted.items() if each.is_named}
        await _name_left_out(conn, named, say)
    if not await conn.fetchval("select exists (select from pgoutbox.captured_table)"):
        remedy = (
            "check listener.filter" if settings.tables else "run: pgoutbox install --table NAME"
        )
        warn(f"no table is captured; {remedy}")
    for grant in roles:
        await conn.execute(f"select pgoutbox.grant_{grant.kind}($1::oid::regrole)", grant.oid)
        say(f"role {grant.role}: {GRANTS[grant.kind]}{await _with_owner(conn, grant)}")
    await _watch_tables(conn, event_trigger, say)


async def _set_for_all_tables(
    conn: Connection, context: bool | None, all_checks: bool | None, say: Say
) -> None:
    """Set what capture does for all tables; None leaves it as it is."""
    if context is None and all_checks is None:
        return  # what an owner of one table may not ask, either
    await conn.execute("select pgoutbox.configure_capture($1, $2)", context, all_checks)
    if context is not None:
        say(f"sessions of writers: {'' if context else 'not '}captured")
    if all_checks is not None:
        say(f"order: behind the deferred checks of {'all' if all_checks else 'captured'} tables")


async def _with_owner(conn: Connection, grant: _Grant) -> str:
    """Return what the role has to give beside, where it doesn't trust the owner by itself."""
    owner = await ownership.to_be_named(conn, grant.oid) if grant.kind != "emit" else None
    return f", with --schema-owner {printable(owner)}" if owner else ""


async def _watch_tables(conn: Connection, wanted: bool | None, say: Say) -> None:
    """Make the event trigger, or drop it; None leaves it as it is.

    Raises:
        InstallError: this role may not make event triggers.
    """
    if wanted is None:
        return
    try:
        await conn.fetchval("select pgoutbox.watch_tables($1)", wanted)
    except asyncpg.InsufficientPrivilegeError as error:
        raise InstallError(
            f"this role may make no event triggers: {error}",
            hint="All else is done. A relay with --install captures such tables within seconds.",
        ) from error
    say(f"event trigger: tables are {'' if wanted else 'not '}captured as they are made again")


class _Wanted(NamedTuple):
    """What a table is to be captured for; None leaves it as it is."""

    actions: Sequence[str] | None = None
    old_values: str | None = None
    fires_always: bool | None = None
    match: kept.Match | None = None  # by which it is found
    is_named: bool = False  # by the filter


async def _name_earlier_triggers(conn: Connection, tables: Sequence[Table], say: Say) -> None:
    rows = await conn.fetch(EARLIER_TRIGGERS, [table.oid for table in tables])
    if rows:
        names = ", ".join(printable(row["name"]) for row in rows)
        say(
            f"triggers that fire before pgoutbox's: {names}; what they change is captured before"
            " the row that fired them; rename them if that matters"
        )


async def _name_new_schemas(conn: Connection, wanted: Iterable[_Wanted], alarm: Say) -> None:
    """Say which tables were captured because of a schema that is newer than the pattern."""
    new = [each.match for each in wanted if each.match and each.match.is_new_schema]
    for match in new:
        name, pattern = printable(match.table.name), printable(match.pattern)
        alarm(f"{name}: captured in a schema that is new and matches {pattern}")
    if new:
        await conn.execute("select pgoutbox.note_schemas()")


@_explains_rights
async def uninstall(
    conn: Connection,
    tables: Sequence[str],
    settings: InstallConfig,
    say: Say,
    *,
    patterns: Sequence[Pattern] = (),
) -> None:
    """Stop capturing ``tables``; events that they have already written stay and are sent.

    ``patterns`` are kept no longer, and all captured tables that match them are released. A table
    that is released by its name is left out of the patterns that are kept.
    """
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    released = await resolve_captured(conn, tables)
    for table in released:
        if changed := await conn.fetchval("select pgoutbox.except_table($1::oid)", table.oid):
            names = ", ".join(map(printable, changed))
            say(f"{printable(table.name)}: left out of {names} from now on")
    for pattern in patterns:
        found = await kept.forget(conn, pattern)
        say(f"{printable(pattern.text)}: later tables that match aren't captured any more")
        released += [table for table in found if table not in released]
    await _release_each(conn, released, settings, say)


@_explains_rights
async def forget_relay(conn: Connection, relay: str, say: Say) -> None:
    """Remove what is known of a relay that no longer runs, so that nothing is kept for it.

    Refuses while it leads; nobody takes the lead meanwhile.

    Raises:
        InstallError: it is running, or nothing is known of a relay of this name.

    """
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    try:
        parked = await conn.fetchval("select pgoutbox.forget_relay($1)", relay)
    except asyncpg.ObjectInUseError as error:
        raise InstallError(
            f"relay {printable(relay)} is running", hint="Stop it first, then run this again."
        ) from error
    if parked is None:
        raise await _unknown_relay(conn, relay)
    what = f"forgotten, with {_count(parked, 'parked event')}" if parked else "forgotten"
    say(f"relay {printable(relay)}: {what}")


async def _unknown_relay(conn: Connection, relay: str) -> InstallError:
    rows = await conn.fetch(
        "select p.relay from pgoutbox.progress p union select k.relay from pgoutbox.parked k"
        " order by relay"
    )
    names = [row["relay"] for row in rows]
    known = f" Known: {', '.join(map(printable, names))}." if names else ""
    return InstallError(
        f"there is no relay {printable(relay)} in this database"
        f"{suggest(relay, names, {name: printable(name) for name in names})}",
        hint=f"Nothing was changed.{known}",
    )


@_explains_rights
async def uninstall_all(
    conn: Connection,
    settings: InstallConfig,
    say: Say,
    *,
    drop_unsent: bool = False,
    drain: Callable[[int], None] | None = None,
) -> None:
    """Stop capturing, then drop the schema with all that is in it.

    Refuses while an event is neither sent nor given up with ``drop_unsent``: before anything
    is changed, and once more when nobody can write any more. With ``drain``, which is told how many
    events are left, it waits for the relays that run to send them.
    """
    if (await schema.state(conn)).functions_version is None:
        say(_NO_SCHEMA)
        return
    if drain is not None:
        await _refuse_parked(conn)
        await draining.require_relays(conn)
    elif not drop_unsent:
        await _refuse_unsent(conn)
    await _release_each(conn, await captured_tables(conn), settings, say)

    if drain is None:
        await _drop_schema(conn, settings, say, drop_unsent=drop_unsent)
    while drain is not None:
        await draining.wait(conn, drain)
        with suppress(_Unsent):  # of a transaction that was still open
            await _drop_schema(conn, settings, say, drop_unsent=False)
            break
    say("schema pgoutbox: dropped")


async def _drop_schema(
    conn: Connection, settings: InstallConfig, say: Say, *, drop_unsent: bool
) -> None:
    async def drop() -> None:
        await conn.execute("lock table pgoutbox.event, pgoutbox.transaction")
        if not drop_unsent:
            await _refuse_unsent(conn)
        await conn.execute("drop schema pgoutbox cascade")

    whole = Table(await oid_of(conn, "pgoutbox.event") or 0, "schema pgoutbox", is_partitioned=True)
    await patiently(conn, whole, drop, settings, say)


async def _name_left_out(conn: Connection, wanted: set[int], say: Say) -> None:
    """Say which tables stay captured although the filter doesn't name them.

    They aren't released: a relay with another file may be there for them.
    """
    for table in await captured_tables(conn):
        if table.oid not in wanted:
            name = printable(table.name)
            release = f"pgoutbox uninstall --table {shlex.quote(name)}"
            say(f"{name}: captured, though not in this filter; to stop: {release}")


class _Grant(NamedTuple):
    kind: str  # of GRANTS
    role: str  # quoted
    oid: int


async def _grant(conn: Connection, kind: str, name: str) -> _Grant:
    row = await conn.fetchrow(
        "select r.oid, pg_catalog.quote_ident(r.rolname) as name"
        " from pg_catalog.pg_roles r where r.rolname = $1",
        name,
    )
    if row is None:
        raise InstallError(f"there is no role {printable(name)}", hint="Nothing was changed.")
    return _Grant(kind, printable(row["name"]), row["oid"])


async def _install_schema(
    conn: Connection, settings: InstallConfig, say: Say, find: Callable[[], Awaitable[Found]]
) -> Found:
    """Bring the schema up to date, then ``find`` with its functions; nothing where that fails."""

    async def work() -> tuple[bool, Found]:
        return await schema.apply(conn), await find()

    try:
        oid = await oid_of(conn, "pgoutbox.event")
        whole = Table(oid or 0, "schema pgoutbox", is_partitioned=True)
        is_changed, found = await patiently(conn, whole, work, settings, say)
    except asyncpg.InsufficientPrivilegeError as error:
        if await conn.fetchval(f"select {schema.IS_THERE}"):
            raise
        raise InstallError(
            f"the schema pgoutbox can't be installed: {error}",
            hint=await ownership.remedy(conn),
        ) from error
    release = schema.functions_version().partition("+")[0]
    say(f"schema pgoutbox {release}: {'installed' if is_changed else 'up to date'}")
    return found


async def _name_publications(conn: Connection, say: Say) -> None:
    """Name the publications that have tables of schema pgoutbox, as those of all tables do."""
    names = await conn.fetchval(_PUBLICATIONS)
    if names:
        say(
            f"publications that include the tables of schema pgoutbox: {', '.join(names)}; a"
            " PostgreSQL subscriber without these tables stops; docs/publications.md shows how to"
            " leave them out"
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
    asked: _Wanted,
    choice: Choice,
    settings: InstallConfig,
    say: Say,
    *,
    widens: bool,
) -> str:
    """Capture one table, or bring it in line; return what became of it."""
    options = (table.oid, asked.actions, asked.old_values, widens, *choice.arguments)

    async def work() -> str:
        async with _as_owner_of(conn, table, say):
            return await capture()

    async def capture() -> str:
        wanted = await conn.fetchrow(
            "select w.*, pg_catalog.has_function_privilege("
            "'pgoutbox.note_capture(regclass, text[], text, boolean, jsonb)', 'execute')"
            " as may_capture from pgoutbox.capture_wanted($1::oid::regclass, $2, $3, $4,"
            " pgoutbox.asked_choice($5, $6, $7, $8)) w",
            *options,
        )
        assert wanted is not None  # noqa: S101 - it returns one row
        if wanted["is_needed"]:
            await lock_table(conn, table, "share row exclusive")
        elif not wanted["may_capture"]:
            return "already captured"  # as far as a relay's role can see
        is_changed = await conn.fetchval(
            "select pgoutbox.capture_table($1::oid::regclass,"
            " actions => $2, old_values => $3, widen => $4, condition => $5, columns => $6,"
            " except_columns => $7, hash_columns => $8)",
            *options,
        )
        if asked.fires_always is not None:
            is_changed |= await conn.fetchval(
                "select pgoutbox.fire_always($1::oid::regclass, $2)", table.oid, asked.fires_always
            )
        if wanted["is_captured"] and not wanted["is_as_installed"]:
            actions = ",".join(wanted["actions"]).lower()
            chosen = described(wanted["choice"])
            return f"from now on: {actions}; old values: {wanted['old_values']}" + (
                chosen and f"; {chosen}"
            )
        if wanted["former"]:
            return f"captured; {wanted['former']}, which bore its name, stays captured"
        return "captured" if is_changed else "already captured"

    return await patiently(conn, table, work, settings, say)


@asynccontextmanager
async def _as_owner_of(conn: Connection, table: Table, say: Say) -> AsyncIterator[None]:
    """Work as the table's owner, where this role lacks its rights and this session can take them.

    Inside a transaction. That owner may capture its tables from then on.
    """
    owner = await conn.fetchrow(_OTHER_OWNER, table.oid)
    if owner is None:
        yield
        return
    if not owner["may_capture"]:
        await conn.execute("select pgoutbox.grant_capture($1::oid::regrole)", owner["oid"])
        say(f"role {printable(owner['name'])}: {GRANTS['capture']}")
    await conn.execute(f"set local role {owner['name']}")
    yield
    await conn.execute(f"set local role {getattr(conn, 'work_as', None) or 'none'}")


_OTHER_OWNER = """
select o.oid, pg_catalog.quote_ident(o.rolname) as name,
    pg_catalog.has_function_privilege(
        o.oid, 'pgoutbox.note_capture(regclass, text[], text, boolean, jsonb)', 'execute'
    ) as may_capture
from pg_catalog.pg_class c join pg_catalog.pg_roles o on o.oid = c.relowner
where c.oid = $1 and not pg_catalog.pg_has_role(c.relowner, 'usage') and case
    when pg_catalog.current_setting('server_version_num')::integer >= 160000
    then pg_catalog.pg_has_role(session_user, c.relowner, 'SET')
    else pg_catalog.pg_has_role(session_user, c.relowner, 'MEMBER') end
"""


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
        async with _as_owner_of(conn, table, say):
            if table.is_there:
                await lock_table(conn, table, "access exclusive")
            is_changed: bool = await conn.fetchval(
                "select pgoutbox.release_table($1::oid::regclass)", table.oid
            )
        return is_changed

    return await patiently(conn, table, work, settings, say)


async def _each(
    conn: Connection,
    tables: Sequence[Table],
    work: Callable[[Table], Awaitable[str]],
    say: Say,
) -> None:
    """Do ``work`` for each table and say how it went; fail at the end if one failed."""
    failures: list[InstallError] = []
    done: list[str] = []
    for number, table in enumerate(tables, 1):
        place = f" ({number:,} of {len(tables):,})" if len(tables) >= _MANY else ""
        try:
            say(f"{printable(table.name)}: {await work(table)}{place}")
            done.append(printable(table.name))
        except InstallError as error:
            failures.append(error)
        except asyncpg.PostgresError as error:
            if conn.is_closed():
                raise
            failures.append(await _refused(conn, table, error))
    if failures:
        raise _failed(failures, done)


async def _refused(conn: Connection, table: Table, error: asyncpg.PostgresError) -> InstallError:
    hint = error.hint
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        hint = await ownership.remedy(conn, table.oid)
    return InstallError(f"{printable(table.name)}: {error}", hint=hint)


def _failed(failures: Sequence[InstallError], done: Sequence[str]) -> InstallError:
    message = one_a_line(map(str, failures), "tables failed")
    if done:
        separator = " " if len(failures) == 1 else "\n  "
        message += f"{separator}(done: {', '.join(done)})"
    hints: Mapping[str, None] = dict.fromkeys(error.hint for error in failures if error.hint)
    return InstallError(message, hint=" ".join(hints) or None)


_MANY = 10  # tables, of which one wants to know how many are done


class _Unsent(InstallError):
    """Events would be lost with the schema."""


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
        raise _Unsent(
            one_a_line(
                (
                    f"relay {printable(relay)} has {_count(events, 'unsent event')}"
                    for relay, events in unsent
                ),
                "relays haven't sent everything",
            ),
            hint=f"Send them first: {drain}{forget if len(relays) > 1 else ''};"
            " or discard them with --drop-unsent.",
        )
    await _refuse_parked(conn)


async def _refuse_parked(conn: Connection) -> None:
    if parked := await conn.fetchval("select count(*) from pgoutbox.parked"):
        raise InstallError(
            f"{_count(parked, 'event is', 'events are')} parked, and would be lost",
            hint="Save what you need from pgoutbox.parked, then discard them with --drop-unsent.",
        )


def _drain(relay: str) -> str:
    name = "" if relay == "default" else f" --name {shlex.quote(relay)}"
    return f"pgoutbox relay --drain{name}"


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"
