"""The recipes of docs/migrations.md, by migration tools that aren't written in Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from pgoutbox.contrib import statements
from tests.applications.test_migrations import captured
from tests.conftest import Servers
from tests.deploy.tools import program
from tests.support.cluster import Database
from tests.support.commands import ROOT, pgoutbox
from tests.support.recipes import recipes

RECIPES = recipes("migrations.md")
PACKAGES = ROOT / ".venv" / "migrations" / "node_modules"
POM = ROOT / "requirements" / "migrations" / "pom.xml"
ALL = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
ORDERS = [("public.orders", ALL)]
CREATE_ORDERS = "create table orders (id bigint primary key, total numeric);\n"

RAILS = """
require "active_record"
url = ENV.fetch("DATABASE_URL")
ActiveRecord::Base.configurations = {"default_env" => {"url" => url}}
ActiveRecord::Base.establish_connection(url)
ActiveRecord::Base.schema_format = :sql
ActiveRecord::Tasks::DatabaseTasks.db_dir = "."
context = ActiveRecord::MigrationContext.new("migrations", ActiveRecord::SchemaMigration)
config = ActiveRecord::Base.connection_db_config
case ARGV[0]
when "up" then context.up
when "down" then context.rollback(1)
when "dump" then ActiveRecord::Tasks::DatabaseTasks.dump_schema(config, :sql)
when "load" then ActiveRecord::Tasks::DatabaseTasks.load_schema(config, :sql)
end
"""


@dataclass(frozen=True)
class Tool:
    """A tool's command lines; ``{dsn}``, ``{jdbc}``, ``{user}`` and so on are filled in."""

    up: str
    down: str | None = None
    script: str = "{script}"  # what stands around the whole script
    file: str = ""  # which holds it


MAVEN = f"mvn -q -B -f {POM}"
FLYWAY = (
    f"{MAVEN} flyway:migrate -Dflyway.url={{jdbc}} -Dflyway.user={{user}}"
    " -Dflyway.password={password} -Dflyway.locations=filesystem:{folder}"
    " -Dflyway.baselineOnMigrate=true -Dflyway.baselineVersion=0"
)
LIQUIBASE = (
    "-Dliquibase.url={jdbc} -Dliquibase.username={user} -Dliquibase.password={password}"
    " -Dliquibase.changeLogFile=changelog.sql -Dliquibase.searchPath={folder}"
)
MIGRATE = "migrate -path {folder} -database {dsn}?sslmode=disable"
KNEX = "--client pg --connection {dsn} --migrations-directory {folder}"
TOOLS = {
    "flyway": Tool(FLYWAY, file="V1__pgoutbox.sql"),
    "liquibase": Tool(
        f"{MAVEN} liquibase:update {LIQUIBASE}",
        f"{MAVEN} liquibase:rollback -Dliquibase.rollbackCount=2 {LIQUIBASE}",
        "--liquibase formatted sql\n\n--changeset shop:pgoutbox splitStatements:false"
        " stripComments:false\n{script}",
        "changelog.sql",
    ),
    "golang-migrate": Tool(f"{MIGRATE} up", f"{MIGRATE} down -all", file="000001_p.up.sql"),
    "goose": Tool(
        "goose -dir {folder} postgres {dsn} up",
        "goose -dir {folder} postgres {dsn} down",
        "-- +goose Up\n-- +goose StatementBegin\n{script}-- +goose StatementEnd\n",
        "00001_pgoutbox.sql",
    ),
    "knex": Tool(
        f"knex migrate:latest {KNEX}",
        f"knex migrate:rollback {KNEX}",
        "exports.up = (knex) => knex.raw({quoted}.replaceAll('?', '\\\\?'));\n"
        "exports.down = () => {{}};\n",
        "1_pgoutbox.js",
    ),
    "node-pg-migrate": Tool(
        "node-pg-migrate up",
        "node-pg-migrate down",
        "exports.up = (pgm) => pgm.sql({quoted});\n",
        "1_pgoutbox.js",
    ),
    "rails": Tool("ruby rails.rb up", "ruby rails.rb down"),
    "drizzle": Tool("drizzle-kit migrate"),
}
WITH_SCRIPTS = [name for name, tool in TOOLS.items() if tool.file]
CONFIGURED = {"drizzle", "sqlc"}  # by the page's files; they say where the others are
CAPTURING_EACH_TIME = {"flyway", "liquibase"}


def run(folder: Path, database: Database, command: str) -> None:
    """Run a tool in its folder; skip the test where it, or what it is made of, is missing."""
    url = urlsplit(database.dsn)
    values = {
        "dsn": database.dsn,
        "jdbc": f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}",
        "user": url.username,
        "password": url.password,
        "folder": folder / "migrations",
    }
    name, *arguments = (word.format(**values) for word in command.split())
    packaged = PACKAGES / ".bin" / name
    done = subprocess.run(
        [packaged if packaged.exists() else program(name), *arguments],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": database.dsn},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = done.stdout + done.stderr
    if missing := re.search("could not be resolved|cannot load such file -- active_record", said):
        pytest.skip(f"{name}: {missing[0]}")
    assert done.returncode == 0, said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "migrations").mkdir()
    if PACKAGES.exists():
        (tmp_path / "node_modules").symlink_to(PACKAGES)
    (tmp_path / "rails.rb").write_text(RAILS)
    return tmp_path


def write(folder: Path, files: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    for name, text in dict(files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def copy_recipe(tool: str, folder: Path) -> None:
    """Put a tool's files of the page where it looks, and what the page takes for granted."""
    place = folder if tool in CONFIGURED else folder / "migrations"
    write(
        place,
        ((name.split()[1], text) for name, text in RECIPES.items() if name.split()[0] == tool),
    )
    if tool == "flyway":
        (place / "V1__orders.sql").write_text(CREATE_ORDERS)
    if tool == "drizzle":
        write(folder, DRIZZLE)


DRIZZLE = {
    "schema.ts": """
import { bigint, numeric, pgTable } from "drizzle-orm/pg-core";
export const orders = pgTable("orders", {
  id: bigint({ mode: "number" }).primaryKey(), total: numeric(),
});
""",
    "drizzle/0000_orders.sql": f"{CREATE_ORDERS}--> statement-breakpoint\n{RECIPES['line']}",
    "drizzle/meta/_journal.json": """
{"version": "7", "dialect": "postgresql", "entries": [
  {"idx": 0, "version": "7", "when": 1, "tag": "0000_orders", "breakpoints": true}]}
""",
}


def events(database: Database) -> int:
    """Return how many events a new order makes."""
    with psycopg.connect(database.dsn) as connection:
        connection.execute("insert into orders (id) values (1)")
        connection.commit()
        (count,) = connection.execute("select count(*) from pgoutbox.outbox").fetchone() or (0,)
        return int(count)


def test_lines_of_the_page_are_what_the_commands_print() -> None:
    """But for the release that printed them."""
    page = re.sub(r"require_release\(''[\d.]+''\)", "", "".join(RECIPES.values()))
    line, release = (
        re.sub(r"require_release\(''[^']+''\)", "", text) + ";"
        for text in (statements.capture("orders"), statements.release("orders"))
    )

    assert {found for found in re.findall(r"do 'begin .*? end';", page)} == {line, release}


@pytest.mark.long
@pytest.mark.parametrize("name", TOOLS)
def test_migration_captures_its_table_and_undoes_it(
    name: str, database: Database, folder: Path
) -> None:
    copy_recipe(name, folder)

    run(folder, database, TOOLS[name].up)
    assert captured(database) == ORDERS
    assert events(database) == 1

    if (down := TOOLS[name].down) is not None:
        run(folder, database, down)
        assert captured(database) == []


@pytest.mark.long
@pytest.mark.parametrize("name", TOOLS)
def test_migration_where_pgoutbox_is_installed_later(
    name: str, empty_database: Database, folder: Path
) -> None:
    copy_recipe(name, folder)
    run(folder, empty_database, TOOLS[name].up)

    if name in CAPTURING_EACH_TIME:
        installed = pgoutbox("install", "--dsn", empty_database.dsn)
        run(folder, empty_database, TOOLS[name].up)
    else:
        installed = pgoutbox("install", "--dsn", empty_database.dsn, "--table", "orders")

    assert installed.returncode == 0, installed.stderr
    assert captured(empty_database) == ORDERS
    assert events(empty_database) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", WITH_SCRIPTS)
def test_whole_script_in_a_migration(name: str, empty_database: Database, folder: Path) -> None:
    with psycopg.connect(empty_database.dsn) as connection:
        connection.execute(CREATE_ORDERS)
    script = pgoutbox("install", "--print-sql", "--table", "orders").stdout
    tool = TOOLS[name]
    text = tool.script.format(script=script, quoted=json.dumps(script))
    write(folder / "migrations", {tool.file: text})

    run(folder, empty_database, tool.up)

    assert captured(empty_database) == ORDERS


@pytest.mark.long
def test_flyways_clean_is_captured_again(database: Database, folder: Path) -> None:
    copy_recipe("flyway", folder)
    run(folder, database, FLYWAY)

    run(folder, database, FLYWAY.replace(":migrate", ":clean -Dflyway.cleanDisabled=false"))
    run(folder, database, FLYWAY)

    assert captured(database) == ORDERS


@pytest.mark.long
def test_rails_structure_is_made_whole_by_install(
    database: Database,
    empty_database: Database,
    folder: Path,
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And takes writes before that."""
    monkeypatch.setenv("PATH", f"{servers.installation / 'bin'}{os.pathsep}{os.environ['PATH']}")
    copy_recipe("rails", folder)
    run(folder, database, "ruby rails.rb up")
    run(folder, database, "ruby rails.rb dump")

    run(folder, empty_database, "ruby rails.rb load")
    with psycopg.connect(empty_database.dsn) as connection:
        connection.execute("insert into orders (id) values (2)")
    installed = pgoutbox("install", "--dsn", empty_database.dsn)

    assert installed.returncode == 0, installed.stderr
    assert captured(empty_database) == ORDERS
    assert events(empty_database) == 2


@pytest.mark.long
def test_drizzle_leaves_the_schema_alone(database: Database, folder: Path) -> None:
    """When it makes the database what the code says, and the code what the database says."""
    copy_recipe("drizzle", folder)
    run(folder, database, "drizzle-kit migrate")

    run(folder, database, "drizzle-kit push --force")
    run(folder, database, "drizzle-kit pull")

    assert captured(database) == ORDERS
    assert events(database) == 1
    pulled = (folder / "drizzle" / "schema.ts").read_text()
    assert "orders" in pulled
    assert "pgoutbox" not in pulled


@pytest.mark.long
def test_sqlc_reads_a_dump_of_the_own_schema(
    database: Database, folder: Path, servers: Servers
) -> None:
    copy_recipe("golang-migrate", folder)
    copy_recipe("sqlc", folder)
    run(folder, database, TOOLS["golang-migrate"].up)
    (folder / "queries.sql").write_text(
        "-- name: Order :one\nselect * from orders where id = $1;\n"
    )
    dump = servers.installation / "bin" / "pg_dump"
    options = ["--schema-only", "--schema=public", f"--file={folder / 'schema.sql'}"]
    subprocess.run([dump, *options, database.dsn], check=True)

    run(folder, database, "sqlc generate")

    models = (folder / "shop" / "models.go").read_text()
    assert re.findall(r"^type (\w+) struct", models, re.MULTILINE) == ["Order", "SchemaMigration"]


@pytest.mark.parametrize("is_installed", [True, False])
def test_prismas_file_as_plain_sql(
    is_installed: bool, database: Database, empty_database: Database
) -> None:
    """Sent as one string, as its engine does it; the engine itself comes from no registry."""
    target = database if is_installed else empty_database
    with psycopg.connect(target.dsn) as connection:
        connection.execute(RECIPES["prisma migration.sql"].encode())

    if is_installed:
        assert captured(database) == ORDERS
        assert events(database) == 1
