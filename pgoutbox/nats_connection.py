"""A connection to NATS: to which server, with which credentials, and why it ended, in words."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import ParseResult, unquote, urlsplit

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.transport import TcpTransport
from nats.protocol.parser import ERR_RE

from pgoutbox.config import PublisherConfig
from pgoutbox.errors import ConfigError, Interrupted, PublishError

log = logging.getLogger("pgoutbox.publisher")

_CLOSING = 2.0  # seconds
_LOST = "the connection was lost"
_DENIAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.I)
_FAILURES = (TimeoutError, OSError, nats.errors.Error, ValueError)

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
            raise Interrupted(_LOST) from error
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
                raise _PlainServer
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
        self._fail(f"{_LOST}{said}")

    async def _on_error(self, error: Exception) -> None:
        if not self.is_connected and not self.is_closed:
            raise error  # or the client would try the same server again
        log.debug("the NATS client reports an error", extra={"error": words(error)})

    def _fail(self, message: str, *, hint: str | None = None, subject: str | None = None) -> None:
        if not self.failed.done():
            self.failed.set_result(Interrupted(message, hint=hint, subject=subject))


class _PlainServer(nats.errors.Error):
    """The server doesn't offer TLS, and we insist on it."""


async def open_connection(config: PublisherConfig) -> NatsClient:
    """Connect to one of the servers in ``config``, whichever is up; they are tried in any order.

    Raises:
        PublishError: none of them lets us in, or a file in ``config`` can't be used (any more).
    """
    try:
        options = _options(config)
    except ConfigError as error:
        raise PublishError(str(error), hint=error.hint) from error
    urls = config.nats_url.split(",")
    random.shuffle(urls)
    failures: dict[str, Exception] = {}
    for url in urls:
        client = NatsClient(insists_on_tls=_insists_on_tls(url, config))
        try:
            await client.open(_address(url), {**options, **_user(url, config)})
            return client
        except _FAILURES as error:
            failures[_address(url)] = error
        finally:
            if not client.is_connected:
                await client.end()
    raise _explain(failures, config)


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


def _user(url: str, config: PublisherConfig) -> dict[str, Any]:
    """Return user and password, or the token: of the URL, else of the settings."""
    parts = urlsplit(url)
    if parts.username is None:
        given = {"user": config.user, "password": config.password, "token": config.token}
        return {name: value for name, value in given.items() if value}
    if parts.password is None:
        return {"token": unquote(parts.username)}
    return {"user": unquote(parts.username), "password": unquote(parts.password)}


def _insists_on_tls(url: str, config: PublisherConfig) -> bool:
    """Whoever names a CA or a certificate counts on TLS, too."""
    is_named = config.ca_cert or config.client_cert
    return config.enable_tls or bool(is_named) or urlsplit(url).scheme == "tls"


def _options(config: PublisherConfig) -> dict[str, Any]:
    """Return what the client is to connect with, read from the files that ``config`` names.

    Raises:
        ConfigError: a file is missing, or isn't what it should be.
    """
    options: dict[str, Any] = {"inbox_prefix": config.inbox_prefix}
    if config.nkey:
        options["nkeys_seed_str"] = _seed(_read(config.nkey, "nkey file").split(), config.nkey)
    if config.creds:
        options["user_credentials"] = RawCredentials(_credentials(config.creds))
    if config.ca_cert or config.client_cert:
        options["tls"] = _tls(config)
    return options


def check_files(config: PublisherConfig) -> None:
    """See that the files which ``config`` names are there, and hold what they should.

    Raises:
        ConfigError: one doesn't.
    """
    _options(config)


def _read(file: str, what: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {what} {file} is no text") from error
    except OSError as error:
        raise ConfigError(f"the {what} {file} can't be read: {error.strerror}") from error


def _seed(lines: Iterable[str], file: str) -> str:
    """Return the first seed of a user among ``lines``."""
    try:
        import nkeys
    except ImportError as error:
        raise ConfigError(
            "nkeys and credentials files need the package nkeys",
            hint="pip install 'pgoutbox[nkeys]'",
        ) from error
    for line in lines:
        with suppress(nkeys.NkeysError, ValueError):
            if line.startswith("SU") and nkeys.from_seed(bytearray(line.encode())):
                return line
    raise ConfigError(f"{file} holds no seed of a user's nkey", hint="Such a seed begins with SU.")


_IN_CREDENTIALS = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+", re.I)


def _credentials(file: str) -> str:
    """Return the text of a credentials file as nats-py reads it, which hangs where there is no JWT.

    Written by ``nsc generate creds``; https://docs.nats.io has the format.
    """
    text = _read(file, "credentials file")
    jwt = _IN_CREDENTIALS.search(text)
    if jwt is None:
        raise ConfigError(f"the credentials file {file} holds no JWT of a user")
    seed = _seed(text.split(), file)
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt[1]}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _tls(config: PublisherConfig) -> ssl.SSLContext:
    if config.ca_cert:
        _read(config.ca_cert, "CA certificate")
    try:
        context = ssl.create_default_context(cafile=config.ca_cert)
    except ssl.SSLError as error:
        raise ConfigError(f"{config.ca_cert} holds no certificate in PEM") from error
    if config.client_cert and config.client_key:
        _read(config.client_cert, "client certificate")
        _read(config.client_key, "client key")
        _load_pair(context, config.client_cert, config.client_key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _Encrypted as error:
        raise ConfigError(
            f"the client key {key} is encrypted",
            hint="Store it without a passphrase, for the relay alone to read.",
        ) from error
    except ssl.SSLError as error:
        problem = (
            f"the client key {key} doesn't belong to the certificate {certificate}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"{certificate} and {key} aren't a certificate and its key in PEM"
        )
        raise ConfigError(problem) from error


class _Encrypted(Exception):
    """The key has a passphrase; OpenSSL itself would ask for it on the terminal."""


def _no_passphrase() -> NoReturn:
    raise _Encrypted


def _explain(failures: Mapping[str, Exception], config: PublisherConfig) -> PublishError:
    """Return why none of the servers, by their address, could be used, in one sentence."""
    servers: dict[str, list[str]] = {}
    hint = None
    for where, error in failures.items():
        reason, hint_here = _reason(error, config)
        servers.setdefault(reason, []).append(where)
        hint = hint or hint_here
    sentence = "; ".join(f"NATS at {', '.join(sorted(at))} {why}" for why, at in servers.items())
    return PublishError(sentence, hint=hint)


def _reason(error: Exception, config: PublisherConfig) -> tuple[str, str | None]:
    """Return what a server does instead of letting us in, and what to do about it."""
    text = words(error)
    match error:
        case _PlainServer():
            return (
                "doesn't offer TLS, and is not to be used without",
                "TLS is insisted on by --nats-tls, tls:// in the URL, and by naming certificates.",
            )
        case ssl.SSLCertVerificationError():
            return (
                f"has a certificate that can't be trusted: {error.verify_message}",
                "Its CA has to be in --nats-ca-cert, else among the system's,"
                " and its name has to be the one in the URL.",
            )
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            reason = str(error.reason).lower().partition("alert_")[2].replace("_", " ")
            return (
                f"refuses our certificate: {reason}",
                "Give a pair that the server's CA has signed and that is still valid:"
                " --nats-client-cert, --nats-client-key.",
            )
        case _ if re.search("authorization|authentication", text, re.I):
            return "doesn't let this user in", _about_credentials(config)
        case TimeoutError():
            return "doesn't answer", None
        case socket.gaierror():
            return "can't be found: there is no host of that name", None
    if isinstance(error, ConnectionRefusedError) or f"Errno {errno.ECONNREFUSED}" in text:
        return (
            "refuses connections: nothing listens there",
            "Check the NATS URL and that nats-server is running.",
        )
    return f"can't be used: {text}", None


def _about_credentials(config: PublisherConfig) -> str:
    if config.creds:
        return "Is the JWT in --nats-creds valid still, and its account known to the server?"
    if config.nkey:
        return "Is the public key that belongs to --nats-nkey among the server's users?"
    if config.client_cert:
        return "Is the subject of --nats-client-cert among the server's users?"
    return (
        "Check the user and password, or the token: in the NATS URL, or --nats-user and"
        " --nats-password, --nats-token."
    )


def words(error: BaseException) -> str:
    """Return an error of the client in words, without its prefix."""
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ").strip("'")
