"""Settings come from flags, the environment, the file and the defaults, in this order."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgoutbox.config import conninfo
from pgoutbox.config.load import load
from pgoutbox.config.settings import SETTINGS, Config
from pgoutbox.config.values import TABLES, show_duration
from pgoutbox.errors import ConfigError
from pgoutbox.names import Address
from pgoutbox.redact import redact

SECRET = "s3cr3t-of-mine"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def refusal(*arguments: object, **flags: object) -> str:
    environment, file = (*arguments, {}, None)[:2] if arguments else ({}, None)
    with pytest.raises(ConfigError) as caught:
        load(flags, environment, file)  # type: ignore[arg-type]
    return str(caught.value)


def test_defaults_where_nothing_is_set() -> None:
    assert Config() == load({}, {})


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text("pgoutbox: {window: 1, batchEvents: 1, pollInterval: 1}")
    environment = {"PGOUTBOX_WINDOW": "2", "PGOUTBOX_BATCH_EVENTS": "2"}

    found = load({"window": "3"}, environment, file)

    assert (
        found.stream.window,
        found.relay.batch_events,
        found.relay.poll_interval,
    ) == (3, 2, 1.0)


def test_every_setting_has_a_flag_a_variable_and_a_key(file: Path) -> None:
    """What is read from each of the three is the same."""
    contents = file.with_name("secret")
    values = {
        "N": "7",
        "DURATION": "7s",
        "SIZE": "7KiB",
        "NAME": "seven",
        "TEXT": "seven",
        "URL": "nats://seven:7",
        "FILE": "seven.pem",
        "SUBJECT": "seven",
        "TEMPLATE": "{topic}.seven",
        "ADDRESS": ":7",
        "LIST": "seven",
        "TABLE": "seven",
        "I/N": "7/7",
        "HH:MM-HH:MM": "07:00-07:07",
        "now|oldest|POSITION": "7",
    }
    companions = {
        "--nats-user": {"PGOUTBOX_NATS_PASSWORD": "pw"},
        "--nats-password": {"PGOUTBOX_NATS_USER": "joe"},
        "--nats-password-file": {"PGOUTBOX_NATS_USER": "joe"},
        "--nats-client-cert": {"PGOUTBOX_NATS_CLIENT_KEY": "key.pem"},
        "--nats-client-key": {"PGOUTBOX_NATS_CLIENT_CERT": "cert.pem"},
        "--tables": {"PGOUTBOX_NAME": "joe"},
        "--kv": {"PGOUTBOX_NAME": "joe"},
        "--kv-bucket": {"PGOUTBOX_NAME": "joe", "PGOUTBOX_KV": "users"},
        "--except-tables": {"PGOUTBOX_NAME": "joe"},
    }
    for setting in SETTINGS:
        if setting.flag is None:
            continue
        value = values.get(setting.type.metavar, setting.type.metavar.strip("[]").split("|")[-1])
        if setting.flag in ("--dsn", "--dsn-file"):
            value = "postgresql://seven"
        if setting.flag.endswith("-file"):
            contents.write_text(f"{value}\n")
            value = str(contents)
        if setting.flag == "--stream-replicas":
            value = "3"
        if setting.is_switch:
            value = str(not setting.default).lower()
        variable, key = setting.variables[0], setting.keys[0]
        section, name = key.split(".")
        file.write_text(f"{section}: {{{name}: '{value}'}}")
        rest = companions.get(setting.flag, {})

        from_flag = load({setting.parameter: value}, rest)

        assert from_flag == load({}, {variable: value, **rest}), setting.flag
        assert from_flag == load({}, rest, file), setting.flag
        assert from_flag != load({}, rest if setting.flag not in companions else {}), setting.flag


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("listener.serverPort", "8080"),
        ("listener.slotName", "myslot_1"),
        ("logger.level", "warn"),
        ("logger.fmt", "json"),
        ("database.host", "here"),
        ("database.port", "5433"),
        ("database.name", "shop"),
        ("database.user", "joe"),
        ("database.password", "pw"),
        ("database.enableTLS", "true"),
        ("database.sslMode", "verify-full"),
        ("publisher.address", "here:4222"),
        ("publisher.topic", "changes"),
        ("publisher.topicPrefix", "pre_"),
        ("publisher.enableTLS", "true"),
        ("publisher.clientCert", "c.pem"),
        ("publisher.clientKey", "k.pem"),
        ("publisher.caCert", "ca.pem"),
        ("monitoring.promAddr", ":2112"),
        ("monitoring.sentryDSN", "https://key@here/1"),
    ],
)
def test_a_variable_comes_before_the_key_of_wal_listeners_file(
    file: Path, key: str, value: str
) -> None:
    section, name = key.split(".")
    other = {"clientCert": "clientKey", "clientKey": "clientCert"}.get(name)
    rest = {f"WAL_PUBLISHER_{other.upper()}": "other.pem"} if other else {}
    file.write_text(f"{section}: {{{name}: '{value}'}}")
    from_file = load({}, rest, file)
    file.write_text(f"{section.upper()}: {{{name.lower()}: '7777'}}")  # wrong, or not the same

    from_variable = load({}, {f"WAL_{key.replace('.', '_').upper()}": value, **rest}, file)

    assert from_file == from_variable
    assert from_file != load({}, rest if not other else {})


def test_wal_listeners_file_is_understood_as_it_is(file: Path) -> None:
    file.write_text(
        """
listener:
  slotName: myslot_1
  refreshConnection: 30s
  heartbeatInterval: 10s
  filter:
    tables:
      users: [insert, update]
      Orders: [delete]
  topicsMap:
    PUBLIC_users: notifier
  serverPort: 8080
logger: {level: warn, fmt: json}
database: {host: db.example, port: 5433, name: shop, user: joe, password: pw, debug: false,
           enableTLS: false, sslMode: require}
publisher: {type: nats, address: "localhost:4223", topic: changes, topicPrefix: pre_}
monitoring: {sentryDSN: "", promAddr: ":2112"}
"""
    )

    found = load({}, {}, file)

    assert (
        found.database.host,
        found.database.port,
        found.database.name,
        found.database.user,
        found.database.password,
    ) == ("db.example", 5433, "shop", "joe", "pw")
    assert (
        found.nats.url,
        found.messages.topic,
        found.messages.topic_prefix,
    ) == ("nats://localhost:4223", "changes", "pre_")
    assert found.messages.topics_map == {"public_users": "notifier"}
    assert found.install.tables == {"users": ("INSERT", "UPDATE"), "Orders": ("DELETE",)}
    assert (found.log.level, found.log.format) == ("warning", "json")
    assert found.relay.name == "myslot_1"
    assert found.monitoring.health_addr == Address("", 8080)
    assert found.monitoring.metrics_addr == Address("", 2112)
    assert found.monitoring.sentry_dsn is None
    assert found.database.ssl_mode is None
    (note,) = found.notes
    assert note == (
        "no effect in pgoutbox: listener.refreshConnection, listener.heartbeatInterval,"
        " database.debug"
    )


@pytest.mark.parametrize("word", ["12:34:56", "0123", "yes", "1e3", "2026-11-24", "1_000"])
def test_what_looks_like_another_type_of_yaml_stays_the_text_it_is(file: Path, word: str) -> None:
    file.write_text(f"database: {{password: {word}, user: ~}}")

    found = load({}, {}, file).database

    assert (found.password, found.user) == (word, None)


def test_any_level_and_format_of_wal_listeners_logger_will_do(file: Path) -> None:
    """As its own loader has it; ours are strict."""
    file.write_text("logger: {level: trace, caller: true}")

    found = load({}, {}, file)

    assert (found.log.level, found.log.format) == ("info", "json")
    assert found.warnings == ("logger.level must be one of debug, info, warning, error",)
    assert "--log-level must be one of" in refusal({}, file, log_level="trace")


@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({"DATABASE_URL": "postgresql://x@y/z"}, "the DSN overrides the database in the file"),
        ({"PGHOST": "y"}, "PGHOST overrides the database in the file"),
        ({"PGSSLMODE": "require", "WAL_DATABASE_HOST": "y"}, None),
    ],
)
def test_a_database_of_the_environment_that_replaces_the_files_is_named(
    file: Path, environment: dict[str, str], warning: str | None
) -> None:
    file.write_text("database: {host: here, name: shop}")

    assert load({}, environment, file).warnings == ((warning,) if warning else ())


def test_a_template_has_to_make_a_subject_with_the_prefix_that_it_has(file: Path) -> None:
    template = "{topic}.{prefix}.{name}"

    assert load({"subject": template, "topic_prefix": "a"}, {}).messages.subject == template
    for prefix in ("", "a."):
        assert refusal(subject=template, topic_prefix=prefix) == (
            f"--subject {template!r} makes 'wal_listener.{prefix}.*', which has an empty part"
        )


def test_a_tls_mode_alone_counts(file: Path) -> None:
    file.write_text("database: {host: here, sslMode: require}")
    assert load({}, {}, file).database.ssl_mode == "require"

    file.write_text("database: {host: here, sslMode: require, enableTLS: false}")
    assert load({}, {}, file).database.ssl_mode is None


def test_a_dsn_replaces_the_files_database(file: Path) -> None:
    file.write_text("database: {host: elsewhere, password: other}")

    found = load({}, {"DATABASE_URL": "postgresql://joe@here/shop"}, file)

    assert found.database.dsn == "postgresql://joe@here/shop"
    assert found.database.host is None
    assert found.database.password is None


def test_pgoutbox_dsn_wins_over_database_url() -> None:
    environment = {"PGOUTBOX_DSN": "postgres://a/1", "DATABASE_URL": "postgres://b/2"}

    assert load({}, environment).database.dsn == "postgres://a/1"


def test_libpqs_variables_win_over_the_file(file: Path) -> None:
    file.write_text("database: {host: elsewhere, port: 1, name: shop}")

    found = load({}, {"PGHOST": "here", "PGPORT": "5432,5433"}, file)

    assert (
        found.database.host,
        found.database.port,
        found.database.name,
    ) == (None, None, "shop")


def test_a_variable_wins_over_a_key_that_spells_the_setting_in_another_way(file: Path) -> None:
    file.write_text("pgoutbox: {healthAddr: 1}\nlistener: {serverPort: 2}")

    assert load({}, {}, file).monitoring.health_addr == Address("127.0.0.1", 1)
    found = load({}, {"WAL_LISTENER_SERVERPORT": "3"}, file)
    assert found.monitoring.health_addr == Address("", 3)


def test_nats_url_counts_only_if_nothing_else_names_nats(file: Path) -> None:
    """Shells have it set for the nats command line."""
    environment = {"NATS_URL": "a:1"}
    file.write_text("publisher: {address: 'b:2'}")

    assert load({}, environment).nats.url == "nats://a:1"
    assert load({}, environment, file).nats.url == "nats://b:2"
    assert load({}, {**environment, "PGOUTBOX_NATS_URL": "c:3"}).nats.url == "nats://c:3"
    assert refusal({"NATS_URL": "http://x"}).startswith("NATS_URL must be a URL such as")


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("dsn", lambda found: found.database.dsn),
        ("nats_password", lambda found: found.nats.password),
        ("nats_token", lambda found: found.nats.token),
    ],
)
def test_a_secret_may_be_in_a_file(
    tmp_path: Path, flag: str, read: Callable[[Config], str | None]
) -> None:
    secret = f"postgresql://joe:{SECRET}@h/db" if flag == "dsn" else f" {SECRET} "
    path = tmp_path / "secret"
    path.write_text(f"{secret}\n")
    user = {"nats_user": "joe"} if flag == "nats_password" else {}
    variable = f"PGOUTBOX_{flag.upper()}_FILE"

    assert read(load({f"{flag}_file": str(path), **user}, {})) == secret
    assert read(load({**user}, {variable: str(path)})) == secret
    found = load({flag: "postgresql://other", **user}, {variable: str(path)})
    assert read(found) == "postgresql://other"
    assert SECRET not in repr(load({**user}, {variable: str(path)}))
    name = flag.replace("_", "-")
    assert refusal({}, None, **{flag: secret, f"{flag}_file": str(path)}, **user) == (
        f"--{name} and --{name}-file exclude each other"
    )


def test_a_file_with_a_dsn_overrides_database_url(tmp_path: Path) -> None:
    """Which a platform may set for all programs."""
    path = tmp_path / "dsn"
    path.write_text("postgresql://a/1")
    environment = {"DATABASE_URL": "postgresql://b/2", "PGOUTBOX_DSN_FILE": str(path)}

    assert load({}, environment).database.dsn == "postgresql://a/1"


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "which can't be read: No such file or directory"),
        (b"", "which is empty"),
        (b"\n", "which is empty"),
        (b"\xff", "which can't be read: it isn't UTF-8"),
        (f"mysql://joe:{SECRET}@h".encode(), "whose contents must be a URL"),
    ],
)
def test_a_file_without_a_secret_gets_one_sentence(
    tmp_path: Path, contents: bytes | None, said: str
) -> None:
    path = tmp_path / "dsn"
    if contents is not None:
        path.write_bytes(contents)

    refused = refusal({"PGOUTBOX_DSN_FILE": str(path)})

    assert refused.startswith(f"PGOUTBOX_DSN_FILE names {path}, {said}")
    assert SECRET not in refused


def test_an_empty_variable_counts_as_unset() -> None:
    assert Config() == load({}, {"PGOUTBOX_WINDOW": "", "DATABASE_URL": ""})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("10", 10), (10, 10), (0.5, 0.5), ("500ms", 0.5), ("1m30s", 90), ("15m", 900), ("1h", 3600)],
)
def test_durations_have_units(given: object, seconds: float) -> None:
    assert seconds == load({"grace_period": given}, {}).relay.grace_period


@pytest.mark.parametrize("given", ["", "x", "-1s", "1 day", "10s later", True, "1e3", "nan"])
def test_what_is_no_duration_is_refused(given: object) -> None:
    assert "must be a duration such as" in refusal(grace_period=given)


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("02:00-05:00", ["02:00", "04:59"], ["01:59", "05:00", "14:00"]),
        ("22:30 - 1:00", ["22:30", "23:59", "00:00", "00:59"], ["01:00", "12:00", "22:29"]),
    ],
)
def test_hours_of_the_day_may_go_past_midnight(
    written: str, inside: list[str], outside: list[str]
) -> None:
    hours = load({"rotate_between": written}, {}).relay.rotate_between
    assert hours is not None
    for times, expected in ((inside, True), (outside, False)):
        for time in times:
            moment = datetime.fromisoformat(f"2026-03-01T{time}:30+00:00")
            assert hours.has(moment) is expected, time
            assert hours.has(moment.astimezone(timezone(timedelta(hours=-8)))) is expected
    assert load({"rotate_between": str(hours)}, {}).relay.rotate_between == hours


@pytest.mark.parametrize("written", ["02:00", "2-5", "02:00-24:00", "02:00-02:00", "02:60-03:00"])
def test_hours_that_are_none_are_refused(written: str) -> None:
    assert "must be hours of the day in UTC, such as 02:00-05:00" in refusal(rotate_between=written)


def test_retention_is_bounded_by_the_ring() -> None:
    assert load({"retention": "55m"}, {}).relay.retention == 3300
    assert refusal(retention="3301s") == "--retention must be from 0s to 55m"


@pytest.mark.parametrize(("given", "size"), [("4096", 4096), ("1KiB", 1024), ("2 MiB", 2 << 20)])
def test_sizes_have_units(given: str, size: int) -> None:
    assert size == load({"batch_bytes": given}, {}).relay.batch_bytes


def test_sizes_out_of_range_are_refused_in_units() -> None:
    assert refusal(batch_bytes="1") == "--batch-bytes must be from 1KiB to 256MiB"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.05, "50ms"), (1.5, "1.5s"), (90, "90s"), (900, "15m"), (86_400, "24h")],
)
def test_durations_are_shown_in_the_largest_unit_that_leaves_them_whole(
    seconds: float, shown: str
) -> None:
    assert shown == show_duration(seconds)


def test_defaults_are_shown_as_one_would_write_them() -> None:
    shown = {setting.flag: setting.shown_default for setting in SETTINGS}

    assert shown["--retention"] == "15m"
    assert shown["--batch-bytes"] == "4MiB"
    assert shown["--topic-prefix"] == ""


@pytest.mark.parametrize("given", ["0", "100001", "1.5", "many", True, "", "1" * 30, "\u0663"])
def test_numbers_are_whole_and_in_range(given: object) -> None:
    assert "--window must be" in refusal(window=given)


@pytest.mark.parametrize("given", ["", "a b", "a..b", "a>", "*", "a\n", "a/b"])
def test_a_topic_must_begin_a_subject(given: str) -> None:
    assert "--topic must be the beginning of a subject" in refusal(topic=given)


@pytest.mark.parametrize("prefix", ["$JS", "$SYS"])
def test_subjects_of_the_server_itself_are_refused(prefix: str) -> None:
    said = f"must not begin with {prefix}: subjects that begin so are the NATS server's own"

    assert refusal(topic=prefix, stream="x") == f"--topic {said}"
    assert refusal(topic=f"{prefix}.x", stream="x") == f"--topic {said}"
    assert refusal(subject=f"{prefix}.{{table}}") == f"--subject {said}"
    assert "the NATS server's own" in refusal(subject="{prefix}", topic_prefix=f"{prefix}.x")
    assert load({"topic": f"{prefix}x"}, {}).messages.topic == f"{prefix}x"


def test_a_topic_of_several_parts_needs_a_stream_of_another_name() -> None:
    assert "can't be the stream's name as well: name one with --stream" in refusal(topic="a.b")
    assert load({"topic": "a.b", "stream": "ab"}, {}).messages.topic == "a.b"
    assert load({"topic": "a.b", "jetstream": False}, {}).messages.topic == "a.b"


@pytest.mark.parametrize("given", ["", "app_", "app.", "a.b_", "*", "ünder_", "a>"])
def test_a_topic_prefix_may_have_dots(given: str) -> None:
    assert load({"topic_prefix": given}, {}).messages.topic_prefix == given


@pytest.mark.parametrize("given", [".", "a..", ".a", "a b", "a\t", "a\n", "\x00", "\x7f", "\udce4"])
def test_a_topic_prefix_that_makes_no_subject_is_refused(given: str) -> None:
    assert "--topic-prefix must be part of a subject" in refusal(topic_prefix=given)


@pytest.mark.parametrize(
    ("prefix", "name", "is_good"),
    [
        ("", "users", True),
        ("", "shop.users", True),
        ("app", ".users", True),
        ("app", "", True),
        ("", "", False),
        ("", ".users", False),
        ("", "users.", False),
        ("", "a..b", False),
        ("app.", "", False),
        ("app.", ".users", False),
        ("", "my users", False),
        ("", "users\n", False),
    ],
)
def test_the_topics_map_must_make_subjects(
    file: Path, prefix: str, name: str, is_good: bool
) -> None:
    file.write_text(json.dumps({"listener": {"topicsMap": {"public_users": name}}}))

    if is_good:
        found = load({"topic_prefix": prefix}, {}, file).messages
        assert found.topics_map == {"public_users": name}
    else:
        assert refusal({}, file, topic_prefix=prefix) == (
            f"listener.topicsMap makes {prefix + name!r} of public_users, which is no subject"
        )


def test_tls_for_nats_is_read_from_wal_listeners_keys(file: Path) -> None:
    file.write_text(
        "publisher: {enableTLS: true, clientCert: c.pem, clientKey: k.pem, caCert: ca.pem}"
    )

    found = load({}, {}, file).nats

    assert (found.enable_tls, found.client_cert, found.client_key, found.ca_cert) == (
        True, "c.pem", "k.pem", "ca.pem",
    )  # fmt: skip


def test_tls_that_is_switched_off_is_no_problem(file: Path) -> None:
    file.write_text(
        "publisher: {enableTLS: false, clientCert: '', clientKey: '', caCert: ''}\n"
        "database: {enableTLS: false, sslMode: verify-full}"
    )

    found = load({}, {}, file)

    assert not found.nats.enable_tls
    assert found.database.ssl_mode is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"nats_user": "joe"}, "--nats-user and --nats-password need each other"),
        ({"nats_client_key": "k.pem"}, "--nats-client-cert and --nats-client-key need each other"),
        (
            {"nats_token": "t", "nats_creds": "c"},
            "--nats-token and --nats-creds exclude each other",
        ),
    ],
)
def test_half_or_double_credentials_are_refused(flags: dict[str, str], said: str) -> None:
    assert refusal(**flags) == said


def test_a_nats_url_may_ask_for_tls() -> None:
    """It is the publisher's business whether it can."""
    assert load({"nats_url": "tls://h:4222"}, {}).nats.url == "tls://h:4222"


@pytest.mark.parametrize("variable", ["WAL_LISTENER_TOPICSMAP", "WAL_LISTENER_FILTER_TABLES"])
def test_no_variable_holds_a_map(variable: str) -> None:
    assert Config() == load({}, {variable: "users"})


def test_a_variable_replaces_one_entry_of_a_map(file: Path) -> None:
    """As in wal-listener, whose loader asks for WAL_ and the path of every key of its file."""
    file.write_text(
        "listener: {topicsMap: {public_users: old}, filter: {tables: {Users: [insert]}}}"
    )
    environment = {
        "WAL_LISTENER_TOPICSMAP_PUBLIC_USERS": "new",
        "WAL_LISTENER_FILTER_TABLES_USERS": "insert,delete",
    }

    found = load({}, environment, file)

    assert found.messages.topics_map == {"public_users": "new"}
    assert found.install.tables == {"users": ("INSERT", "DELETE")}


def test_all_problems_are_reported_together(file: Path) -> None:
    file.write_text("pgoutbox: {windw: 3}\npgoutbx: {name: x}\npublisher: {type: kafka}")

    said = refusal({"PGOUTBOX_RETENTION": "2h"}, file, log_level="loud")

    assert said.startswith("5 settings are wrong:\n")
    assert "unknown key pgoutbox.windw; did you mean pgoutbox.window?" in said
    assert "unknown key pgoutbx.name; did you mean pgoutbox.name?" in said
    assert "publisher.type kafka isn't supported" in said
    assert "PGOUTBOX_RETENTION must be" in said
    assert "--log-level must be one of debug, info, warning, error" in said


def test_an_unknown_key_of_wal_listeners_is_overlooked_but_gets_a_suggestion(file: Path) -> None:
    """As its loader does: a set-up that works may have some."""
    file.write_text("publisher: {topik: x, topic: y}\nx-anchor: {a: 1}")

    found = load({}, {}, file)

    assert found.messages.topic == "y"
    assert found.warnings == (
        "the file has an unknown key publisher.topik; did you mean publisher.topic?",
        "the file has an unknown key x-anchor.a",
    )


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("publisher: {topic: a,\n topic: b}", "publisher.topic", "1 and 2"),
        ("publisher: {topic: a,\n Topic: b}", "publisher.Topic", "1 and 2"),
        ("publisher: {topic: a}\nlogger: {level: info}\npublisher: {}", "publisher", "1 and 3"),
        ("x: {y: {z: 1,\n\n z: 1}}", "x.y.z", "1 and 3"),
        (
            "listener:\n filter:\n  tables:\n   users: []\n   users: []",
            "listener.filter.tables.users",
            "4 and 5",
        ),
    ],
)
def test_a_key_that_the_file_has_twice_is_refused_with_its_lines(
    file: Path, text: str, key: str, lines: str
) -> None:
    file.write_text(text)

    assert f"the file has {key} twice, in lines {lines}" in refusal({}, file)


def test_keys_of_a_map_differ_by_case_and_a_merge_is_no_repetition(file: Path) -> None:
    file.write_text(
        "x: &x {topic: a}\npublisher: {<<: *x, topic: b}\n"
        "listener: {filter: {tables: {users: [insert], Users: [delete]}}}"
    )

    found = load({}, {}, file)

    assert found.messages.topic == "b"
    assert found.install.tables == {"users": ("INSERT",), "Users": ("DELETE",)}


def test_a_section_that_is_no_section_is_refused(file: Path) -> None:
    file.write_text("publisher: nats")

    assert refusal({}, file) == "publisher in the file must hold keys and values"


def test_a_variable_that_is_almost_one_of_ours_gets_a_suggestion() -> None:
    environment = {"PGOUTBOX_NATS_URI": "x", "WAL_DATABASE_PROT": "1", "PGOUTBOX_SERVICE_HOST": "y"}

    assert load({}, environment).warnings == (
        "there is no variable PGOUTBOX_NATS_URI; did you mean PGOUTBOX_NATS_URL?",
        "there is no variable WAL_DATABASE_PROT; did you mean WAL_DATABASE_PORT?",
    )


def test_the_file_of_wal_listener_1_is_refused_with_the_present_keys(file: Path) -> None:
    file.write_text(
        "nats: {address: here:4222, topicPrefix: x}\n"
        "database: {filter: {tables: {users: [insert]}}}"
    )

    said = refusal({}, file)

    assert "unknown key nats.address; since wal-listener 2 it is publisher.address" in said
    assert "nats.topicprefix; since wal-listener 2 it is publisher.topicPrefix" in said
    assert "since wal-listener 2 it is listener.filter.tables" in said


def test_an_unknown_action_of_the_filter_gets_a_suggestion(file: Path) -> None:
    """It is no error: wal-listener just never finds such an action."""
    file.write_text("listener: {filter: {tables: {users: [insrt, delete]}}}")

    found = load({}, {}, file)

    assert found.install.tables == {"users": ("DELETE",)}
    assert found.warnings == (
        "listener.filter.tables has an unknown action 'INSRT' of users; did you mean INSERT?",
    )


def test_a_name_with_a_schema_in_the_filter_gets_a_hint(file: Path) -> None:
    file.write_text("listener: {filter: {tables: {shop.users: [insert]}}}")

    assert load({}, {}, file).warnings == (
        "listener.filter.tables has shop.users, and its names have no schema: write users, which"
        " stands for every table of that name, not only the one in shop",
    )
    file.write_text("listener: {filter: {tables: shop.users}}")
    assert refusal({}, file) == (
        "listener.filter.tables must map each table to its actions, such as users: [insert, update]"
    )


def test_a_table_of_the_filter_without_a_list_is_named(file: Path) -> None:
    file.write_text("listener: {filter: {tables: {users: {insert: true}}}}")

    assert "must list the actions of users: insert" in refusal({}, file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read: No such file or directory"),
        (f"database: {{password: '{SECRET}", "isn't valid YAML (line 1)"),
        (f"- {SECRET}", "must hold keys and values"),
        ("\x00", "isn't valid YAML"),
    ],
)
def test_a_file_that_cant_be_read_gets_one_sentence(
    file: Path, text: str | None, said: str
) -> None:
    if text is not None:
        file.write_text(text)

    refused = refusal({}, file)

    assert said in refused
    assert SECRET not in refused


def test_a_file_in_another_encoding_gets_one_sentence(file: Path) -> None:
    file.write_bytes(b"publisher: {topic: \xe4}")

    assert "it isn't UTF-8" in refusal({}, file)


def test_an_empty_file_is_as_good_as_none(file: Path) -> None:
    file.write_text("")
    assert Config() == load({}, {}, file)

    file.write_text("listener:\nmonitoring:\npgoutbox:\n")
    assert Config() == load({}, {}, file)


@pytest.mark.parametrize(
    ("keywords", "parameters"),
    [
        ("host=here port=5433 dbname=shop", {"host": "here", "port": "5433", "dbname": "shop"}),
        ("host=here nonsense", None),
        (r"password='a b\'c\\' host=h", {"password": "a b'c\\", "host": "h"}),
    ],
)
def test_a_dsn_may_be_keywords_and_values(keywords: str, parameters: dict[str, str] | None) -> None:
    if parameters is None:
        assert "must be a URL, or keywords and values" in refusal(dsn=keywords)
    else:
        assert parameters == conninfo.read(load({"dsn": keywords}, {}).database.dsn or "")


@pytest.mark.parametrize(
    "dsn",
    [
        f"mysql://joe:{SECRET}@h/db",
        f"//joe:{SECRET}@h",
        f"joe:{SECRET}@h",
        f"password={SECRET} host",
    ],
)
def test_a_wrong_dsn_is_refused_without_its_password(dsn: str) -> None:
    said = refusal(dsn=dsn)

    assert said.startswith("--dsn must be a URL")
    assert SECRET not in said


@pytest.mark.parametrize(
    "url",
    [
        f"http://joe:{SECRET}@h",
        f"nats://{SECRET}@:4222",
        f"nats://joe:{SECRET}@h:port",
        "nats://",
        "",
        "nats://a:4222,kafka://b",
        "wss://h",
    ],
)
def test_a_wrong_nats_url_is_refused_without_its_password(url: str) -> None:
    said = refusal(nats_url=url)

    assert said == "--nats-url must be a URL such as nats://localhost:4222"


def test_several_nats_urls_are_kept() -> None:
    found = load({"nats_url": "a:4222, nats://joe:pw@b:4222"}, {})

    assert found.nats.url == "nats://a:4222,nats://joe:pw@b:4222"


def test_secrets_dont_show_in_repr() -> None:
    flags = {"dsn": f"postgresql://joe:{SECRET}@h/db", "nats_url": f"nats://{SECRET}@h"}

    assert SECRET not in repr(load(flags, {}))
    assert SECRET not in repr(load({}, {"WAL_DATABASE_PASSWORD": SECRET}))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://joe:pw@h:5432/db", "postgresql://joe:***@h:5432/db"),
        ("postgresql://joe@h/db", "postgresql://joe@h/db"),
        ("postgresql://joe:p@w/x@h/db", "postgresql://joe:***@h/db"),
        ("nats://token@h:4222", "nats://***@h:4222"),
        ("nats://a:1@x,nats://b:2@y", "nats://a:***@x,nats://b:***@y"),
        (
            "postgresql://h/db?password=pw&sslmode=require",
            "postgresql://h/db?password=***&sslmode=require",
        ),
        ("host=h password='p w' user=joe", "host=h password=*** user=joe"),
        ("sslpassword=pw", "sslpassword=***"),
        ("no secret: none", "no secret: ***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_redact_masks_what_is_secret(text: str, masked: str) -> None:
    assert masked == redact(text)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters="@"), min_size=4)
)
def test_redact_leaves_no_password_of_a_url(password: str) -> None:
    """Not even of one whose special characters aren't percent-encoded."""
    marked = f"<<{password}>>"

    assert marked not in redact(f"can't use postgresql://joe:{marked}@h/db, sorry")
    assert marked not in redact(f"can't use nats://{marked}@h, sorry")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("users", [(None, "users")]),
        ("Users , billing.invoices", [("billing", "invoices"), (None, "users")]),
        (' "Odd, ""Name"""."A.b" ,übel$1,', [('Odd, "Name"', "A.b"), (None, "übel$1")]),
        (["b", "a,b"], [(None, "a"), (None, "b")]),
    ],
)
def test_tables_are_written_as_in_sql(written: object, names: list[tuple[object, str]]) -> None:
    found = TABLES.parse(written)

    assert isinstance(found, tuple)
    assert names == list(found)
    assert TABLES.parse(TABLES.show(found)) == found


@pytest.mark.parametrize("wrong", ["a b", "a,,b", '"a', "a.b.c", "7", "a.", "-a", '""', "a;b"])
def test_what_is_no_table(wrong: str) -> None:
    said = refusal({}, None, tables=wrong, name="a")

    assert (
        said
        == "--tables must be a list of SQL names, such as users,billing.invoices,'\"Odd Name\"'"
    )


def test_a_shard_has_a_name_of_its_own() -> None:
    found = load({"shard": "2/8"}, {"PGOUTBOX_NAME": "orders"}).relay

    assert (found.name, found.shards, found.share) == (
        "orders-2-of-8",
        "orders-of-8",
        "--shard 2/8",
    )
    assert load({"shard": "1/1"}, {}).relay.name == "default-1-of-1"


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "1", "1/", "1/0", "a/b", "1/65", "-1/2", "1/2/3"])
def test_what_is_no_shard(wrong: str) -> None:
    said = refusal({}, None, shard=wrong)

    assert said == "--shard must be a shard such as 2/8, from 1/N to N/N, where N is at most 64"


def test_tables_need_a_name_of_their_own() -> None:
    """Else two relays would share one progress, and each pass over what is the other's."""
    said = "--except-tables needs a --name of its own: relays of one name share their progress"

    assert said == refusal({}, None, except_tables="a")
    assert "exclude each other" in refusal({}, None, tables="a", except_tables="b", name="c")
    assert load({"tables": "a,B"}, {"WAL_LISTENER_SLOTNAME": "c"}).relay.share == "--tables a,b"


def test_a_bucket_is_a_stream_with_its_own_subjects() -> None:
    config = load({"kv": "users", "name": "kv"}, {"PGOUTBOX_STREAM": "messages"})

    assert (config.messages.bucket, config.stream.name) == ("public_users", "KV_public_users")
    assert config.relay.share == "--kv public.users"
    named = load({"kv": '"Shop".users', "kv_bucket": "u-1", "name": "kv"}, {})
    assert (named.messages.bucket, str(named.relay.kv)) == ("u-1", '"Shop".users')


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"kv": "users"},
            "--kv needs a --name of its own: relays of one name share their progress",
        ),
        ({"kv": "a,b"}, "--kv must be the name of one table, such as users or billing.invoices"),
        ({"kv": "u", "tables": "u"}, "--kv and --tables exclude each other"),
        (
            {"kv": "u", "shard": "1/2"},
            "--kv and --shard exclude each other: one relay fills a bucket",
        ),
        (
            {"kv": "u", "jetstream": False},
            "--kv and --no-jetstream exclude each other: a bucket is a stream",
        ),
        ({"kv_bucket": "u"}, "--kv-bucket needs --kv, which names the table"),
        (
            {"kv": "u", "kv_bucket": "a.b"},
            "--kv-bucket must be a bucket's name: letters of ASCII, digits, _ and -",
        ),
        (
            {"kv": '"Odd Name"'},
            '--kv public."Odd Name" makes no name for a bucket: give it one with --kv-bucket',
        ),
    ],
)
def test_settings_that_make_no_bucket(flags: dict[str, object], said: str) -> None:
    name = {} if said.startswith("--kv needs") else {"name": "kv"}
    assert refusal({}, None, **flags, **name) == said
