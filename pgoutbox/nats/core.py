"""Publishing over core NATS, without a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from pgoutbox.config.settings import StreamConfig
from pgoutbox.errors import Interrupted
from pgoutbox.messages.event import LastStored, Message
from pgoutbox.nats import wire
from pgoutbox.nats.client import NatsClient


class CorePublisher:
    """Publishes without a stream: at most once for each subscriber.

    A message counts as sent once the server has read it. Nothing stores it: a subscriber that is
    offline, or that the server drops as too slow, misses it. After a lost connection messages are
    published again from the first one that the server isn't known to have read, so subscribers
    may get some twice, with the same ``Nats-Msg-Id``.

    ``verify`` is called before each chunk, as no server keeps out what a relay sends that was
    frozen in the middle of a batch and doesn't lead any more.
    """

    def __init__(
        self,
        client: NatsClient,
        config: StreamConfig,
        verify: Callable[[], Awaitable[None]],
        on_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._config = config
        self._verify = verify
        self._on_wait = on_wait

    @property
    def description(self) -> Mapping[str, object]:
        """Where and how this publishes; see :class:`pgoutbox.nats.connect.Connected`."""
        return {
            "server": self._client.server,
            "method": "core NATS, at most once: subscribers that are offline miss messages",
        }

    @property
    def max_payload(self) -> int:
        """Size of the largest message that the server takes, in bytes."""
        return self._client.max_payload

    def check(self) -> None:
        """Raise if the connection has failed; see :class:`pgoutbox.nats.connect.Publisher`."""
        self._client.check()

    @property
    def last_stored(self) -> LastStored | None:
        """None: nothing is stored."""
        return None

    @property
    def wants_look(self) -> bool:
        """False: nothing is stored that could be lost."""
        return False

    async def look(self) -> None:
        """Do nothing; see :class:`pgoutbox.nats.connect.Publisher`."""

    async def has(self, last: LastStored) -> bool:
        """Return True: without a stream nothing is lost that can be sent again."""
        return True

    async def confirms(self, last: LastStored) -> bool:
        """Return True; see :meth:`has`."""
        return True

    async def latest(self, after: int, count: int) -> Sequence[tuple[LastStored, bytes]]:
        """Return nothing; see :class:`pgoutbox.nats.connect.Connected`."""
        return ()

    def resume(self, last: LastStored | None) -> None:
        """Do nothing; see :class:`pgoutbox.nats.connect.Connected`."""

    async def is_unused(self) -> bool:
        """Return False: there is no stream."""
        return False

    def begin_stretch(self) -> None:
        """Return None: the server answers only once it has read everything."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish ``messages`` in order; see :class:`pgoutbox.nats.connect.Publisher`."""
        self.check()
        limit = self._client.max_payload
        for first in range(0, len(messages), self._config.window):
            chunk = messages[first : first + self._config.window]
            count = wire.fitting(chunk, limit)
            try:
                await self._send(chunk[:count])
            except Interrupted as error:
                error.confirmed = first
                raise
            if count < len(chunk):
                refusal = wire.too_large(chunk[count], limit)
                refusal.confirmed = first + count
                raise refusal

    async def _send(self, messages: Sequence[Message]) -> None:
        lines = wire.hpubs(messages)
        await self._verify()
        self._on_wait(2 * self._config.ack_timeout)  # once for writing, once for the answer
        await self._client.send(lines)
        await self._client.round_trip(self._config.ack_timeout)
