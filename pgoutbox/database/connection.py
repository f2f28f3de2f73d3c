"""Connections to PostgreSQL: how one is made, what it can rely on, what its failures mean."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from pgoutbox.config.settings import DatabaseConfig
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

_ROOTS = Path("~/.postgresql/root.crt")  # where libpq looks for root certificates

_QUERY_PASSWORD = re.compile(r"(?<=[?&])\w*password=[^&]*")

_ENCODE = "In a password, characters such as @ : / # ? % must be percent-encoded."
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

    ``purpose`` shows in pg_stat_activity. With ``primary`` a standby is refused. Every failure
    is a DatabaseError, ConfigError or SchemaError in one sentence without a password.
    """
    try:
        conn: asyncpg.Connection[Any] = await asyncpg.connect(
            **_arguments(config),
            timeout=timeout,
            command_timeout=None,
            server_settings={"application_name": f"pgoutbox {purpose}"},
        )
    except Exception as error:
        raise _explain_connecting(error, config, timeout) from error
    try:
        await _prepare(conn, primary=primary)
    except BaseException as error:
        conn.terminate()
        if isinstance(error, Exception):
            raise explain(error) from error
        raise
    return conn


@asynccontextmanager
async def session(
    config: DatabaseConfig, *, purpose: str, primary: bool = True
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Connect for one command; what PostgreSQL refuses in it becomes a DatabaseError."""
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


async def _prepare(conn: asyncpg.Connection[Any], *, primary: bool) -> None:
    version = conn.get_server_version()
    if version.major < OLDEST_SERVER:
        raise SchemaError(
            f"PostgreSQL {version.major} is too old",
            hint=f"pgoutbox needs PostgreSQL {OLDEST_SERVER} or later.",
        )
    # A simple query, which is one round trip.
    await conn.execute(_settings_statement())
    if primary and await conn.fetchval("select pg_catalog.pg_is_in_recovery()"):
        raise DatabaseError(
            "PostgreSQL at this address is a standby, which can't be written to",
            hint="Give the address of the primary.",
        )


def _arguments(config: DatabaseConfig) -> dict[str, Any]:
    """Return asyncpg's arguments; what is unset is left out, so that PG* variables apply."""
    given = {
        "dsn": config.dsn,
        "host": config.host,
        "port": config.port,
        "user": config.user,
        "password": config.password,
        "database": config.name,
        "ssl": _tls(config),
    }
    return {name: value for name, value in given.items() if value is not None}


def _tls(config: DatabaseConfig) -> str | ssl.SSLContext | None:
    """Return what asyncpg is told of TLS; None leaves it to the DSN and PGSSLMODE.

    It refuses to verify a server without a file of root certificates. Then the system's are
    taken, as wal-listener does, and as libpq does where ``sslrootcert`` is ``system``.
    """
    given = dict(parse_qsl(config.dsn.partition("?")[2])) if config.dsn else {}
    mode = config.ssl_mode or given.get("sslmode") or os.environ.get("PGSSLMODE")
    if config.enable_tls and mode not in ("require", "verify-ca", "verify-full"):
        return "require"
    roots = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if roots != "system" and (
        mode not in ("verify-ca", "verify-full") or roots or _ROOTS.expanduser().exists()
    ):
        return config.ssl_mode
    context = ssl.create_default_context()
    context.check_hostname = mode != "verify-ca"
    return context


def address(config: DatabaseConfig) -> str:
    """Return where ``config`` points, for people; never a password."""
    rest = _QUERY_PASSWORD.sub("", config.dsn or "").partition("://")[2]
    place = rest.rpartition("@")[2].partition("?")[0]
    if place.partition("/")[0]:
        return place
    keywords = dict(parse_qsl(rest.partition("?")[2]))
    host = keywords.get("host") or config.host or os.environ.get("PGHOST", "localhost")
    port = keywords.get("port") or config.port or os.environ.get("PGPORT", 5432)
    name = keywords.get("dbname") or keywords.get("database")
    return f"{host}:{port}{f'/{name}' if name else place}"


def _is_ambiguous(dsn: str) -> bool:
    """Tell whether an @ stands where the driver won't look for the host behind it."""
    return dsn.count("@") > int("@" in urlsplit(dsn).netloc)


def _explain_connecting(error: Exception, config: DatabaseConfig, timeout: float) -> PgoutboxError:
    where = f"PostgreSQL at {address(config)}"
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
            return ConfigError(
                "the database's address can't be read",
                hint=_ENCODE,
            )
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
    hint = _ENCODE if _is_ambiguous(config.dsn or "") else _GIVE_ADDRESS
    return DatabaseError(redact(sentence), hint=hint)


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
