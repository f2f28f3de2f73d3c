"""A TCP proxy that loses, alters, delays or holds back what passes, or cuts the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_WITH_PAYLOAD = (b"PUB ", b"HPUB ", b"MSG ", b"HMSG ")


class Proxy:
    """Stands between a client and a server on this machine.

    ``loses`` tells of each message of the NATS protocol, in either direction and with its
    payload, whether it gets lost. Without it bytes pass as they are, whatever the protocol.
    """

    def __init__(self, target: int, loses: Callable[[bytes], bool] | None) -> None:
        self._target = target
        self._loses = loses
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[asyncio.StreamWriter] = set()
        self.rate: float | None = None  # bytes a second, in each direction
        self.alters: Callable[[bytes], bytes] | None = None  # each piece, in each direction
        self.port = 0
        self.connections = 0
        self.lost = 0
        self.held = 0  # pieces that wait to be forwarded

    def stall(self) -> None:
        """Stop forwarding without a word to either side."""
        self._flows.clear()

    def flow(self) -> None:
        """Go on forwarding."""
        self._flows.set()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        ends = {writer, target_writer}
        self._open |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forward(reader, target_writer, ends))
                tasks.create_task(self._forward(target_reader, writer, ends))
        finally:
            for end in ends:
                end.transport.abort()
            self._open -= ends

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: set[asyncio.StreamWriter],
    ) -> None:
        rest = b""
        with suppress(OSError):
            while chunk := await reader.read(2**16 if self.rate is None else 2**12):
                self.held += 1
                await self._flows.wait()
                if self.rate is not None:
                    await asyncio.sleep(len(chunk) / self.rate)
                self.held -= 1
                if self._loses is None:
                    writer.write(self.alters(chunk) if self.alters else chunk)
                else:
                    frames, rest = _frames(rest + chunk)
                    writer.write(b"".join(frame for frame in frames if not self._is_lost(frame)))
                await writer.drain()
        for end in ends:
            end.transport.abort()

    def _is_lost(self, frame: bytes) -> bool:
        is_lost = frame.startswith(_WITH_PAYLOAD) and self._loses is not None and self._loses(frame)
        self.lost += is_lost
        return is_lost


def _frames(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Split what NATS sent into lines, each with its payload; return the incomplete rest too."""
    frames: list[bytes] = []
    start = 0
    while (end := buffer.find(b"\r\n", start)) >= 0:
        end += 2
        if buffer.startswith(_WITH_PAYLOAD, start):
            end += int(buffer[start : end - 2].rsplit(b" ", 1)[1]) + 2
        if end > len(buffer):
            break
        frames.append(buffer[start:end])
        start = end
    return frames, buffer[start:]


@asynccontextmanager
async def proxy(target: int, loses: Callable[[bytes], bool] | None = None) -> AsyncIterator[Proxy]:
    """Open a proxy for a port of this machine."""
    opened = Proxy(target, loses)
    before = asyncio.all_tasks()
    server = await asyncio.start_server(opened.serve, "127.0.0.1", 0)
    opened.port = server.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        server.close()
        opened.flow()
        opened.cut()
        left = {t for t in asyncio.all_tasks() - before if "Proxy.serve" in repr(t.get_coro())}
        if left:
            await asyncio.wait(left, timeout=2)


def port_of(url: str) -> int:
    """Return the port in a URL."""
    from urllib.parse import urlsplit

    port = urlsplit(url).port
    assert port is not None
    return port


def through(url: str, opened: Proxy) -> str:
    """Return the same URL, but through the proxy."""
    return url.replace(f":{port_of(url)}", f":{opened.port}")
