"""pgoutbox schema, judged by validators: what a relay publishes fits what it says."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import pytest

from tests.support.cluster import Database
from tests.support.commands import pgoutbox
from tests.support.streams import Stream

TABLES = """
create type mood as enum ('sad', 'ok');
create domain small as int;
create table kinds (
    id int primary key, s smallint, b bigint not null, flag boolean, n numeric, d double precision,
    t text, at timestamptz, plain timestamp, day date, j json, jb jsonb, tags text[], m mood,
    dom small, raw bytea, twice bigint generated always as (b * 2) stored
);
create table "Odd name" (id uuid primary key default gen_random_uuid(), name text);
select pgoutbox.capture_table('kinds'),
    pgoutbox.capture_table('"Odd name"', actions => '{INSERT,DELETE}', old_values => 'identity');
"""
WRITES = """
insert into kinds values
    (1, 1, 9007199254740993, true, 'NaN', 1.5, 'x', now(), now(), 'infinity', '{}', '[1]',
     '{a,b}', 'ok', 3, '\\x00');
insert into kinds (id, b) values (2, 0);
update kinds set id = 3 where id = 2;
delete from kinds where id = 1;
insert into "Odd name" (name) values ('x');
delete from "Odd name";
truncate kinds;
"""


def schema_of(database: Database, *arguments: str) -> dict[str, Any]:
    ran = pgoutbox("schema", "--dsn", database.dsn, *arguments)
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def validator(document: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(
        document, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.fixture
async def published(
    database: Database, connection: asyncpg.Connection, stream: Stream
) -> list[Any]:
    await connection.execute(TABLES)
    await connection.execute(WRITES)
    ran = pgoutbox(
        "relay", "--drain", "--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(message.data) for message in await stream.messages()]


async def test_everything_that_is_published_fits(published: list[Any], database: Database) -> None:
    whole = validator(schema_of(database))

    assert len(published) == 7
    for message in published:
        whole.validate(message)


async def test_what_is_not_published_does_not_fit(published: list[Any], database: Database) -> None:
    document = schema_of(database, "--table", "kinds")
    whole = validator(document)
    fields = document["$defs"]["public_kinds"]["oneOf"][0]["properties"]["data"]["properties"]

    def broken(**data: Any) -> bool:
        message = copy.deepcopy(published[0])
        message["data"] |= data
        return not whole.is_valid(message)

    assert "twice" not in fields  # generated columns aren't published
    assert not broken(s=None)
    assert broken(b=None)
    assert broken(s=2**15)
    assert broken(n=1.1)
    assert broken(flag="t")
    assert not broken(jb={"any": ["thing"]})
    assert not whole.is_valid({**published[0], "action": "UPSERT"})
    assert not whole.is_valid(published[-2])  # of another table


async def test_asyncapi_has_the_subjects(published: list[Any], database: Database) -> None:
    plain = schema_of(database, "--format", "asyncapi", "--topic", "shop")
    keyed = schema_of(
        database, "--format", "asyncapi", "--subject", "{topic}.{table}.{action}.{key}"
    )

    assert [one["address"] for one in plain["channels"].values()] == [
        "shop.public_Odd%20name",
        "shop.public_kinds",
    ]
    assert list(plain["channels"]) == ["public_Odd_name", "public_kinds"]
    odd, kinds = keyed["channels"].values()
    assert kinds["address"] == "wal_listener.kinds.{action}.{key}"
    assert odd["parameters"]["action"] == {"enum": ["INSERT", "DELETE"]}


@pytest.mark.long
async def test_asyncapis_own_schema_accepts_it(
    published: list[Any], database: Database, tmp_path: Path
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("AsyncAPI's schemas come from npm, which isn't installed here")
    command = ["npm", "install", "--prefix", str(tmp_path), "--no-audit", "@asyncapi/specs@6"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: ASYNC221
    folder = tmp_path / "node_modules/@asyncapi/specs/schemas"
    rules = json.loads((folder / "3.0.0-without-$id.json").read_text())
    document = schema_of(database, "--format", "asyncapi", "--subject", "{topic}.{key}")

    jsonschema.Draft7Validator(rules).validate(document)


async def test_a_table_that_is_not_captured(
    database: Database, connection: asyncpg.Connection
) -> None:
    await connection.execute("create table quiet (id int)")

    ran = pgoutbox("schema", "--dsn", database.dsn, "--table", "quiet")

    assert (ran.returncode, ran.stdout) == (6, "")
    assert ran.stderr.splitlines() == [
        "error: public.quiet isn't captured",
        "hint: Capture it first: pgoutbox install --table NAME",
    ]


async def test_other_formats_are_refused(database: Database) -> None:
    ran = pgoutbox("schema", "--dsn", database.dsn, "--content", "cloudevents")

    assert ran.returncode == 2
    assert "not --content cloudevents" in ran.stderr
