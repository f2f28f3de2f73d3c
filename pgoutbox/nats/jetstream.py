"""Publishing to a stream of NATS JetStream, in order and pipelined."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pgoutbox.config.settings import StreamConfig
from pgoutbox.errors import Interrupted, Refused, StreamLost
from pgoutbox.messages.event import LastStored, Message
from pgoutbox.nats import streams, wire
from pgoutbox.nats.batches import AtomicBatches, FastBatches, OneByOne
from pgoutbox.nats.chain import Chain, ChainById, ChainBySequence
from pgoutbox.nats.client import NatsClient
from pgoutbox.nats.ingest import Answer, IngestBatch
from pgoutbox.nats.reading import Reading
from pgoutbox.nats.repeats import Repeats
from pgoutbox.nats.streams import StreamInfo, Target
from pgoutbox.nats.stretch import Stretch, no_answer
from pgoutbox.nats.tenure import Tenure
from pgoutbox.nats.window import Window

log = logging.getLogger("pgoutbox.nats")

_STREAM_CHECK_INTERVAL = 10.0  # seconds; someone may have changed the stream, or lost some of it
# Seconds between looks at a replicated stream that lacks something: a new leader may not have
# taken over all that was confirmed yet.
_LOOKS_AGAIN = (0.5, 1.0)


class JetStreamPublisher:
    """Publishes with a window of unacknowledged messages that can't get out of order.

    Each message says what it must follow (see :mod:`pgoutbox.nats.chain`), so if one is lost or
    refused, all those behind it are refused too, and publishing resumes from there. On replicated
    streams messages go in batches (see :mod:`pgoutbox.nats.batches`).
    """

    def __init__(
        self,
        client: NatsClient,
        target: Target,
        stream: StreamInfo,
        verify: Callable[[], Awaitable[None]],
        on_wait: Callable[[float], None] = lambda _: None,
        tenure: Tenure | None = None,
    ) -> None:
        self._client = client
        self._target = target
        self._config = target.config
        self._stream = stream
        self._verify = verify
        self._on_wait = on_wait
        self._tenure = tenure or Tenure()
        self._reading = Reading(client, target, self._tenure)
        self._repeats = Repeats(self._reading, self._tenure)
        self._last: LastStored | None = None  # but for those of a stretch
        self._is_in_doubt = False  # whether the stream has what it confirmed
        self._inbox = ""
        self._window = Window(0, stream.confirmations, ())
        self._stretch: Stretch | None = None
        self._checked_at = time.monotonic()
        self._chain = self._chain_for(stream)
        client.failed.add_done_callback(lambda _: self._wake())

    def _wake(self) -> None:
        self._window.wake()
        if self._stretch is not None:
            self._stretch.wake()

    def _chain_for(self, stream: StreamInfo) -> Chain:
        kind = kind_of_chain(stream, self._config)
        size = max(1, self._config.window // 4)
        if issubclass(kind, AtomicBatches):
            return kind(stream, size=size, name=f"pgoutbox-{secrets.token_hex(8)}")
        return kind(stream, size=size) if issubclass(kind, FastBatches) else kind(stream)

    async def start(self) -> None:
        """Subscribe to acknowledgements.

        Raises:
            Interrupted: the connection is lost, or the server denies the subscription.
        """
        self._inbox = self._client.new_inbox()
        await self._client.listen(f"{self._inbox}.>", self._on_ack)
        await self._client.round_trip(self._config.ack_timeout)
        self._warn_if_slow()
        self._say_if_forgetful()

    def _say_if_forgetful(self) -> None:
        """Say that a restarted nats-server, which knows ids by its messages, may not know ours."""
        keeps, window = self._stream.keeps, self._stream.duplicate_window
        if keeps is not None and keeps < window:
            log.info(
                "the stream keeps messages for less than its duplicate window, so after a restart"
                " of nats-server it may store repeats",
                extra={"stream": self._stream.name, "keeps_s": round(keeps), "window_s": window},
            )

    def _warn_if_slow(self) -> None:
        if isinstance(self._chain, OneByOne) and self._config.window > 1:
            log.warning(
                "publishing one message at a time: only batches keep order in a replicated stream,"
                " and this one doesn't accept them; set its allow_batched to true (nats-server"
                " 2.14 or later)",
                extra={"stream": self._stream.name, "replicas": self._stream.replicas},
            )

    @property
    def description(self) -> Mapping[str, object]:
        """Where and how this publishes; see :class:`pgoutbox.nats.connect.Connected`."""
        domain = {"domain": self._stream.domain} if self._stream.domain else {}
        return {
            "server": self._client.server,
            "stream": self._stream.name,
            **domain,
            "replicas": self._stream.replicas,
            "method": self._chain.method,
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
        """The last message confirmed; see :class:`pgoutbox.nats.connect.Connected`."""
        if self._stretch is not None and self._stretch.last is not None:
            return self._as_last(*self._stretch.last)
        return self._last

    def _as_last(self, message: Message, sequence: int) -> LastStored:
        stream = self._stream
        return LastStored(stream.name, stream.created, sequence, wire.message_id(message))

    async def confirms(self, last: LastStored) -> bool:
        """Tell whether nothing is lost; see :class:`pgoutbox.nats.connect.Connected`."""
        pauses = _LOOKS_AGAIN if self._stream.replicas > 1 else ()
        for pause in pauses:
            if await self.has(last):
                return True
            await asyncio.sleep(pause)
            await self._find()
        return await self.has(last)

    async def has(self, last: LastStored) -> bool:
        """Tell whether the stream has a message; see :class:`pgoutbox.nats.connect.Connected`."""
        return await self._reading.has(self._stream, last)

    async def latest(self, after: int, count: int) -> list[tuple[LastStored, bytes]]:
        """Return the last messages; see :class:`pgoutbox.nats.connect.Connected`."""
        stream = self._stream
        sequences = range(stream.end, max(after, stream.end - count), -1)
        return [
            (LastStored(stream.name, stream.created, sequence, message.id), message.payload)
            for sequence, message in zip(
                sequences, await self._reading.messages(stream.name, sequences), strict=True
            )
            if message is not None
        ]

    def resume(self, last: LastStored | None) -> None:
        """Begin behind ``last``; see :class:`pgoutbox.nats.connect.Connected`."""
        self._last = last

    @property
    def wants_look(self) -> bool:
        """Whether :meth:`look` is due; see :class:`pgoutbox.nats.connect.Publisher`."""
        return self._is_check_due

    async def look(self) -> None:
        """Look at the stream; see :class:`pgoutbox.nats.connect.Publisher`."""
        self._end_stretch()
        await self._check_stream()

    async def is_unused(self) -> bool:
        """Return True if the stream has never stored a message; see :class:`Publisher`."""
        stream = await streams.find(self._client, self._target, self._stream.name)
        return stream is not None and stream.end == 0

    def begin_stretch(self) -> Stretch | None:
        """Return what sends batches one behind another; see :meth:`Publisher.begin_stretch`."""
        chain = self._chain
        if not isinstance(chain, ChainById) or not chain.is_established or self._is_check_due:
            return None
        self._end_stretch()
        self._stretch = Stretch(
            self._client,
            chain,
            start=self._window.end,
            inbox=self._inbox,
            confirmations=self._stream.confirmations,
            window=self._config.window,
            ack_timeout=self._config.ack_timeout,
            on_wait=self._on_wait,
            is_over=lambda: self._is_check_due,
            takes=self._stream.takes,
        )
        return self._stretch

    def _end_stretch(self) -> None:
        """Go on behind the last stretch, if there was one."""
        if self._stretch is None:
            return
        self._last = self.last_stored
        self._is_in_doubt = self._is_in_doubt or self._stretch.is_broken
        self._window = Window(self._stretch.end, self._stream.confirmations, ())
        self._stretch = None

    @property
    def _is_check_due(self) -> bool:
        return time.monotonic() - self._checked_at > _STREAM_CHECK_INTERVAL

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store ``messages`` in order; see :class:`pgoutbox.nats.connect.Publisher`."""
        self.check()
        self._end_stretch()
        if any(map(self._is_stray, messages)):
            await self._check_stream()
        done = 0
        while done < len(messages):
            try:
                await self._look_if_needed()
            except Interrupted as error:
                error.confirmed = done
                raise
            following = self._next(messages, done)
            window = Window(
                self._window.end,
                self._stream.confirmations,
                following,
                self._chain.end,
                in_batches=self._chain.in_batches,
                has_stored=self._tenure.has_stored,
            )
            self._window = window
            try:
                await self._send(window, following)
                await self._settle(window, len(following))
            except (Interrupted, Refused) as error:
                error.confirmed = done + window.confirmed
                raise
            finally:
                done += window.confirmed
                self._tenure.has_stored = window.has_stored
                self._chain.learn(window, following)
                self._note(window, following)

    def _is_stray(self, message: Message) -> bool:
        """Return True if the stream doesn't have an emitted event's subject, as far as we know."""
        return message.is_emitted and not self._stream.takes(message.subject)

    def _next(self, messages: Sequence[Message], done: int) -> Sequence[Message]:
        """Return those of the messages after the first ``done`` that the next window holds."""
        count = self._chain.limit(len(messages) - done)
        following = messages[done : done + count]
        if self._chain.in_batches:
            room = self._client.max_payload - self._chain.header_room
            following = following[: wire.fitting(following, room, self._stream.takes)]
        if not following:
            self._chain.go_alone()
            following = messages[done : done + 1]
        return following

    def _note(self, window: Window, messages: Sequence[Message]) -> None:
        """Note the last message stored, and whether a refusal puts those before it in doubt."""
        before = self._last.sequence if self._last else 0
        if window.confirmed and window.sequence and window.sequence > before:
            self._last = self._as_last(messages[window.confirmed - 1], window.sequence)
        self._is_in_doubt = self._is_in_doubt or window.is_broken

    async def _look_if_needed(self) -> None:
        """Look at the stream if that is due, or if something was refused.

        Raises:
            StreamLost: it lacks what it had confirmed.
            Interrupted: it didn't answer, or has been deleted.
        """
        if self._is_in_doubt and await self._has_last():
            self._is_in_doubt = False
        if self._is_in_doubt or self._is_check_due or self._chain.wants_end:
            await self._check_stream()

    async def _has_last(self) -> bool:
        """Look for the last message stored: quicker than looking at the stream as a whole."""
        last = self.last_stored
        if last is None:
            return True
        (found,) = await self._reading.messages(last.stream, [last.sequence])
        return found is not None and found.id == last.id

    async def _check_stream(self) -> None:
        """Look up the stream's end, and whether its settings now need another kind of chain.

        Raises:
            StreamLost: it lacks what it had confirmed.
        """
        last = self.last_stored
        await self._find()
        self._checked_at = time.monotonic()
        if last is not None and not await self.confirms(last):
            raise StreamLost("the stream lacks messages that it had confirmed")
        self._is_in_doubt = False
        if self._chain.wants_end:
            self._chain.end = self._stream.end
        if kind_of_chain(self._stream, self._config) is not type(self._chain):
            self._chain = self._chain_for(self._stream)
            log.info("publishing method changed with the stream", extra=self.description)
            self._warn_if_slow()

    async def _find(self) -> None:
        stream = await streams.find(self._client, self._target, self._stream.name)
        if stream is None:
            raise Interrupted(f"the stream {self._stream.name!r} has been deleted")
        self._stream = stream

    async def _send(self, window: Window, messages: Sequence[Message]) -> None:
        """Send ``messages``, as the window has room for them, until one is refused."""
        size = max(1, self._config.window // 4)
        unsettled = self._config.window - size
        if self._chain.in_batches:
            size, unsettled = len(messages), 0
        for first in range(0, len(messages), size):
            await self._settle(window, len(window) - unsettled)
            if window.is_broken:
                return
            chunk = messages[first : first + size]
            count = wire.fitting(chunk, self._client.max_payload, self._stream.takes)
            end = first + count
            replies = self._replies(window, messages, first, end)
            expectations = self._chain.expectations(messages, first, end)
            await self._verify()
            await self._client.send(wire.hpubs(messages[first:end], replies, expectations))
            if count < len(chunk):
                await self._settle(window, len(window))
                if window.is_broken:
                    return
                raise self._unfit(chunk[count])

    def _unfit(self, message: Message) -> Refused:
        if wire.fitting([message], self._client.max_payload):
            return streams.not_taken(message, self._stream)
        return wire.too_large(message, self._client.max_payload)

    def _replies(
        self, window: Window, messages: Sequence[Message], first: int, end: int
    ) -> list[str]:
        """Return the reply subjects of ``messages[first:end]``, and note them in ``window``."""
        number = window.start + first
        if isinstance(self._chain, FastBatches) and end - first > 1:
            batch = IngestBatch(first, end - first)
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
            Interrupted: the connection has failed, or no answer came for too long.
            Refused: the stream will never take the message after the confirmed ones.
        """
        while not window.is_settled(count):
            self.check()
            if window.has_repeats:
                await self._repeats.examine(window, self._stream.name)
                continue
            before = window.confirmed, window.signs
            self._on_wait(self._config.ack_timeout)
            try:
                await asyncio.wait_for(window.changed(count), self._config.ack_timeout)
            except TimeoutError:
                if (window.confirmed, window.signs) == before:
                    raise no_answer(self._config.ack_timeout) from None
        if window.is_refused_next and window.refusal and not window.is_chain_broken:
            raise window.refusal

    def _on_ack(self, subject: bytes, data: bytes) -> None:
        tokens = subject[len(self._inbox) + 1 :].split(b".")
        if len(tokens) == 1 and self._stretch is not None:
            self._stretch.on_ack(int(tokens[0]), data)
        elif len(tokens) == 1:
            self._window.on_ack(int(tokens[0]), data)
        else:
            self._window.on_batch(Answer.of(tokens), data)


def kind_of_chain(stream: StreamInfo, config: StreamConfig) -> type[Chain]:
    """Return the cheapest kind that keeps the order, unless ``config`` names another."""
    if config.window == 1:
        return OneByOne
    if config.mode == "fast":
        return FastBatches
    if stream.replicas == 1:
        return ChainById
    if config.mode == "window":
        return ChainBySequence
    if stream.takes_batches:
        return FastBatches
    return AtomicBatches if stream.takes_atomic else OneByOne
