"""Publishing to NATS JetStream, in order and pipelined."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import StreamConfig

from pgoutbox.config import PublisherConfig
from pgoutbox.errors import ConfigError, PublishError
from pgoutbox.message import Message

log = logging.getLogger("pgoutbox.publisher")

# Error codes of nats-server (server/errors.json).
_WRONG_PLACE = {10070, 10071, 10164}  # the message before isn't the expected one
_MESSAGE_TOO_LARGE = {10054}
_HEADER_ROOM = 130  # bytes: version 10, id 51, id or sequence to follow 65, empty line 2
_MAX_ALONE = 1_024  # messages one at a time, after the chain broke again and again
_BREAKS_WORTH_A_WARNING = 3
_MAX_MISSES = 8  # of the stream's sequence, by a message that begins a chain
_LOOK_AGAIN_AFTER = 10.0  # seconds; somebody may have given the stream replicas
_STREAM_END = re.compile(r"wrong last sequence: (\d+)")
_LOST = "the connection was lost"


class Interrupted(PublishError):
    """Publishing stopped; the first ``confirmed`` messages are stored, of the rest some may be."""

    def __init__(self, message: str, *, confirmed: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.confirmed = confirmed


class Refused(Interrupted):
    """The message after the ``confirmed`` ones can never be stored."""


class Publisher(Protocol):
    """Stores messages in a stream, in order."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store ``messages``; return once the stream has confirmed all of them.

        Raises:
            Interrupted: not all of them could be stored.
        """

    def check(self) -> None:
        """Raise if nothing can be stored any more.

        Raises:
            Interrupted: the connection is lost.
        """


async def _nothing() -> None:
    pass


@asynccontextmanager
async def connect(
    config: PublisherConfig,
    *,
    on_lost: Callable[[], None] = lambda: None,
    verify: Callable[[], Awaitable[None]] = _nothing,
) -> AsyncIterator[JetStreamPublisher]:
    """Connect to NATS, see to the stream, and give a publisher for as long as the connection lasts.

    ``verify`` raises what :meth:`JetStreamPublisher.publish` is to fail with when this relay no
    longer leads; it is asked before a message goes behind somebody else's.

    The client doesn't reconnect by itself: it would first send what it had buffered, after a
    hole, and the stream would keep that order. A lost connection ends this publisher.

    Raises:
        PublishError: no server answers, none lets us in, or there is no stream.
    """
    if "tls://" in config.nats_url:
        raise ConfigError(
            "this release can't insist on TLS, as a NATS URL with tls:// does",
            hint="With nats:// the connection is encrypted where the server requires it.",
        )
    client = _Client()
    publisher = JetStreamPublisher(client, config, verify)

    async def on_closed() -> None:
        publisher.lose()
        on_lost()

    reported: list[Exception] = []  # the client's own words at the end are "no servers"

    async def on_error(error: Exception) -> None:
        reported.append(error)
        log.debug("the NATS client reports an error", extra={"error": _words(error)})

    try:
        await client.connect(
            config.nats_url.split(","),
            name="pgoutbox",
            allow_reconnect=False,
            connect_timeout=5,
            max_reconnect_attempts=1,  # then the relay's own patience takes over
            reconnect_time_wait=0.1,  # type: ignore[arg-type] # taken as seconds
            ping_interval=20,
            max_outstanding_pings=2,
            pending_size=-1,  # the window bounds what is pending
            closed_cb=on_closed,
            error_cb=on_error,
        )
    except (TimeoutError, OSError, nats.errors.Error, ValueError) as error:
        with suppress(Exception):
            await client.close()
        raise _explain_connecting(reported or [error], config) from error
    try:
        await publisher.start()
        yield publisher
    finally:
        with suppress(Exception):
            await client.close()


class JetStreamPublisher:
    """Publishes with a window of unacknowledged messages that can't get out of order.

    Each message says what it must follow, so when one is lost or refused, all behind it are
    refused too, and publishing goes on from there. On a stream with one replica that is the id
    of the message before (``Nats-Expected-Last-Msg-Id``). nats-server must not be asked for that
    on a replicated stream, which a change of leader could then break for good; there it is the
    stream's sequence (``Nats-Expected-Last-Sequence``), known after one message that is published
    alone. That chain has a weakness: somebody else's message can take the place of ours. Once one
    has been seen on a replicated stream, messages go one at a time.

    A message that begins a chain says which sequence of the stream it must follow, as far as that
    is known. So what a dead or frozen relay left in the network is refused when it arrives after
    its successor has begun to publish, maybe in the middle of a transaction.
    """

    def __init__(
        self,
        client: _Client,
        config: PublisherConfig,
        verify: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self._client = client
        self._config = config
        self._verify = verify
        self._inbox = ""
        self._window = _Window(0, config.topic)
        self._is_replicated = False
        self._looked_at = 0.0
        self._last_id: str | None = None  # of our last message, if all before it is stored
        self._last_sequence: int | None = None  # of the stream, after our last message
        self._before_break: int | None = None  # the same, before the chain broke
        self._end: int | None = None  # the stream's last sequence, as far as we know
        self._misses = 0  # of that, in a row
        self._alone = 0  # messages still to be published one at a time
        self._breaks = 0  # of the chain, since a window was stored whole
        self._is_lost = False

    async def start(self) -> None:
        """See to the stream, and subscribe to acknowledgements.

        Raises:
            PublishError: there is no stream for the topic and none can be made.
        """
        await self._look_at_stream(create=True)
        self._inbox = self._client.new_inbox()
        try:
            answers = await self._client.subscribe(f"{self._inbox}.*")
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(_LOST) from error
        self._client.on_answer = self._on_ack
        self._client.answers_to = answers._id

    def lose(self) -> None:
        """Note that the connection is gone: no acknowledgement will come."""
        self._is_lost = True
        self._window.lose()

    def check(self) -> None:
        """Raise if the connection is lost; see :class:`Publisher`."""
        if self._is_lost:
            raise Interrupted(_LOST)

    async def _look_at_stream(self, *, create: bool = False) -> None:
        topic = self._config.topic
        jetstream = self._client.jetstream(timeout=5)
        try:
            try:
                info = await jetstream.stream_info(topic)
            except nats.js.errors.NotFoundError:
                if not create:
                    raise
                wanted = StreamConfig(name=topic, subjects=[f"{topic}.*"])
                info = await jetstream.add_stream(wanted)
                log.info("stream created", extra={"stream": topic, "subjects": f"{topic}.*"})
        except (nats.js.errors.ServiceUnavailableError, nats.errors.NoRespondersError) as error:
            raise Interrupted(
                "JetStream is not available on this NATS server",
                hint="Start nats-server with --jetstream, and enable it for the account.",
            ) from error
        except (OSError, nats.errors.Error, ValueError) as error:
            raise Interrupted(
                f"the stream {topic!r} is not available: {_words(error)}",
                hint=f"Create a stream over {topic}.*, or allow this user to.",
            ) from error
        self._is_replicated = (info.config.num_replicas or 1) > 1
        if create:
            self._end = info.state.last_seq
        self._looked_at = time.monotonic()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store ``messages`` in order; see :class:`Publisher`."""
        self.check()
        if time.monotonic() - self._looked_at > _LOOK_AGAIN_AFTER:
            await self._look_at_stream()
        done = 0
        while done < len(messages):
            if self._misses:
                await self._verify()
            following = messages[done : done + 1] if self._goes_alone() else messages[done:]
            window = self._window = _Window(self._window.end, self._config.topic)
            try:
                await self._send(window, following)
                await self._settle(window, len(following))
            except Interrupted as error:
                error.confirmed = done + window.confirmed
                raise
            finally:
                done += window.confirmed
                self._learn_from(window, following)

    def _goes_alone(self) -> bool:
        # Not even by id from a repeat: what was stored after it would let its successors through.
        last = self._last_sequence if self._is_replicated else self._last_id
        return self._alone > 0 or last is None or self._config.window == 1

    def _begins_chain(self) -> bool:
        if self._is_replicated:
            return self._goes_alone()
        return self._last_id is None

    def _learn_from(self, window: _Window, messages: Sequence[Message]) -> None:
        """Note what the next window is chained to, and whether it had better be a single one."""
        is_whole = window.confirmed == len(messages)
        is_stored_last = is_whole and not window.is_repeat
        if is_stored_last:
            self._end, self._misses = window.sequence, 0
        elif not window.confirmed and window.stream_end is not None and self._begins_chain():
            # Others have published meanwhile: not a break of the chain, there was none yet.
            self._misses += 1
            self._end = window.stream_end if self._misses < _MAX_MISSES else None
            self._alone = max(1, self._alone)
            return
        if is_whole and len(window) == 1 and self._is_replicated:
            # After a break: had somebody else's message come between, ours would be further on.
            if self._before_break is not None and window.sequence != self._before_break + 1:
                self._share_stream(2**63)
            self._before_break = None if is_stored_last else window.sequence
        elif not is_whole and self._last_sequence is not None:
            self._before_break = self._last_sequence + window.confirmed
        self._last_sequence = window.sequence if is_stored_last else None
        self._last_id = messages[-1].id if is_stored_last else None
        self._alone = max(0, self._alone - 1)
        if is_whole and len(window) > 1:
            self._breaks = 0
        elif not is_whole and window.is_chain_broken and not self._is_replicated:
            self._breaks += 1
            self._alone = min(2**self._breaks, _MAX_ALONE)
            if self._breaks == _BREAKS_WORTH_A_WARNING:
                self._share_stream(self._alone)

    def _share_stream(self, alone: int) -> None:
        if self._alone < alone or not self._is_replicated:
            log.warning(
                "somebody else publishes into the stream; messages go one at a time",
                extra={"stream": self._config.topic},
            )
        self._alone = alone

    async def _send(self, window: _Window, messages: Sequence[Message]) -> None:
        """Hand ``messages`` to the client, as far as the window lets, until one is refused."""
        size = max(1, self._config.window // 4)
        for first in range(0, len(messages), size):
            await self._settle(window, len(window) + size - self._config.window)
            if window.refusal is not None:
                return
            chunk = messages[first : first + size]
            fitting = self._fitting(chunk)
            previous = messages[first - 1].id if first else self._last_id
            lines = self._lines(chunk[:fitting], window, previous)
            window.end += fitting
            await self._client.send(lines)
            if fitting < len(chunk):
                await self._settle(window, len(window))
                if window.refusal is not None:
                    return
                raise Refused(
                    f"a payload of {len(chunk[fitting].payload)} bytes exceeds the server's"
                    f" max_payload of {self._client.max_payload}"
                )

    def _fitting(self, messages: Sequence[Message]) -> int:
        """Return how many of ``messages``, from the first, the server's limit lets through."""
        limit = self._client.max_payload - _HEADER_ROOM
        for index, message in enumerate(messages):
            if len(message.payload) > limit:
                return index
        return len(messages)

    def _lines(self, messages: Sequence[Message], window: _Window, previous: str | None) -> bytes:
        """Return ``messages`` in the client protocol of NATS: HPUB, headers, payload."""
        parts: list[bytes] = []
        number = window.end
        is_replicated = self._is_replicated
        sequence = None if self._goes_alone() else self._last_sequence
        first = self._end if self._begins_chain() and number == window.start else None
        for message in messages:
            headers = f"NATS/1.0\r\nNats-Msg-Id: {message.id}\r\n"
            if first is not None:
                headers += f"Nats-Expected-Last-Sequence: {first}\r\n"
                first = None
            elif is_replicated and sequence is not None:
                expected = sequence + number - window.start
                headers += f"Nats-Expected-Last-Sequence: {expected}\r\n"
            elif not is_replicated and previous is not None:
                headers += f"Nats-Expected-Last-Msg-Id: {previous}\r\n"
            previous = message.id
            size = len(headers) + 2
            parts += (
                f"HPUB {message.subject} {self._inbox}.{number} {size}"
                f" {size + len(message.payload)}\r\n{headers}\r\n".encode(),
                message.payload,
                b"\r\n",
            )
            number += 1
        return b"".join(parts)

    async def _settle(self, window: _Window, count: int) -> None:
        """Wait until the first ``count`` messages of ``window`` are stored, or one is refused.

        Raises:
            Interrupted: the connection was lost, or nothing came back for too long.
            Refused: the stream will never take the message after the confirmed ones.
        """
        while not window.is_settled(count):
            before = window.confirmed
            try:
                await asyncio.wait_for(window.changed(count), self._config.ack_timeout)
            except TimeoutError:
                if window.confirmed == before:
                    raise Interrupted(
                        f"no acknowledgement came within {self._config.ack_timeout:g} s",
                        hint="Is the stream's leader up, and its disk not full?",
                    ) from None
        if window.is_refused_next and window.refusal and not window.is_chain_broken:
            raise window.refusal

    def _on_ack(self, subject: bytes, data: bytes) -> None:
        self._window.on_ack(int(subject[subject.rindex(b".") + 1 :]), data)


class _Client(Client):
    """The NATS client, with a shorter way for many messages at once.

    One call and one task switch a message, as the client has them, cost several times what the
    rest of the relay does. This hands it many messages in one piece, and takes answers to them
    where it has parsed them. Both use internals of nats-py, which is why pyproject.toml bounds
    its version.
    """

    answers_to: int | None = None  # the subscription that on_answer gets, past the client's queue
    on_answer: Callable[[bytes, bytes], None]

    async def send(self, lines: bytes) -> None:
        """Send protocol lines.

        Raises:
            Interrupted: the connection is lost.
        """
        try:
            await self._send_command(lines)
            await self._flush_pending()
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(f"NATS takes no messages: {_words(error)}") from error

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        if sid == self.answers_to:
            self.on_answer(subject, data)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)


class _Window:
    """Messages on their way to the stream, and what came back for them.

    Messages are numbered through the publisher's life, so that late answers to an earlier
    window are recognised.
    """

    def __init__(self, start: int, stream: str) -> None:
        # Whoever hears our messages can answer them; only the stream's word counts.
        self._confirmation = b'{"stream":' + json.dumps(stream).encode() + b","
        self.start = start
        self.end = start
        self.confirmed = 0  # messages stored, counted from the first without a hole
        self.sequence: int | None = None  # in the stream, of the last message
        self.is_repeat = False  # the stream had the last message already
        self.refusal: Interrupted | None = None  # of the lowest message refused
        self.is_chain_broken = False
        self.stream_end: int | None = None  # its last sequence, where that is why it refused
        self._refused = -1
        self._early: dict[int, bytes] = {}  # acknowledged before one of their predecessors
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 0

    def __len__(self) -> int:
        return self.end - self.start

    def is_settled(self, count: int) -> bool:
        """Tell whether the first ``count`` messages are stored, or as many as will be."""
        if self._is_lost:
            raise Interrupted(_LOST)
        return self.confirmed >= count or self.is_refused_next

    @property
    def is_refused_next(self) -> bool:
        """Whether the message after the confirmed ones is the one refused.

        A refusal can overtake the acknowledgements of earlier messages.
        """
        return self.confirmed == self._refused

    def changed(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done when :meth:`is_settled` has something new to say."""
        self._awaited = count
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def lose(self) -> None:
        """Note that no more answers will come."""
        self._is_lost = True
        self._wake()

    def on_ack(self, number: int, ack: bytes) -> None:
        """Take an answer of the stream to the message of that number."""
        index = number - self.start
        if index < self.confirmed:
            return
        if not ack.startswith(self._confirmation):
            self._refuse(index, ack)
        elif index > self.confirmed:
            self._early[index] = ack
            return
        else:
            while True:
                self.confirmed += 1
                if self.confirmed == len(self):
                    answer = json.loads(ack)
                    self.sequence = answer["seq"]
                    self.is_repeat = answer.get("duplicate", False)
                if self.confirmed not in self._early:
                    break
                ack = self._early.pop(self.confirmed)
        if self.confirmed >= self._awaited or self.is_refused_next:
            self._wake()

    def _refuse(self, index: int, ack: bytes) -> None:
        if 0 <= self._refused <= index:
            return
        self._refused = index
        self.refusal, self.is_chain_broken = _refusal(ack)
        found = _STREAM_END.search(str(self.refusal))
        self.stream_end = int(found[1]) if found else None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _refusal(answer: bytes) -> tuple[Interrupted, bool]:
    """Return why a message was refused, and whether only its place in the chain was wrong."""
    if not answer:
        return Interrupted(
            "no stream takes the messages",
            hint="Has the stream been deleted, or do its subjects leave out some of ours?",
        ), False
    if not answer.startswith(b'{"error":'):
        return Interrupted(
            "somebody else than the stream answers the messages",
            hint="Does another stream, or a service that replies, listen to these subjects?",
        ), False
    error = json.loads(answer)["error"]
    code, words = error.get("err_code", 0), error.get("description", "")
    if code in _MESSAGE_TOO_LARGE:
        return Refused(f"the stream refuses it: {words}"), False
    return Interrupted(f"the stream refuses messages: {words}"), code in _WRONG_PLACE


def address(config: PublisherConfig) -> str:
    """Return where ``config`` points, for people; never a password."""
    urls = config.nats_url.split(",")
    return ", ".join(url.rpartition("@")[2].removeprefix("nats://") for url in urls)


def _explain_connecting(errors: Sequence[Exception], config: PublisherConfig) -> PublishError:
    where = f"NATS at {address(config)}"
    if any("authorization" in str(error).lower() for error in errors):
        return PublishError(
            f"{where} doesn't let this user in",
            hint="Check the user and password, or the token, in the NATS URL.",
        )
    match errors[-1]:
        case ConnectionRefusedError():
            return PublishError(
                f"{where} refuses connections: nothing listens there",
                hint="Check the NATS URL and that nats-server is running.",
            )
        case socket.gaierror():
            return PublishError(f"{where}: there is no host of that name")
        case TimeoutError():
            return PublishError(f"{where} doesn't answer")
    return PublishError(f"{where} can't be reached: {_words(errors[-1])}")


def _words(error: BaseException) -> str:
    """Return an error of the client in words, without its prefix."""
    if isinstance(error, nats.js.errors.APIError):
        return error.description or f"error {error.err_code}"
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ").strip("'")
