"""The recipes of docs/migrations.md, by the tools themselves."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from pgoutbox.contrib import statements
from pgoutbox.contrib.sqlalchemy import capture
from tests.support.cluster import OWNER, Database
from tests.support.commands import pgoutbox


def captured(database: Database) -> list[tuple[str, list[str]]]:
    """Return the captured tables, with their actions."""
    with psycopg.connect(database.dsn) as connection:
        return connection.execute(
            "select present_name, actions from pgoutbox.table_state order by 1"
        ).fetchall()


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


ALEMBIC = {
    "alembic.ini": "[alembic]\nscript_location = .\nversion_locations = versions\n",
    "env.py": """
        import os
        import sqlalchemy
        from alembic import context
        from pgoutbox.contrib.alembic import include_name

        metadata = sqlalchemy.MetaData()
        sqlalchemy.Table("or: ders", metadata, sqlalchemy.Column("id", sqlalchemy.Integer))
        options = {"include_schemas": True, "include_name": include_name}
        if context.is_offline_mode():
            context.configure(dialect_name="postgresql", literal_binds=True)
            with context.begin_transaction():
                context.run_migrations()
        else:
            engine = sqlalchemy.create_engine(os.environ["DSN"])
            with engine.connect() as connection:
                context.configure(connection, target_metadata=metadata, **options)
                with context.begin_transaction():
                    context.run_migrations()
        """,
    "script.py.mako": """
        revision = ${repr(up_revision)}
        down_revision = ${repr(down_revision)}
        import sqlalchemy as sa
        from alembic import op
        def upgrade():
            ${upgrades if upgrades else "pass"}
        def downgrade():
            ${downgrades if downgrades else "pass"}
        """,
    "versions/first.py": """
        import sqlalchemy as sa
        from alembic import op

        revision, down_revision = "first", None

        def upgrade():
            op.create_table("or: ders", sa.Column("id", sa.Integer))
            op.capture_table("or: ders", actions=["insert", "delete"])

        def downgrade():
            op.release_table("or: ders")
            op.drop_table("or: ders")
        """,
}


@pytest.fixture
def alembic(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, ALEMBIC)
    monkeypatch.setenv("DSN", database.dsn.replace("postgresql://", "postgresql+psycopg://", 1))
    return tmp_path


def test_alembic_captures_and_releases(alembic: Path, database: Database) -> None:
    run(alembic, "-m", "alembic", "upgrade", "head")
    assert captured(database) == [('public."or: ders"', ["INSERT", "DELETE"])]

    found = run(alembic, "-m", "alembic", "revision", "--autogenerate", "-m", "nothing")
    (revision,) = alembic.glob("versions/*nothing.py")
    assert "pass" in revision.read_text(), found
    revision.unlink()

    run(alembic, "-m", "alembic", "downgrade", "base")
    assert captured(database) == []


def test_alembic_prints_the_same_offline(alembic: Path, database: Database) -> None:
    script = run(alembic, "-m", "alembic", "upgrade", "head", "--sql")

    with psycopg.connect(database.dsn) as connection:
        connection.execute(script.encode())
    assert captured(database) == [('public."or: ders"', ["INSERT", "DELETE"])]


def test_alembic_where_pgoutbox_is_not_installed(
    empty_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ALEMBIC)
    url = empty_database.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    monkeypatch.setenv("DSN", url)

    run(tmp_path, "-m", "alembic", "upgrade", "head")
    run(tmp_path, "-m", "alembic", "downgrade", "base")


DJANGO = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line
        os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
        execute_from_command_line(sys.argv)
        """,
    "site_settings.py": """
        import os
        from urllib.parse import urlsplit
        url = urlsplit(os.environ["DSN"])
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
            "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
            "TEST": {"TEMPLATE": os.environ.get("TEMPLATE")},
        }}
        INSTALLED_APPS = ["shop", "pgoutbox.contrib.django"]
        PGOUTBOX_CAPTURE = os.environ.get("CAPTURE", "").split()
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        """,
    "shop/__init__.py": "",
    "shop/models.py": """
        from django.db import models
        class Order(models.Model):
            id = models.BigAutoField(primary_key=True)
            total = models.IntegerField()
        class Customer(models.Model):
            id = models.BigAutoField(primary_key=True)
            name = models.TextField()
            class Meta:
                db_table = "Odd customer"
        """,
    "shop/migrations/__init__.py": "",
    "shop/migrations/0001_initial.py": """
        from django.db import migrations, models
        from pgoutbox.contrib.django import CaptureTable
        class Migration(migrations.Migration):
            initial = True
            operations = [
                migrations.CreateModel("Order", [
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("total", models.IntegerField()),
                ]),
                CaptureTable("order", actions=["insert", "update"]),
                migrations.CreateModel("Customer", [
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("name", models.TextField()),
                ], options={"db_table": "Odd customer"}),
            ]
        """,
}


DJANGO_TESTS = """
    from django.db import connection
    from django.test import TestCase
    from pgoutbox.testing import Outbox
    from shop.models import Order

    class OrderTest(TestCase):
        def test_order(self):
            with Outbox(connection).emitted() as events:
                Order.objects.create(total=12)
            self.assertEqual(events.one("shop_order", "INSERT").data["total"], 12)
    """


@pytest.fixture
def django(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, DJANGO)
    monkeypatch.setenv("DSN", database.dsn)
    return tmp_path


def test_django_captures_in_a_migration_and_after_it(
    django: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(django, "manage.py", "migrate")
    assert captured(database) == [("public.shop_order", ["INSERT", "UPDATE"])]

    monkeypatch.setenv("CAPTURE", "shop.Customer")
    run(django, "manage.py", "migrate")
    assert [name for name, _ in captured(database)] == [
        'public."Odd customer"',
        "public.shop_order",
    ]
    assert "No changes detected" in run(django, "manage.py", "makemigrations", "--check")

    monkeypatch.delenv("CAPTURE")
    run(django, "manage.py", "migrate", "shop", "zero")
    assert [name for name, _ in captured(database)] == [None]  # Customer's, which was dropped
    run(django, "manage.py", "migrate")
    assert ("public.shop_order", ["INSERT", "UPDATE"]) in captured(database)


def test_django_where_pgoutbox_is_installed_later(
    empty_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, DJANGO)
    monkeypatch.setenv("DSN", empty_database.dsn)
    monkeypatch.setenv("CAPTURE", "shop.Order shop.Customer")
    said = "Not captured: shop.Order, shop.Customer. This database has no schema pgoutbox"
    assert said in run(tmp_path, "manage.py", "migrate")
    assert said not in run(tmp_path, "manage.py", "migrate", "--verbosity=0")
    installed = pgoutbox("install", "--dsn", empty_database.dsn)
    assert installed.returncode == 0, installed.stderr

    assert "Not captured" not in run(tmp_path, "manage.py", "migrate")

    assert [name for name, _ in captured(empty_database)] == [
        'public."Odd customer"',
        "public.shop_order",
    ]


def test_djangos_tests_see_events_in_a_database_from_a_template(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the template that the page makes; the role may create databases, as Django's must."""
    write(tmp_path, DJANGO | {"shop/tests.py": DJANGO_TESTS})
    monkeypatch.setenv("DSN", database.dsn)
    monkeypatch.setenv("TEMPLATE", database.name)

    with psycopg.connect(database.cluster.admin_dsn, autocommit=True) as admin:
        admin.execute(f"alter role {OWNER} createdb")
        try:
            run(tmp_path, "manage.py", "test")
        finally:
            admin.execute(f"alter role {OWNER} nocreatedb")


def test_django_names_a_model_that_does_not_exist(
    django: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTURE", "shop.Ordr")

    with pytest.raises(AssertionError, match="PGOUTBOX_CAPTURE: App 'shop' doesn't have a 'Ordr'"):
        run(django, "manage.py", "migrate")


@pytest.fixture
def engine(database: Database) -> Iterator[sqlalchemy.Engine]:
    url = database.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sqlalchemy.create_engine(url)
    yield engine
    engine.dispose()


def test_sqlalchemys_create_all(engine: sqlalchemy.Engine, database: Database) -> None:
    metadata = sqlalchemy.MetaData()
    table = sqlalchemy.Table("100% or:ders", metadata, sqlalchemy.Column("id", sqlalchemy.Integer))
    capture(table, actions=["insert"])

    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql("create schema tenant_1")
        metadata.create_all(connection.execution_options(schema_translate_map={None: "tenant_1"}))

    assert captured(database) == [
        ('public."100% or:ders"', ["INSERT"]),
        ('tenant_1."100% or:ders"', ["INSERT"]),
    ]
    with engine.begin() as connection:
        metadata.drop_all(connection.execution_options(schema_translate_map={None: None}))
    assert captured(database) == [('tenant_1."100% or:ders"', ["INSERT"])]


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="its list of actions has an unknown action 'UPSERT'"):
        statements.capture("orders", actions=["upsert"])
