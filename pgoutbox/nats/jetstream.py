"""Publishing to a stream of NATS JetStream, in order and pipelined."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import nats.errors

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.errors import Interrupted
from pgoutbox.messages.event import Message
from pgoutbox.nats import streams, wire
from pgoutbox.nats.chain import Chain, kind_of_chain
from pgoutbox.nats.client import NatsClient, server_of
from pgoutbox.nats.ingest import Answer, Batch
from pgoutbox.nats.streams import StreamInfo
from pgoutbox.nats.window import Window

log = logging.getLogger("pgoutbox.nats")

_LOOK_AGAIN_AFTER = 10.0  # seconds; somebody may have given the stream replicas


class JetStreamPublisher:
    """Publishes with a window of unacknowledged messages that can't get out of order.

    Each message says what it must follow (see :mod:`pgoutbox.nats.chain`), so when one is lost or
    refused, all behind it are refused too, and publishing goes on from there.
    """

    def __init__(
        self,
        client: NatsClient,
        config: PublisherConfig,
        stream: StreamInfo,
        verify: Callable[[], Awaitable[None]],
        on_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._config = config
        self._stream = stream
        self._verify = verify
        self._on_wait = on_wait
        self._inbox = ""
        self._window = Window(0, stream.confirmations, ())
        self._looked_at = time.monotonic()
        self._chain = self._chain_for(stream, stream.end)
        client.failed.add_done_callback(lambda _: self._window.wake())

    def _chain_for(self, stream: StreamInfo, end: int | None) -> Chain:
        kind = kind_of_chain(stream, self._config.mode)
        return kind(stream, end=end, is_single=self._config.window == 1)

    async def start(self) -> None:
        """Subscribe to acknowledgements.

        Raises:
            Interrupted: the connection is lost, or the server denies the subscription.

        """
        self._inbox = self._client.new_inbox()
        try:
            answers = await self._client.subscribe(f"{self._inbox}.>")
        except (OSError, nats.errors.Error) as error:
            raise Interrupted("the connection was lost") from error
        self._client.on_answer = self._on_ack
        self._client.answers_to = answers._id
        await self._client.round_trip(self._config.ack_timeout)

    @property
    def description(self) -> Mapping[str, object]:
        """Where and how this publishes; see :class:`pgoutbox.nats.connect.Publisher`."""
        domain = {"domain": self._stream.domain} if self._stream.domain else {}
        return {
            "server": server_of(self._client),
            "stream": self._stream.name,
            **domain,
            "replicas": self._stream.replicas,
            "way": "one message at a time" if self._config.window == 1 else self._chain.way,
        }

    def check(self) -> None:
        """Raise if the connection is of no use any more; see :class:`Publisher`."""
        self._client.check()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store ``messages`` in order; see :class:`Publisher`."""
        self.check()
        if time.monotonic() - self._looked_at > _LOOK_AGAIN_AFTER:
            await self._look_again()
        done = 0
        while done < len(messages):
            if self._chain.is_missed:
                await self._verify()
            following = messages[done : done + 1] if self._chain.goes_alone else messages[done:]
            window = Window(
                self._window.end, self._stream.confirmations, following, self._chain.end
            )
            self._window = window
            try:
                await self._send(window, following)
                await self._settle(window, len(following))
            except Interrupted as error:
                error.confirmed = done + window.confirmed
                raise
            finally:
                done += window.confirmed
                self._chain.learn(window, following)

    async def _look_again(self) -> None:
        """Go over to another kind of chain where the stream has changed; say, its replicas."""
        stream = await streams.look_at(self._client, self._config, self._stream.name)
        self._looked_at = time.monotonic()
        if stream is None:
            raise Interrupted(f"the stream {self._stream.name!r} has been deleted")
        self._stream = stream
        if kind_of_chain(stream, self._config.mode) is not type(self._chain):
            self._chain = self._chain_for(stream, self._chain.end)
            log.info("the stream has changed", extra=self.description)

    async def _send(self, window: Window, messages: Sequence[Message]) -> None:
        """Hand ``messages`` to the client, as far as the window lets, until one is refused."""
        size = max(1, self._config.window // 4)
        unsettled = 0 if self._chain.in_batches else self._config.window - size
        for first in range(0, len(messages), size):
            await self._settle(window, len(window) - unsettled)
            if window.is_broken:
                return
            chunk = messages[first : first + size]
            count = wire.fitting(chunk, self._client.max_payload)
            end = first + count
            replies = self._replies(window, messages, first, end)
            places = self._chain.places(messages, first, end)
            await self._client.send(wire.hpubs(messages[first:end], replies, places))
            if count < len(chunk):
                await self._settle(window, len(window))
                if window.is_broken:
                    return
                raise wire.too_large(chunk[count], self._client.max_payload)

    def _replies(
        self, window: Window, messages: Sequence[Message], first: int, end: int
    ) -> list[str]:
        """Return the subjects for answers to ``messages[first:end]``, and have them expected."""
        number = window.start + first
        if self._chain.in_batches and end - first > 1:
            batch = Batch(first, end - first)
            window.begin(batch)
            return batch.replies(self._inbox, number, messages[first:end])
        asking = list(self._chain.asking(messages, first, end))
        window.extend(end - first, asking)
        replies = [""] * (end - first)
        for index in asking:
            replies[index - first] = f"{self._inbox}.{window.start + index}"
        return replies

    async def _settle(self, window: Window, count: int) -> None:
        """Wait until the first ``count`` messages of ``window`` are stored, or one is refused.

        Raises:
            Interrupted: the connection has failed, or nothing came back for too long.
            Refused: the stream will never take the message after the confirmed ones.

        """
        while not window.is_settled(count):
            self.check()
            before = window.confirmed, window.signs
            self._on_wait(self._config.ack_timeout)
            try:
                await asyncio.wait_for(window.changed(count), self._config.ack_timeout)
            except TimeoutError:
                if (window.confirmed, window.signs) == before:
                    raise Interrupted(
                        f"no acknowledgement came within {self._config.ack_timeout:g} s",
                        hint="Is the stream's leader up, and its disk not full?",
                    ) from None
        if window.is_refused_next and window.refusal and not window.is_chain_broken:
            raise window.refusal

    def _on_ack(self, subject: bytes, data: bytes) -> None:
        tokens = subject[len(self._inbox) + 1 :].split(b".")
        if len(tokens) == 1:
            self._window.on_ack(int(tokens[0]), data)
        else:
            self._window.on_batch(Answer.of(tokens), data)
