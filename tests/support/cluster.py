"""A PostgreSQL cluster with roles, and databases from a template."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from pgoutbox.database import schema
from pgoutbox.demo.postgres import PostgresServer
from tests.support.waiting import unique

OWNER = "app_owner"  # owns the databases; neither superuser nor allowed to replicate, as on RDS


WRITER = "app_writer"  # writes the owner's tables in schema public; no right on schema pgoutbox


ADMIN = "postgres"  # the superuser; only for what tests can't do otherwise


# For tests only: a crash of the machine may destroy such a cluster.
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "50",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "track_functions": "all",
}


@dataclass
class Database:
    """One test's own database, owned by ``app_owner``."""

    name: str
    cluster: Cluster
    _connections: list[asyncpg.Connection] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """The connection string of the database's owner."""
        return self.dsn_as(OWNER)

    def dsn_as(self, role: str) -> str:
        """Return the connection string of another role."""
        return self.cluster.dsn(role, self.name)

    async def connect(self, role: str = OWNER, **settings: str) -> asyncpg.Connection:
        """Connect as a role; closed after the test."""
        connection = await asyncpg.connect(self.dsn_as(role), server_settings=settings or None)
        self._connections.append(connection)
        return connection

    async def disconnect(self) -> None:
        """Close every connection that came from here."""
        for connection in self._connections:
            if not connection.is_closed():
                connection.terminate()
        self._connections.clear()
        await asyncio.sleep(0)  # lets the transports close


class Cluster:
    """A PostgreSQL server as the tests see it: roles, a template, a database a test."""

    def __init__(
        self, admin_dsn: str, server: PostgresServer | None = None, *, is_published: bool = False
    ) -> None:
        self._admin_dsn = admin_dsn
        self._is_published = is_published
        self._template = unique("pgoutbox_template_")
        self._made: set[str] = set()
        self.server = server

    @property
    def admin_dsn(self) -> str:
        """The superuser's connection string."""
        return self._admin_dsn

    def dsn(self, role: str, database: str) -> str:
        """Return the connection string of a role for a database."""
        parts = urlsplit(self._admin_dsn)
        password = parts.password or "pgoutbox"
        user = parts.username if role == ADMIN and parts.username else role
        address = (parts.netloc.rsplit("@", 1))[-1]
        return urlunsplit(
            parts._replace(
                netloc=f"{quote(user)}:{quote(password)}@{address}", path=f"/{quote(database)}"
            )
        )

    async def prepare(self) -> None:
        """Make the roles, and the template with pgoutbox's schema installed by the owner."""
        password = urlsplit(self._admin_dsn).password or "pgoutbox"
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            for role in (OWNER, WRITER):
                await _make_role(admin, role, password)
            await self._create(admin, self._template, template=None)
        finally:
            await admin.close()
        owner = await asyncpg.connect(self.dsn(OWNER, self._template))
        try:
            await owner.execute(
                f"alter default privileges in schema public"
                f" grant select, insert, update, delete, truncate on tables to {WRITER};"
                f"alter default privileges in schema public grant usage on sequences to {WRITER}"
            )
            await schema.apply(owner)
        finally:
            await owner.close()
        await self._publish(self._template)

    async def add_role(self, role: str) -> None:
        """Make a role that may log in, and no more; it stays, like the others."""
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            await _make_role(admin, role, urlsplit(self._admin_dsn).password or "pgoutbox")
        finally:
            await admin.close()

    async def create_database(self, *, installed: bool = True) -> Database:
        """Return a new database, with pgoutbox's schema or without."""
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            name = unique("pgoutbox_test_")
            await self._create(admin, name, template=self._template if installed else None)
        finally:
            await admin.close()
        return Database(name, self)

    async def create_encoded_database(self, encoding: str) -> Database:
        """Return a new database whose text has that encoding, with pgoutbox's schema."""
        database = Database(unique("pgoutbox_test_"), self)
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            await admin.execute(
                f"create database {database.name} owner {OWNER} template template0"
                f" encoding '{encoding}' lc_collate 'C' lc_ctype 'C'"
            )
            self._made.add(database.name)
        finally:
            await admin.close()
        await schema.apply(await database.connect())
        await self._publish(database.name)
        return database

    async def drop_database(self, database: Database) -> None:
        """Drop a database, with whoever is still connected to it."""
        await database.disconnect()
        await self._drop(database.name)

    async def clean_up(self) -> None:
        """Drop what is left; the roles stay, for others may use them."""
        for name in list(self._made):
            await self._drop(name)

    async def _create(self, admin: asyncpg.Connection, name: str, *, template: str | None) -> None:
        source = f' template "{template}"' if template else ""
        # Half the CPU of the default, which writes each page to the WAL.
        strategy = " strategy file_copy" if admin.get_server_version().major >= 15 else ""
        await admin.execute(f'create database "{name}" owner {OWNER}{source}{strategy}')
        self._made.add(name)

    async def _publish(self, name: str) -> None:
        """Publish all tables of ours, where asked to, as a publication of all tables does.

        Those of the tests are left out: whether these have a replica identity is their affair.
        """
        if not self._is_published:
            return
        admin = await asyncpg.connect(self.dsn(ADMIN, name))
        try:
            await admin.execute("create publication everything for tables in schema pgoutbox")
        finally:
            await admin.close()

    async def _drop(self, name: str) -> None:
        admin = await asyncpg.connect(self._admin_dsn)
        try:
            await admin.execute(f'drop database if exists "{name}" with (force)')
        finally:
            await admin.close()
        self._made.discard(name)


async def _make_role(admin: asyncpg.Connection, role: str, password: str) -> None:
    if not await admin.fetchval("select true from pg_roles where rolname = $1", role):
        await admin.execute(f"create role {role} login")
    await admin.execute(
        f"alter role {role} nosuperuser noreplication nobypassrls nocreatedb nocreaterole"
        f" password '{password}'"
    )
