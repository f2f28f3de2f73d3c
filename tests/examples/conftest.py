"""What the examples' tests need: a table whose changes a relay publishes, and programs to run."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from pgoutbox.demo.process import guarded
from tests.conftest import StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT, Daemon, clean_environment
from tests.support.streams import Stream
from tests.support.waiting import eventually

EXAMPLES = ROOT / "examples"
OLDEST_NODE = 20

StartProgram = Callable[..., Awaitable[Daemon]]


class Users:
    """Table users, captured; its events come by a relay, into a stream of the test's own."""

    def __init__(
        self, database: Database, connection: asyncpg.Connection, stream: Stream, start: StartDaemon
    ) -> None:
        self._database = database
        self._connection = connection
        self._start = start
        self.stream = stream

    async def capture(self) -> None:
        """Create and capture the table."""
        await self._connection.execute(
            "create table users (id serial primary key, name text, email text unique)"
        )
        await self._connection.execute("select pgoutbox.capture_table('users')")

    async def relay(self) -> None:
        """Start the relay."""
        where = ("--dsn", self._database.dsn, "--nats-url", self.stream.url)
        relay = await self._start("relay", *where, "--topic", self.stream.topic)
        await relay.line("connected to NATS")

    async def write(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        for statement in statements:
            await self._connection.execute(statement)

    async def rows(self) -> list[tuple[object, ...]]:
        """Return the table's rows."""
        found = await self._connection.fetch("select id::text, name, email from users order by 1")
        return [tuple(row) for row in found]

    async def publish(self, data: bytes) -> None:
        """Put something into the stream that doesn't come from the relay, or not now."""
        await self.stream.jetstream.publish(f"{self.stream.topic}.public_users", data)

    async def events(self, count: int) -> list[bytes]:
        """Return what the stream holds, once there are ``count``."""

        async def stored() -> bool:
            return await self.stream.count() >= count

        await eventually(stored, timeout=30)
        return [message.data for message in await self.stream.messages()]


@pytest.fixture
async def users(
    database: Database, connection: asyncpg.Connection, stream: Stream, daemon: StartDaemon
) -> Users:
    users = Users(database, connection, stream, daemon)
    await users.capture()
    return users


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[StartProgram]:
    """Start an example, with a folder of the test's own as its working directory."""
    started: list[Daemon] = []

    async def start(file: Path, *arguments: str, env: dict[str, str] | None = None) -> Daemon:
        interpreter = {".py": sys.executable, ".js": "node"}.get(file.suffix)
        command = [file] if interpreter is None else [str(shutil.which(interpreter)), file]
        process = await asyncio.create_subprocess_exec(
            *guarded([*command, *arguments]),
            cwd=tmp_path,
            env=clean_environment(env),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(Daemon(process))
        return started[-1]

    yield start
    for process in started:
        await process.kill()


@pytest.fixture(scope="session")
def node_consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The consumer for Node, beside its packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm aren't on this machine")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.strip().removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is {version.stdout.strip()}, and the example needs {OLDEST_NODE}")
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "consume.js"):
        shutil.copy(EXAMPLES / "node-consumer" / file, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    except subprocess.TimeoutExpired:
        pytest.skip("npm didn't get the example's packages within 30 s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm doesn't get the example's packages: {error.stderr.splitlines()[:1]}")
    return folder / "consume.js"


@pytest.fixture(scope="session")
def go_consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The consumer for Go, built."""
    if not shutil.which("go"):
        pytest.skip("go isn't on this machine")
    program = tmp_path_factory.mktemp("go") / "consumer"
    command = ["go", "build", "-o", str(program), "."]
    folder = EXAMPLES / "go-consumer"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "proxy" in done.stderr or "dial tcp" in done.stderr:
        pytest.skip(f"go doesn't get the example's modules: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return program


def read_lines(file: Path) -> list[dict[str, object]]:
    """Return the JSON objects of a file, one a line."""
    return [json.loads(line) for line in file.read_text().splitlines()]
