"""What every release must pass: taking over from the last one while everything runs.

The last release is the newest of CHANGELOG.md, from the package index; PGOUTBOX_TEST_LAST_RELEASE
names a wheel, or whatever else pip installs, to take instead.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from tests.conftest import Servers, StartDaemon
from tests.support.cluster import Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.streams import Stream
from tests.support.waiting import eventually

TOPIC = "upgrade"


def _releases() -> list[str]:
    """Return what may be the last release, the newest first: one is just being made, perhaps."""
    if wanted := os.environ.get("PGOUTBOX_TEST_LAST_RELEASE"):
        return [wanted]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+) - ", changelog, re.MULTILINE)
    return [f"pgoutbox=={version}" for version in versions]


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the last release, in an environment of its own."""
    programs = tmp_path_factory.mktemp("last") / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", programs.parent], check=True)
    for release in _releases():
        install: list[str | Path] = [programs / "pip", "install", "--quiet", release]
        if subprocess.run(install, env=clean_environment(), check=False).returncode == 0:
            return programs / "pgoutbox"
    pytest.skip("no release can be had (PGOUTBOX_TEST_LAST_RELEASE names a wheel)")


@pytest.mark.long
async def test_a_release_takes_over_from_the_last_one(
    last_release: Path, empty_database: Database, servers: Servers, daemon: StartDaemon
) -> None:
    """With events of the last one unsent, written before and after the schema is upgraded."""
    owner = await empty_database.connect()
    await owner.execute("create table users (id serial primary key)")
    dsn = ("--dsn", empty_database.dsn)
    installing = await daemon("install", *dsn, "--table", "users", program=[last_release])
    assert await installing.wait() == 0, installing.output
    server = servers.nats()
    relaying = ("relay", *dsn, "--nats-url", server.url, "--topic", TOPIC)

    async def write(count: int) -> None:
        for _ in range(count):
            await owner.execute("insert into users default values")

    old = await daemon(*relaying, program=[last_release])
    await write(50)
    await old.line("connected to NATS")
    server.kill()
    await old.line("NATS unavailable")
    await write(50)
    installed = pgoutbox("install", *dsn)
    assert installed.returncode == 0, installed.stderr
    await write(50)
    new = await daemon(*relaying)
    await new.line("standing by")
    server.start()
    assert await old.stop() == 0, old.output
    await new.line("connected to NATS")
    await write(50)

    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        stream = Stream(TOPIC, server.url, client.jetstream())

        async def all_are_there() -> bool:
            return await stream.count() >= 200

        await eventually(all_are_there, timeout=60)
        payloads = [json.loads(message.data) for message in await stream.messages()]
    finally:
        await client.close()
    assert [payload["data"]["id"] for payload in payloads] == list(range(1, 201))
