"""Others' publications: install names those that have our tables, and the document helps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgoutbox.config.settings import InstallConfig
from pgoutbox.database.install import install
from tests.conftest import Servers
from tests.support.cluster import ADMIN, Database
from tests.support.commands import ROOT, clean_environment
from tests.support.waiting import eventually

DOCUMENT = (ROOT / "docs" / "publications.md").read_text("utf-8")
SETTINGS = InstallConfig(lock_timeout=0.5, lock_wait=10.0)


def script(kind: str) -> str:
    """Return the document's statements or commands."""
    found = re.search(rf"<!-- publications: {kind} -->\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found, kind
    return found[1]


@pytest.mark.parametrize(
    ("publication", "is_named"),
    [
        ("for all tables", True),
        ("for tables in schema public, pgoutbox", True),
        ("for table pgoutbox.progress", True),
        ("for all tables with (publish = '')", False),
        ("for tables in schema public", False),
        ("for table users", False),
    ],
)
async def test_install_names_publications_that_have_its_tables(
    database: Database, publication: str, is_named: bool
) -> None:
    admin = await database.connect(ADMIN)
    if "in schema" in publication:
        _skip_before_15(admin)
    await admin.execute("set client_min_messages = error")  # wal_level is too low, says PostgreSQL
    await admin.execute("create table users (id int primary key)")
    await admin.execute(f'create publication "Every Thing" {publication}')
    said: list[str] = []
    await install(admin, ["public.users"], SETTINGS, said.append)

    named = [line for line in said if '"Every Thing"' in line]

    assert len(named) == is_named
    assert all("docs/publications.md" in line for line in named)


def _skip_before_15(connection: asyncpg.Connection) -> None:
    if connection.get_server_version().major < 15:
        pytest.skip("PostgreSQL 15 brought publications of schemas, and counts of what failed")


class Subscription:
    """A table in one database, and a subscription of it in another of the same cluster."""

    def __init__(self, publisher: Database, subscriber: Database) -> None:
        self.publisher = publisher
        self.subscriber = subscriber

    async def start(self) -> None:
        """Subscribe. The slot is made beforehand: within one cluster the command would wait."""
        for database in (self.publisher, self.subscriber):
            owner = await database.connect()
            await owner.execute("create table users (id int primary key)")
        admin = await self.publisher.connect(ADMIN)
        await admin.execute("create publication everything for all tables")
        await admin.execute("select pg_create_logical_replication_slot('subscriber', 'pgoutput')")
        await (await self.subscriber.connect(ADMIN)).execute(
            f"create subscription subscriber connection '{self.publisher.dsn_as(ADMIN)}'"
            " publication everything with (create_slot = false, copy_data = false)"
        )

    async def stop(self) -> None:
        """Unsubscribe, which lets both databases be dropped."""
        admin = await self.subscriber.connect(ADMIN)
        await admin.execute("drop subscription subscriber")

    async def users(self) -> list[int]:
        """Return what the subscriber has."""
        rows = await (await self.subscriber.connect()).fetch("select id from users order by id")
        return [row["id"] for row in rows]

    async def errors(self) -> int:
        """Return how often applying has failed."""
        admin = await self.subscriber.connect(ADMIN)
        errors = "select sum(apply_error_count) from pg_stat_subscription_stats"
        return int(await admin.fetchval(errors))


@pytest.fixture
async def subscription(servers: Servers) -> AsyncIterator[Subscription]:
    """A publication of all tables, and a subscriber without schema pgoutbox."""
    cluster = await servers.cluster(wal_level="logical", wal_retrieve_retry_interval="100ms")
    found = Subscription(
        await cluster.create_database(installed=False),
        await cluster.create_database(installed=False),
    )
    _skip_before_15(await found.publisher.connect())
    await found.start()
    yield found
    await found.stop()
    await found.publisher.disconnect()
    await found.subscriber.disconnect()


async def test_a_subscription_goes_on_where_the_schema_is_left_out(
    subscription: Subscription,
) -> None:
    owner = await subscription.publisher.connect()
    await owner.execute("insert into users values (1)")
    await (await subscription.publisher.connect(ADMIN)).execute(script("sql"))
    said: list[str] = []
    await install(owner, ["public.users"], SETTINGS, said.append)
    await owner.execute("insert into users values (2)")

    async def has_both() -> bool:
        return await subscription.users() == [1, 2]

    await eventually(has_both)
    assert not any("everything" in line for line in said)
    assert await subscription.errors() == 0


async def test_a_subscription_that_has_stopped_goes_on_once_it_has_the_tables(
    subscription: Subscription,
) -> None:
    owner = await subscription.publisher.connect()
    await install(owner, ["public.users"], SETTINGS, lambda line: None)
    await owner.execute("insert into users values (1)")
    await eventually(subscription.errors)
    assert await subscription.users() == []

    _run(script("shell"), subscription)

    async def has_the_row() -> bool:
        return await subscription.users() == [1]

    await eventually(has_the_row)
    subscriber: asyncpg.Connection = await subscription.subscriber.connect(ADMIN)
    assert await subscriber.fetchval("select count(*) from pgoutbox.event") == 0

    await (await subscription.publisher.connect(ADMIN)).execute(script("sql"))
    await owner.execute("insert into users values (2)")

    async def has_both() -> bool:
        return await subscription.users() == [1, 2]

    await eventually(has_both)
    await subscriber.execute("drop schema pgoutbox cascade")
    await owner.execute("delete from users")

    async def has_none() -> bool:
        return await subscription.users() == []

    await eventually(has_none)


def _run(command: str, subscription: Subscription) -> None:
    server = subscription.publisher.cluster.server
    assert server is not None
    environment = {
        **clean_environment(),
        "PATH": f"{server.bin}:/usr/bin:/bin",
        "PUBLISHER": subscription.publisher.dsn_as(ADMIN),
        "SUBSCRIBER": subscription.subscriber.dsn_as(ADMIN),
    }
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {command}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
