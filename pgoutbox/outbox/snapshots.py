"""Snapshots of tables: chunks of rows, read where the relay has read all that is unsent."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg

from pgoutbox.messages.envelope import Envelope, rfc3339
from pgoutbox.messages.event import SNAPSHOT_HEADER, Event, Message, Transaction
from pgoutbox.messages.formats import MessageFormat
from pgoutbox.outbox.progress import Place
from pgoutbox.outbox.selection import Filter, Share

log = logging.getLogger("pgoutbox.relay")

_CHUNK_ROWS = 1_000  # looked at; few enough that events don't wait for long
_CHUNK_BYTES = 2**20
_LOOK_AGAIN = 1.0  # seconds between looks for snapshots that are asked for, paused or cancelled
_RETRY = 0.2  # seconds after a chunk that couldn't be read, such as of a locked table
_ATTEMPTS = 5  # each in a snapshot of its own
_LOCKED = "55P03"
_OUTDATED = "P0K02"  # read_chunk()'s: altered since the transaction's snapshot
_NOT_OF_A_VALUE = (_LOCKED, _OUTDATED, "P0K01", "42P01", "42501", "57014")  # no key, no table, …


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was asked for, of one table; ``shard_key`` as :meth:`Share.key_of` returns it."""

    id: UUID
    relation: int
    schema: str
    table: str
    action: str
    subject: str | None
    rate: int | None  # rows a second
    place: Place
    shard_key: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a snapshot, as they are when all is sent that comes before them."""

    table: str
    size: int  # messages
    place: Place  # behind them
    has_own_subject: bool = False  # which may be one that no stream stores
    compose: Callable[[], Sequence[Message]] = tuple


class Snapshots:
    """Reads for one relay, which leads, what snapshots of tables it has been asked for.

    ``format_of`` returns the format for a template of subjects, or for None the relay's own.
    Every method may raise one of :data:`pgoutbox.database.connection.FAILURES`.
    """

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        format_of: Callable[[str | None], MessageFormat],
        *,
        relay: str,
        wanted: Filter | None = None,
        share: Share | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._format_of = format_of
        self._relay = relay
        self._wanted = wanted
        self._share = share
        self._clock = clock
        self._current: Snapshot | None = None
        self._look_due = 0.0
        self._chunk_due = 0.0
        self._failures: list[str] = []  # in a row
        self._envelope: Envelope

    def begin(self, envelope: Envelope) -> None:
        """Begin as the leader, whose messages have that envelope."""
        self._envelope = envelope
        self.leave()

    def leave(self) -> None:
        """Leave the snapshot that was read last: it is done, paused or cancelled."""
        self._current = None
        self._failures.clear()
        self._look_due = 0.0

    @property
    def pause(self) -> float | None:
        """For how many seconds no chunk is to be read; None where no snapshot is running."""
        return None if self._current is None else max(0.0, self._chunk_due - self._clock())

    def is_due(self, place: Place | None) -> bool:
        """Tell whether a chunk is to be read now, behind ``place``."""
        is_giving_up = len(self._failures) >= _ATTEMPTS
        return self.pause == 0.0 and not is_giving_up and not (place and self._is_at_end(place))

    def _is_at_end(self, place: Place) -> bool:
        return self._current is not None and place.snapshot == self._current.id and place.is_end

    def postpone(self) -> None:
        """Read the next chunk a little later."""
        self._chunk_due = self._clock() + _RETRY

    def fail(self, reason: str) -> None:
        """Have the next :meth:`look` note that the snapshot has failed."""
        self._failures = [reason] * _ATTEMPTS

    async def look(self) -> None:
        """Look now and then for what is asked for; the progress has been recorded."""
        before = self._current
        if before is not None and len(self._failures) >= _ATTEMPTS:
            await self._end(before, "failed", self._failures[-1])
            log.error("snapshot failed", extra={**_described(before), "reason": self._failures[-1]})
        elif self._clock() < self._look_due:
            return
        self._look_due = self._clock() + _LOOK_AGAIN
        self._current = await self._next()
        if self._current is not None and (before is None or before.id != self._current.id):
            self._failures.clear()
            self._chunk_due = 0.0
            log.info("snapshot begins", extra=_described(self._current))

    async def _next(self) -> Snapshot | None:
        while row := await self._connection.fetchrow(_NEXT, self._relay):
            found = _snapshot(row)
            if not self._is_wanted(found):
                await self._end(found, "done", None)
                continue
            if self._share is None:
                return found
            key = await self._share.key_of(self._connection, found.schema, found.table)
            return replace(found, shard_key=key)
        return None

    def _is_wanted(self, snapshot: Snapshot) -> bool:
        """Tell whether this relay publishes anything of the table: a READ is as an INSERT."""
        if self._wanted is not None and not self._wanted.has(snapshot.table, "INSERT"):
            return False
        return self._share is None or self._share.has(snapshot.schema, snapshot.table)

    async def read(self, place: Place | None) -> Chunk | None:
        """Read the next chunk, inside the transaction that has read the events before it.

        None where that isn't possible now.
        """
        snapshot = self._current
        assert snapshot is not None  # noqa: S101 - is_due() said so
        if place is None or place.snapshot != snapshot.id:
            place = snapshot.place
        try:
            rows = await self._rows(snapshot, place)
        except asyncpg.PostgresError as error:
            if self._connection.is_closed():
                raise
            if error.sqlstate not in (_LOCKED, _OUTDATED):
                self._failures.append(str(error))
            log.debug("chunk not read", extra={**_described(snapshot), "reason": str(error)})
            self.postpone()
            return None
        self._failures.clear()
        *rows, end = rows
        self._chunk_due = self._clock() + (len(rows) / snapshot.rate if snapshot.rate else 0.0)
        return self._chunk(snapshot, place, rows, end)

    async def _rows(self, snapshot: Snapshot, place: Place) -> list[asyncpg.Record]:
        """Read rows; one by one where some value can't be rendered."""
        try:
            return await self._try(snapshot, place, slowly=False)
        except asyncpg.PostgresError as error:
            if self._connection.is_closed() or error.sqlstate in _NOT_OF_A_VALUE:
                raise
            return await self._try(snapshot, place, slowly=True)

    async def _try(self, snapshot: Snapshot, place: Place, *, slowly: bool) -> list[asyncpg.Record]:
        shard = self._share.shard if self._share else (1, 1)
        async with self._connection.transaction():
            return await self._connection.fetch(
                _READ_CHUNK,
                snapshot.id,
                self._relay,
                place.at,
                min(_CHUNK_ROWS, max(1, (snapshot.rate or 2**31) // 10)),
                _CHUNK_BYTES,
                slowly,
                self._format_of(snapshot.subject).needs_keys,
                snapshot.shard_key,
                *shard,
            )

    def _chunk(
        self,
        snapshot: Snapshot,
        before: Place,
        rows: Sequence[asyncpg.Record],
        end: asyncpg.Record,
    ) -> Chunk:
        at = json.loads(end["next_place"])
        place = Place(
            snapshot.id,
            end["next_place"],
            before.chunk + bool(rows),
            before.rows + len(rows),
            bool(at.get("is_end")),
        )
        # Whoever knows no other word than INSERT would take a mark without a row for one, and an
        # entry of a bucket has a key.
        needs_mark = snapshot.action == "READ" and not self._format_of(None).fills_bucket
        is_mark = place.is_end and not rows and needs_mark

        def compose() -> Sequence[Message]:
            position = f"{snapshot.id}; chunk={place.chunk}; rows={len(rows)}"
            found: Sequence[Any] = rows or [_MARK]
            return self._messages(snapshot, found, position, place, end["read_at"])

        if rows or is_mark:
            has_own_subject = snapshot.subject is not None
            return Chunk(snapshot.table, len(rows) or 1, place, has_own_subject, compose)
        return Chunk(snapshot.table, 0, place)

    def _messages(
        self,
        snapshot: Snapshot,
        rows: Sequence[Mapping[str, Any]],
        position: str,
        place: Place,
        read_at: datetime,
    ) -> list[Message]:
        message_format = self._format_of(snapshot.subject)
        transaction = Transaction(0, 0, rfc3339(read_at), None)
        names = (snapshot.schema, snapshot.table, snapshot.action)
        round_of = json.loads(place.at or "{}").get("round")
        found = []
        for number, row in enumerate(rows, 1):
            # A repeat of the row would be dropped, and the end with it: so that has its own id.
            last = ("last",) if place.is_end and number == len(rows) else ()
            event_id = _id(snapshot.id, round_of, (*row["own"], *last))
            payload = self._envelope.of_row(event_id, names, row["data"], transaction.time)
            event = Event(event_id, *names, row["key"], payload, transaction, 0, row=row["data"])
            message = message_format.message(event)
            header = (SNAPSHOT_HEADER, "; ".join((position, *last)))
            found.append(message._replace(headers=(*message.headers, header)))
        return found

    async def _end(self, snapshot: Snapshot, state: str, error: str | None) -> None:
        await self._connection.execute(_END, snapshot.id, self._relay, state, error)


# Of what has no row.
_MARK: Mapping[str, Any] = {"own": [], "key": None, "data": b"{}"}

_NEXT = """
select s.*, s.relation::oid::bigint as oid, n.nspname as schema, c.relname as "table"
from pgoutbox.snapshot s
left join pg_catalog.pg_class c on c.oid = s.relation
left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where s.relay = $1 and s.state in ('waiting', 'running')
order by s.asked_at, s.id
limit 1
"""

_END = """
update pgoutbox.snapshot
set state = $3, error = $4, ended_at = pg_catalog.clock_timestamp()
where id = $1 and relay = $2 and state in ('waiting', 'running')
"""

_READ_CHUNK = "select * from pgoutbox.read_chunk($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


def _snapshot(row: asyncpg.Record) -> Snapshot:
    return Snapshot(
        id=row["id"],
        relation=row["oid"],
        schema=row["schema"] or "",
        table=row["table"] or row["table_name"],
        action=row["action"],
        subject=row["subject"],
        rate=row["rate"],
        place=Place(row["id"], row["place"], row["chunk"], row["rows"]),
    )


def _described(snapshot: Snapshot) -> dict[str, object]:
    return {"snapshot": str(snapshot.id), "table": f"{snapshot.schema}.{snapshot.table}"}


def _id(snapshot: UUID, round_of: int, own: Sequence[str]) -> str:
    """Return a row's id, a UUID of version 8 (RFC 9562): the same when it is read again.

    ``own`` tells the row apart; ``round_of`` counts how often the snapshot began again.
    """
    text = json.dumps([round_of, *own]).encode("utf-8", "surrogatepass")
    digits = sha256(snapshot.bytes + text).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
