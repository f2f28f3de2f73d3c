"""Parked events, for people: which there are, and publishing or discarding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from pgoutbox.database.tables import printable
from pgoutbox.errors import ConfigError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which parked events are meant; all of them without any condition.

    ``tables`` are names with their schema or without, letter by letter.
    """

    ids: Sequence[str] = ()
    relays: Sequence[str] = ()
    tables: Sequence[str] = ()
    since: datetime | None = None
    before: datetime | None = None

    @property
    def is_everything(self) -> bool:
        """Whether there is no condition."""
        return not (self.ids or self.relays or self.tables or self.since or self.before)

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the conditions in SQL take."""
        return (
            list(self.ids) or None,
            list(self.relays) or None,
            list(self.tables) or None,
            self.since,
            self.before,
        )


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event, without its data."""

    id: str
    relay: str
    position: int
    table: str | None  # None where its name can't be read
    action: str | None
    bytes: int
    parked_at: datetime
    reason: str
    will_be_published: bool  # by the relay, as soon as it runs
    is_message: bool  # kept as the message that it was, else as rows of the outbox


async def find(conn: Connection, choice: Choice) -> list[ParkedEvent]:
    """Return the parked events of a choice, in commit order."""
    try:
        rows = await conn.fetch(f"{_EVENTS} order by k.position, k.seq, k.relay", *choice.arguments)
    except asyncpg.PostgresError as error:
        if not _is_unreadable(error):
            raise
        nameless = _EVENTS.replace(_TABLE, "null")
        rows = await conn.fetch(
            f"{nameless} order by k.position, k.seq, k.relay", *choice.arguments
        )
    return [ParkedEvent(*row) for row in rows]


def _is_unreadable(error: asyncpg.PostgresError) -> bool:
    return isinstance(error, asyncpg.DataError)


async def content(conn: Connection, event_id: str) -> tuple[str, bytes]:
    """Return headers and content of a parked event: its message, or its rows as JSON.

    Raises:
        ConfigError: no such event is parked, or it can't be shown.
    """
    row = await conn.fetchrow(_CONTENT, event_id)
    if row is None:
        raise ConfigError(f"no event {event_id} is parked", hint="Run: pgoutbox parked list")
    if row["payload"] is not None:
        return row["headers"], row["payload"].encode()
    try:
        rows = await conn.fetchrow(
            "select new_row, old_row from pgoutbox.parked_row($1, $2, false, $3)",
            row["position"],
            row["seq"],
            2**62,
        )
    except asyncpg.PostgresError as error:
        if not _is_unreadable(error):
            raise
        raise ConfigError(f"the event can't be shown: {error}") from error
    if rows is None:
        raise ConfigError("the event's rows are gone")
    data, old = (rows[name] or b"{}" for name in ("new_row", "old_row"))
    return "", b'{"data":%b,"dataOld":%b}' % (data, old)


async def retry(conn: Connection, choice: Choice) -> int:
    """Have their relays publish the events of a choice; return how many."""
    async with conn.transaction():
        found = await conn.fetch(f"{_RETRY} returning 1", *choice.arguments)
        await conn.execute("select pg_catalog.pg_notify('pgoutbox', 'asked')")
    return len(found)


async def drop(conn: Connection, choice: Choice) -> int:
    """Discard the events of a choice; return how many."""
    async with conn.transaction():
        found = await conn.fetch(f"{_DROP} returning 1", *choice.arguments)
        await conn.execute("select pgoutbox.tidy_parked()")
    return len(found)


def line(event: ParkedEvent) -> tuple[str, ...]:
    """Return an event as cells of a table, for people."""
    reason = "will be published; " if event.will_be_published else ""
    return (
        event.id,
        f"{event.parked_at:%Y-%m-%d %H:%M:%S}",
        printable(event.relay),
        printable(event.table or "?"),
        (event.action or "?").lower(),
        f"{event.bytes:,}",
        printable(reason + event.reason),
    )


HEADER = ("event", "parked at (UTC)", "relay", "table", "action", "bytes", "reason")

_TABLE = "case when k.table_name <> '' then concat_ws('.', k.schema_name, k.table_name) end"
_CHOSEN = """
    ($1::text[] is null or k.event_id::text = any ($1))
    and ($2::text[] is null or k.relay = any ($2))
    and ($3::text[] is null
        or k.table_name = any ($3) or concat_ws('.', k.schema_name, k.table_name) = any ($3))
    and ($4::timestamptz is null or k.parked_at >= $4)
    and ($5::timestamptz is null or k.parked_at < $5)
"""
_EVENTS = f"""
select
    k.event_id::text, k.relay, k.position, {_TABLE}, k.action, k.bytes,
    k.parked_at, k.reason, k.retries, k.payload is not null
from pgoutbox.parked k
where {_CHOSEN}
"""  # noqa: S608 - ours
_CONTENT = """
select k.position, k.seq, k.headers, k.payload from pgoutbox.parked k
where k.event_id::text = $1 order by k.payload is null limit 1
"""
_RETRY = f"update pgoutbox.parked k set retries = true where {_CHOSEN}"  # noqa: S608 - ours
_DROP = f"delete from pgoutbox.parked k where {_CHOSEN}"  # noqa: S608 - ours
