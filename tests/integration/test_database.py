"""Connections don't depend on anybody's defaults, and every failure is one sentence."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import trustme

from pgoutbox.config.settings import DatabaseConfig
from pgoutbox.database import connection as db
from pgoutbox.database.sessions import SESSION_SETTINGS
from pgoutbox.demo.postgres import PostgresServer
from pgoutbox.errors import ConfigError, DatabaseError, PgoutboxError
from tests.conftest import Servers
from tests.support.cluster import ADMIN, OWNER, WRITER, Database
from tests.support.waiting import eventually

SECRET = "s3cr3t-of-mine"

HOSTILE = {
    "search_path": "nowhere",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "jit": "on",
    "statement_timeout": "1s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "transaction_timeout": "1s",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "tcp_keepalives_idle": "7200",
    "tcp_keepalives_interval": "75",
    "tcp_keepalives_count": "9",
    "tcp_user_timeout": "0",
}


async def failure(
    config: DatabaseConfig, timeout: float = 5.0, *, primary: bool = False
) -> PgoutboxError:
    with pytest.raises(PgoutboxError) as caught:
        await db.connect(config, purpose="test", timeout=timeout, primary=primary)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.hint)
    return caught.value


async def test_a_session_has_our_settings_whatever_the_defaults(database: Database) -> None:
    admin = await database.connect(ADMIN)
    known = {row["name"] for row in await admin.fetch("select name from pg_settings")}
    for name, value in HOSTILE.items():
        if name in known:
            await admin.execute(f"alter database {database.name} set {name} = '{value}'")

    conn = await db.connect(DatabaseConfig(dsn=database.dsn), purpose="test")
    try:
        found = await conn.fetch(
            "select name, current_setting(name) as value from pg_catalog.pg_settings"
            " where name = any ($1::text[])",
            list(SESSION_SETTINGS),
        )
        purpose = await conn.fetchval("select current_setting('application_name')")
    finally:
        await conn.close()

    expected = {name: value for name, value in SESSION_SETTINGS.items() if name in known}
    assert expected == {row["name"]: row["value"] for row in found}
    assert expected.keys() - {"client_encoding"} == HOSTILE.keys() & known
    assert purpose == "pgoutbox test"


async def test_nobody_listens(unused_port: int) -> None:
    error = await failure(DatabaseConfig(dsn=f"postgresql://joe:{SECRET}@127.0.0.1:{unused_port}"))

    assert f"PostgreSQL at 127.0.0.1:{unused_port}/joe refused the connection" in str(error)
    assert isinstance(error, DatabaseError)
    assert "--dsn" in str(error.hint)


async def test_no_socket_in_the_folder(tmp_path: Path) -> None:
    error = await failure(DatabaseConfig(host=str(tmp_path), user="joe", password=SECRET))

    assert "refused the connection: nothing is listening there" in str(error)


async def test_nobody_listens_at_any_address_of_a_name(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where localhost has an address in IPv6, too."""

    async def addresses(*_: object, **__: object) -> list[object]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, unused_port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
    error = await failure(DatabaseConfig(dsn=f"postgresql://joe@somewhere:{unused_port}/db"))

    assert str(error).endswith("/db refused the connection: nothing is listening there")


async def test_no_such_host() -> None:
    error = await failure(DatabaseConfig(dsn=f"postgresql://joe:{SECRET}@nowhere.invalid/db"))

    assert str(error) == "PostgreSQL at nowhere.invalid:5432/db can't be found: no such host"


async def test_nobody_answers(silent_port: int) -> None:
    config = DatabaseConfig(dsn=f"postgresql://joe:{SECRET}@127.0.0.1:{silent_port}/db")

    error = await failure(config, timeout=0.3)

    assert str(error) == f"PostgreSQL at 127.0.0.1:{silent_port}/db didn't answer within 0.3 s"


async def test_no_such_database(database: Database) -> None:
    error = await failure(DatabaseConfig(dsn=database.cluster.dsn(OWNER, "nope")))

    assert 'database "nope" does not exist' in str(error)
    assert "name" in str(error.hint)


async def test_wrong_password(database: Database) -> None:
    right = database.dsn.partition("@")[2]
    error = await failure(DatabaseConfig(dsn=f"postgresql://{OWNER}:{SECRET}@{right}"))

    assert "password authentication failed" in str(error)
    assert error.hint == "Check the user and the password."


async def test_no_tls(database: Database) -> None:
    error = await failure(DatabaseConfig(dsn=f"{database.dsn}?sslmode=require"))

    assert str(error).endswith(f"/{database.name} doesn't offer TLS")
    assert "sslmode=prefer uses it only if" in str(error.hint)


@pytest.mark.parametrize("mode", [None, "disable", "prefer"])
async def test_tls_that_is_enabled_is_required(database: Database, mode: str | None) -> None:
    parts = urlsplit(database.dsn)
    config = DatabaseConfig(
        host=parts.hostname,
        port=parts.port,
        name=database.name,
        user=parts.username,
        password=parts.password,
        ssl_mode=mode,
    )
    await (await db.connect(config, purpose="test")).close()

    error = await failure(replace(config, enable_tls=True))

    where = f"{parts.hostname}:{parts.port}/{database.name}"
    assert str(error) == f"PostgreSQL at {where} doesn't offer TLS"


@dataclass
class TlsServer:
    """A PostgreSQL that does TLS: ``certificate`` is its authority's, in a file."""

    port: int
    certificate: Path


@pytest.fixture
async def tls(database: Database, tmp_path: Path) -> AsyncIterator[TlsServer]:
    """The test's PostgreSQL, which is built without TLS, behind an end of it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    certificate = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(certificate))
    target = urlsplit(database.dsn).port

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the client hung up
            assert await reader.readexactly(8) == struct.pack("!II", 8, 80877103)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(forward(reader, behind_writer), forward(behind_reader, writer))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield TlsServer(server.sockets[0].getsockname()[1], certificate)
    server.close()


def with_tls(database: Database, tls: TlsServer, host: str, **given: object) -> DatabaseConfig:
    """Return settings as wal-listener's file has them."""
    parts = urlsplit(database.dsn)
    return DatabaseConfig(
        host=host, port=tls.port, name=database.name, user=parts.username,
        password=parts.password, **given,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "host", "is_known", "said"),
    [
        (None, "localhost", False, None),
        ("require", "localhost", False, None),
        ("verify-ca", "127.0.0.1", True, None),
        ("verify-full", "localhost", True, None),
        ("verify-full", "127.0.0.1", True, "IP address mismatch"),
        ("verify-ca", "127.0.0.1", False, "unable to get local issuer certificate"),
        ("verify-full", "localhost", False, "unable to get local issuer certificate"),
    ],
)
async def test_tls_verifies_as_far_as_the_mode_says_with_the_systems_authorities(
    database: Database,
    tls: TlsServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: str | None,
    host: str,
    is_known: bool,
    said: str | None,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    config = with_tls(database, tls, host, enable_tls=True, ssl_mode=mode)

    if said is None:
        await (await db.connect(config, purpose="test")).close()
    else:
        assert said in str(await failure(config))


async def test_root_certificates_that_are_given_count(
    database: Database, tls: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_tls(database, tls, "localhost", ssl_mode="verify-full")
    dsn = f"{database.dsn.partition('@')[0]}@localhost:{tls.port}/{database.name}"

    monkeypatch.setenv("PGSSLROOTCERT", str(tls.certificate))
    await (await db.connect(config, purpose="test")).close()
    monkeypatch.delenv("PGSSLROOTCERT")
    in_dsn = DatabaseConfig(dsn=f"{dsn}?sslmode=verify-full&sslrootcert={tls.certificate}")
    await (await db.connect(in_dsn, purpose="test")).close()

    of_system = DatabaseConfig(dsn=f"{dsn}?sslmode=require&sslrootcert=system")
    assert "unable to get local issuer certificate" in str(await failure(of_system))


@pytest.mark.parametrize("query", ["channel_binding=require", "sslmode=require&{0}", "{0}&{1}"])
async def test_channel_binding_is_made_up_for_by_a_certificate_that_is_verified(
    database: Database, tls: TlsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, query: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = query.format("channel_binding=require", "require_auth=scram-sha-256")
    dsn = f"{database.dsn.partition('@')[0]}@localhost:{tls.port}/{database.name}?{asked}"

    unknown = await failure(DatabaseConfig(dsn=dsn))
    assert "unable to get local issuer certificate" in str(unknown)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    await (await db.connect(DatabaseConfig(dsn=dsn), purpose="test")).close()

    without = await failure(DatabaseConfig(dsn=f"{database.dsn}?{asked}"))
    assert str(without).endswith("doesn't offer TLS")


async def test_a_server_without_tls_is_taken_where_it_is_only_preferred(
    database: Database, tls: TlsServer
) -> None:
    for mode in ("prefer", "allow", "disable"):
        await (
            await db.connect(DatabaseConfig(dsn=f"{database.dsn}?sslmode={mode}"), purpose="test")
        ).close()
    through_tls = f"{database.dsn.partition('@')[0]}@localhost:{tls.port}/{database.name}"
    for mode in ("prefer", "no-verify"):
        await (
            await db.connect(DatabaseConfig(dsn=f"{through_tls}?sslmode={mode}"), purpose="test")
        ).close()


def make_standby(server: PostgresServer) -> None:
    """Restart it as a standby, which waits for a primary that never comes."""
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()


async def standby_and_primary(servers: Servers) -> tuple[PostgresServer, PostgresServer]:
    """Start two that let the same superuser in with the same password."""
    standby, primary = servers.postgres(), servers.postgres()
    admin = await asyncpg.connect(standby.dsn())
    await admin.execute(f"alter role postgres password '{primary.password}'")
    await admin.close()
    make_standby(standby)
    return standby, primary


async def test_all_hosts_are_tried_and_each_is_named(
    servers: Servers, unused_port: int, silent_port: int
) -> None:
    standby, primary = await standby_and_primary(servers)
    ports = [unused_port, silent_port, standby.port]
    dead = ",".join(f"127.0.0.1:{port}" for port in ports)
    dsn = f"postgresql://postgres@{dead},127.0.0.1:{primary.port}/postgres?connect_timeout=2"
    config = DatabaseConfig(dsn=dsn, password=primary.password)

    conn = await db.connect(config, purpose="test", primary=True)
    assert await conn.fetchval("show port") == str(primary.port)
    await conn.close()
    conn = await db.connect(config, purpose="test")
    assert await conn.fetchval("show port") == str(standby.port)
    await conn.close()

    primary.stop()
    error = await failure(config, primary=True)
    assert str(error) == (
        "none of the hosts can be used:"
        f" PostgreSQL at 127.0.0.1:{ports[0]}/postgres refused the connection: nothing is"
        " listening there;"
        f" PostgreSQL at 127.0.0.1:{ports[1]}/postgres didn't answer within 2 s;"
        f" PostgreSQL at 127.0.0.1:{ports[2]}/postgres is a standby, which can't be written to;"
        f" PostgreSQL at 127.0.0.1:{primary.port}/postgres refused the connection: nothing is"
        " listening there"
    )


@pytest.mark.parametrize(
    ("attrs", "is_standby"),
    [("standby", True), ("prefer-standby", True), ("primary", False), ("read-write", False)],
)
async def test_of_several_hosts_the_one_that_is_asked_for_is_taken(
    servers: Servers, attrs: str, is_standby: bool
) -> None:
    standby, primary = await standby_and_primary(servers)
    for first, second in ((standby, primary), (primary, standby)):
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        dsn = f"postgresql://postgres@{hosts}/?target_session_attrs={attrs}"
        conn = await db.connect(DatabaseConfig(dsn=dsn, password=primary.password), purpose="test")
        assert await conn.fetchval("select pg_is_in_recovery()") is is_standby
        await conn.close()


async def test_too_many_connections(database: Database) -> None:
    owner = await database.connect()
    await owner.execute(f"alter database {database.name} connection limit 0")

    error = await failure(DatabaseConfig(dsn=database.dsn))

    assert "too many connections" in str(error)
    assert "max_connections" in str(error.hint)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://joe:p/{SECRET}@h/db",
        f"postgresql://h:{SECRET}/db",
        f"postgresql://joe:{SECRET}@h/db?sslmode=often",
        f"postgresql:///db?password={SECRET}&port=x",
    ],
)
async def test_a_wrong_dsn_is_a_wrong_setting(dsn: str) -> None:
    error = await failure(DatabaseConfig(dsn=dsn))

    assert isinstance(error, ConfigError)
    assert "the database's address" in str(error)


async def test_a_standby_is_refused_where_one_has_to_write(servers: Servers) -> None:
    server = servers.postgres()
    make_standby(server)
    config = DatabaseConfig(dsn=server.dsn())

    conn = await db.connect(config, purpose="test")
    await conn.close()
    with pytest.raises(DatabaseError, match="is a standby"):
        await db.connect(config, purpose="test", primary=True)


async def test_what_postgresql_refuses_in_a_session_becomes_one_sentence(
    database: Database,
) -> None:
    config = DatabaseConfig(dsn=database.dsn_as(WRITER))

    with pytest.raises(DatabaseError, match="permission denied for schema pgoutbox") as caught:
        async with db.session(config, purpose="test") as conn:
            await conn.execute("select * from pgoutbox.event")

    assert "owner of the schema" in str(caught.value.hint)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError(
            "cannot switch to state 12; another operation (2) is in progress"
        ),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        asyncpg.InterfaceError(
            "cannot call Transaction.__aexit__(): the underlying connection is closed"
        ),
    ],
)
def test_the_drivers_own_states_are_nobodys_business(error: Exception) -> None:
    said = str(db.explain(error))

    assert said == "the connection to PostgreSQL was lost in the middle of a statement"


_SLEEPS = "select wait_event = 'PgSleep' from pg_stat_activity where pid = $1"


async def test_a_session_that_is_ended_by_the_server_becomes_one_sentence(
    database: Database,
) -> None:
    admin = await database.connect(ADMIN)

    async def be_ended() -> None:
        async with db.session(DatabaseConfig(dsn=database.dsn), purpose="test") as conn:
            pid = conn.get_server_pid()
            sleeping = asyncio.create_task(conn.execute("select pg_sleep(60)"))
            await eventually(lambda: admin.fetchval(_SLEEPS, pid))
            await admin.fetchval("select pg_terminate_backend($1)", pid)
            await sleeping

    with pytest.raises(DatabaseError, match="terminating connection"):
        await be_ended()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield int(silent.getsockname()[1])
