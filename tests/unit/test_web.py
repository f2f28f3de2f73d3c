"""The ports for probes and metrics: wal-listener's answers, and clients that mean no good."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from pgoutbox.demo.process import HOST, free_port
from pgoutbox.errors import ConfigError
from pgoutbox.monitoring import metrics, web
from pgoutbox.monitoring.monitor import Monitor
from pgoutbox.names import Address
from tests.support.commands import ROOT
from tests.support.http import ask, status
from tests.support.waiting import eventually

RECORDED: list[dict[str, Any]] = json.loads(
    (ROOT / "tests/conformance/meta/probes.json").read_text()
)

_LOWEST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@pytest.fixture
def monitor() -> Monitor:
    monitor = Monitor()
    monitor.stand_by()
    return monitor


@pytest.fixture
async def port(monitor: Monitor) -> AsyncIterator[int]:
    port = free_port()
    async with web.serving(Address(HOST, port), web.probes(monitor)):
        yield port


def _name(recorded: dict[str, Any]) -> str:
    return f"{recorded['method']} {recorded['path']} {recorded['status']}"


@pytest.mark.parametrize("recorded", RECORDED, ids=_name)
async def test_answer_is_wal_listeners(
    recorded: dict[str, Any], monitor: Monitor, port: int
) -> None:
    """But for the status of a relay that isn't ready, 503 where wal-listener says 500."""
    monitor.is_stopping = recorded["status"] == 500

    answer = await ask(port, recorded["path"], recorded["method"])

    assert answer.status == {500: 503}.get(recorded["status"], recorded["status"])
    assert answer.body == recorded["body"]
    assert recorded["headers"].items() <= answer.headers.items()


async def test_a_query_changes_nothing(port: int) -> None:
    assert await status(port, "/healthz?from=kubelet") == 200


async def _send(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"hello\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /healthz HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\xff\x00 \xff HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /ready HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", b"HTTP/1.1 405 Method Not"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n\r\n", b"HTTP/1.1 431 Request Header"),
    ],
)
async def test_odd_requests_get_an_answer(port: int, request_: bytes, said: bytes) -> None:
    assert (await _send(port, request_)).startswith(said)


async def test_an_answer_that_fails_is_a_500_and_no_news(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The library for metrics stumbles over a version that isn't a number."""
    port = free_port()
    async with web.serving(Address(HOST, port), {"/metrics": metrics.route(monitor)}):
        answer = await ask(port, "/metrics", accept="text/plain; version=x")

    assert (answer.status, answer.body) == (500, "500 Internal Server Error\n")
    gc.collect()  # when asyncio complains of a failure that nobody looked at
    assert {record.levelname for record in caplog.records} <= {"DEBUG"}


async def test_a_client_that_leaves_at_once_is_no_news(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(HOST, port)
    writer.transport.abort()

    assert await status(port, "/ready") == 200
    assert not caplog.records


async def test_a_silent_client_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_TIMEOUT", 0.1)
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET /healthz HT")

    assert await _ends(reader)
    writer.close()


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_many_silent_clients_keep_no_probe_from_its_answer(port: int) -> None:
    """The one that came first is cut off for the next."""
    clients = [await asyncio.open_connection(HOST, port) for _ in range(web._MAX_CLIENTS * 2)]

    assert await status(port, "/ready") == 200
    first, _ = clients[0]
    assert await _ends(first)
    for _, writer in clients:
        writer.transport.abort()


async def test_many_clients_that_read_no_answer_keep_no_probe_from_its_own(
    monitor: Monitor,
) -> None:
    port = free_port()
    large = web.Answer(HTTPStatus.OK, b"x" * 4_000_000, "text/plain")
    routes = {**web.probes(monitor), "/metrics": lambda _: large}
    async with web.serving(Address(HOST, port), routes):
        clients = [await asyncio.open_connection(HOST, port) for _ in range(web._MAX_CLIENTS * 2)]
        for reader, writer in clients:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")

        assert await status(port, "/ready") == 200
        for _, writer in clients:
            writer.transport.abort()


async def test_all_interfaces_are_ipv6s_too(monitor: Monitor) -> None:
    port = free_port()
    hosts = [HOST, "::1"] if _has_ipv6() else [HOST]
    async with web.serving(Address("", port), web.probes(monitor)):
        for host in hosts:
            assert (await ask(port, "/ready", host=host)).status == 200


@pytest.mark.parametrize("host", ["::1", "localhost"])
async def test_named_and_ipv6_hosts(monitor: Monitor, host: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    async with web.serving(Address(host, port), web.probes(monitor)):
        assert (await ask(port, "/ready", host=host)).status == 200


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("address", [Address("192.0.2.1", 8080), Address("no.such.host.test", 80)])
async def test_an_address_that_is_not_ours_is_refused(address: Address) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=f"can't listen at {address}: "):
            await stack.enter_async_context(web.serving(address, {}))


@pytest.mark.skipif(
    not _LOWEST_PORT.exists() or int(_LOWEST_PORT.read_text()) <= 80,
    reason="any user may listen on port 80 here",
)
async def test_a_port_that_takes_a_right_is_refused_with_a_way_out() -> None:
    """As in wal-listener's files, whose container ran as root."""
    with _as_an_ordinary_user(), pytest.raises(ConfigError, match="Permission denied") as refused:
        await AsyncExitStack().enter_async_context(web.serving(Address(HOST, 80), {}))

    assert "root or CAP_NET_BIND_SERVICE; give another" in str(refused.value.hint)


@contextmanager
def _as_an_ordinary_user() -> Iterator[None]:
    """Lay down root's rights, if we have them."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_nobody_answers_afterwards(monitor: Monitor) -> None:
    port = free_port()
    async with web.serving(Address(HOST, port), web.probes(monitor)):
        _, writer = await asyncio.open_connection(HOST, port)

    async def refuses() -> bool:
        try:
            await status(port, "/ready")
        except ConnectionRefusedError:
            return True
        return False

    await eventually(refuses)
    writer.transport.abort()
