"""A relay that reads chunks of snapshots step by step, and what a consumer makes of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.event import Message
from pgoutbox.messages.formats import MessageFormat, format_of
from pgoutbox.outbox import snapshots
from pgoutbox.outbox.batch import Batch
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from pgoutbox.outbox.selection import Filter, Share
from pgoutbox.outbox.snapshots import Snapshots
from tests.conftest import Connect
from tests.support.leading import lead

ROWS = 3  # of a chunk, here


@dataclass
class Reading:
    """A relay's outbox, read batch by batch, and the table as a consumer has it.

    ``between`` happens after the events of a batch were read and before the chunk. The stream that
    the consumer reads drops repeats.
    """

    outbox: Outbox
    snapshots: Snapshots
    connection: asyncpg.Connection
    key: tuple[str, ...] = ("id",)
    progress: Progress = field(default_factory=Progress)
    copy: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    read: list[tuple[Any, ...]] = field(default_factory=list)  # keys of all READs
    ids: list[str] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)  # ids of messages
    between: Callable[[], Awaitable[object]] | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The consumer's rows, as :func:`rows_of` has the table's."""
        return sorted(self.copy.values(), key=str)

    async def step(self) -> Batch:
        """Read what comes next, apply it, and move the progress."""
        batch = await self.outbox.next_batch(self.progress)
        self.apply(batch)
        await self.outbox.begin(batch, self.progress, [])
        self.progress = batch.after
        await self.outbox.advance(self.progress)
        await self.look()
        return batch

    async def look(self) -> None:
        """Look for snapshots now."""
        self.snapshots._look_due = self.snapshots._chunk_due = 0.0
        await self.outbox.look_for_snapshots()

    async def to_the_end(self) -> None:
        """Read until nothing is left; not for ever."""
        for _ in range(200):
            if not await self.step() and self.outbox.snapshot_pause is None:
                return
        raise AssertionError("no end")

    def apply(self, batch: Batch) -> None:
        """Have the consumer apply what the stream stores of a batch."""
        for message in batch.messages:
            if message.id not in self.stored:
                self.stored.add(message.id)
                self._apply(message)

    def _apply(self, message: Message) -> None:
        load = json.loads(message.payload)
        old = tuple(load["dataOld"].get(name) for name in self.key)
        if load["action"] == "TRUNCATE":
            self.copy.clear()
        if load["action"] in ("UPDATE", "DELETE"):
            self.copy.pop(old, None)
        if load["data"]:
            new = tuple(load["data"][name] for name in self.key)
            self.copy[new] = load["data"]
            if load["action"] == "READ":
                self.read.append(new)
                self.ids.append(load["id"])


Open = Callable[..., Awaitable[Reading]]


@pytest.fixture
async def reading(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Lead a relay, whose chunks are small; ``key`` has the names of the table's key."""
    monkeypatch.setattr(snapshots, "_CHUNK_ROWS", ROWS)
    opened: list[asyncpg.Connection] = []

    async def open_one(
        *key: str, relay: str = "default", role: str | None = None, share: Share | None = None,
        wanted: Filter | None = None, batch_events: int = 100,
    ) -> Reading:  # fmt: skip
        connection = await (connect(role) if role else connect())
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin"):  # a relay's
            await connection.execute(f"set {setting} = off")
        reader = Snapshots(connection, _format_of, relay=relay, share=share, wanted=wanted)
        outbox = Outbox(
            connection, _format_of(None), relay=relay, batch_events=batch_events,
            batch_bytes=2**20, share=share, wanted=wanted, snapshots=reader,
        )  # fmt: skip
        found = Reading(outbox, reader, connection, key or ("id",))
        read = reader.read

        async def read_later(place: Any) -> Any:
            if found.between is not None:
                await found.between()
            return await read(place)

        reader.read = read_later  # type: ignore[method-assign]
        for former in opened:
            await former.execute("select pg_advisory_unlock_all()")
        opened.append(connection)
        found.progress = await lead(outbox, connection, relay)
        await found.look()
        return found

    return open_one


def _format_of(subject: str | None) -> MessageFormat:
    config = MessageConfig()
    return format_of(replace(config, subject=subject or config.subject), "app")


@pytest.fixture
async def begun(connection: asyncpg.Connection, reading: Open) -> Open:
    """Make ``t``, ask for a snapshot of it, with what is wished, and lead the relay that reads."""

    async def begin(
        rows: int = 10, columns: str = "id int primary key, v text", *key: str,
        batch_events: int = 100, **wishes: object,
    ) -> Reading:  # fmt: skip
        await make_table(connection, rows, columns)
        await ask(connection, "default", **wishes)
        return await reading(*key, batch_events=batch_events)

    return begin


async def make_table(
    connection: asyncpg.Connection, rows: int = 10, columns: str = "id int primary key, v text"
) -> None:
    """Make ``t``, with rows that have no events, and capture it."""
    await connection.execute(f"create table t ({columns})")
    if rows:
        await connection.execute(
            f"insert into t select n, 'v' || n from generate_series(1, {rows}) n"
        )
    await capture(connection)


async def capture(connection: asyncpg.Connection, table: str = "t") -> None:
    """Capture a table."""
    await connection.execute(
        f"set client_min_messages = warning; select pgoutbox.capture_table('{table}')"
    )


async def ask(connection: asyncpg.Connection, relay: str = "default", **wishes: object) -> None:
    """Ask a relay for a snapshot of ``t``; ``wishes`` are columns of ``pgoutbox.snapshot``."""
    names = ["relation", "table_name", "relay", *wishes]
    values = ["t", "t", relay, *wishes.values()]
    places = ", ".join(["$1::text::regclass", *(f"${n}" for n in range(2, len(values) + 1))])
    await connection.execute(
        f"insert into pgoutbox.snapshot (id, {', '.join(names)})"
        f" values (gen_random_uuid(), {places})",
        *values,
    )


async def rows_of(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the rows of ``t``."""
    rows = await connection.fetch("select row_to_json(t) as row from t")
    return sorted((json.loads(row["row"]) for row in rows), key=str)


async def outcome(connection: asyncpg.Connection) -> tuple[str, str]:
    """Return the snapshot's state, and its error or nothing."""
    row = await connection.fetchrow("select state, error from pgoutbox.snapshot")
    assert row is not None
    return row["state"], row["error"] or ""
