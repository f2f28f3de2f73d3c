"""Publishing into a NATS key-value bucket, where one event may take several messages."""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from pgoutbox.errors import Interrupted, Refused
from pgoutbox.messages.event import Message
from pgoutbox.messages.key_value import entries_of, purge_of
from pgoutbox.nats.failures import text_of
from pgoutbox.nats.jetstream import JetStreamPublisher

_PART = 10_000  # entries that are looked at, and purged, at once
_MARKERS = ("KV-Operation", "Nats-Marker-Reason")  # headers of what isn't a value


class BucketPublisher(JetStreamPublisher):
    """Publishes events into a bucket; an event counts as stored once all its messages are.

    What an event ``removes`` (see :class:`pgoutbox.messages.event.Message`) goes before it. A
    stretch takes messages as they are, and doesn't count a repeat as stored; then, too, they are
    published here, with ids that the stream can't know (see
    :func:`pgoutbox.messages.key_value.entries_of`).
    """

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store what ``messages`` stand for; see :class:`pgoutbox.nats.connect.Publisher`."""
        done = 0
        for clears, group in groupby(messages, _clears_bucket):
            some = list(group)
            try:
                await (self._clear(some[0]) if clears else self._publish(some))
            except (Interrupted, Refused) as error:
                error.confirmed += done
                raise
            done += len(some)

    async def _publish(self, messages: Sequence[Message]) -> None:
        wired: list[Message] = []
        ends: list[int] = []  # of each event's messages
        attempt = _new_attempt()
        for message in messages:
            wired += entries_of(message, attempt)
            ends.append(len(wired))
        try:
            await super().publish(wired)
        except (Interrupted, Refused) as error:
            error.confirmed = bisect_right(ends, error.confirmed)
            raise

    async def _clear(self, message: Message) -> None:
        """Purge what the bucket has, each key for itself, in the name of ``message``.

        A purge of the stream wouldn't be seen by those who watch it; and one that a relay had asked
        for before it froze would take what its successor has published.
        """
        self.check()
        await self.look()
        attempt = _new_attempt()
        after, end = max(0, self._stream.first - 1), self._stream.end
        while after < end:
            found = await self._entries(after, end)
            if not found:
                return
            newest = {entry.subject: entry for entry in found}  # a bucket may keep older ones
            keys = [key for key, entry in newest.items() if not _is_marker(entry)]
            try:
                await super().publish([purge_of(key, message, attempt) for key in keys])
            except (Interrupted, Refused) as error:
                error.confirmed = 0
                raise
            after = found[-1].metadata.sequence.stream

    async def _entries(self, after: int, end: int) -> list[Msg]:
        """Return the first entries behind a sequence, up to ``end``, without their values.

        Raises:
            Interrupted: the stream doesn't answer, or the relay may not read it.
        """
        found: list[Msg] = []
        try:
            subscription = await self._client.unless_failed(self._subscribe(after + 1))
            info = await subscription.consumer_info()
            is_over = not info.num_pending and not (info.delivered and info.delivered.consumer_seq)
            while not is_over and len(found) < _PART:
                self.check()
                self._on_wait(self._config.ack_timeout)
                entry = await subscription.next_msg(timeout=self._config.ack_timeout)
                is_over = entry.metadata.sequence.stream >= end or not entry.metadata.num_pending
                found.append(entry)
            await subscription.unsubscribe()
        except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
            raise Interrupted(
                f"a TRUNCATE waits, since the bucket's keys can't be read: {text_of(error)}",
                hint="Reading takes a consumer: allow $JS.API.CONSUMER.CREATE for the stream.",
            ) from error
        return [entry for entry in found if entry.metadata.sequence.stream <= end]

    async def _subscribe(self, first: int) -> JetStreamContext.PushSubscription:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            headers_only=True,
            ack_policy=AckPolicy.NONE,
        )
        jetstream = self._client.jetstream(domain=self._config.domain)
        return await jetstream.subscribe(
            self._target.subjects[0], stream=self._stream.name, ordered_consumer=True, config=config
        )

    def _unfit(self, message: Message) -> Refused:
        if message.subject:
            return super()._unfit(message)
        return Refused("its key isn't known, so it can't be an entry of a bucket")


def _clears_bucket(message: Message) -> bool:
    return bool(message.removes) and message.removes == message.subject


def _is_marker(entry: Msg) -> bool:
    return any(name in (entry.headers or {}) for name in _MARKERS)


def _new_attempt() -> str:
    return secrets.token_hex(4)
