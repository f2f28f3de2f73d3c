"""pgoutbox.testing, over each kind of connection that applications have."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import django
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.orm
from django.conf import settings
from django.db.utils import ConnectionHandler
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pgoutbox.testing import CapturedEvents, Outbox
from tests.support.cluster import OWNER, WRITER, Database

RENAME = "update users set name = 'Baba Yaga' where id = 1"
BABA_YAGA = {"id": 1, "name": "Baba Yaga", "email": "john@continental.example"}


def sqlalchemy_url(database: Database) -> str:
    return database.dsn.replace("postgresql://", "postgresql+psycopg://", 1)


@contextmanager
def with_psycopg(database: Database) -> Iterator[tuple[Any, Callable[[str], object]]]:
    with psycopg.connect(database.dsn) as connection:
        yield connection, connection.execute
        connection.rollback()


@contextmanager
def with_sqlalchemy(database: Database) -> Iterator[tuple[Any, Callable[[str], object]]]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(database))
    with engine.connect() as connection:
        yield connection, connection.exec_driver_sql
    engine.dispose()


@contextmanager
def with_a_session(database: Database) -> Iterator[tuple[Any, Callable[[str], object]]]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(database))
    with sqlalchemy.orm.Session(engine) as session:
        yield session, lambda statement: session.execute(sqlalchemy.text(statement))
    engine.dispose()


@contextmanager
def with_django(database: Database) -> Iterator[tuple[Any, Callable[[str], object]]]:
    if not settings.configured:
        settings.configure(LOGGING_CONFIG=None)
        django.setup()
    with psycopg.connect(database.dsn) as parsed:
        info = parsed.info
        given = {"NAME": info.dbname, "USER": info.user, "PASSWORD": info.password}
        given |= {
            "HOST": info.host,
            "PORT": str(info.port),
            "ENGINE": "django.db.backends.postgresql",
        }
    connection = ConnectionHandler({"default": given})["default"]
    connection.set_autocommit(False)
    yield connection, connection.cursor().execute
    connection.rollback()
    connection.close()


@pytest.mark.parametrize("using", [with_psycopg, with_sqlalchemy, with_a_session, with_django])
def test_events_of_a_block_in_a_transaction_that_is_rolled_back(
    shop: Database, using: Callable[[Database], Any]
) -> None:
    with using(shop) as (connection, execute):
        execute("insert into orders values (1, 9.50)")
        with Outbox(connection).emitted() as events:
            execute(RENAME)
            execute("insert into orders values (2, 10)")

        assert events.changes == [("UPDATE", "users"), ("INSERT", "orders")]
        assert events.one("users", "update").data == BABA_YAGA
        assert events.one("public.users").data_old["name"] == "John Wick"
        assert events.of("users", "DELETE") == []
        with Outbox(connection).emitted() as nothing:
            execute("select 1")
        assert nothing == []

    with psycopg.connect(shop.dsn) as owner:
        (count,) = owner.execute("select count(*) from pgoutbox.outbox").fetchone() or ()
    assert count == 1  # the fixture's


async def test_asyncpg(shop: Database) -> None:
    connection = await shop.connect(OWNER)
    transaction = connection.transaction()
    await transaction.start()

    async with Outbox(connection).emitted() as events:
        await connection.execute(RENAME)

    assert events.one("users").data == BABA_YAGA
    await transaction.rollback()


async def test_asynchronous_psycopg(shop: Database) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn) as connection:
        async with Outbox(connection).emitted() as events:
            await connection.execute(RENAME)
        await connection.rollback()

    assert events.one("users").data == BABA_YAGA


async def test_asynchronous_sqlalchemy(shop: Database) -> None:
    engine = create_async_engine(sqlalchemy_url(shop))
    async with AsyncSession(engine) as session, Outbox(session).emitted() as events:
        await session.execute(sqlalchemy.text(RENAME))
    await engine.dispose()

    assert events.one("users").data == BABA_YAGA


class Base(sqlalchemy.orm.DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: sqlalchemy.orm.Mapped[int] = sqlalchemy.orm.mapped_column(primary_key=True)


async def test_what_a_session_has_not_flushed_counts(shop: Database) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy_url(shop))
    with (
        sqlalchemy.orm.Session(engine) as session,
        Outbox(session).emitted() as events,
    ):
        session.add(Order(id=3))
    engine.dispose()

    assert events.one("orders").data == {"id": 3, "total": None}


async def test_deferred_constraints_of_the_application_stay_deferred(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection:
        with Outbox(connection).emitted() as events:
            connection.execute("insert into users values (2, 'x', 'john@continental.example')")
            with Outbox(connection).emitted():
                connection.execute(RENAME)
        connection.execute("delete from users where id = 2")
        connection.commit()

    assert events.changes == [("INSERT", "users"), ("UPDATE", "users")]


async def test_what_others_commit_meanwhile_is_there_too(shop: Database) -> None:
    writer = await shop.connect(OWNER)
    with psycopg.connect(shop.dsn) as connection, Outbox(connection).emitted() as events:
        await writer.execute(RENAME)

    assert events.changes == [("UPDATE", "users")]


async def test_a_failure_shows_all_events(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection:
        with Outbox(connection).emitted() as events:
            connection.execute(RENAME)
        connection.rollback()

    with pytest.raises(AssertionError) as failure:
        events.one("orders", "INSERT")
    assert str(failure.value).splitlines() == [
        "expected one INSERT of orders, found 0 among:",
        '  UPDATE public.users {"email": "john@continental.example", "id": 1, "name": "John Wick"}'
        ' -> {"email": "john@continental.example", "id": 1, "name": "Baba Yaga"}',
    ]


def test_inside_the_block_nothing_is_known_yet() -> None:
    with pytest.raises(RuntimeError, match="look at them after it"):
        len(CapturedEvents())


async def test_the_error_of_the_block_is_the_one_that_shows(shop: Database) -> None:
    with (
        psycopg.connect(shop.dsn) as connection,
        pytest.raises(psycopg.errors.UndefinedTable),
        Outbox(connection).emitted(),
    ):
        connection.execute("select * from nothing")


async def test_without_pgoutbox_it_says_so(empty_database: Database) -> None:
    with (
        psycopg.connect(empty_database.dsn) as connection,
        pytest.raises(RuntimeError, match="run pgoutbox install"),
        Outbox(connection).emitted(),
    ):
        pass


async def test_a_role_without_rights_gets_postgresqls_own_error(shop: Database) -> None:
    writer = await shop.connect(WRITER)

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with Outbox(writer).emitted():
            pass


def test_fixtures_in_somebodys_suite(shop: Database, tmp_path: Path) -> None:
    """Both ways: inside a rolled-back transaction, and through a relay into a stream."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pgoutbox.testing.plugin"]\n')
    suite = f"""
        import psycopg, pytest

        DSN = {shop.dsn!r}

        @pytest.fixture
        def pgoutbox_connection():
            with psycopg.connect(DSN) as connection:
                yield connection
                connection.rollback()

        def test_emitted(outbox, pgoutbox_connection):
            with outbox.emitted() as events:
                pgoutbox_connection.execute({RENAME!r})
            assert events.one("users").data["name"] == "Baba Yaga"

        def test_published(pgoutbox_nats):
            assert [m.payload["data"]["id"] for m in pgoutbox_nats.relay(DSN)] == [1]
            with psycopg.connect(DSN) as connection:
                connection.execute("insert into orders values (1, 10.50)")
            (order,) = pgoutbox_nats.relay(DSN, "--headers")
            assert order.subject == "wal_listener.public_orders"
            assert order.payload["data"] == {{"id": 1, "total": "10.50"}}
            assert order.headers["Pgoutbox-Action"] == "INSERT"
            assert pgoutbox_nats.relay(DSN) == []
    """
    (tmp_path / "test_shop.py").write_text(textwrap.dedent(suite))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
