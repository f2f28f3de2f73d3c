"""Messages with subjects from a template, with headers, and as CloudEvents."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from hypothesis import example, given
from hypothesis import strategies as st

from pgoutbox.config import values
from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.envelope import Envelope, commit_time
from pgoutbox.messages.event import Event, Message, Transaction
from pgoutbox.messages.formats import DescribedFormat, PlainFormat, format_of
from pgoutbox.messages.headers import header_lines, header_value
from pgoutbox.subjects import Naming, Subjects, is_subject, key_token, token

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COMMITTED = datetime(2026, 2, 3, 4, 5, 6, 120_000, tzinfo=UTC)
COMMITTED_TEXT = "2026-02-03T04:05:06.12Z"
TRANSACTION = Transaction.of(42, 3, COMMITTED_TEXT, TRACEPARENT)
EVENT = Event("1d", "public", "users", "UPDATE", ["7"], b'{"id":"1d"}', TRANSACTION, 2)

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=63)
names = texts.filter(bool)
keys = st.lists(texts, min_size=1, max_size=4)


def rendered(event: Event, **settings: Any) -> Message:
    config = MessageConfig(**settings)
    naming = Naming(config.topic, config.topic_prefix, config.topics_map, "app")
    return DescribedFormat(Subjects(naming, config.subject), config, "app").message(event)


def subject(template: str, event: Event = EVENT, **settings: Any) -> str:
    return rendered(event, subject=template, **settings).subject


def headers_of(message: Message) -> dict[str, str]:
    """Write the lines, parse them as a client does, and see that there is nothing else."""
    lines = header_lines(message.headers).split("\r\n")
    assert lines.pop() == ""
    assert all(re.fullmatch(r"[A-Za-z-]+: [\x21-\x7e]*", line) for line in lines)
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(
    ("settings", "is_plain", "needs_keys", "needs_numbers"),
    [
        ({"topics_map": {"a_b": "c"}}, True, False, False),
        ({"subject": "{topic}.{schema}.{table}.{action}"}, True, False, False),
        ({"subject": "{topic}.{key}"}, False, True, False),
        ({"headers": True}, False, False, True),
        ({"content": "cloudevents"}, False, True, False),
        ({"content": "cloudevents-structured", "headers": True}, False, True, True),
    ],
)
def test_only_keys_headers_and_cloudevents_leave_the_cheap_path(
    settings: dict[str, Any], is_plain: bool, needs_keys: bool, needs_numbers: bool
) -> None:
    found = format_of(MessageConfig(**settings), "app")

    assert isinstance(found, PlainFormat) == is_plain
    assert (found.needs_keys, found.needs_numbers) == (needs_keys, needs_numbers)


def test_both_formats_make_the_same_of_rows_where_settings_ask_for_nothing_more() -> None:
    config = MessageConfig(subject="{topic}.{database}.{table}.{action}")
    naming = Naming(config.topic, database="app")
    rows = [
        (position, seq, "public", table, "INSERT", b"{}", None, bytes(24), *([False] * 4))
        for position, seq, table in [(1, 1, "a"), (1, 2, "b"), (2, 3, "a")]
    ]
    described = DescribedFormat(Subjects(naming, config.subject), config, "app")

    found = format_of(config, "app").messages(rows, Envelope(UUID(int=0)))

    assert found == described.messages(
        [(*row, None, None, None) for row in rows], Envelope(UUID(int=0))
    )
    assert [message.subject for message in found] == [
        "wal_listener.app.a.INSERT",
        "wal_listener.app.b.INSERT",
        "wal_listener.app.a.INSERT",
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("sample_app", "sample_app"),
        ("{topic}.{prefix}{name}", "wal_listener.app_public_users"),
        ("{topic}.{schema}.{table}.{action}", "wal_listener.public.users.UPDATE"),
        ("{topic}.{table}.{key}", "wal_listener.users.7"),
        ("{key}.{table}.{key}", "7.users.7"),
        ("{{{table}}}.x", "{users}.x"),
    ],
)
def test_template_is_filled(template: str, expected: str) -> None:
    assert values.TEMPLATE.parse(template) == template
    assert expected == subject(template, topic_prefix="app_")


def test_name_in_a_template_follows_the_topics_map() -> None:
    found = subject("{topic}.{prefix}{name}", topics_map={"public_users": "a.b"}, topic_prefix="p")

    assert found == "wal_listener.pa.b"


@given(names, names)
def test_the_template_of_wal_listener_gives_its_subjects(schema: str, table: str) -> None:
    event = EVENT._replace(schema=schema, table=table)

    found = subject("{topic}.{prefix}{name}", event, topic_prefix="x")

    assert found == Subjects(Naming("wal_listener", "x")).of(schema, table, "UPDATE")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (["1"], "1"),
        (["1", "2"], "1,2"),
        (["a,b"], "a%2Cb"),
        (["a.b c"], "a%2Eb%20c"),
        (["50%"], "50%25"),
        (["*"], "%2A"),
        ([">"], "%3E"),
        (["a*", ">b"], "a*,>b"),
        (["$SYS"], "%24SYS"),
        (["é😀"], "é😀"),
        (["x" * 512], "x" * 512),
        ([""], "%00"),
        (["", ""], ","),
        (None, "_"),
        (["_"], "%5F"),
    ],
)
def test_key_as_a_token(key: list[str] | None, expected: str) -> None:
    assert expected == key_token(key)


def test_long_keys_are_told_apart_by_a_digest() -> None:
    one, other = key_token(["x" * 513]), key_token(["x" * 514])

    assert one != other
    assert re.fullmatch("%00[0-9a-f]{64}", one)
    assert len(key_token(["€ " * 1000])) == 67


@given(keys)
@example(["%2e", "%"])
@example(["", "a"])
def test_key_can_be_read_from_its_token(key: list[str]) -> None:
    found = key_token(key)

    if not found.startswith("%00"):
        assert key == [unquote(part) for part in found.split(",")]
    else:
        assert key == [""] or len(",".join(key).encode()) > 512 / 3


@given(names, names, st.none() | keys)
@example("$JS", "API", ["*"])
@example(">", "*", None)
def test_every_value_is_one_token_and_none_is_a_wildcard(
    schema: str, table: str, key: list[str] | None
) -> None:
    event = EVENT._replace(schema=schema, table=table, key=key)

    tokens = subject("{schema}.{table}.{key}.{name}", event).split(".")

    assert len(tokens) == 4
    assert all(tokens)
    assert not {"*", ">"} & set(tokens)
    assert is_subject(".".join(tokens))
    assert not tokens[0].startswith("$")
    assert [schema, table] == [unquote(part) for part in tokens[:2]]


@given(texts)
@example("a%2eb")
def test_token_can_be_reversed(value: str) -> None:
    assert value == unquote(token(value))


@given(texts)
def test_header_value_is_visible_ascii_and_can_be_reversed(value: str) -> None:
    found = header_value(value)

    assert re.fullmatch(r"[\x21\x23-\x7e]*", found)
    assert value == unquote(found)


def test_headers() -> None:
    assert headers_of(rendered(EVENT, headers=True)) == {
        "Pgoutbox-Schema": "public",
        "Pgoutbox-Table": "users",
        "Pgoutbox-Action": "UPDATE",
        "Pgoutbox-Transaction": "42",
        "Pgoutbox-Transaction-Event": "2",
        "Pgoutbox-Transaction-Size": "3",
        "Pgoutbox-Commit-Time": "2026-02-03T04:05:06.12Z",
        "traceparent": TRACEPARENT,
    }


@given(names, names)
@example("public", "users\r\nNats-Rollup: all")
def test_names_cannot_add_headers(schema: str, table: str) -> None:
    event = EVENT._replace(schema=schema, table=table)
    for content in ("wal-listener", "cloudevents", "cloudevents-structured"):
        found = headers_of(rendered(event, headers=True, content=content))

        assert unquote(found["Pgoutbox-Schema"]) == schema
        assert unquote(found["Pgoutbox-Table"]) == table
        assert not set(map(str.lower, found)) & {"nats-rollup", "nats-msg-id"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT + "0",
        TRACEPARENT + "\n",
        TRACEPARENT[:-2] + "\r\n",
        "01" + TRACEPARENT[2:],
        "00-" + "0" * 32 + TRACEPARENT[35:],
        TRACEPARENT[:36] + "0" * 16 + "-01",
        None,
    ],
)
def test_traceparent_that_is_none_is_dropped(text: str | None) -> None:
    transaction = Transaction.of(1, 1, COMMITTED_TEXT, text)

    assert transaction.traceparent is None
    message = rendered(EVENT._replace(transaction=transaction), headers=True, content="cloudevents")
    assert "traceparent" not in dict(message.headers)
    assert "ce-traceparent" not in dict(message.headers)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (COMMITTED, COMMITTED_TEXT),
        (COMMITTED.replace(microsecond=0), "2026-02-03T04:05:06Z"),
        (COMMITTED.replace(microsecond=1), "2026-02-03T04:05:06.000001Z"),
        (datetime(1999, 12, 31, 23, 59, 59, 500_000, UTC), "1999-12-31T23:59:59.5Z"),
    ],
)
def test_time_has_no_needless_digits(time: datetime, expected: str) -> None:
    since_2000 = (time - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    source = bytes(16) + since_2000.to_bytes(8, "big", signed=True)
    row = (1, 1, "public", "users", "INSERT", b"{}", None, source, False, False)

    [event] = Envelope(UUID(int=0)).around([row])

    assert event.time == expected
    assert json.loads(event.payload)["commitTime"] == expected
    assert commit_time(source) == time.timestamp()


def parse(message: Message) -> Any:
    """Read a message with the SDK; NATS's binding names headers as that of HTTP does."""
    return from_http(HTTPMessage(headers_of(message), message.payload), JSONFormat())


@pytest.mark.parametrize("content", ["cloudevents", "cloudevents-structured"])
def test_cloudevent(content: str) -> None:
    event = parse(rendered(EVENT, content=content))

    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": "1d",
        "source": "/postgresql/app/public/users",
        "type": "pgoutbox.update",
        "time": COMMITTED,
        "subject": "7",
        "datacontenttype": "application/json",
        "traceparent": TRACEPARENT,
    }
    assert event.get_data() == {"id": "1d"}


def test_modes_of_cloudevents_can_be_told_apart() -> None:
    """By a Content-Type that begins with application/cloudevents, says the binding."""
    binary = rendered(EVENT, content="cloudevents")
    structured = rendered(EVENT, content="cloudevents-structured")

    assert "Content-Type" not in headers_of(binary)
    assert binary.payload == EVENT.payload
    assert headers_of(structured) == {"Content-Type": "application/cloudevents+json"}


@given(names, names, st.none() | keys)
@example("таблица", 'a"b\r\n%41', ["\x7f\x85", "\ufffe\U0010ffff,"])
def test_cloudevents_of_hostile_names(schema: str, table: str, key: list[str] | None) -> None:
    event = EVENT._replace(schema=schema, table=table, key=key)
    binary = parse(rendered(event, content="cloudevents"))
    structured = parse(rendered(event, content="cloudevents-structured"))

    assert binary.get_attributes() == structured.get_attributes()
    _, _, _, *table_path = binary.get_source().split("/")
    assert [schema, table] == [unquote(part) for part in table_path]
    found = binary.get_subject()
    assert found != ""
    if found and not found.startswith("%00"):
        assert not re.search("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", found)
        assert key == [unquote(part) for part in found.split(",")]


def test_subject_of_cloudevents_is_a_digest_for_long_keys() -> None:
    """All headers of a message have to fit in 64 KiB, or no stream takes it."""
    one, other = (EVENT._replace(key=[f"{n}" + " \t€" * 15_000]) for n in range(2))
    binary, structured = (
        parse(rendered(one, content=content)).get_subject()
        for content in ("cloudevents", "cloudevents-structured")
    )

    assert re.fullmatch("%00[0-9a-f]{64}", binary)
    assert binary == structured
    assert binary != parse(rendered(other, content="cloudevents")).get_subject()


def test_envelope_keeps_the_data_byte_for_byte() -> None:
    payload = b'{"id":"1d","data":{"n":9007199254740993,"x":1.10,"t":"\xc3\xa9"}}'
    found = rendered(EVENT._replace(payload=payload), content="cloudevents-structured").payload

    assert found.endswith(b',"data":' + payload + b"}")
    assert json.loads(found)["data"] == json.loads(payload)
