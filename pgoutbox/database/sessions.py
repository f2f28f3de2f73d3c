"""What is ours on a connection: a session with our settings, or, for commands, nothing at all.

A pooler in transaction mode lends a connection to PostgreSQL for one transaction, then to somebody
else. A command leaves nothing behind there; what needs a session makes sure first that it has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from pgoutbox.errors import ConfigError, DatabaseError

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

# What a transaction can't have for itself, or begins with.
_NOT_LOCAL = ("tcp_", "default_transaction_", "idle_session_timeout")

_ROUNDS = 3  # of looking whether a session stays ours
_PATIENCE = 3.0  # seconds after which one waits for a connection that another holds


def settings_statement(purpose: str, *, local: bool = False) -> str:
    """Return one statement that makes our settings, for the transaction where ``local``.

    Those, that is, that the server knows; some are newer than PostgreSQL 13. The name is among
    them, for PgBouncer leaves one that comes with the connection to whoever is next and has none.
    """
    ours = f"pgoutbox {purpose}".replace("'", "''")
    wanted = ", ".join(
        f"('{name}', '{value}')"
        for name, value in {**SESSION_SETTINGS, "application_name": ours}.items()
        if not (local and name.startswith(_NOT_LOCAL))
    )
    return (
        f"select pg_catalog.set_config(name, value, {local})"  # noqa: S608 - our constants
        f" from (values {wanted}) wanted (name, value)"
        " where pg_catalog.current_setting(name, true) is not null"
    )


if TYPE_CHECKING:  # asyncpg's own class takes no parameter
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Which database a command works in, where that is, and where it was chosen."""

    database: str
    server: str
    source: str

    def __str__(self) -> str:
        return f"database {self.database} at {self.server}, from {self.source}"


class Session(_Connection):
    """A connection that keeps what is set and locked on it; that of the relay."""

    whereabouts = Whereabouts("", "", "")


class Guest(_Connection):
    """A connection for commands, through any pooler: it leaves nothing behind on the server.

    Each statement stands in a transaction that begins with our settings for it alone, and has no
    name; a statement outside of one gets one of its own. Made with ``statement_cache_size=0``.
    """

    purpose = ""  # shows in pg_stat_activity
    whereabouts = Whereabouts("", "", "")
    may_write = False  # until that is set, what it begins can run on a standby, too
    trusts: str | None = None  # a role that may own the schema; see ownership.look()
    work_as: str | None = None  # the role of every transaction, quoted
    _is_inside = False

    @asynccontextmanager
    async def transaction(  # type: ignore[override]
        self, *, readonly: bool = False
    ) -> AsyncIterator[None]:
        """Begin a transaction with our settings, or inside of one a savepoint."""
        if self._is_inside:
            async with super().transaction():
                yield
            return
        access = "read write" if self.may_write and not readonly else "read only"
        self._is_inside = True
        try:
            async with super().transaction(isolation="read_committed"):
                settings = settings_statement(self.purpose, local=True)
                role = f"; set local role {self.work_as}" if self.work_as else ""
                await super().execute(f"set transaction {access}, not deferrable; {settings}{role}")
                yield
        finally:
            self._is_inside = False

    @asynccontextmanager
    async def _whole(self) -> AsyncIterator[None]:
        if self._is_inside:
            yield
        else:
            async with self.transaction():
                yield

    async def execute(self, *arguments: Any, **options: Any) -> str:
        """Run statements, in a transaction."""
        async with self._whole():
            return await super().execute(*arguments, **options)

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """Return rows, read in a transaction."""
        async with self._whole():
            return await super().fetch(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        """Return the first row, read in a transaction."""
        async with self._whole():
            return await super().fetchrow(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        """Return the first value of the first row, read in a transaction."""
        async with self._whole():
            return await super().fetchval(*arguments, **options)


async def ask(connection: asyncpg.Connection[Any], question: str) -> asyncpg.Record:
    """Return the one row that answers ``question``, without leaving anything behind."""
    async with connection.transaction():
        statement = await connection.prepare(question, name="")
        row: asyncpg.Record | None = await statement.fetchrow()
    assert row is not None  # noqa: S101 - questions of ours have an answer
    return row


async def prove_session(
    connection: asyncpg.Connection[Any],
    where: str,
    open_another: Callable[[], Awaitable[asyncpg.Connection[Any]]],
) -> None:
    """Make sure that what stays on the server stays with this connection.

    Nothing is set or locked for it. A connection that nobody stands between is told by its
    process and port. Else another one keeps a transaction open meanwhile: a pooler that lends
    what is idle would lend ours, and we get another then, or wait for it. It takes a few rounds,
    since a pool may also give the same one by chance.

    Raises:
        ConfigError: it is lent for one transaction at a time.
        DatabaseError: it can't be told, for the other one isn't to be had, or nobody answers.
    """
    backend = await ask(connection, _BACKEND)
    if _is_direct(connection, backend):
        return
    waited = 0
    for _ in range(_ROUNDS):
        other = await open_another()
        try:
            found = await _while_another_holds(connection, other)
        finally:
            other.terminate()
        if found is None:
            waited += 1
        elif found.is_ours:
            return
        if waited > 1 or (found is not None and found.pid != backend["pid"]):
            raise ConfigError(
                f"{where} is a pooler in transaction mode, and the relay needs a session: it"
                " listens, and holds locks",
                hint="Give it a direct address, or the pooler's in session mode.",
            )


_BACKEND = "select pg_catalog.pg_backend_pid() as pid, pg_catalog.inet_client_port() as port"


def _is_direct(connection: asyncpg.Connection[Any], backend: asyncpg.Record) -> bool:
    """Return True where the server's end of the connection is that of ours."""
    ours = connection._transport.get_extra_info("sockname")  # type: ignore[attr-defined]
    port = ours[1] if isinstance(ours, tuple) else None  # none with a socket of this machine
    told = connection.get_server_pid()
    return bool(port) and (told, port) == (backend["pid"], backend["port"])


class _Found(NamedTuple):
    """What serves a connection; ``is_ours`` where nobody else can be served by it."""

    pid: int
    is_ours: bool


async def _while_another_holds(
    connection: asyncpg.Connection[Any], other: asyncpg.Connection[Any]
) -> _Found | None:
    """Return what serves ``connection`` while ``other`` keeps a transaction open, or waits to.

    None where that has to wait for the end of the transaction.
    """
    holding = asyncio.ensure_future(other.execute("begin"))
    asking: asyncio.Future[asyncpg.Record] | None = None
    try:
        await asyncio.wait({holding}, timeout=_PATIENCE)
        asking = asyncio.ensure_future(ask(connection, _BACKEND))
        answered, _ = await asyncio.wait({asking}, timeout=_PATIENCE)
        if answered and not holding.done():  # which came first, and ours is not for it
            return _Found(asking.result()["pid"], is_ours=True)
        async with asyncio.timeout(_PATIENCE):
            await holding
            await other.execute("rollback")
            found = await asking
    except TimeoutError as error:
        raise DatabaseError("PostgreSQL, or a pooler before it, doesn't answer") from error
    finally:
        for future in (holding, asking):
            if future is not None and not future.done():
                future.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await future
    return _Found(found["pid"], is_ours=False) if answered else None
