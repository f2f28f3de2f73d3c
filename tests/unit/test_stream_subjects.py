"""What a stream has to have for subjects, so that it takes all that the settings publish."""

from __future__ import annotations

import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.nats.streams import subjects


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["shop.*"]),
        ({"topic_prefix": "pre_"}, ["shop.*"]),
        ({"topic_prefix": "app."}, ["shop.app.*"]),
        ({"topic_prefix": "app.v1_"}, ["shop.app.*"]),
        ({"topics_map": {"public_users": "people"}}, ["shop.*"]),
        ({"topics_map": {"public_users": "a.b", "public_x": "a.b"}}, ["shop.*", "shop.a.b"]),
        (
            {"topic_prefix": "app.", "topics_map": {"public_users": "a.b"}},
            ["shop.app.*", "shop.app.a.b"],
        ),
        ({"subject": "sample_app"}, ["sample_app"]),
        ({"subject": "{topic}.{database}.{name}"}, ["shop.*.*"]),
        ({"subject": "{topic}.{schema}.{table}"}, ["shop.*.*"]),
        ({"subject": "{topic}.{schema}.{table}.{action}.{key}"}, ["shop.*.*.*.*"]),
        ({"subject": "cdc.{prefix}{table}", "topic_prefix": "a.b."}, ["cdc.a.b.*"]),
        ({"subject": "cdc.{name}.{action}"}, ["cdc.*.*"]),
        (
            {"subject": "cdc.{name}.{action}", "topics_map": {"public_users": "a.b"}},
            ["cdc.*.*", "cdc.a.b.*"],
        ),
        (
            {"subject": "cdc.{name}.x.{name}", "topics_map": {"public_users": "a.b"}},
            ["cdc.*.x.*", "cdc.a.b.x.a.b"],
        ),
        ({"subject": "cdc.{table}", "topics_map": {"public_users": "a.b"}}, ["cdc.*"]),
    ],
)
def test_subjects_cover_all_that_is_published(
    settings: dict[str, object], expected: list[str]
) -> None:
    assert subjects(MessageConfig(topic="shop", **settings)) == expected  # type: ignore[arg-type]
