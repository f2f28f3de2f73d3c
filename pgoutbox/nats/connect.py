"""Publishing to NATS, in order: into a stream, or without one over core NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.messages.event import Message
from pgoutbox.nats import streams
from pgoutbox.nats.client import NatsClient, open_connection
from pgoutbox.nats.core import CorePublisher
from pgoutbox.nats.jetstream import JetStreamPublisher


class Publisher(Protocol):
    """Publishes messages, in order."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish ``messages``; return once the stream, or without one the server, has them all.

        Raises:
            Interrupted: not all of them could be published.
            Refused: the one after those that were can never be.

        """

    def check(self) -> None:
        """Raise if nothing can be published any more.

        Raises:
            Interrupted: the connection is lost, or the server has denied something.

        """


class Connected(Publisher, Protocol):
    """A publisher that can say where its messages go, and how."""

    @property
    def description(self) -> Mapping[str, object]:
        """Server, stream, replicas and way of publishing, as fields of a log line."""


async def _nothing() -> None:
    pass


@asynccontextmanager
async def connect(
    config: PublisherConfig,
    *,
    on_lost: Callable[[], None] = lambda: None,
    verify: Callable[[], Awaitable[None]] = _nothing,
    on_wait: Callable[[float], None] = lambda _: None,
) -> AsyncIterator[Connected]:
    """Connect to NATS, see to the stream, and give a publisher for as long as the connection lasts.

    ``verify`` raises what :meth:`Publisher.publish` is to fail with when this relay no longer
    leads; it is asked before a message goes behind somebody else's. A lost connection ends the
    publisher, and so does anything that the server denies; ``on_lost`` is then called. ``on_wait``
    is called whenever it waits for the server, with the seconds that this takes at most.

    What only the operators of NATS can mend is worth another try later: servers that are away
    or refuse our credentials or certificate, missing permissions, a stream that is missing or
    takes other subjects. For what will never work before the settings change see
    :func:`check_files`, which a relay asks once, before it starts.

    Raises:
        PublishError: no server answers, none lets us in, or there is no stream.

    """
    client = await open_connection(config)
    client.failed.add_done_callback(lambda _: on_lost())
    try:
        yield await _publisher(client, config, verify, on_wait)
    finally:
        await client.end()


async def _publisher(
    client: NatsClient,
    config: PublisherConfig,
    verify: Callable[[], Awaitable[None]],
    on_wait: Callable[[float], None],
) -> Connected:
    if not config.jetstream:
        return CorePublisher(client, config, on_wait)
    stream = await streams.see_to(client, config)
    publisher = JetStreamPublisher(client, config, stream, verify, on_wait)
    await publisher.start()
    return publisher
