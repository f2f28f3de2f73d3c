"""Servers, databases and clients for all tests; see support.py for what they are made of.

The suite starts PostgreSQL and nats-server itself. PGOUTBOX_TEST_DSN (a superuser's) and
PGOUTBOX_TEST_NATS_URL name others to use instead; PGOUTBOX_TEST_POSTGRES is the folder of
another PostgreSQL installation to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import inspect
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from pgoutbox.demo.nats_server import NatsServer, nats_server_program
from pgoutbox.demo.postgres import PostgresServer, postgres_installation
from pgoutbox.demo.process import version_of
from tests.support.cluster import FAST_SETTINGS, OWNER, Cluster, Database
from tests.support.commands import Daemon, start_daemon
from tests.support.streams import Stream, nats_client
from tests.support.systemd import Systemd, listening
from tests.support.waiting import unique

# A shell that runs the suite in the background has SIGINT ignored, in all its descendants.
signal.signal(signal.SIGINT, signal.default_int_handler)

Connect = Callable[..., Awaitable[asyncpg.Connection]]
StartDaemon = Callable[..., Awaitable[Daemon]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose what the tests' databases stand in."""
    group = parser.getgroup("pgoutbox")
    group.addoption("--soak", type=float, default=20.0, help="seconds of each soak test")
    group.addoption("--long", action="store_true", help="run the tests marked long, too")
    group.addoption("--wal-level", choices=["replica", "logical"], help="of the shared PostgreSQL")
    group.addoption(
        "--publish-outbox",
        action="store_true",
        help="publish all tables of schema pgoutbox in each test's database (PostgreSQL 15)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests unless they are asked for, or named on the command line."""
    if config.getoption("--long") or any("::" in name for name in config.args):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_report_header() -> str:
    """Name the versions that this run is about."""
    drivers = [f"{name} {importlib.metadata.version(name)}" for name in ("asyncpg", "nats-py")]
    return ", ".join([_postgres_version(), _nats_version(), *drivers])


def _installation() -> Path:
    folder = os.environ.get("PGOUTBOX_TEST_POSTGRES")
    return Path(folder) if folder else postgres_installation()


def _postgres_version() -> str:
    if "PGOUTBOX_TEST_DSN" in os.environ:
        return "PostgreSQL of PGOUTBOX_TEST_DSN"
    return f"PostgreSQL {version_of(_installation() / 'bin' / 'postgres')}"


def _nats_version() -> str:
    if "PGOUTBOX_TEST_NATS_URL" in os.environ:
        return "nats-server of PGOUTBOX_TEST_NATS_URL"
    return f"nats-server {version_of(nats_server_program())}"


def _folder() -> Path:
    """Return a temporary folder that PostgreSQL's user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="pgoutbox-test-"))
    folder.chmod(0o711)
    return folder


class Servers:
    """Servers of a test's own, which it may kill; stopped after it."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._servers: list[PostgresServer | NatsServer] = []

    def postgres(self, **settings: str) -> PostgresServer:
        """Start an empty PostgreSQL."""
        return self.postgres_of(PostgresServer, settings)

    def postgres_of(
        self,
        kind: type[PostgresServer],
        settings: Mapping[str, str] = MappingProxyType({}),
        *,
        installation: Path | None = None,
        password: str | None = None,
    ) -> PostgresServer:
        """Start an empty PostgreSQL of a kind of its own, or of another installation."""
        server = kind(
            self._folder / f"postgres-{len(self._servers)}",
            settings={**FAST_SETTINGS, **settings},
            installation=installation or _installation(),
        )
        server.password = password or server.password
        self._servers.append(server)
        return server.start()

    @property
    def installation(self) -> Path:
        """The PostgreSQL that is tested."""
        return _installation()

    async def cluster(self, **settings: str) -> Cluster:
        """Start a PostgreSQL with the roles and the template; its ``server`` may be killed."""
        server = self.postgres(**settings)
        cluster = Cluster(server.dsn(), server)
        await cluster.prepare()
        return cluster

    def nats(
        self, config_text: str = "", *, port: int | None = None, program: Path | None = None
    ) -> NatsServer:
        """Start a nats-server with JetStream."""
        folder = self._folder / f"nats-{len(self._servers)}"
        server = NatsServer(folder, port=port, config_text=config_text, program=program)
        self._servers.append(server)
        return server.start()

    def close(self) -> None:
        """Stop everything, and remove its files."""
        for server in reversed(self._servers):
            server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_servers() -> Iterator[Servers]:
    """The servers that all tests share."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def cluster(session_servers: Servers, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The shared PostgreSQL; not to be stopped by a test."""
    is_published = pytestconfig.getoption("publish_outbox")
    if dsn := os.environ.get("PGOUTBOX_TEST_DSN"):
        cluster = Cluster(dsn, is_published=is_published)
    else:
        wal_level = pytestconfig.getoption("wal_level")
        server = session_servers.postgres(**({"wal_level": wal_level} if wal_level else {}))
        cluster = Cluster(server.dsn(), server, is_published=is_published)
    asyncio.run(cluster.prepare())
    yield cluster
    asyncio.run(cluster.clean_up())


# A test that subscribes to what a relay publishes, and is slower, keeps its connection.
_PATIENT_WITH_CLIENTS = 'max_pending: 1GB\nwrite_deadline: "120s"'


@pytest.fixture(scope="session")
def nats_url(session_servers: Servers) -> str:
    """Where the shared nats-server listens; not to be stopped by a test."""
    given = os.environ.get("PGOUTBOX_TEST_NATS_URL")
    return given or session_servers.nats(_PATIENT_WITH_CLIENTS).url


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Start servers that the test may kill."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[Database]:
    """The test's own database, with pgoutbox's schema in it."""
    database = await cluster.create_database()
    yield database
    await cluster.drop_database(database)


@pytest.fixture
async def empty_database(cluster: Cluster) -> AsyncIterator[Database]:
    """The test's own database, without pgoutbox's schema."""
    database = await cluster.create_database(installed=False)
    yield database
    await cluster.drop_database(database)


@pytest.fixture
async def connect(database: Database) -> Connect:
    """Open connections to the test's database: ``await connect(WRITER)``."""
    return database.connect


@pytest.fixture
async def connection(database: Database) -> asyncpg.Connection:
    """A connection of the database's owner."""
    return await database.connect(OWNER)


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[Client]:
    """A client of the shared nats-server."""
    async with nats_client(nats_url) as client:
        yield client


@pytest.fixture
async def jetstream(nats: Client) -> JetStreamContext:
    """The same client's JetStream."""
    return nats.jetstream(timeout=30)


@pytest.fixture
async def stream(nats_url: str, jetstream: JetStreamContext) -> AsyncIterator[Stream]:
    """The test's own topic; a stream of that name is removed after the test."""
    stream = Stream(unique("t"), nats_url, jetstream)
    yield stream
    with contextlib.suppress(NotFoundError):
        await jetstream.delete_stream(stream.topic)


@pytest.fixture
async def topic(stream: Stream) -> str:
    """The test's own topic, which is also the name of its stream."""
    return stream.topic


@pytest.fixture
async def daemon() -> AsyncIterator[StartDaemon]:
    """Start the real command: ``relay = await daemon("relay", "--dsn", database.dsn)``."""
    started: list[Daemon] = []

    async def start(*arguments: str | Path, **options: Any) -> Daemon:
        started.append(await start_daemon(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        await process.kill()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Systemd's end of a socket, in the file system or in Linux's abstract namespace."""
    with listening(tmp_path / "notify" if request.param == "path" else None) as end:
        yield end


@pytest.fixture
async def no_task_survives() -> AsyncIterator[None]:
    """Fail the test that leaves an asyncio task running."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=1.0)  # those already cancelled may finish
    assert not left, f"tasks survived the test: {left}"


@pytest.fixture(autouse=True)
def _no_task_survives(request: pytest.FixtureRequest) -> None:
    # First of all fixtures, hence torn down after all of them.
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_survives")
