"""Answers GET and HEAD on a port, for probes and metrics; tells the relay's state and no more.

Runs in the relay's own event loop, so that a relay that hangs doesn't answer. A client gets one
answer a connection and a few seconds for it; of too many clients the one that came first goes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from pgoutbox.errors import ConfigError
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.names import Address

log = logging.getLogger("pgoutbox.monitoring")

_MAX_REQUEST = 8192  # bytes
_MAX_CLIENTS = 64
_TIMEOUT = 5.0  # seconds for request and answer


class Answer(NamedTuple):
    """What a client gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain"


Route = Callable[[str], Answer]  # gets what the client accepts


def probes(monitor: Monitor) -> dict[str, Route]:
    """Return what a supervisor asks, on wal-listener's paths and in its words, but for a pause."""

    def answer(is_good: bool, words: bytes = b"ok") -> Answer:
        if is_good:
            return Answer(HTTPStatus.OK, words)
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"failed")

    return {
        "/healthz": lambda _: answer(monitor.is_alive),
        "/ready": lambda _: answer(monitor.is_ready, b"paused" if monitor.is_paused else b"ok"),
    }


@asynccontextmanager
async def serving(address: Address, routes: Mapping[str, Route]) -> AsyncIterator[None]:
    """Answer on ``address`` by path.

    Raises:
        ConfigError: the address isn't to be had.

    """
    clients: dict[asyncio.Task[None], None] = {}

    def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(clients) >= _MAX_CLIENTS:
            next(iter(clients)).cancel()
        task = asyncio.create_task(_serve_client(reader, writer, routes))
        clients[task] = None
        task.add_done_callback(clients.pop)
        task.add_done_callback(lambda _: writer.transport.abort())

    try:
        listening = _listen(address)
    except OSError as error:
        raise ConfigError(
            f"can't listen at {address}: {error.strerror or error}",
            hint=_way_out(error),
        ) from error
    server = await asyncio.start_server(on_client, sock=listening, limit=_MAX_REQUEST)
    try:
        yield
    finally:
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def _way_out(error: OSError) -> str:
    another = "give another with --health-addr, --metrics-addr or listener.serverPort."
    if isinstance(error, PermissionError):
        return f"Ports below 1024 need root or CAP_NET_BIND_SERVICE; {another}"
    return f"Free that address, or {another}"


def _listen(address: Address) -> socket.socket:
    """Return a listening socket; of all interfaces IPv6's too, where there are any."""
    if not address.host:
        try:
            return socket.create_server(
                ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        except (OSError, ValueError) as error:  # no IPv6, or no sockets for both
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise
            return socket.create_server(("", address.port))
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return socket.create_server(place, family=family)


async def _serve_client(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, routes: Mapping[str, Route]
) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):  # a time-out is an OSError, too
        async with asyncio.timeout(_TIMEOUT):
            writer.write(await _answer(reader, routes))
            writer.write_eof()
            # An unread rest of the request would make the system drop the answer.
            while await reader.read(_MAX_REQUEST):
                pass


async def _answer(reader: asyncio.StreamReader, routes: Mapping[str, Route]) -> bytes:
    try:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        return _response(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), "GET")
    line, *fields = request.split("\r\n")
    try:
        method, target, version = line.split(" ")
    except ValueError:
        version = ""
    if not version.startswith("HTTP/1."):
        return _response(_refusal(HTTPStatus.BAD_REQUEST), "GET")
    route = routes.get(target.partition("?")[0])
    if route is None:
        return _response(_refusal(HTTPStatus.NOT_FOUND, "404 page not found"), method)
    if method not in ("GET", "HEAD"):
        return _response(_refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed"), method)
    try:
        return _response(route(_accepted(fields)), method)
    except Exception:  # maybe at each request, so no news for the log
        log.debug("no answer", extra={"path": target}, exc_info=True)
        return _response(_refusal(HTTPStatus.INTERNAL_SERVER_ERROR), method)


def _accepted(fields: list[str]) -> str:
    values = [field.partition(":")[2] for field in fields if field.lower().startswith("accept:")]
    return ",".join(values).strip()


def _refusal(status: HTTPStatus, words: str = "") -> Answer:
    body = f"{words or f'{status.value} {status.phrase}'}\n".encode()
    return Answer(status, body, "text/plain; charset=utf-8")


def _response(answer: Answer, method: str) -> bytes:
    status = answer.status
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        "X-Content-Type-Options: nosniff",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if method == "HEAD" else head + answer.body
