"""Events that can't be read, or are too large to be read, among others: these arrive."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.cluster import Cluster, Database
from tests.support.commands import clean_environment, pgoutbox
from tests.support.streams import Stream

# One for each way in which the text of an encoding relates to UTF-8; all others are `long`.
ENCODINGS = ("UTF8", "WIN1252", "EUC_TW")
OTHERS = (
    *("SQL_ASCII", "EUC_JP", "EUC_CN", "EUC_KR", "EUC_JIS_2004", "LATIN1", "LATIN2", "LATIN3"),
    *("LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10", "WIN1250"),
    *("WIN1251", "WIN1253", "WIN1254", "WIN1255", "WIN1256", "WIN1257", "WIN1258", "WIN866"),
    *("WIN874", "KOI8R", "KOI8U", "ISO_8859_5", "ISO_8859_6", "ISO_8859_7", "ISO_8859_8"),
)
DEEP = 18_000  # levels; the stack has no room for so many
MAX_PAYLOAD = 1_048_576

# Values of `v` and `j` that are hostile somewhere; an encoding may refuse them.
VALUES = (
    r"E'x\x81y\x8d', null",
    r"E'x\xc2\x81\xfe\xfey', null",
    r"E'\x8e\xa7\xfe\xfe', null",
    r"""E'\x01\x02\x1f\x7f"\\,"n":1', null""",
    r"""E'\\","n":1,"', '{"n": 1, ",\"n\":": [",", "\"n\":", ", "]}'""",
    f"null, (repeat('[', {DEEP}) || repeat(']', {DEEP}))::jsonb",
    f"null, (repeat('{{\"n\":', {DEEP}) || '1' || repeat('}}', {DEEP}))::jsonb",
    f"repeat('x', {3 * MAX_PAYLOAD}), null",
    f"repeat('x', {MAX_PAYLOAD}), null",
    rf"repeat(E'\x01', {MAX_PAYLOAD // 3}), null",
)
TRACES = (r"E'\x81\xfe'", "repeat('x', 100000)", r"E'a\nb'")

# Two tables, one of a name that may have no equivalent in UTF-8, and what writes a row.
TABLES = r"""
create function make(name text) returns void language plpgsql as $$
begin
    execute format('create table %I (at timestamptz default now(), j jsonb, n int primary key,'
        ' v text, "z ""x" timestamp default now())', name);
    perform pgoutbox.capture_table(format('%I', name)::regclass);
end $$;
create function put(is_odd boolean, n int, v text, j jsonb) returns void language plpgsql as $$
begin
    execute format(
        'insert into %s (n, v, j) values ($1, $2, $3)',
        (select c.relation::regclass from pgoutbox.captured_table c
         where is_odd = (c.relation <> 't'::regclass) order by 1 limit 1)) using n, v, j;
end $$;
select make('t');
do $$ begin
    execute $e$ select make(E'o\x81"d') $e$;
exception when others then
    perform make(E'o"\x01d');
end $$;
"""


@pytest.fixture
async def encoded(cluster: Cluster, encoding: str) -> AsyncIterator[Database]:
    """A database with that encoding, and the captured tables."""
    database = await cluster.create_encoded_database(encoding)
    await (await database.connect()).execute(TABLES)
    yield database
    await cluster.drop_database(database)


async def write(owner: asyncpg.Connection, draw: random.Random, rows: int) -> set[int]:
    """Write rows, hostile ones among others; return the numbers of those that are not."""
    good = set()
    for number in range(rows):
        values, is_odd, trace = "'good', null", draw.random() < 0.2, ""
        if draw.random() < 0.5:
            values = draw.choice(VALUES)
        if draw.random() < 0.1:
            trace = f"set local pgoutbox.traceparent = {draw.choice(TRACES)};"
        try:
            await owner.execute(f"begin; {trace} select put({is_odd}, {number}, {values}); commit")
        except asyncpg.PostgresError:  # no text of this encoding
            await owner.execute("rollback")
            continue
        if values == "'good', null" and not is_odd:
            good.add(number)
    await owner.execute("update t set v = 'again' where v = 'good'")
    return good


@pytest.mark.parametrize(
    ("encoding", "flags"),
    [
        *((encoding, ("--subject", "{topic}.{table}.{key}")) for encoding in ENCODINGS),
        ("WIN1252", ()),
        *(
            pytest.param(encoding, flags, marks=pytest.mark.long)
            for encoding in (*ENCODINGS, *OTHERS)
            for flags in (
                (),
                ("--headers", "--batch-events", "7"),
                ("--content", "cloudevents"),
                ("--subject", "{topic}.{table}.{key}"),
            )
        ),
    ],
)
async def test_hostile_rows_stop_nobody(
    encoded: Database, stream: Stream, flags: tuple[str, ...], seed: int
) -> None:
    """Each event is in the stream or parked, each once, and those without fault in order."""
    owner = await encoded.connect()
    good = await write(owner, random.Random(seed), 60)

    done = pgoutbox(
        *("relay", "--drain", "--dsn", encoded.dsn, "--nats-url", stream.url),
        *("--topic", stream.topic, "--on-oversize", "park", *flags),
    )

    assert done.returncode == 0, done.stderr
    stored = await stream.messages()
    parked = await owner.fetch("select event_id::text, reason from pgoutbox.parked")
    ids = [message.id for message in stored] + [row["event_id"] for row in parked]
    events = await owner.fetchval("select count(*) from pgoutbox.event")
    assert len(set(ids)) == len(ids) == events
    rows = [json.loads(message.data) for message in stored]
    rows = [row.get("data", row) for row in rows if row.get("table", "t") == "t"]
    assert [row["n"] for row in rows if row["v"] == "good" and row["n"] in good] == sorted(good)
    assert len([row for row in rows if row["v"] == "again"]) == len(good)


_PEAK = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.long
async def test_no_event_is_too_large_for_the_memory_of_relay_and_status(
    database: Database, stream: Stream
) -> None:
    """One of 840 MB is never read. Capture makes none of that size, so it is forged."""
    owner = await database.connect()
    await owner.execute("create table t (n int primary key, v text)")
    await owner.execute("select pgoutbox.capture_table('t')")
    for number in range(3):
        await owner.execute(f"insert into t values ({number}, 'x')")
    await owner.execute(
        "update pgoutbox.event set new_row = repeat('x', 840000000)"
        " where new_row::json ->> 'n' = '1'",
        timeout=150,
    )

    def peak(*arguments: str) -> int:
        """Return how many MiB a command needs at most."""
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, sys.executable, "-m", "pgoutbox", *arguments],
            env=clean_environment({"PGOUTBOX_DSN": database.dsn}),
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.splitlines()[-1])

    where = ("--nats-url", stream.url, "--topic", stream.topic, "--on-oversize", "park")
    used = [peak("relay", "--drain", *where), peak("status"), peak("parked", "list")]

    print(f"MiB of relay, status, and parked list: {used}")
    assert used[0] < 300
    assert max(used[1:]) < 100
    assert [json.loads(m.data)["data"]["n"] for m in await stream.messages()] == [0, 2]
    assert await owner.fetchval("select bytes from pgoutbox.parked") == 840_000_000
