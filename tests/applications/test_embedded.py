"""A relay inside an application's own event loop, and what may be imported at all."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import pgoutbox
from pgoutbox.errors import ConfigError, SchemaError
from tests.support.cluster import Database
from tests.support.streams import Stream
from tests.support.waiting import eventually

PUBLIC = {
    "pgoutbox": ["Message", "PgoutboxError", "Relay", "__version__"],
    "pgoutbox.consumer": ["Change", "Inbox", "consume", "consume_transactions"],
    "pgoutbox.testing": ["CapturedEvent", "CapturedEvents", "Outbox"],
}


def relay_of(database: Database, stream: Stream, **settings: Any) -> pgoutbox.Relay:
    return pgoutbox.Relay(dsn=database.dsn, nats_url=stream.url, topic=stream.topic, **settings)


async def test_it_publishes_and_tells_of_each_message(
    shop: Database, connection: asyncpg.Connection, stream: Stream
) -> None:
    told: list[pgoutbox.Message] = []

    async with relay_of(shop, stream, headers=True, on_published=told.append) as relay:
        await relay.ready()
        await connection.execute("insert into orders values (1, 10)")
        await eventually(lambda: relay.published == 2)
        assert relay.is_leading

    stored = await stream.messages()
    assert [(one.subject, one.id) for one in told] == [(one.subject, one.id) for one in stored]
    assert [one.table for one in told] == ["users", "orders"]
    assert not await connection.fetchval(
        "select count(*) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
        " and database = (select oid from pg_database where datname = current_database())"
    )


async def test_two_in_one_process_stand_by_for_each_other(shop: Database, stream: Stream) -> None:
    async with relay_of(shop, stream) as first:
        await first.ready()
        async with relay_of(shop, stream) as second:
            await second.ready()
            assert (first.is_leading, second.is_leading) == (True, False)


async def test_a_hook_that_fails_holds_nothing_up(
    shop: Database, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: pgoutbox.Message) -> None:
        raise OSError("no")

    async with relay_of(shop, stream, on_published=fail) as relay:
        await relay.ready()

    assert await stream.count() == 1
    assert "on_published failed" in caplog.text


async def test_what_it_cant_work_with_ends_the_block(
    empty_database: Database, stream: Stream
) -> None:
    owner = await empty_database.connect()
    await owner.execute("create schema pgoutbox")
    await owner.execute(
        "create table pgoutbox.migration (number int, name text, breaking text);"
        "insert into pgoutbox.migration values (9999, 'later', 'it has another outbox');"
        "create table pgoutbox.installation (functions_version text);"
        "insert into pgoutbox.installation values ('99.0')"
    )

    with pytest.raises(SchemaError, match="newer"):
        async with relay_of(empty_database, stream) as relay:
            await relay.ready()


def test_settings_are_checked_before_anything_runs() -> None:
    with pytest.raises(TypeError, match="no setting 'nats_ulr'; did you mean nats_url"):
        pgoutbox.Relay(nats_ulr="nats://localhost")
    with pytest.raises(ConfigError, match="batch"):
        pgoutbox.Relay(dsn="postgresql://localhost/shop", batch_events="many")


async def test_outside_a_block_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await pgoutbox.Relay(dsn="postgresql://localhost/shop").ready()


async def test_the_error_of_the_block_is_the_one_that_shows(shop: Database, stream: Stream) -> None:
    async def fail() -> None:
        async with relay_of(shop, stream):
            await asyncio.sleep(0)
            raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        await fail()


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_public(module: str) -> None:
    imported = importlib.import_module(module)

    assert sorted(imported.__all__) == sorted(PUBLIC[module])
    for name in imported.__all__:
        assert getattr(imported, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        imported.nothing  # noqa: B018


def test_types_are_those_that_are_promised(tmp_path: Path) -> None:
    """Mypy, as an application runs it."""
    (tmp_path / "application.py").write_text(
        "import pgoutbox\n"
        "async def main() -> None:\n"
        "    async with pgoutbox.Relay(dsn='x', on_published=lambda m: m.subject) as relay:\n"
        "        reveal_type(relay.published)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "application.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "int"' in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout
