"""Connections to PostgreSQL: how one is made, what it can rely on, what its failures mean."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import asyncpg

from pgoutbox.config.conninfo import ENCODE
from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database import ownership
from pgoutbox.database.sessions import (
    Guest,
    Session,
    Whereabouts,
    ask,
    prove_session,
    settings_statement,
)
from pgoutbox.database.target import Place, Target, target_of
from pgoutbox.errors import ConfigError, DatabaseError, PgoutboxError, SchemaError
from pgoutbox.redact import redact

# What a connection can fail with. asyncpg raises InternalClientError when the server's last words
# reach it between two steps of a statement.
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

# What a question fails with where the schema was dropped, or is being restored.
GONE = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
)

OLDEST_SERVER = 13  # the first with xid8
CONNECT_TIMEOUT = 15.0  # seconds

_GIVE_ADDRESS = "Give the address with --dsn, PGOUTBOX_DSN, DATABASE_URL or the PG* variables."
_SSLMODE = (
    "Is it PostgreSQL that listens there? TLS is required by sslmode or channel_binding in the DSN"
    " or the PG* variables, or by enableTLS in the file; sslmode=prefer uses it only if the server"
    " offers it."
)


async def connect(
    config: DatabaseConfig,
    *,
    purpose: str,
    timeout: float = CONNECT_TIMEOUT,
    query_timeout: float | None = None,
    primary: bool = False,
    is_proven: bool = False,
) -> Session:
    """Open a session of our own, which doesn't depend on anybody's defaults.

    ``purpose`` shows in pg_stat_activity; ``timeout`` is for each host, ``query_timeout`` for each
    query afterwards, in seconds. With ``primary`` a server that can't be written to won't do.
    ``is_proven`` says that another connection has shown that one gets a session there.

    Raises:
        DatabaseError, ConfigError, SchemaError: in one sentence without a password.
    """
    target = target_of(config)
    opening = _Opening(target, timeout, query_timeout=query_timeout)
    opened, place = await _open(opening, primary=primary)
    conn = cast(Session, opened)
    conn.whereabouts = Whereabouts(target.database, str(place), config.source)
    where = opening.where(place)
    try:
        if not is_proven:
            await prove_session(conn, where, lambda: _knock(opening, place))
        # A simple query, which is one round trip.
        await conn.execute(settings_statement(purpose))
        found = await ownership.look(conn, config.schema_owner)
        if found and found.work_as:
            await conn.execute(f"set role {found.work_as}")
    except BaseException as error:
        conn.terminate()
        if isinstance(error, Exception):
            raise explain(error, where=where) from error
        raise
    return conn


@asynccontextmanager
async def session(
    config: DatabaseConfig,
    *,
    purpose: str,
    primary: bool = True,
    say: Callable[[str], None] | None = None,
) -> AsyncIterator[Guest]:
    """Connect for one command; what PostgreSQL refuses in it becomes a DatabaseError.

    Works through any pooler, and leaves nothing behind there. ``say`` is told what of the address
    has no effect, and where the command works.
    """
    target = target_of(config)
    if say:
        for note in target.notes:
            say(note)
    opened, place = await _open(_Opening(target, CONNECT_TIMEOUT, Guest), primary=primary)
    conn = cast(Guest, opened)
    conn.purpose, conn.may_write, conn.trusts = purpose, primary, config.schema_owner
    conn.whereabouts = Whereabouts(target.database, str(place), config.source)
    if say and primary:
        say(str(conn.whereabouts))
    try:
        found = await ownership.look(conn, conn.trusts, mends=purpose == "install")
        conn.work_as = found.work_as if found else None
        yield conn
    except FAILURES as error:
        raise explain(error) from error
    finally:
        await _hang_up(conn)


async def close(conn: asyncpg.Connection[Any]) -> None:
    """Close a session, and give its locks and settings back, for a pooler may keep them."""
    with suppress(*FAILURES):
        await conn.execute("discard all", timeout=2)
    await _hang_up(conn)


async def _hang_up(conn: asyncpg.Connection[Any]) -> None:
    try:
        await conn.close(timeout=2)
    except FAILURES:
        conn.terminate()


@dataclass(frozen=True, slots=True)
class _Opening:
    """What is common to all attempts at one connection; ``timeout`` in seconds for each."""

    target: Target
    timeout: float
    kind: type[asyncpg.Connection[Any]] = Session
    query_timeout: float | None = None  # of each query afterwards

    def where(self, place: Place) -> str:
        return f"PostgreSQL at {place}/{self.target.database}"


async def _open(opening: _Opening, *, primary: bool) -> tuple[asyncpg.Connection[Any], Place]:
    """Connect to the first host that will do."""
    target = opening.target
    wanted = "read-write" if primary else target.session_attrs
    failures: dict[str, DatabaseError] = {}
    for attrs in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for place in target.places:
            try:
                return await _open_at(opening, place, attrs), place
            except DatabaseError as error:
                failures.setdefault(str(error), error)
    raise _all_of(failures)


async def _open_at(opening: _Opening, place: Place, attrs: str) -> asyncpg.Connection[Any]:
    where = opening.where(place)
    conn = await _knock(opening, place)
    try:
        await _check(conn, where, attrs)
    except BaseException as error:
        conn.terminate()
        if isinstance(error, Exception):
            raise explain(error, where=where) from error
        raise
    return conn


async def _knock(opening: _Opening, place: Place) -> asyncpg.Connection[Any]:
    """Connect to one place; every failure is one of ours."""
    timeout = opening.target.timeout or opening.timeout
    try:
        return await _knock_as_sslmode_means(opening, place, timeout)
    except Exception as error:
        raise _explain_connecting(error, opening.where(place), timeout) from error


async def _knock_as_sslmode_means(
    opening: _Opening, place: Place, timeout: float
) -> asyncpg.Connection[Any]:
    target = opening.target
    settings = {"options": target.options} if target.options else None
    attempts = (None,) if place.is_socket else target.tls.attempts
    for number, context in enumerate(attempts, start=1):
        try:
            conn: asyncpg.Connection[Any] = await asyncpg.connect(
                **target.arguments(place),
                ssl=context or False,
                direct_tls=context is not None and target.tls.is_direct,
                timeout=timeout,
                command_timeout=opening.query_timeout,
                server_settings=settings,
                connection_class=opening.kind,
                statement_cache_size=0 if opening.kind is Guest else 100,
            )
            return conn
        except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            if number == len(attempts) or _is_hopeless(error):
                raise
    raise AssertionError("sslmode means one attempt at least")


def _all_of(failures: Mapping[str, DatabaseError]) -> DatabaseError:
    """Return the only failure, or one that names those of all hosts."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
    return DatabaseError(
        f"none of the hosts can be used: {'; '.join(failures)}", hint=" ".join(hints) or None
    )


async def _check(conn: asyncpg.Connection[Any], where: str, attrs: str) -> None:
    version = conn.get_server_version()
    if version.major < OLDEST_SERVER:
        raise SchemaError(
            f"PostgreSQL {version.major} is too old",
            hint=f"pgoutbox needs PostgreSQL {OLDEST_SERVER} or later.",
        )
    if attrs != "any":
        await _refuse_unless(conn, where, attrs)


async def _refuse_unless(conn: asyncpg.Connection[Any], where: str, attrs: str) -> None:
    """Make sure that a server is what libpq's target_session_attrs ask for.

    A primary whose sessions only read by default can be written to by ours.
    """
    is_standby = (await ask(conn, "select pg_catalog.pg_is_in_recovery() as is_standby"))[0]
    if is_standby and attrs in ("read-write", "primary"):
        raise DatabaseError(
            f"{where} is a standby, which can't be written to",
            hint="Give the address of the primary.",
        )
    if not is_standby and attrs in ("standby", "read-only"):
        raise DatabaseError(f"{where} is a primary, and target_session_attrs asks for a standby")


def _explain_connecting(error: Exception, where: str, timeout: float) -> PgoutboxError:
    match error:
        case asyncpg.ClientConfigurationError():
            return ConfigError(redact(f"the database's address is wrong: {error}"))
        case ssl.SSLCertVerificationError():  # a ValueError, too
            return DatabaseError(
                f"{where} has an untrusted certificate: {error.verify_message}",
                hint="Name its CA's certificate with sslrootcert in the DSN or PGSSLROOTCERT;"
                " `system` means the CAs that this system trusts.",
            )
        case ssl.SSLError():
            sentence = f"{where}: TLS failed: {error.reason or error}"
        case ValueError():  # its text may hold a part of the password
            return ConfigError("the database's address can't be read", hint=ENCODE)
        case TimeoutError():
            sentence = f"{where} didn't answer within {timeout:g} s"
        case socket.gaierror():
            sentence = f"{where} can't be found: no such host"
        case OSError() if _is_refused(error):
            sentence = f"{where} refused the connection: nothing is listening there"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return DatabaseError(f"{where} doesn't offer TLS", hint=_SSLMODE)
        case asyncpg.PostgresError():
            return explain(error, where=where)
        case _:
            sentence = f"{where} can't be reached: {_one_line(error)}"
    return DatabaseError(redact(sentence), hint=_GIVE_ADDRESS)


def _is_hopeless(error: Exception) -> bool:
    """Return True if it would be the same without TLS, or with it."""
    kinds = (TimeoutError, socket.gaierror, asyncpg.InvalidPasswordError)
    return isinstance(error, kinds) or (isinstance(error, OSError) and _is_refused(error))


def _is_refused(error: OSError) -> bool:
    """Return True if nothing listens, at any of the addresses that a name may have."""
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return True
    # asyncio's words for several.
    codes = re.findall(r"\[Errno (\d+)\]", str(error))
    return bool(codes) and set(codes) == {str(errno.ECONNREFUSED)}


_HINTS: dict[str, str] = {
    "28P01": "Check the user and the password.",
    "28000": "Check the user, and the server's pg_hba.conf.",
    "3D000": "Check the database's name; pgoutbox doesn't create databases.",
    "53300": "Wait, close other connections, or raise max_connections.",
    "57P03": "The server is starting up or shutting down; try again in a moment.",
    "42501": "Run this as the owner of the schema pgoutbox, or as a role that is granted it.",
    "25006": "Give the address of the primary.",
}


# What the driver says of a session that has just ended.
_ABOUT_STATES = re.compile("another operation|cannot call Transaction")


def explain(error: Exception, *, where: str = "PostgreSQL") -> PgoutboxError:
    """Return ``error`` as one of ours; one that already is stays as it is."""
    if isinstance(error, PgoutboxError):
        return error
    if isinstance(error, asyncpg.InterfaceError):
        # What ended a transaction says more than that it can't be rolled back any more.
        ended_by = error.__context__
        error = ended_by if isinstance(ended_by, asyncpg.PostgresError) else error
    if "statement pooling mode" in str(error):  # PgBouncer's words
        return ConfigError(
            f"{where} is a pooler in statement mode, and pgoutbox needs whole transactions",
            hint="Give a direct address, or that of a pooler in session mode.",
        )
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        said = redact(_one_line(error))
        return DatabaseError(f"{where} says: {said}", hint=_HINTS.get(state) or error.hint)
    if type(error) is asyncpg.InternalClientError or _ABOUT_STATES.search(str(error)):
        # In words about the driver's own states, which tell an operator nothing.
        return DatabaseError(f"the connection to {where} was lost in the middle of a statement")
    if isinstance(error, FAILURES):
        return DatabaseError(f"the connection to {where} was lost: {redact(_one_line(error))}")
    return DatabaseError(f"{where}: {redact(_one_line(error))}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
