"""From a committed transaction to the messages in the stream, on an embedded nats-server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
from nats.js.errors import NotFoundError

from pgoutbox.demo.nats_server import NatsServer
from pgoutbox.errors import PgoutboxError


@dataclass(frozen=True)
class Published:
    """A message in the stream."""

    subject: str
    headers: dict[str, str]
    payload: dict[str, Any]


class EmbeddedNats:
    """A nats-server with JetStream, and a relay that drains into it when it is told to."""

    def __init__(self, server: NatsServer) -> None:
        self.url = server.url
        self._seen: dict[str, int] = {}  # the last sequence, by stream

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[EmbeddedNats]:
        """Start a server whose files are in ``folder``, and stop it at the end.

        Raises:
            PgoutboxError: the extra ``demo`` isn't installed, or the server doesn't start.

        """
        with NatsServer(folder) as server:
            yield cls(server)

    def relay(self, dsn: str, *flags: str, stream: str = "wal_listener") -> list[Published]:
        """Publish what is unsent in a database, and return the messages that this stored.

        Args:
            dsn: the database's address, whose role may relay (``install --grant-relay``).
            flags: more flags of ``pgoutbox relay``, such as ``--headers``.
            stream: the stream, named like the topic.

        Raises:
            PgoutboxError: the relay failed; the error has what it printed.

        """
        command = [sys.executable, "-m", "pgoutbox", "relay", "--drain", *flags]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PGOUTBOX_", "WAL_", "PG", "NATS_", "DATABASE_URL"))
        }
        environment |= {"PGOUTBOX_DSN": dsn, "PGOUTBOX_NATS_URL": self.url}
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PgoutboxError(f"the relay ended with {done.returncode}:\n{done.stderr}")
        return self._new_messages(stream)

    def _new_messages(self, stream: str) -> list[Published]:
        """Read the stream, in a thread of its own: the test may have an event loop."""
        found: list[Published] = []
        thread = threading.Thread(target=lambda: found.extend(asyncio.run(self._read(stream))))
        thread.start()
        thread.join()
        return found

    async def _read(self, stream: str) -> list[Published]:
        client = await nats.connect(self.url)
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(stream)).state
            begin = max(state.first_seq, self._seen.get(stream, 0) + 1)
            self._seen[stream] = state.last_seq
            stored = [await jetstream.get_msg(stream, n) for n in range(begin, state.last_seq + 1)]
        except NotFoundError:  # nothing was ever published
            return []
        finally:
            await client.close()
        return [
            Published(one.subject or "", dict(one.headers or {}), json.loads(one.data or b"{}"))
            for one in stored
        ]
