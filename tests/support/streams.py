"""NATS as the tests see it: clients, and what a stream has stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats
import nats.js
import nats.js.api
from nats.aio.client import Client


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream has it."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    data: bytes

    @property
    def id(self) -> str:
        """The event's id, without the hash of the subject that follows it."""
        return event_id(self.headers)


def event_id(headers: Mapping[str, str] | None) -> str:
    """Return the event's id from a message's ``Nats-Msg-Id``."""
    return (headers or {})["Nats-Msg-Id"].rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Stream:
    """What one test's relay publishes into: a topic, and the stream of the same name."""

    topic: str
    url: str
    jetstream: nats.js.JetStreamContext

    @property
    def stream_name(self) -> str:
        """The stream's name."""
        return self.topic

    async def count(self) -> int:
        """Return how many messages the stream holds; 0 where there is no stream yet."""
        try:
            info = await self.jetstream.stream_info(self.stream_name)
        except nats.js.errors.NotFoundError:
            return 0
        return info.state.messages

    async def messages(self, first: int = 1) -> list[Stored]:
        """Return the stream's messages in the order in which it stored them."""
        last = (await self.jetstream.stream_info(self.stream_name)).state.last_seq
        if last < first:
            return []
        subscription = await self.jetstream.subscribe(
            f"{self.topic}.>",
            stream=self.stream_name,
            ordered_consumer=True,
            config=nats.js.api.ConsumerConfig(
                deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first
            ),
        )
        stored: list[Stored] = []
        while not stored or stored[-1].sequence < last:
            message = await subscription.next_msg(timeout=10)
            stored.append(
                Stored(
                    message.metadata.sequence.stream,
                    message.subject,
                    message.headers or {},
                    message.data,
                )
            )
        await subscription.unsubscribe()
        return stored


@asynccontextmanager
async def nats_client(url: str) -> AsyncIterator[Client]:
    """Connect to NATS without reconnecting; closed at the end. ``url`` may be several."""
    client = await nats.connect(url.split(","), allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()
