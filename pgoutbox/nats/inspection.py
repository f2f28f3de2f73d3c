"""What NATS tells of itself to a user of ours: server, account, stream, permissions."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import nats.errors

from pgoutbox.config.settings import MessageConfig, NatsConfig, StreamConfig
from pgoutbox.errors import Interrupted
from pgoutbox.nats import streams
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.connect import open_client
from pgoutbox.nats.failures import Denied

_TIMEOUT = 5.0  # seconds


@dataclass(slots=True)
class Inspection:
    """What is visible. ``stream`` is JetStream's own answer to STREAM.INFO, as ``account`` to INFO.

    ``problem`` says why there is no stream to be had, where that is so; ``skew`` is by how many
    seconds the server's clock differs from ours.
    """

    server: str
    version: tuple[int, ...]
    max_payload: int
    has_tls: bool
    inbox_prefix: str
    subjects: list[str]  # that a stream must have
    domain: str | None = None
    account: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None
    problem: Interrupted | None = None
    permissions: dict[str, Any] | None = None  # None where they can't be seen
    skew: float = 0.0

    def may(self, what: str, subject: str) -> bool:
        """Tell whether the user may ``publish`` or ``subscribe`` there, as far as is seen."""
        rules = (self.permissions or {}).get(what) or {}
        allowed, denied = rules.get("allow"), rules.get("deny") or []
        is_allowed = allowed is None or any(streams.overlap(one, subject) for one in allowed)
        return is_allowed and not any(streams.overlap(one, subject) for one in denied)

    def takes(self, subject: str) -> bool:
        """Tell whether the stream stores what is published on ``subject``."""
        taken = ((self.stream or {}).get("config") or {}).get("subjects") or []
        return any(streams.overlap(pattern, subject) for pattern in taken)


async def inspect(
    nats_config: NatsConfig, stream: StreamConfig, messages: MessageConfig
) -> Inspection:
    """Look at the server and the stream that a relay with these settings would publish to.

    Raises:
        PublishError: no server answers, or none accepts us.
    """
    client = await open_client(nats_config)
    try:
        target = streams.Target.of(stream, messages)
        found = Inspection(
            client.server,
            client.version,
            client.max_payload,
            client.has_tls,
            nats_config.inbox_prefix,
            target.subjects,
            stream.domain,
        )
        found.permissions = await _permissions(client)
        if stream.jetstream:
            await _look_at_jetstream(client, target, found)
        return found
    finally:
        await client.end()


async def _look_at_jetstream(client: NatsClient, target: streams.Target, found: Inspection) -> None:
    try:
        found.account = await streams.ask(client, target, "INFO")
    except Interrupted:  # perhaps denied; the stream matters more
        found.account = None
    try:
        name = await streams.name_of_existing(client, target)
        if name is not None:
            before = time.time()
            found.stream = await streams.ask(client, target, f"STREAM.INFO.{name}")
            found.skew = _skew(found.stream, before, time.time())
    except Interrupted as error:
        found.problem = error


async def _permissions(client: NatsClient) -> dict[str, Any] | None:
    """Return the user's permissions; empty where there are none, None where they can't be seen."""
    subject = "$SYS.REQ.USER.INFO"
    asking = client.request(subject, b"", timeout=_TIMEOUT)
    try:
        answer = json.loads((await client.unless_failed(asking, optional=subject)).data)
    except (Denied, Interrupted, nats.errors.Error, OSError, ValueError):
        return None
    permissions = (answer.get("data") or {}).get("permissions") or {}
    return permissions if isinstance(permissions, dict) else None


def _skew(stream: dict[str, Any] | None, before: float, after: float) -> float:
    text = (stream or {}).get("ts")
    if not text:  # before nats-server 2.10
        return 0.0
    there = streams.moment_of(text)
    return max(before - there, there - after, 0.0)
