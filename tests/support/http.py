"""A client for the ports that the relay answers on."""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass

from pgoutbox.demo.process import HOST


@dataclass(frozen=True, slots=True)
class Response:
    """What a port answered."""

    status: int
    headers: dict[str, str]
    body: str


async def ask(
    port: int,
    path: str,
    method: str = "GET",
    *,
    host: str = HOST,
    accept: str = "*/*",
    timeout: float = 10.0,
) -> Response:
    """Send one request."""
    return await asyncio.to_thread(_ask, host, port, path, method, accept, timeout)


def _ask(host: str, port: int, path: str, method: str, accept: str, timeout: float) -> Response:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read().decode())
    finally:
        connection.close()


async def status(port: int, path: str) -> int:
    """Return the status of an answer."""
    return (await ask(port, path)).status
