"""A scene for faults: writers, a relay, whoever watches, and the ledger that judges."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support import ledger
from tests.support.cluster import Database
from tests.support.nursery import Nursery, Relay
from tests.support.streams import Stream


@dataclass
class Scene:
    """What a test about a fault works on."""

    database: Database
    stream: Stream
    nursery: Nursery
    seed: int
    book: ledger.Book = field(default_factory=ledger.Book)
    flags: tuple[str, ...] = ("--poll-interval", "200ms", "--batch-events", "20", "--window", "45")
    nats_url: str | None = None  # where it isn't the stream's, such as a proxy's
    dsn: str | None = None
    env: dict[str, str] = field(default_factory=dict)  # of relays

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    async def relay(self, *flags: str) -> Relay:
        """Start a relay; ``flags`` win over the scene's."""
        return await self.nursery.start(*self.command(*flags), env=self.env)

    def command(self, *flags: str) -> list[str]:
        """Return the arguments with which a relay of the scene is started."""
        return [
            "relay",
            *("--dsn", self.dsn or self.database.dsn),
            *("--nats-url", self.nats_url or self.stream.url, "--topic", self.stream.topic),
            *self.flags,
            *flags,
        ]

    @contextlib.asynccontextmanager
    async def load(self, *, writers: int = 3, **options: object) -> AsyncIterator[None]:
        """Write for as long as the block lasts."""
        is_over = asyncio.Event()
        writing = asyncio.create_task(
            ledger.write(
                self.database,
                self.book,
                self.draw.randrange(2**32),
                writers=writers,
                is_over=is_over.is_set,
                **options,  # type: ignore[arg-type]
            )
        )
        try:
            yield
        finally:
            is_over.set()
            await writing

    async def commit(self, connection: asyncpg.Connection, change: str) -> None:
        """Commit a change in a transaction of its own, with its entry in the ledger."""
        label = self.book.label()
        self.book.issue(label)
        await connection.execute(f"{ledger.note(label)}; {change}")
        self.book.confirm(label)

    async def pause(self, shortest: float, longest: float) -> None:
        """Let things go on for a random time."""
        await asyncio.sleep(self.draw.uniform(shortest, longest))

    async def all_sent(self, *, timeout: float = 60.0) -> None:
        """Wait until the relay has nothing left to send."""
        await ledger.all_sent(self.database, timeout=timeout)

    async def check(self) -> int:
        """Check the stream against the ledger; return how many transactions it has."""
        count = await ledger.check(self.database, self.stream, self.book)
        print(f"{count} transactions")
        return count


class Watcher:
    """Sees everything that is published, also what the stream drops as a repeat."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.repeats = 0
        self.changed: list[str] = []

    @classmethod
    async def of(cls, client: Client, topic: str) -> Watcher:
        """Watch a topic."""
        watcher = cls()
        await client.subscribe(f"{topic}.>", cb=watcher._see)
        await client.flush()
        return watcher

    async def _see(self, message: Msg) -> None:
        name = (message.headers or {}).get("Nats-Msg-Id")
        if name is None:
            return
        known = self.payloads.setdefault(name, message.data)
        self.repeats += known is not message.data
        if known != message.data:
            self.changed.append(name)
