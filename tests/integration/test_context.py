"""Contexts in messages, and the recipes of docs/context.md with the real libraries."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.cluster import WRITER, Database
from tests.support.commands import ROOT, pgoutbox
from tests.support.streams import Stored, Stream


def recipe(name: str) -> dict[str, Any]:
    """Run a recipe of the page, and return its names."""
    page = (ROOT / "docs" / "context.md").read_text("utf-8")
    found = re.search(rf"<!-- recipe: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    """The owner's connection, with a captured table."""
    owner = await database.connect()
    await owner.execute("""
        create table orders (id int primary key, state text);
        insert into orders values (1, 'new'), (2, 'new');
        select pgoutbox.capture_table('orders')
    """)
    return owner


async def contexts(owner: asyncpg.Connection) -> list[Any]:
    """Return the context of each transaction."""
    rows = await owner.fetch(
        "select distinct on (position) context from pgoutbox.next_batch_described("
        "0, '{}', '{}', null, null, 1000, 1000000, false) order by position, seq"
    )
    return [json.loads(row["context"] or "null") for row in rows]


async def test_messages(database: Database, owner: asyncpg.Connection, stream: Stream) -> None:
    """In the header, and in the payload where that is asked for; none without a context."""
    flags = ("--context", "--await-all-checks", "--grant-emit", WRITER)
    done = pgoutbox("install", *flags, "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    assert "sessions of writers: captured" in done.stderr
    assert "order: behind the deferred checks of all tables" in done.stderr
    await owner.execute("""
        begin; select pgoutbox.set_context('{"user": "Zoë 😀"}');
        update orders set state = 'paid' where id = 1; select pgoutbox.emit('told', '{}'); commit
    """)
    assert pgoutbox("install", "--no-context", "--dsn", database.dsn).returncode == 0
    await owner.execute("update orders set state = 'paid' where id = 2")

    async def relay(name: str, *arguments: str) -> list[Stored]:
        arguments = (*arguments, "--topic-prefix", name, "--name", name)
        done = pgoutbox(
            *("relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url),
            *("--topic", stream.topic, *arguments),
        )
        assert done.returncode == 0, done.stderr
        return (await stream.messages())[-3:]

    given, told, other = await relay("both", "--headers", "--context-field")
    context = json.loads(given.headers["Pgoutbox-Context"])
    session = context.pop("session")
    assert (context, session["user"]) == ({"user": "Zoë 😀"}, urlsplit(database.dsn).username)
    assert given.headers["Pgoutbox-Context"].isascii()
    assert json.loads(given.data)["context"] == {**context, "session": session}
    assert list(json.loads(given.data))[-2:] == ["commitTime", "context"]
    assert told.headers["Pgoutbox-Context"] == given.headers["Pgoutbox-Context"]
    assert told.data == b"{}"
    assert "Pgoutbox-Context" not in other.headers
    assert "context" not in json.loads(other.data)

    given, *_ = await relay("field", "--context-field", "--content", "cloudevents-structured")
    assert json.loads(given.data)["data"]["context"]["user"] == "Zoë 😀"
    assert "Pgoutbox-Context" not in given.headers
    given, *_ = await relay("plain")
    assert "context" not in json.loads(given.data)


async def test_asyncpg(owner: asyncpg.Connection) -> None:
    await recipe("asyncpg")["cancel"](owner, 1, 42)
    assert await contexts(owner) == [{"user": 42}]


async def test_psycopg(database: Database, owner: asyncpg.Connection) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        recipe("psycopg")["cancel"](connection, 1, 42)
        connection.execute("update orders set state = 'new'")
    assert await contexts(owner) == [{"user": 42}, None]


async def test_sqlalchemy(database: Database, owner: asyncpg.Connection) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    names = recipe("sqlalchemy")
    engine = sqlalchemy.create_engine(database.dsn.replace("postgresql:", "postgresql+psycopg:"))
    change = sqlalchemy.text("update orders set state = 'x' where id = 1")
    for context in ({"user": 1}, {"user": 2}, None):
        names["request_context"].set(context)
        with orm.Session(engine) as session, session.begin():
            session.execute(change)
            with session.begin_nested():
                session.execute(change)
    engine.dispose()
    sqlalchemy.event.remove(orm.Session, "after_begin", names["set_context"])
    assert await contexts(owner) == [{"user": 1}, {"user": 2}, None]


# By itself, since a process has one configuration of Django.
DJANGO = """
import sys
import django
from django.conf import settings
from django.db import connection, transaction
from django.test import RequestFactory
from tests.integration.test_context import recipe

database = dict(zip(["HOST", "PORT", "USER", "PASSWORD", "NAME"], sys.argv[1:]))
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}})
django.setup()

def view(request):
    with connection.cursor() as cursor:
        with transaction.atomic():
            cursor.execute("select 1")
            with transaction.atomic():
                cursor.execute("update orders set state = 'y'")
        with transaction.atomic():
            cursor.execute("update orders set state = 'z'")
        cursor.execute("update orders set state = 'commits by itself'")

for user in (42, 43):
    request = RequestFactory().get(f"/{user}")
    request.user = type("User", (), {"pk": user})()
    recipe("django")["ContextMiddleware"](view)(request)
"""


async def test_django(database: Database, owner: asyncpg.Connection) -> None:
    pytest.importorskip("django")
    parts = urlsplit(database.dsn)
    where = (parts.hostname, parts.port, parts.username, parts.password, parts.path[1:])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DJANGO, *map(str, where)), cwd=ROOT
    )
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert await contexts(owner) == [
        context
        for user in (42, 43)
        for context in (*[{"user": user, "path": f"/{user}"}] * 2, None)
    ]
