"""Connections to PostgreSQL: how one is made, what it can rely on, what its failures mean."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pgoutbox.config.conninfo import ENCODE
from pgoutbox.config.settings import DatabaseConfig
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

OLDEST_SERVER = 13  # the first with xid8
CONNECT_TIMEOUT = 15.0  # seconds

# Whatever a role or a database has as its default, a session of ours has these.
SESSION_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "row_security": "on",
    # The costs that the relay's planner settings make up would set it off, for seconds a reading.
    "jit": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    # So that the server, too, notices a cut connection, and gives back the locks it held.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
}

# Without TLS it would be the same.
_NOBODY_THERE = (TimeoutError, ConnectionRefusedError, FileNotFoundError, socket.gaierror)

_GIVE_ADDRESS = "Give the address with --dsn, PGOUTBOX_DSN, DATABASE_URL or the PG* variables."
_SSLMODE = (
    "Is it PostgreSQL that listens there? sslmode in the DSN or PGSSLMODE, and enableTLS in the"
    " file, insist on TLS; sslmode=prefer goes without where the server has none."
)


def _settings_statement() -> str:
    """Return one statement that makes all settings this server knows (some are newer than 13)."""
    wanted = ", ".join(f"('{name}', '{value}')" for name, value in SESSION_SETTINGS.items())
    return (
        "select pg_catalog.set_config(s.name, wanted.value, false)"  # noqa: S608 - our constants
        f" from (values {wanted}) wanted (name, value)"
        " join pg_catalog.pg_settings s on s.name operator(pg_catalog.=) wanted.name"
    )


async def connect(
    config: DatabaseConfig,
    *,
    purpose: str,
    timeout: float = CONNECT_TIMEOUT,
    primary: bool = False,
) -> asyncpg.Connection[Any]:
    """Open a session that doesn't depend on anybody's defaults.

    Of several hosts, the first that will do. ``purpose`` shows in pg_stat_activity; ``timeout``
    is for each host, in seconds. With ``primary`` a server that can't be written to won't do.

    Raises:
        DatabaseError, ConfigError, SchemaError: in one sentence without a password.
    """
    target = target_of(config)
    wanted = "read-write" if primary else target.session_attrs
    failures: dict[str, DatabaseError] = {}
    for attrs in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for place in target.places:
            try:
                return await _open(target, place, purpose, target.timeout or timeout, attrs)
            except DatabaseError as error:
                failures.setdefault(str(error), error)
    raise _all_of(failures)


async def _open(
    target: Target, place: Place, purpose: str, timeout: float, attrs: str
) -> asyncpg.Connection[Any]:
    where = f"PostgreSQL at {place}/{target.database}"
    try:
        conn = await _knock(target, place, purpose, timeout)
    except Exception as error:
        raise _explain_connecting(error, where, timeout) from error
    try:
        await _prepare(conn, where, attrs)
    except BaseException as error:
        conn.terminate()
        if isinstance(error, Exception):
            raise explain(error) from error
        raise
    return conn


async def _knock(
    target: Target, place: Place, purpose: str, timeout: float
) -> asyncpg.Connection[Any]:
    """Connect to one place, with TLS or without, in the order that sslmode means."""
    settings = {"application_name": f"pgoutbox {purpose}"}
    if target.options:
        settings["options"] = target.options
    attempts = (None,) if place.is_socket else target.tls.attempts
    for number, context in enumerate(attempts, start=1):
        try:
            conn: asyncpg.Connection[Any] = await asyncpg.connect(
                **target.arguments(place),
                ssl=context or False,
                direct_tls=context is not None and target.tls.is_direct,
                timeout=timeout,
                command_timeout=None,
                server_settings=settings,
            )
            return conn
        except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            if number == len(attempts) or isinstance(error, _NOBODY_THERE):
                raise
    raise AssertionError("sslmode means one attempt at least")


def _all_of(failures: Mapping[str, DatabaseError]) -> DatabaseError:
    """Return the only failure, or one that names those of all hosts."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
    return DatabaseError(
        f"none of the hosts will do: {'; '.join(failures)}", hint=" ".join(hints) or None
    )


@asynccontextmanager
async def session(
    config: DatabaseConfig,
    *,
    purpose: str,
    primary: bool = True,
    say: Callable[[str], None] | None = None,
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Connect for one command; what PostgreSQL refuses in it becomes a DatabaseError.

    ``say`` is told what of the address has no effect.
    """
    if say:
        for note in target_of(config).notes:
            say(note)
    conn = await connect(config, purpose=purpose, primary=primary)
    try:
        yield conn
    except FAILURES as error:
        raise explain(error) from error
    finally:
        await _close(conn)


async def _close(conn: asyncpg.Connection[Any]) -> None:
    try:
        await conn.close(timeout=2)
    except FAILURES:
        conn.terminate()


async def _prepare(conn: asyncpg.Connection[Any], where: str, attrs: str) -> None:
    version = conn.get_server_version()
    if version.major < OLDEST_SERVER:
        raise SchemaError(
            f"PostgreSQL {version.major} is too old",
            hint=f"pgoutbox needs PostgreSQL {OLDEST_SERVER} or later.",
        )
    if attrs != "any":
        await _refuse_unless(conn, where, attrs)
    # A simple query, which is one round trip.
    await conn.execute(_settings_statement())


async def _refuse_unless(conn: asyncpg.Connection[Any], where: str, attrs: str) -> None:
    """Make sure that a server is what libpq's target_session_attrs ask for.

    A primary whose sessions only read by default can be written to by ours.
    """
    is_standby = await conn.fetchval("select pg_catalog.pg_is_in_recovery()")
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
                f"{where} has a certificate that isn't accepted: {error.verify_message}",
                hint="Give its authority's certificate with sslrootcert in the DSN or"
                " PGSSLROOTCERT; `system` stands for those that this system knows.",
            )
        case ssl.SSLError():
            sentence = f"{where}: TLS failed: {error.reason or error}"
        case ValueError():  # its text may hold a part of the password
            return ConfigError("the database's address can't be read", hint=ENCODE)
        case TimeoutError():
            sentence = f"{where} doesn't answer within {timeout:g} s"
        case socket.gaierror():
            sentence = f"{where}: there is no host of that name"
        case ConnectionRefusedError() | FileNotFoundError():
            sentence = f"{where} refuses connections: nothing listens there"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return DatabaseError(f"{where} doesn't do TLS", hint=_SSLMODE)
        case asyncpg.PostgresError():
            return explain(error, where=where)
        case _:
            sentence = f"{where} can't be reached: {_one_line(error)}"
    return DatabaseError(redact(sentence), hint=_GIVE_ADDRESS)


_HINTS: dict[str, str] = {
    "28P01": "Check the user and the password.",
    "28000": "Check the user, and the server's pg_hba.conf.",
    "3D000": "Check the database's name; pgoutbox doesn't create databases.",
    "53300": "Wait, close other connections, or raise max_connections.",
    "57P03": "The server is starting up or shutting down; try again in a moment.",
    "42501": "Run this as the owner of the schema pgoutbox, or as a role that is granted it.",
    "25006": "Give the address of the primary.",
}


def explain(error: Exception, *, where: str = "PostgreSQL") -> PgoutboxError:
    """Return ``error`` as one of ours; one that already is stays as it is."""
    if isinstance(error, PgoutboxError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        said = redact(_one_line(error))
        return DatabaseError(f"{where} says: {said}", hint=_HINTS.get(state) or error.hint)
    if isinstance(error, FAILURES):
        return DatabaseError(f"the connection to {where} was lost: {redact(_one_line(error))}")
    return DatabaseError(f"{where}: {redact(_one_line(error))}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
