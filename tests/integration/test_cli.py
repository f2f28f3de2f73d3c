"""The commands as they are typed: output, exit codes, and what they never print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

import pgoutbox as package
from pgoutbox.config.settings import SETTINGS
from pgoutbox.database.status import Holder, SchemaStatus, Status, problems
from tests.conftest import StartDaemon
from tests.support.cluster import ADMIN, WRITER, Database
from tests.support.commands import ROOT, clean_environment, pgoutbox
from tests.support.leading import led_once
from tests.support.streams import Stream
from tests.support.waiting import eventually

SECRET = "s3cr3t-of-mine"
UNREACHABLE = f"postgresql://joe:{SECRET}@127.0.0.1:1/db"


@pytest.fixture
async def owner(database: Database) -> asyncpg.Connection:
    owner = await database.connect()
    await owner.execute(
        "create table users (id int primary key, name text);"
        'create schema billing; create table billing."Odd Name" (id int)'
    )
    return owner


def address(database: Database) -> str:
    parts = urlsplit(database.dsn)
    return f"{parts.hostname}:{parts.port}"


def working_in(database: Database, source: str = "--dsn") -> str:
    """Return the line by which each command that changes something says where it does."""
    return f"database {database.name} at {address(database)}, from {source}\n"


def status_of(database: Database) -> dict[str, object]:
    done = pgoutbox("status", "--json", "--dsn", database.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_version() -> None:
    done = pgoutbox("--version")

    assert (done.returncode, done.stdout) == (0, f"pgoutbox {package.__version__}\n")


def test_help_names_commands_and_exit_codes() -> None:
    done = pgoutbox("--help")

    for word in ("install", "uninstall", "relay", "status", "demo", "Exit codes:", "6 "):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["install", "uninstall", "relay", "status", "demo"])
def test_each_command_shows_an_example(command: str) -> None:
    done = pgoutbox(command, "--help")

    examples = [line for line in done.stdout.splitlines()[2:] if f" pgoutbox {command}" in line]
    assert examples or f"&& pgoutbox {command}" in done.stdout


def test_relay_help_shows_variable_and_default_of_every_setting() -> None:
    done = pgoutbox("relay", "--help")

    shown = " ".join(done.stdout.split())
    for setting in SETTINGS:
        if setting.flag and not setting.path.startswith("install."):
            assert setting.flag in shown
            assert setting.variables[0] in shown
    assert "[default: nats://localhost:4222]" in shown
    assert "[default: 15m]" in shown
    assert "[default: 4MiB]" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "No such command"),
        (["status", "--nonsense"], 2, "No such option"),
        (["status", "--dsn", f"mysql://joe:{SECRET}@h"], 2, "error: --dsn must be a URL"),
        (["relay", "--retention", "2h"], 2, "error: --retention must be from 0s to 55m"),
        (["install", "--actions", "insert,upsert"], 2, "unknown action 'UPSERT'"),
        (["install", "--actions", ","], 2, "--actions names no action"),
        (["install", "--actions", ""], 2, "--actions names no action"),
        (["uninstall"], 2, "Give one of --relay and --all, or tables"),
        (["uninstall", "--all", "--table", "users"], 2, "Give one of --relay and --all, or tables"),
        (["uninstall", "--all", "--relay", "x"], 2, "Give one of --relay and --all, or tables"),
        (["uninstall", "--table", "users", "--drop-unsent"], 2, "goes with --all"),
        (["status", "-c", "/nowhere.yml"], 2, "/nowhere.yml can't be read"),
        (["status", "--dsn", UNREACHABLE], 4, "error: PostgreSQL at 127.0.0.1:1/db refused"),
        (["relay", "--drain", "--dsn", UNREACHABLE], 4, "refused the connection"),
    ],
)
def test_what_is_wrong_is_said_with_an_exit_code(
    arguments: list[str], code: int, said: str
) -> None:
    done = pgoutbox(*arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


async def test_install_status_uninstall(database: Database, owner: asyncpg.Connection) -> None:
    env = {"DATABASE_URL": database.dsn}

    done = pgoutbox("install", "--table", "users", "--table", 'billing."Odd Name"', env=env)
    assert (done.returncode, done.stdout) == (0, "")
    assert "public.users: captured\n" in done.stderr

    await owner.execute("insert into users values (1)")
    text = pgoutbox("status", env=env)
    assert text.returncode == 0
    age = text.stdout.split("default")[1].split()[1]
    assert 0 <= float(age) < 60
    *lines, problem = text.stdout.splitlines()
    assert problem == "! nobody publishes the unsent events of relay default; run: pgoutbox relay"
    assert [line.split() for line in lines if line] == [
        f"database {database.name} at {address(database)}, from DATABASE_URL".split(),
        ["schema", package.__version__],
        ["relay", "backlog", "oldest", "unsent", "gaps", "parked", "leader"],
        ["default", "1", age, "s", "0", "0", "nobody;", "run:", "pgoutbox", "relay"],
        ["table", "actions", "old", "values", "state"],
        ['billing."Odd', 'Name"', "insert,update,delete,truncate", "full", "ok"],
        ["public.users", "insert,update,delete,truncate", "full", "ok"],
        lines[-1].split(),
    ]

    refused = pgoutbox("uninstall", "--all", env=env)
    assert (refused.returncode, refused.stdout) == (6, "")
    assert "error: relay default has 1 unsent event\n" in refused.stderr
    assert "hint: Send them first: pgoutbox relay --drain" in refused.stderr

    done = pgoutbox("uninstall", "--all", "--drop-unsent", env=env)
    assert (done.returncode, done.stdout) == (0, "")
    gone = pgoutbox("status", env=env)
    assert gone.returncode == 3
    assert "run: pgoutbox install" in gone.stdout


async def test_install_of_a_missing_table_exits_with_6(
    database: Database, owner: asyncpg.Connection
) -> None:
    done = pgoutbox("install", "--table", "usrs", "--dsn", database.dsn)

    assert (done.returncode, done.stdout) == (6, "")
    assert "error: there is no table usrs (did you mean public.users?)\nhint: " in done.stderr


async def test_the_dsn_may_stand_before_the_command(database: Database) -> None:
    assert pgoutbox("--dsn", database.dsn, "status").returncode == 0
    assert pgoutbox("--dsn", UNREACHABLE, "status", "--dsn", database.dsn).returncode == 0


async def test_the_configuration_file_names_database_and_tables(
    database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "config.yml"
    file.write_text(
        f"pgoutbox: {{dsn: '{database.dsn}'}}\n"
        "listener: {filter: {tables: {users: [insert, delete]}}}\n"
    )

    done = pgoutbox("install", env={"PGOUTBOX_CONFIG": str(file)})

    assert done.returncode == 0, done.stderr
    rows = await owner.fetch("select relation::text, actions from pgoutbox.captured_table")
    assert [tuple(row) for row in rows] == [("users", ["INSERT", "DELETE"])]


def test_print_sql_connects_to_nothing() -> None:
    done = pgoutbox(
        "install", "--print-sql", "--table", "users", "--grant-relay", "r", "--dsn", UNREACHABLE
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "create schema pgoutbox;" in done.stdout
    assert "capture_table('users'" in done.stdout
    assert "grant_relay('\"r\"'" in done.stdout
    assert SECRET not in done.stdout


async def test_the_printed_script_keeps_what_is_installed_where_nothing_else_is_asked(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("select pgoutbox.capture_table('users', '{INSERT}', 'identity')")
    script = pgoutbox("install", "--print-sql", "--table", "users").stdout
    await owner.execute("begin;" + script + "commit")

    async def installed() -> tuple[list[str], str]:
        [row] = await owner.fetch("select actions, old_values from pgoutbox.captured_table")
        return row["actions"], row["old_values"]

    assert await installed() == (["INSERT"], "identity")
    script = pgoutbox(
        "install", "--print-sql", "--table", "users", "--actions", "delete", "--old-values", "full"
    ).stdout
    await owner.execute("begin;" + script + "commit")
    assert await installed() == (["DELETE"], "full")


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in ``pgoutbox install --print-sql | head -1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pgoutbox", "install", "--print-sql"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 0


async def test_ctrl_c_ends_a_waiting_install_without_a_traceback(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon
) -> None:
    holder = await database.connect()
    await holder.execute("begin; insert into users values (1)")
    installing = await daemon("install", "--table", "users", "--dsn", database.dsn)
    await installing.line("waiting for a lock")

    installing.send_signal(signal.SIGINT)

    assert await installing.wait() == 130
    assert "Traceback" not in installing.output
    assert await owner.fetchval("select count(*) from pgoutbox.captured_table") == 0


async def test_status_names_drift_and_its_remedy(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("create table a (id int); create table b (id int); create table c (id int)")
    await owner.execute(
        "select pgoutbox.capture_table(t) from unnest('{users,a,b,c}'::regclass[]) t"
    )
    await owner.execute("alter table users add column more int")
    await owner.execute('alter table a disable trigger "00_pgoutbox"')
    await owner.execute("drop table b")

    tables = status_of(database)["tables"]

    assert isinstance(tables, list)
    assert {table["table"]: (table["problem"], table["remedy"]) for table in tables} == {
        "public.a": ("trigger", "pgoutbox install --table public.a"),
        "public.b": ("missing", "pgoutbox uninstall --table public.b"),
        "public.c": (None, None),
        "public.users": ("drift", "pgoutbox install --table public.users"),
    }
    text = pgoutbox("status", "--dsn", database.dsn).stdout
    for words in ("columns changed; run", "trigger missing or disabled; run", "table is gone; run"):
        assert words in text
    for table in tables:
        if table["remedy"]:
            done = pgoutbox(*table["remedy"].split()[1:], "--dsn", database.dsn)
            assert done.returncode == 0, done.stderr
    mended = status_of(database)["tables"]
    assert isinstance(mended, list)
    assert [table["problem"] for table in mended] == [None] * 3


async def test_status_doesnt_wait_for_a_locked_table(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("create table a (id int)")
    for name in ("users", "a"):
        await owner.execute(f"select pgoutbox.capture_table('{name}', old_values => 'identity')")

    async with owner.transaction():
        await owner.execute("set application_name = 'migration'; lock table users")
        tables = status_of(database)["tables"]
        text = pgoutbox("status", "--dsn", database.dsn).stdout
        pid = await owner.fetchval("select pg_backend_pid()")

    assert isinstance(tables, list)
    assert {table["table"]: table["problem"] for table in tables} == {
        "public.a": None,
        "public.users": "locked",
    }
    assert f"locked by pid {pid} (migration)" in text


async def test_status_counts_backlog_gaps_and_parked(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("select pgoutbox.capture_table('users')")
    await led_once(owner, "mine")
    await owner.execute("insert into users values (1), (2), (3)")
    await owner.execute(
        "update pgoutbox.progress set high = 40, gap_first = '{1,20}', gap_last = '{10,20}';"
        "insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason)"
        " values ('mine', gen_random_uuid(), 1, 1, 9, 'too large')"
    )

    relays = status_of(database)["relays"]

    assert isinstance(relays, list)
    (relay,) = relays
    assert 0 <= relay.pop("oldest_unsent_s") < 60
    assert relay == {
        "relay": "mine",
        "backlog": 3,
        "gaps": 11,
        "parked": 1,
        "high": 40,
        "leader": None,
        "is_idle": False,
        "share": "",
        "error": None,
        "error_s": None,
        "polling": None,
        "loss": None,
        "pause": None,
    }
    text = pgoutbox("status", "--dsn", database.dsn).stdout
    assert "nobody; run: pgoutbox relay --name mine\n" in text
    assert "uninstall --relay" not in text


async def test_status_says_how_to_forget_a_relay_that_no_longer_runs(
    database: Database, owner: asyncpg.Connection
) -> None:
    """With one relay alone, it is rather one that wasn't started yet."""
    await led_once(owner, "mine", "retired relay")

    text = pgoutbox("status", "--dsn", database.dsn).stdout

    assert (
        "nobody; run: pgoutbox relay --name 'retired relay';"
        " or forget it: pgoutbox uninstall --relay 'retired relay'\n"
    ) in text


async def test_status_shows_a_renamed_table_by_its_present_name(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("select pgoutbox.capture_table('users', '{TRUNCATE,DELETE,INSERT}')")
    await owner.execute(
        'alter table users rename to "Users"; alter table "Users" set schema billing'
    )

    (table,) = cast(list[dict[str, object]], status_of(database)["tables"])

    assert table["table"] == 'billing."Users"'
    assert table["actions"] == ["INSERT", "DELETE", "TRUNCATE"]
    done = pgoutbox("uninstall", "--table", str(table["table"]), "--dsn", database.dsn)
    assert "no longer captured" in done.stderr
    assert status_of(database)["tables"] == []


async def test_a_relay_that_runs_is_not_forgotten(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon, stream: Stream
) -> None:
    arguments = ["--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic]
    relay = await daemon("relay", "--name", "mine", *arguments)

    async def leads() -> bool:
        return bool(await owner.fetchval("select exists (select from pgoutbox.progress)"))

    await eventually(leads)
    refused = pgoutbox("uninstall", "--relay", "mine", "--dsn", database.dsn)
    assert (refused.returncode, refused.stdout) == (6, "")
    said = f"{working_in(database)}error: relay mine is running\nhint: Stop it first"
    assert refused.stderr.startswith(said)

    await relay.stop()
    done = pgoutbox("uninstall", "--relay", "mine", "--dsn", database.dsn)
    assert (done.returncode, done.stderr) == (0, f"{working_in(database)}relay mine: forgotten\n")
    assert not await leads()


async def test_status_shows_who_leads_and_whether_it_is_idle(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon, stream: Stream
) -> None:
    arguments = ["--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic]
    await daemon("relay", "--name", "a b", *arguments)

    def idle() -> dict[str, object] | None:
        relays = status_of(database)["relays"]
        assert isinstance(relays, list)
        relay: dict[str, object] = relays[0]
        return relay if relay["is_idle"] else None

    relay = await eventually(idle)

    leader = relay["leader"]
    assert isinstance(leader, dict)
    assert relay["relay"] == "a b"
    application = await owner.fetchval(
        "select application_name from pg_stat_activity where pid = $1", leader["pid"]
    )
    assert application == leader["application"]
    assert leader["method"] == "pipelined, chained by message id"
    assert application.startswith("pgoutbox ")
    assert status_of(database)["strangers"] == []
    text = pgoutbox("status", "--dsn", database.dsn).stdout
    assert f"pid {leader['pid']} for " in text
    assert ", idle; pipelined, chained by message id\n" in text


@pytest.mark.parametrize("mode", ["", "_shared"])
async def test_status_names_a_stranger_that_holds_the_sleep_lock(
    database: Database, mode: str
) -> None:
    stranger = await database.connect(WRITER, application_name="innocent")
    await stranger.execute(f"select pg_advisory_lock{mode}(1885826914, 0)")
    pid = await stranger.fetchval("select pg_backend_pid()")

    strangers = status_of(database)["strangers"]

    assert isinstance(strangers, list)
    assert [(s["pid"], s["application"]) for s in strangers] == [(pid, "innocent")]
    assert f"! pid {pid} (innocent) holds the sleep lock" in (
        pgoutbox("status", "--dsn", database.dsn).stdout
    )


async def test_status_works_for_the_relays_role(database: Database) -> None:
    admin = await database.connect(ADMIN)
    await admin.execute("select pgoutbox.grant_relay($1::text::regrole)", WRITER)

    done = pgoutbox("status", "--dsn", database.dsn_as(WRITER))

    assert (done.returncode, done.stderr) == (0, "")


async def test_status_names_the_command_where_the_schema_is_older(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("update pgoutbox.installation set functions_version = '0.0.9+abc'")

    done = pgoutbox("status", "--dsn", database.dsn)

    assert done.returncode == 0
    assert done.stdout.startswith(
        f"{working_in(database)}"
        f"schema   0.0.9: older than this pgoutbox ({package.__version__}); run: pgoutbox install\n"
    )


async def test_a_drain_refuses_a_database_without_the_schema(empty_database: Database) -> None:
    """A relay that isn't to end waits for it."""
    done = pgoutbox("relay", "--drain", "--dsn", empty_database.dsn)

    assert done.returncode == 3
    assert (
        "error: pgoutbox isn't installed in this database\nhint: Run: pgoutbox install"
        in done.stderr
    )


async def test_commands_say_where_they_work_and_where_that_was_chosen(
    database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """Not to drop the schema of another database than the one that was meant."""
    file = tmp_path / "config.yml"
    parts = urlsplit(database.dsn)
    file.write_text(
        "listener: {slotName: s}\n"
        f"database: {{host: {parts.hostname}, port: {parts.port}, name: {database.name},"
        f" user: {parts.username}, password: {parts.password}}}\n"
    )
    of_env = {"PGPORT": str(parts.port), "PGDATABASE": database.name}
    for arguments, env, source in (
        (("--dsn", database.dsn), {}, "--dsn"),
        ((), {"DATABASE_URL": database.dsn}, "DATABASE_URL"),
        (("-c", file), {}, "the configuration file"),
        (("-c", file), of_env, "PGPORT and PGDATABASE and the configuration file"),
    ):
        done = pgoutbox("uninstall", "--all", *arguments, env=env)
        assert done.returncode == 0, done.stderr
        assert working_in(database, source) in done.stderr
        assert pgoutbox("status", *arguments, env=env).stdout.startswith(
            working_in(database, source)
        )
    installed = pgoutbox("install", "--table", "users", "--dsn", database.dsn)
    assert installed.stderr.startswith(working_in(database))
    assert status_of(database)["database"] == {
        "database": database.name,
        "server": address(database),
        "source": "--dsn",
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", None),
        ("alter table users disable trigger all", "public.users: trigger missing or disabled"),
        ("insert into users values (1)", "nobody publishes the unsent events of relay default"),
        (
            "insert into pgoutbox.parked (relay, event_id, position, seq, bytes, reason)"
            " values ('default', gen_random_uuid(), 1, 1, 9, 'too large')",
            "1 event of relay default is parked; run: pgoutbox parked list",
        ),
        (
            "insert into pgoutbox.relay_error (relay, error) values ('default', 'stream is full')",
            "relay default can't publish (reported ",
        ),
        ("select pg_advisory_lock(1885826914, 0)", "holds the sleep lock"),
        ("drop table users", "public.users: table is gone"),
    ],
)
async def test_a_check_fails_where_something_needs_attention(
    database: Database, owner: asyncpg.Connection, wrong: str, said: str | None
) -> None:
    await owner.execute("select pgoutbox.capture_table('users')")
    await led_once(owner, "default")
    if wrong:
        await owner.execute(wrong)

    checked = pgoutbox("status", "--check", "--dsn", database.dsn)
    asked = pgoutbox("status", "--check", "--json", "--dsn", database.dsn)

    assert checked.returncode == asked.returncode == (7 if said else 0)
    assert pgoutbox("status", "--dsn", database.dsn).returncode == 0
    problems = json.loads(asked.stdout)["problems"]
    assert len(problems) == (1 if said else 0)
    assert (said or "") in checked.stdout


async def test_status_says_why_nothing_goes_out(
    database: Database, owner: asyncpg.Connection, daemon: StartDaemon, stream: Stream
) -> None:
    """And no more of it once it does."""
    await owner.execute("select pgoutbox.capture_table('users')")
    full = StreamConfig(
        stream.topic, subjects=[f"{stream.topic}.*"], max_msgs=1, discard=DiscardPolicy.NEW
    )
    await stream.jetstream.add_stream(full)
    await owner.execute("insert into users values (1); insert into users values (2)")
    arguments = ["--dsn", database.dsn, "--nats-url", stream.url, "--topic", stream.topic]
    await daemon("relay", *arguments)

    def check() -> subprocess.CompletedProcess[str]:
        return pgoutbox("status", "--check", "--dsn", database.dsn)

    why = "! relay default can't publish (reported "
    refused = await eventually(
        lambda: done if why in (done := check()).stdout else None, timeout=30
    )
    assert refused.returncode == 7
    assert "maximum messages exceeded" in refused.stdout

    full.max_msgs = 10
    await stream.jetstream.update_stream(full)
    await eventually(lambda: check().returncode == 0, timeout=30)


async def test_status_names_transactions_that_hold_positions(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute("select pgoutbox.capture_table('users')")
    holder = await database.connect(application_name="nightly report")
    async with holder.transaction():
        await holder.execute("insert into users values (1); set constraints all immediate")
        pid = await holder.fetchval("select pg_backend_pid()")
        (held,) = cast(list[dict[str, object]], status_of(database)["holders"])
    assert (held["pid"], held["application"]) == (pid, "nightly report")
    assert status_of(database)["holders"] == []

    long = Status(SchemaStatus("1", "1"), holders=(Holder(7, "app", 600.0), Holder(8, "", 1.0)))
    assert problems(long) == (
        "pid 7 (app) has held back its events for 10 min; end that transaction",
    )


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status", "--help"], ["status"], ["install", "--print-sql", "--table", "users"]],
)
def test_output_that_cant_be_written_is_one_sentence(
    database: Database, arguments: list[str]
) -> None:
    with FULL.open("wb") as full:
        command = [sys.executable, "-m", "pgoutbox", *arguments]
        env = clean_environment({"DATABASE_URL": database.dsn})
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=full, stderr=subprocess.PIPE)
        silent = subprocess.run(command, cwd=ROOT, env=env, stdout=full, stderr=full)

    assert done.returncode == silent.returncode == 1
    assert done.stderr == b"error: the output can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii:strict", "größe 漢".encode()),  # which click takes for a mistake
        ("latin-1:strict", "größe \\u6f22".encode("latin-1")),
    ],
)
async def test_a_terminal_without_utf8_gets_what_it_can_show(
    database: Database, owner: asyncpg.Connection, encoding: str, shown: bytes
) -> None:
    """And programs get UTF-8, whatever the terminal is."""
    await owner.execute('create table "größe 漢" (id int)')
    await owner.execute("""select pgoutbox.capture_table('"größe 漢"')""")
    command = [sys.executable, "-m", "pgoutbox"]
    env = clean_environment({"DATABASE_URL": database.dsn, "PYTHONIOENCODING": encoding})

    def output(*arguments: str) -> bytes:
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=env, check=True, capture_output=True
        ).stdout

    assert shown in output("status")
    (table,) = json.loads(output("status", "--json").decode("utf-8"))["tables"]
    assert table["table"] == 'public."größe 漢"'
    assert "größe 漢".encode() in output("install", "--print-sql", "--table", '"größe 漢"')


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_what_nobody_can_be_told_changes_no_exit_code(
    database: Database, owner: asyncpg.Connection, stream: Stream
) -> None:
    """As where the disk is full that stderr goes to; Python's own code would be 120."""
    dsn = ("--dsn", database.dsn)
    relay = ("relay", "--drain", "--nats-url", stream.url, "--topic", stream.topic)
    with FULL.open("wb") as full:
        for code, arguments in (
            (0, ("install", "--table", "users", *dsn)),
            (6, ("install", "--table", "nowhere", *dsn)),
            (0, (*relay, *dsn)),
            (4, (*relay, "--dsn", "postgresql://joe@127.0.0.1:1/db")),
            (0, ("status", *dsn)),
        ):
            command = [sys.executable, "-m", "pgoutbox", *arguments]
            done = subprocess.run(
                command, cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=full
            )
            assert done.returncode == code, arguments

    assert len(cast(list[object], status_of(database)["tables"])) == 1


def test_a_reader_that_goes_away_ends_no_install(
    database: Database, owner: asyncpg.Connection
) -> None:
    """As with `pgoutbox install … 2>&1 | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pgoutbox", "install", "--table", "users"]
    env = clean_environment({"DATABASE_URL": database.dsn})
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=writing, stderr=writing)
    os.close(writing)

    assert done.returncode == 0
    assert len(cast(list[object], status_of(database)["tables"])) == 1


def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")

    done = pgoutbox("status", env={"PYTHONPATH": str(tmp_path)})

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
