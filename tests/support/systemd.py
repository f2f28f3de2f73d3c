"""The end of the socket on which systemd listens to its services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Systemd:
    """The other end of the socket."""

    def __init__(self, channel: socket.socket, address: str) -> None:
        self.channel = channel
        self.address = address

    async def hears(self, line: str) -> None:
        """Wait for a line."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while line not in (await loop.sock_recv(self.channel, 4096)).decode().split("\n"):
                pass

    def heard(self) -> list[str]:
        """Return the lines that wait to be read."""
        lines: list[str] = []
        while True:
            try:
                lines += self.channel.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@contextmanager
def listening(path: Path | None) -> Iterator[Systemd]:
    """Listen at ``path``, or without one in Linux's abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        if path is None:
            channel.bind("")  # the kernel chooses a name
            yield Systemd(channel, "@" + channel.getsockname()[1:].decode())
        else:
            channel.bind(str(path))
            yield Systemd(channel, str(path))
