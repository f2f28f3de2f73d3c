"""NATS key-value buckets as the tests see them, by a client's own API for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from tests.support.cluster import Database
from tests.support.nursery import Nursery, Relay


class Change(NamedTuple):
    """What a watcher sees: a row put under a key, or a marker (DEL, PURGE) without one."""

    operation: str
    key: str
    row: Any = None


class Bucket:
    """A bucket, which a relay makes."""

    def __init__(self, name: str, url: str, jetstream: JetStreamContext) -> None:
        self.name = name
        self.url = url
        self.jetstream = jetstream

    @property
    def stream_name(self) -> str:
        """The name of its stream."""
        return f"KV_{self.name}"

    async def store(self) -> KeyValue:
        """Return it as the client has it."""
        return await self.jetstream.key_value(self.name)

    async def rows(self) -> dict[str, Any]:
        """Return its values by their keys; none while there is no bucket."""
        return {
            entry.key: json.loads(entry.value or b"")
            for entry in await self.entries()
            if not entry.operation
        }

    async def entries(self, *, history: bool = False) -> list[KeyValue.Entry]:
        """Return its entries, markers included; with ``history`` the older ones of a key, too.

        They are read up to the stream's last message. The client says itself where the end is, but
        calls a full bucket empty where the server's answer that nothing is pending any more
        overtakes what it has sent.
        """
        try:
            state = (await self.jetstream.stream_info(self.stream_name)).state
        except NotFoundError:
            return []
        if not state.messages:
            return []
        watcher = await (await self.store()).watch(">", include_history=history)
        found: list[KeyValue.Entry] = []
        async for entry in watcher:
            if entry is not None:
                found.append(entry)
                if (entry.revision or 0) >= state.last_seq:
                    break
        await watcher.stop()  # type: ignore[no-untyped-call]
        return found

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[list[Change]]:
        """Watch it meanwhile; the list grows."""
        watcher = await (await self.store()).watchall()
        seen: list[Change] = []

        async def see() -> None:
            async for entry in watcher:
                if entry is not None:
                    row = json.loads(entry.value) if entry.value else None
                    seen.append(Change(entry.operation or "PUT", entry.key, row))

        seeing = asyncio.create_task(see())
        try:
            yield seen
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]
            await seeing


@dataclass
class Filler:
    """Relays that fill a bucket."""

    database: Database
    bucket: Bucket
    nursery: Nursery

    async def start(self, *flags: str, table: str = "users") -> Relay:
        """Start one; of several values of a flag the last counts."""
        where = ("--dsn", self.database.dsn, "--nats-url", self.bucket.url, "--name", "kv")
        return await self.nursery.start(
            "relay", "--kv", table, "--kv-bucket", self.bucket.name, *where, *flags
        )

    async def drain(self, *flags: str, table: str = "users", code: int = 0) -> str:
        """Let one publish what is unsent, and return what it said."""
        relay = await self.start("--drain", *flags, table=table)
        assert await relay.wait() == code, relay.output
        return relay.output
