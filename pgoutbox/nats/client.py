"""A connection to NATS: to which server, with which credentials, and why it ended, in words."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import ParseResult, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import ERR_RE

from pgoutbox.config.settings import PublisherConfig
from pgoutbox.errors import ConfigError, Interrupted, PublishError
from pgoutbox.nats.credentials import client_options, insists_on_tls, user_of
from pgoutbox.nats.failures import FAILURES, LOST, PlainServer, explain, words

log = logging.getLogger("pgoutbox.nats")

_CLOSING = 2.0  # seconds


_DENIAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.I)


Answer = TypeVar("Answer")


class _Transport(TcpTransport):
    """The client's TCP transport, going over to TLS as asyncio has it.

    nats-py's own way leaves a connection behind that never ends being closed when the handshake
    fails, and has asyncio warn at each end of one that succeeded.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = b""

    def __bool__(self) -> bool:
        return True  # or the client takes one of its own

    def write(self, payload: bytes) -> None:
        """Write CONNECT in one piece with the PING that the client sends behind it.

        With TLS 1.3 a server refuses our certificate after the handshake, and nobody reads its
        alert once a second piece finds the connection closed.
        """
        if payload.startswith(b"CONNECT "):
            self._held = payload
            return
        held, self._held = self._held, b""
        super().write(held + payload)  # type: ignore[no-untyped-call]

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        host = uri if isinstance(uri, str) else uri.hostname
        assert self._io_writer is not None  # noqa: S101 - TCP comes first
        handshake = self._io_writer.start_tls(ssl_context, server_hostname=host)
        await asyncio.wait_for(handshake, connect_timeout)


class NatsClient(Client):
    """The NATS client for one connection to one server, with a shorter way for many messages.

    It doesn't reconnect: it would first send what it had buffered, after a hole, and the stream
    would keep that order. ``failed`` is done once nothing more can come of the connection: it is
    lost, or the server has denied something.

    One call and one task switch a message, as the client has them, cost several times what the
    rest of the relay does. This hands it many messages in one piece, and takes answers to them
    where it has parsed them. All this uses internals of nats-py, which is why pyproject.toml
    bounds its version.
    """

    def __init__(self, *, insists_on_tls: bool = False) -> None:
        super().__init__()
        self._transport = self._tcp = _Transport()
        self.failed: asyncio.Future[Interrupted] = self._future()
        self.answers_to: int | None = None  # the subscription that on_answer gets, past the queue
        self.on_answer: Callable[[bytes, bytes], None]
        self._insists_on_tls = insists_on_tls
        self._last_words = ""  # of the server

    async def open(self, address: str, options: Mapping[str, Any]) -> None:
        """Connect to one server.

        Raises:
            TimeoutError, OSError, ValueError, nats.errors.Error: it isn't there, or says no.

        """
        try:
            await self._open(address, options)
        except ConnectionError as error:
            # With TLS 1.3 a server's alert comes after the handshake, maybe while we write.
            reader = self._tcp._io_reader
            raise (reader.exception() if reader else None) or error from None
        if not self.is_connected or self._reading_task is None:
            raise nats.errors.UnexpectedEOF  # which the client takes for silence
        # The client's own word that it is closed gets lost when two of its tasks close it at once.
        self._reading_task.add_done_callback(self._on_end)

    async def _open(self, address: str, options: Mapping[str, Any]) -> None:
        await self.connect(
            f"nats://{address}",
            name="pgoutbox",
            allow_reconnect=False,
            connect_timeout=5,
            ping_interval=20,
            max_outstanding_pings=2,
            pending_size=-1,  # the window bounds what is pending
            error_cb=self._on_error,
            **options,
        )

    async def end(self) -> None:
        """Close the connection; a peer that doesn't answer to that is not waited for."""
        try:
            await asyncio.wait_for(self.close(), _CLOSING)
        except Exception:
            if self._tcp._io_writer is not None:
                self._tcp._io_writer.transport.abort()

    def check(self) -> None:
        """Raise if the connection has failed.

        Raises:
            Interrupted: why.

        """
        if self.failed.done():
            failure = self.failed.result()
            raise Interrupted(str(failure), hint=failure.hint, subject=failure.subject)

    async def unless_failed(self, waiting: Awaitable[Answer]) -> Answer:
        """Wait, but no longer than the connection is good for.

        The client itself would wait for an answer to what the server has denied.

        Raises:
            Interrupted: the connection has failed.

        """
        task = asyncio.ensure_future(waiting)
        try:
            await self._first(task)
            self.check()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def send(self, lines: bytes) -> None:
        """Send protocol lines.

        Raises:
            Interrupted: the connection is lost.

        """
        try:
            await self._send_command(lines)
            await self._flush_pending()
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(f"NATS takes no messages: {words(error)}") from error

    async def round_trip(self, timeout: float) -> None:
        """Return once the server has read all that was sent.

        Raises:
            Interrupted: it doesn't answer within ``timeout`` seconds, or has denied something.

        """
        written, pong = self._future(), self._future()
        try:
            # A PING goes past what the client still holds back, so that has to go first.
            assert self._flush_queue is not None  # noqa: S101 - we are connected
            await self._flush_queue.put(written)
            await self._within(timeout, written)
            await self._send_ping(pong)
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(LOST) from error
        await self._within(timeout, pong)

    @staticmethod
    def _future() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _within(self, timeout: float, waiting: asyncio.Future[Any]) -> None:
        # Not cancelled where it takes longer: the client would stumble over that.
        await self._first(waiting, timeout)
        self.check()
        if not waiting.done():
            raise Interrupted(f"NATS didn't answer within {timeout:g} s")

    async def _first(self, waiting: asyncio.Future[Any], timeout: float | None = None) -> None:
        """Wait for one of: ``waiting`` is done, the connection has failed, the time is up."""
        either = {waiting, self.failed}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        if sid == self.answers_to:
            self.on_answer(subject, data)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """See to TLS before any credentials are sent."""
        if initial_connection and self._insists_on_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise PlainServer
            info["tls_required"] = True  # what the client goes by
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        # The parser has lowered it, and subjects have case; its buffer still has the original.
        found = ERR_RE.match(self._ps.buf)
        said = (found[1].decode() if found and found[1] else err_msg).strip("'")
        denial = _DENIAL.match(said)
        if denial is None:
            self._last_words = said
            await super()._process_err(err_msg)
            return
        verb = "publish" if denial[1].lower() == "publish" else "subscribe"
        self._fail(
            f"this user may not {verb} to a subject",
            hint="Allow it in the permissions of the user or its account; docs/nats.md lists"
            " what a relay needs. Until then events wait.",
            subject=denial[2],
        )

    def _on_end(self, _: asyncio.Task[None]) -> None:
        said = f": the server says {self._last_words!r}" if self._last_words else ""
        self._fail(f"{LOST}{said}")

    async def _on_error(self, error: Exception) -> None:
        if not self.is_connected and not self.is_closed:
            raise error  # or the client would try the same server again
        log.debug("the NATS client reports an error", extra={"error": words(error)})

    def _fail(self, message: str, *, hint: str | None = None, subject: str | None = None) -> None:
        if not self.failed.done():
            self.failed.set_result(Interrupted(message, hint=hint, subject=subject))


async def open_connection(config: PublisherConfig) -> NatsClient:
    """Connect to one of the servers in ``config``, whichever is up; they are tried in any order.

    Raises:
        PublishError: none of them lets us in, or a file in ``config`` can't be used (any more).

    """
    try:
        options = client_options(config)
    except ConfigError as error:
        raise PublishError(str(error), hint=error.hint) from error
    urls = config.nats_url.split(",")
    random.shuffle(urls)
    failures: dict[str, Exception] = {}
    for url in urls:
        client = NatsClient(insists_on_tls=insists_on_tls(url, config))
        try:
            await client.open(_address(url), {**options, **user_of(url, config)})
            return client
        except FAILURES as error:
            failures[_address(url)] = error
        finally:
            if not client.is_connected:
                await client.end()
    raise explain(failures, config)


def address(config: PublisherConfig) -> str:
    """Return where ``config`` points, for people; never a password."""
    return ", ".join(map(_address, config.nats_url.split(",")))


def server_of(client: NatsClient) -> str:
    """Return the address of the server that ``client`` is connected to, and its name if it has one.

    A server without a name of its own goes by its id, which tells nobody anything.
    """
    url = client.connected_url
    name = client._server_info.get("server_name", "")
    where = url.netloc if url else "?"
    return where if name in ("", client._server_info.get("server_id")) else f"{where} ({name})"


def _address(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
