"""Settings of NATS, streams and messages, each by its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from pgoutbox.config.settings import MessageConfig, NatsConfig, StreamConfig


class NatsSettings(NamedTuple):
    """What :func:`pgoutbox.nats.connect.connect` takes."""

    nats: NatsConfig
    stream: StreamConfig
    messages: MessageConfig


def nats_settings(url: str, **settings: object) -> NatsSettings:
    """Return the defaults but for ``settings``, each a field of one of the three."""
    given = {"url": url, **settings}
    found = NatsSettings(
        NatsConfig(**_fields_of(NatsConfig, given)),
        StreamConfig(**_fields_of(StreamConfig, given)),
        MessageConfig(**_fields_of(MessageConfig, given)),
    )
    unknown = given.keys() - {field.name for part in found for field in fields(part)}
    assert not unknown, f"there are no settings {unknown}"
    return found


def _fields_of(
    kind: type[NatsConfig | StreamConfig | MessageConfig], given: Mapping[str, object]
) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}
