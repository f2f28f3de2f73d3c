"""Reading what is published, for people who want to see it; takes nothing from anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from pgoutbox.config.settings import MessageConfig, NatsConfig, StreamConfig
from pgoutbox.errors import PublishError
from pgoutbox.nats import streams
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.connect import open_client
from pgoutbox.nats.failures import text_of

_PATIENCE = 1.0  # seconds between looks whether the connection still stands


@dataclass(frozen=True, slots=True)
class Published:
    """A message; ``sequence`` and ``time`` are the stream's, without one None and now."""

    subject: str
    headers: Mapping[str, str]
    payload: bytes
    time: datetime
    sequence: int | None


async def watch(
    nats_config: NatsConfig,
    stream: StreamConfig,
    messages: MessageConfig,
    since: datetime | None,
    *,
    follow: bool,
) -> AsyncIterator[Published]:
    """Yield messages on our subjects from ``since`` on, or from now on.

    Without ``follow`` it ends with the last that the stream has. Without JetStream in the settings
    they come from the server itself, and only those that are published meanwhile.

    Raises:
        PublishError: no server answers, there is no such stream, or reading it is denied.
    """
    client = await open_client(nats_config)
    try:
        target = streams.Target.of(stream, messages)
        if not stream.jetstream:
            async for published in _watch_core(client, target):
                yield published
            return
        name = (await streams.existing(client, target)).name
        async for published in _watch_stream(client, target, name, since, follow=follow):
            yield published
    finally:
        await client.end()


async def _watch_core(client: NatsClient, target: streams.Target) -> AsyncIterator[Published]:
    queue: asyncio.Queue[Msg] = asyncio.Queue()
    for subject in target.subjects:
        await client.subscribe(subject, cb=queue.put)
    while True:
        client.check()
        try:
            message = await asyncio.wait_for(queue.get(), _PATIENCE)
        except TimeoutError:
            continue
        yield _published(message, datetime.now(UTC), None)


async def _watch_stream(
    client: NatsClient,
    target: streams.Target,
    name: str,
    since: datetime | None,
    *,
    follow: bool,
) -> AsyncIterator[Published]:
    subscription = await client.unless_failed(
        _subscribe(client.jetstream(domain=target.config.domain), target, name, since)
    )
    if not follow and await _is_empty(subscription):
        return
    while True:
        client.check()
        try:
            message = await subscription.next_msg(timeout=_PATIENCE)
        except nats.errors.TimeoutError:
            continue
        place = message.metadata
        if streams.are_ours(message.subject, target):
            yield _published(message, place.timestamp, place.sequence.stream)
        if not follow and not place.num_pending:
            return


async def _is_empty(subscription: JetStreamContext.PushSubscription) -> bool:
    info = await subscription.consumer_info()
    delivered = info.delivered.consumer_seq if info.delivered else 0
    return not (info.num_pending or delivered)


async def _subscribe(
    jetstream: JetStreamContext, target: streams.Target, name: str, since: datetime | None
) -> JetStreamContext.PushSubscription:
    ours = target.subjects
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.NEW if since is None else DeliverPolicy.BY_START_TIME,
        opt_start_time=since,
        ack_policy=AckPolicy.NONE,
    )
    try:
        return await jetstream.subscribe(
            ours[0] if len(ours) == 1 else ">", stream=name, ordered_consumer=True, config=config
        )
    except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
        raise PublishError(
            f"the stream {name!r} can't be read: {text_of(error)}",
            hint="Reading takes a consumer: allow $JS.API.CONSUMER.CREATE for the stream.",
        ) from error


def _published(message: Msg, time: datetime, sequence: int | None) -> Published:
    return Published(message.subject, message.headers or {}, message.data, time, sequence)
