"""Parked events, and what is left of them in the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from pgoutbox.messages.envelope import Envelope
from pgoutbox.messages.event import EMIT, EventNumber, Headers, Message
from pgoutbox.messages.formats import MessageFormat
from pgoutbox.outbox.careful import READ_FAILURES, is_of_an_event, reason_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


# A change that is flushed has all flushed that was visible before: the event, however it committed.
_BRIEFLY_AND_FLUSHED = "set local lock_timeout = '500ms'; set local synchronous_commit = local"
_NOT_INTO_BUCKETS = (
    "a bucket's key may have a newer value by now, which it would replace;"
    " run pgoutbox snapshot start for the table"
)


class Retry(NamedTuple):
    """A parked event that is to be published: its message, or why there is none."""

    id: str
    message: Message | str


class Parked:
    """What one relay has parked; each method may raise what the connection fails with."""

    def __init__(self, connection: Connection, relay: str, message_format: MessageFormat) -> None:
        self._connection = connection
        self._relay = relay
        self._format = message_format

    async def next_retry(self, envelope: Envelope, max_event_bytes: int) -> Retry | None:
        """Return the first event that is to be published again, by position; it is on disk.

        ``max_event_bytes`` is the size above which rows aren't read. None, too, while somebody
        has locked the table or the row: that must not hold up those that come next.
        """
        try:
            async with self._connection.transaction():
                await self._connection.execute(_BRIEFLY_AND_FLUSHED)
                row = await self._connection.fetchrow(_NEXT_RETRY, self._relay, max_event_bytes)
        except asyncpg.LockNotAvailableError:
            return None
        if row is None:
            return None
        if self._format.fills_bucket:
            return Retry(row["event_id"], _NOT_INTO_BUCKETS)
        if row["payload"] is not None:
            return Retry(row["event_id"], _message(row))
        if row["subject"] is not None:
            return Retry(row["event_id"], f"a payload of {row['bytes']} bytes is still too large")
        return Retry(row["event_id"], await self._composed(row, envelope, max_event_bytes))

    async def _composed(
        self, parked: asyncpg.Record, envelope: Envelope, max_event_bytes: int
    ) -> Message | str:
        """Return the message of an event that stands in the outbox, or why there is none."""
        try:
            rows = await self._connection.fetch(
                "select * from pgoutbox.parked_row($1, $2, $3, $4)",
                parked["position"],
                parked["seq"],
                self._format.needs_keys,
                max_event_bytes,
            )
        except READ_FAILURES as error:
            if not is_of_an_event(error):
                raise
            return reason_of(error)
        if not rows:
            return "its rows are gone"
        if not rows[0]["is_read"]:
            return f"{parked['bytes']} bytes of row data are still too large"
        number = EventNumber(parked["number"], parked["size"])
        return self._format.messages(rows, envelope, [number])[0]

    async def unpark(self, event_id: str) -> None:
        """Forget an event."""
        await self._connection.execute(_UNPARK, self._relay, event_id)
        await self._connection.execute("select pgoutbox.tidy_parked()")

    async def park_again(self, event_id: str, reason: str) -> None:
        """Leave an event parked, for another reason."""
        await self._connection.execute(_PARK_AGAIN, self._relay, event_id, reason)

    async def discard(self, retention: float) -> int:
        """Forget events that were parked longer ago than ``retention`` seconds; return how many."""
        found = await self._connection.fetch(_DISCARD, self._relay, retention)
        if found:
            await self._connection.execute("select pgoutbox.tidy_parked()")
        return len(found)


def _message(row: asyncpg.Record) -> Message:
    return Message(
        row["subject"],
        row["event_id"],
        row["payload"].encode(),
        _headers(row["headers"]),
        row["table_name"] or "",
        is_emitted=row["action"] == EMIT,
    )


def _headers(lines: str) -> Headers:
    pairs = (line.split(": ", 1) for line in lines.split("\r\n") if line)
    return tuple((name, value) for name, value in pairs)


# Where it changes no row, as somebody has dropped the event meanwhile, nothing is flushed.
_NEXT_RETRY = """
update pgoutbox.parked k set reason = k.reason
where k.relay = $1 and k.retries and k.event_id = (
    select f.event_id from pgoutbox.parked f
    where f.relay = $1 and f.retries
    order by f.position, f.seq limit 1)
returning
    k.event_id::text, k.position, k.seq, k.bytes, k.number, k.size, k.subject, k.headers,
    k.table_name, k.action, case when k.bytes <= $2 then k.payload end as payload
"""
_UNPARK = "delete from pgoutbox.parked where relay = $1 and event_id = $2::text::uuid"
_PARK_AGAIN = """
update pgoutbox.parked set retries = false, reason = $3
where relay = $1 and event_id = $2::text::uuid
"""
_DISCARD = """
delete from pgoutbox.parked k
where k.relay = $1
  and k.parked_at < pg_catalog.clock_timestamp() - $2::float8 * interval '1 second'
returning 1
"""
