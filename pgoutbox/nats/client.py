"""A connection to one NATS server: nats-py's client, extended through its private names.

This is the only module that uses names which nats-py keeps private. ``tests/unit/test_nats_py.py``
checks that each of them exists, and pyproject.toml excludes the minor releases of nats-py that
haven't been tried.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import ERR_RE

from pgoutbox.errors import Interrupted
from pgoutbox.nats.failures import LOST, Denied, PlainServer, text_of

log = logging.getLogger("pgoutbox.nats")

_CLOSE_TIMEOUT = 2.0  # seconds

_DENIAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.I)

Answer = TypeVar("Answer")


@contextmanager
def _closed_is_an_os_error() -> Iterator[None]:
    """Raise what nats-py expects where uvloop finds a transport closed; asyncio says nothing."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError(str(error)) from error


class _Transport(TcpTransport):
    """nats-py's TCP transport, with asyncio's own upgrade to TLS.

    nats-py's upgrade leaks a connection that never finishes closing when the handshake fails, and
    makes asyncio warn each time a successful one is closed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = b""

    def __bool__(self) -> bool:
        return True  # otherwise the client replaces it with one of its own

    def write(self, payload: bytes) -> None:
        """Write CONNECT together with the PING that the client sends after it.

        With TLS 1.3 a server rejects our certificate after the handshake. Its alert is lost if a
        second write finds the connection closed.
        """
        if payload.startswith(b"CONNECT "):
            self._held = payload
            return
        held, self._held = self._held, b""
        with _closed_is_an_os_error():
            super().write(held + payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        """Write several pieces."""
        with _closed_is_an_os_error():
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        host = uri if isinstance(uri, str) else uri.hostname
        assert self._io_writer is not None  # noqa: S101 - TCP is connected first
        handshake = self._io_writer.start_tls(ssl_context, server_hostname=host)
        await asyncio.wait_for(handshake, connect_timeout)


class NatsClient(Client):
    """A connection to one NATS server that sends many messages in one piece.

    It doesn't reconnect: nats-py would first send what it had buffered, after a hole, and the
    stream would keep that order. ``failed`` is done once the connection is of no more use: it is
    lost, or the server has denied something.

    nats-py takes one call and one task switch for each message, which cost several times what
    the rest of the relay does. So messages are handed to it as ready-made protocol lines, and
    answers to them are taken as soon as it has parsed them.
    """

    def __init__(self, *, requires_tls: bool = False) -> None:
        super().__init__()
        self._transport = self._tcp = _Transport()
        self.failed: asyncio.Future[Interrupted] = self._future()
        self._answers: int | None = None  # id of the subscription that listen() has made
        self._on_answer: Callable[[bytes, bytes], None]
        self._optional: dict[str, asyncio.Future[None]] = {}  # by subject, done once it is denied
        self._requires_tls = requires_tls
        self._last_error = ""  # that the server sent

    async def open(self, address: str, options: Mapping[str, Any]) -> None:
        """Connect to one server.

        Raises:
            TimeoutError, OSError, ValueError, nats.errors.Error: it can't be reached or used.
        """
        try:
            await self._open(address, options)
        except ConnectionError as error:
            # With TLS 1.3 a server's alert may arrive after the handshake, while we are writing.
            reader = self._tcp._io_reader
            raise (reader.exception() if reader else None) or error from None
        if not self.is_connected or self._reading_task is None:
            raise nats.errors.UnexpectedEOF  # connect() returns as if all were well
        # nats-py calls no closed_cb when two of its tasks close the connection at once.
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
        """Close the connection, without waiting for a peer that doesn't respond."""
        try:
            await asyncio.wait_for(self.close(), _CLOSE_TIMEOUT)
        except Exception:
            if self._tcp._io_writer is not None:
                self._tcp._io_writer.transport.abort()

    @property
    def server(self) -> str:
        """Address of the server, and its name if it has one of its own rather than its id."""
        url = self.connected_url
        name = self._server_info.get("server_name", "")
        address = url.netloc if url else "?"
        has_name = name not in ("", self._server_info.get("server_id"))
        return f"{address} ({name})" if has_name else address

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        writer = self._tcp._io_writer
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    @property
    def version(self) -> tuple[int, ...]:
        """The server's release, such as ``(2, 15, 1)``."""
        version = self.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def api_level(self) -> int:
        """JetStream's API level of the server; 0 before nats-server 2.11."""
        return int(self._server_info.get("api_lvl", 0))

    def check(self) -> None:
        """Raise if the connection has failed.

        Raises:
            Interrupted: the reason.
        """
        if self.failed.done():
            failure = self.failed.result()
            raise Interrupted(str(failure), hint=failure.hint, subject=failure.subject)

    async def unless_failed(
        self, waiting: Awaitable[Answer], *, optional: str | None = None
    ) -> Answer:
        """Wait, but only as long as the connection works.

        nats-py would go on waiting for an answer to what the server has denied. If that is the
        ``optional`` subject, the connection hasn't failed.

        Raises:
            Denied: the user may not publish to the optional subject.
            Interrupted: the connection has failed.
        """
        task = asyncio.ensure_future(waiting)
        denied: asyncio.Future[None] = self._optional.setdefault(optional or "", self._future())
        try:
            either: set[asyncio.Future[Any]] = {task, denied, self.failed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            self.check()
            if denied.done():
                raise Denied("this user may not publish to a subject", subject=optional)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def listen(self, subject: str, on_answer: Callable[[bytes, bytes], None]) -> None:
        """Call ``on_answer`` with subject and payload of each message to ``subject``.

        Raises:
            Interrupted: the connection is lost.
        """
        self._on_answer = on_answer
        try:
            subscription = await self.subscribe(subject)
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(LOST) from error
        self._answers = subscription._id

    async def send(self, lines: bytes) -> None:
        """Send protocol lines.

        Raises:
            Interrupted: the connection is lost.
        """
        try:
            await self._send_command(lines)
            await self._flush_pending()
        except (OSError, nats.errors.Error) as error:
            raise Interrupted(f"NATS accepts no messages: {text_of(error)}") from error

    def write(self, lines: bytes) -> None:
        """Send protocol lines without waiting; the caller bounds how much is unanswered.

        Raises:
            Interrupted: the connection is lost.
        """
        try:
            self._tcp.write(lines)
        except OSError as error:
            raise Interrupted(LOST) from error

    async def round_trip(self, timeout: float) -> None:
        """Return once the server has read everything that was sent.

        Raises:
            Interrupted: it didn't answer within ``timeout`` seconds, or has denied something.
        """
        written, pong = self._future(), self._future()
        try:
            # A PING overtakes what nats-py has buffered, so that has to be written first.
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
        # Not cancelled on a time-out: nats-py fails when it finds a cancelled future.
        await self._first(waiting, timeout)
        self.check()
        if not waiting.done():
            raise Interrupted(f"NATS didn't answer within {timeout:g} s")

    async def _first(self, waiting: asyncio.Future[Any], timeout: float | None = None) -> None:
        """Wait until ``waiting`` is done, the connection has failed, or the time is up."""
        either = {waiting, self.failed}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        if sid == self._answers:
            self._on_answer(subject, data)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Require TLS before any credentials are sent."""
        if initial_connection and self._requires_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise PlainServer
            info["tls_required"] = True  # which is what nats-py looks at
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        # nats-py passes it in lower case; its parser's buffer still has the original.
        found = ERR_RE.match(self._ps.buf)
        said = (found[1].decode() if found and found[1] else err_msg).strip("'")
        denial = _DENIAL.match(said)
        if denial is None:
            self._last_error = said
            await super()._process_err(err_msg)
            return
        if (optional := self._optional.get(denial[2])) is not None:
            if not optional.done():
                optional.set_result(None)
            return
        verb = "publish" if denial[1].lower() == "publish" else "subscribe"
        self._fail(
            f"this user may not {verb} to a subject",
            hint="Allow it in the permissions of the user or its account; docs/nats.md lists"
            " what a relay needs. Events wait until then.",
            subject=denial[2],
        )

    def _on_end(self, _: asyncio.Task[None]) -> None:
        reason = f": {self._last_error}" if self._last_error else ""
        self._fail(f"{LOST}{reason}")

    async def _on_error(self, error: Exception) -> None:
        if not self.is_connected and not self.is_closed:
            raise error  # otherwise nats-py tries the same server again
        log.debug("NATS client error", extra={"error": text_of(error)})

    def _fail(self, message: str, *, hint: str | None = None, subject: str | None = None) -> None:
        if not self.failed.done():
            self.failed.set_result(Interrupted(message, hint=hint, subject=subject))
