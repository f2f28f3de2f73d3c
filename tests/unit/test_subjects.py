"""Subjects of events."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgoutbox.config import values
from pgoutbox.config.load import load
from pgoutbox.messages.event import Message
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.nats.streams import subjects as subjects_of_the_stream
from pgoutbox.subjects import (
    PLACEHOLDERS,
    Naming,
    Placeholder,
    Subjects,
    bucket_key,
    escape,
    is_subject,
)


@pytest.mark.parametrize(
    ("prefix", "topics_map", "subject"),
    [
        ("", {}, "wal_listener.public_users"),
        ("app_", {}, "wal_listener.app_public_users"),
        ("", {"public_users": "notifier"}, "wal_listener.notifier"),
        ("app_", {"public_users": "notifier"}, "wal_listener.app_notifier"),
        ("", {"users": "notifier"}, "wal_listener.public_users"),
    ],
)
def test_subject_is_built_as_wal_listener_does(
    prefix: str, topics_map: dict[str, str], subject: str
) -> None:
    assert subject == Subjects(Naming("wal_listener", prefix, topics_map)).of(
        "public", "users", "INSERT"
    )


@pytest.mark.parametrize("name", ["a*b", "a>", "$t", "таблица", "表😀", "50%", "a-b"])
def test_names_that_nats_takes_stay_as_they_are(name: str) -> None:
    assert name == escape(name)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a.b", "a%2Eb"),
        ("a b", "a%20b"),
        ("a\r\nPUB x 1", "a%0D%0APUB%20x%201"),
        ("%2E", "%252E"),
    ],
)
def test_names_that_nats_would_refuse_or_split_are_escaped(name: str, escaped: str) -> None:
    assert escaped == escape(name)


names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=63)


@given(names)
def test_escaping_can_be_reversed(name: str) -> None:
    assert name == unquote(escape(name))


@given(names, names)
def test_different_names_have_different_subjects(one: str, other: str) -> None:
    assert (one == other) == (escape(one) == escape(other))


@pytest.mark.parametrize("placeholder", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_whatever_reads_a_template_knows_every_placeholder(placeholder: Placeholder) -> None:
    template = f"cdc.{{{placeholder.name}}}"
    settings = load({"subject": values.TEMPLATE.parse(template), "topic_prefix": "x"}, {}).messages
    subjects = Subjects(Naming("wal_listener", "x", {}, "app"), template)

    found = subjects.of("public", "users", "UPDATE", ["7"])

    assert is_subject(found)
    (pattern,) = subjects_of_the_stream(settings)
    assert pattern in ("cdc.*", found)
    assert subjects.needs_key == placeholder.needs_key
    monitor = Monitor(counts_subjects=True, template=template)
    monitor.stored([Message(found, "id", b"")], None)
    assert set(monitor.published) == {(template if placeholder.needs_key else found, "")}


# Four of them are short enough for a key that is not a hash.
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_buckets_key_has_its_alphabet_and_can_be_read_back(values: list[str]) -> None:
    """The alphabet of ADR-8, and the recipe of docs/key-value.md."""
    key = bucket_key(values)

    assert re.fullmatch(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*", key)
    assert not key.startswith("_kv")
    assert [unquote(part.replace("=", "%")).strip("\0") for part in key.split(".")] == values


def test_a_buckets_key_is_bounded() -> None:
    assert bucket_key(["x" * 512]) == "x" * 512
    assert re.fullmatch("=00[0-9a-f]{64}", bucket_key(["x" * 512, "y"]))
