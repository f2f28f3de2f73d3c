"""Connecting to NATS, and publishing in order: into a stream, or without one over core NATS."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from pgoutbox.config.settings import MessageConfig, NatsConfig, StreamConfig
from pgoutbox.errors import ConfigError, PublishError
from pgoutbox.messages.event import LastStored, Message
from pgoutbox.nats import streams
from pgoutbox.nats.bucket import BucketPublisher
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.core import CorePublisher
from pgoutbox.nats.credentials import client_options, requires_tls, user_of
from pgoutbox.nats.failures import CONNECTION_ERRORS, explain
from pgoutbox.nats.jetstream import JetStreamPublisher
from pgoutbox.nats.tenure import Tenure


class Stretch(Protocol):
    """Batches of messages sent one behind another; see :class:`pgoutbox.nats.stretch.Stretch`."""

    def has_room(self, count: int) -> bool:
        """Return True if so many messages can be sent now, behind those that aren't stored yet."""

    def send(self, messages: Sequence[Message]) -> int | None:
        """Send ``messages``; return a number that :meth:`confirm` takes.

        Sends nothing and returns None if one of them can't be sent as it is, such as one that is
        too large for the server.

        Raises:
            Interrupted: the connection has failed.
        """

    async def confirm(self, number: int) -> bool:
        """Wait until the messages up to that ``number`` are stored; return False if one isn't.

        Raises:
            Interrupted: the connection has failed, or no answer came for too long.
        """

    def close(self) -> int:
        """End the stretch; return the number up to which messages are stored."""


class Publisher(Protocol):
    """Publishes messages, in order."""

    @property
    def max_payload(self) -> int:
        """Size of the largest message that the server takes, headers included, in bytes."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish ``messages``; return once the stream, or the server without one, has all of them.

        Raises:
            Interrupted: not all of them could be published.
            Refused: the one after those that were never can be.
        """

    async def is_unused(self) -> bool:
        """Return True if the stream has never stored a message.

        Raises:
            Interrupted: JetStream doesn't answer.
        """

    def begin_stretch(self) -> Stretch | None:
        """Return what sends batches one behind another, before the first of them is stored.

        None if that would put the order at risk: then use :meth:`publish`, and again once the
        stretch is closed.
        """

    def check(self) -> None:
        """Raise if nothing more can be published.

        Raises:
            Interrupted: the connection is lost, or the server has denied something.
        """

    @property
    def wants_look(self) -> bool:
        """Whether it is time to :meth:`look`."""

    async def look(self) -> None:
        """Make sure that the stream still has what it confirmed; no stretch is open.

        Raises:
            StreamLost: it hasn't.
            Interrupted: it doesn't say.
        """


class Connected(Publisher, Protocol):
    """A publisher that describes where its messages go, and how."""

    @property
    def description(self) -> Mapping[str, object]:
        """Server, stream, replicas and publishing method, as fields of a log line."""

    @property
    def last_stored(self) -> LastStored | None:
        """The last message that the stream has confirmed, or the one to :meth:`resume` behind."""

    async def has(self, last: LastStored) -> bool:
        """Tell whether the stream has ``last`` and what was before it, or had it removed since.

        Raises:
            Interrupted: it doesn't say.
        """

    async def confirms(self, last: LastStored) -> bool:
        """Tell what :meth:`has` tells, after several looks if the stream is replicated."""

    async def latest(self, after: int, count: int) -> Sequence[tuple[LastStored, bytes]]:
        """Return the messages behind the stream's sequence ``after``, the newest first.

        Each with its payload, and those of the last ``count`` sequences only; none if the relay may
        not read the stream.

        Raises:
            Interrupted: it doesn't say.
        """

    def resume(self, last: LastStored | None) -> None:
        """Begin behind ``last``, which the stream has."""


async def _nothing() -> None:
    pass


@asynccontextmanager
async def connect(
    nats: NatsConfig,
    stream: StreamConfig,
    messages: MessageConfig,
    *,
    on_lost: Callable[[], None] = lambda: None,
    verify: Callable[[], Awaitable[None]] = _nothing,
    on_wait: Callable[[float], None] = lambda _: None,
    tenure: Tenure | None = None,
    emits: bool = False,
) -> AsyncIterator[Connected]:
    """Connect to NATS, find or create the stream, and yield a publisher while the connection lasts.

    ``verify`` is called before messages are written to the connection, and raises if this relay no
    longer leads. The publisher ends when the connection is lost or the server denies
    something; ``on_lost`` is then called. ``on_wait`` is called before each wait for the server,
    with its longest duration in seconds. ``tenure`` is what a leader keeps from one connection to
    the next. With ``emits``, a stream that has to be created takes whatever applications emit.

    A failure that the operators of NATS can fix is worth retrying: servers that are down or
    reject our credentials or certificate, missing permissions, a stream that is missing or has
    other subjects. A failure that needs other settings is found by
    :func:`pgoutbox.nats.credentials.check_files`, which a relay calls once, before it starts.

    Raises:
        PublishError: no server answers, none accepts us, or there is no stream.
    """
    client = await open_client(nats)
    client.failed.add_done_callback(lambda _: on_lost())
    try:
        if not stream.jetstream:
            yield CorePublisher(client, stream, verify, on_wait)
            return
        target = streams.Target.of(stream, messages, emits=emits)
        found = await streams.ensure(client, target)
        kind = BucketPublisher if target.bucket else JetStreamPublisher
        publisher = kind(client, target, found, verify, on_wait, tenure)
        await publisher.start()
        yield publisher
    finally:
        await client.end()


async def open_client(config: NatsConfig) -> NatsClient:
    """Connect to the first server in ``config`` that accepts us, trying them in random order.

    Raises:
        PublishError: none of them does, or a file in ``config`` can't be used.
    """
    try:
        options = client_options(config)
    except ConfigError as error:
        raise PublishError(str(error), hint=error.hint) from error
    urls = config.url.split(",")
    random.shuffle(urls)
    failures: dict[str, Exception] = {}
    for url in urls:
        client = NatsClient(requires_tls=requires_tls(url, config))
        try:
            await client.open(_address(url), {**options, **user_of(url, config)})
            return client
        except CONNECTION_ERRORS as error:
            failures[_address(url)] = error
        finally:
            if not client.is_connected:
                await client.end()
    raise explain(failures, config)


def _address(url: str) -> str:
    """Return host and port of a URL, which may also hold a password."""
    return urlsplit(url).netloc.rpartition("@")[2]
