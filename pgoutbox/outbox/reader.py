"""The outbox as a relay sees it: what comes next, and what has been sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from uuid import UUID

import asyncpg

from pgoutbox.database import pauses
from pgoutbox.database.pauses import Pause
from pgoutbox.errors import ConfigError, LeadershipLost
from pgoutbox.messages.envelope import Envelope, commit_time, xid_of
from pgoutbox.messages.event import EventNumber, LastStored, Message
from pgoutbox.messages.formats import MessageFormat
from pgoutbox.messages.headers import header_lines
from pgoutbox.names import TableName
from pgoutbox.outbox import queries, resends
from pgoutbox.outbox.batch import Batch, Withheld
from pgoutbox.outbox.careful import CarefulReader, Reading
from pgoutbox.outbox.disk import Disk, Sight
from pgoutbox.outbox.marks import Mark, Marks, from_json, to_json
from pgoutbox.outbox.numbering import Numbering
from pgoutbox.outbox.parked import Parked, Retry
from pgoutbox.outbox.progress import Gap, Key, Place, Progress
from pgoutbox.outbox.progress_row import OutboxId, ProgressRow
from pgoutbox.outbox.resends import Resend, Some
from pgoutbox.outbox.selection import Filter, Share
from pgoutbox.outbox.snapshots import Snapshots
from pgoutbox.outbox.upkeep import Upkeep

_NOTHING_ABOVE = 2**63 - 2  # as the position behind which is read
_NO_ROWS = -1  # as the size above which an event's rows aren't read

_MOST_EVENTS = 100_000  # in a batch, those that are passed over included

# By how many bytes an event as it is stored may be larger than as it is published: a time stamp is
# some longer. UTF-8 may take half of what another encoding takes.
_STORED_MORE = 65_536
_ENCODINGS_OF_UTF8 = ("UTF8", "SQL_ASCII")


class Outbox:
    """Reads unsent events and keeps the progress of one relay; for its leader only.

    Every method may raise one of :data:`pgoutbox.database.connection.FAILURES` when the
    connection or the server fails.
    """

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        message_format: MessageFormat,
        *,
        relay: str,
        batch_events: int,
        batch_bytes: int,
        wanted: Filter | None = None,
        share: Share | None = None,
        until: int | None = None,
        query_timeout: float = 60.0,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._connection = connection
        self._snapshots = snapshots
        self._was_full = False  # the last batch
        self._format = message_format
        self._wanted = wanted
        self._share = share
        self._until = until  # the last position to read
        self._query_timeout = query_timeout  # seconds
        self._query = queries.READ
        self._flags: tuple[bool, ...] = ()  # what else the query asks for
        self._fills_bucket = message_format.fills_bucket
        needs_keys = message_format.needs_keys
        needs_more = message_format.needs_numbers or message_format.needs_context
        if share is not None or needs_keys or needs_more:
            self._query = queries.READ_DESCRIBED if share is None else queries.READ_SHARE
            self._flags = (needs_keys,)
        if self._fills_bucket:
            self._query = queries.READ_BUCKET
        self._numbering = Numbering(connection)
        self._relay = relay
        # Events that are passed over hardly cost memory, and few of them make a small batch.
        self._reader = CarefulReader(
            min(batch_events * (share.parts if share else 1), _MOST_EVENTS)
        )
        self._parked = Parked(connection, relay, message_format)
        self._stream = ""  # that is published into
        self._max_event_bytes = _NOTHING_ABOVE  # as they are stored
        self._is_utf8 = True  # what is stored
        self._batch_bytes = batch_bytes
        self._leadership: UUID | None = None
        self._row = ProgressRow(connection, relay)
        self._method: str | None = None  # as noted in the database
        self._envelope: Envelope
        self._said: dict[str, str | None] = {}  # by query; not what the leader before has said
        # Progress after each batch in flight, as noted in the database, and what of an earlier
        # leader's note, or that of an attempt which failed, is to be finished first.
        self._plan: tuple[Progress, ...] = ()
        self._replay: tuple[Progress, ...] = ()
        self._saved_place: Place | None = None
        self._has_asked = False  # who of the noted holders is left, since it leads
        self._noted: Progress | None = None  # the last one with which holders were noted
        self._ended: Sequence[int] = ()  # of the holders, by the snapshot of the last read
        self._sight = Sight(None, 0)  # of that read
        self._disk = Disk(connection)
        self._confirmed: Callable[[], LastStored | None] = lambda: None
        self._recorded = Progress()  # as in the database
        self._recorded_at = 0.0  # of the monotonic clock
        self.last_stored: LastStored | None = None  # as recorded with the progress
        self.marks = Marks(connection, relay)
        self.upkeep = Upkeep(connection, relay)

    async def take_over(self, leadership: UUID) -> Progress:
        """Take over the relay's progress, and return it.

        ``leadership`` is what ``pgoutbox.lead`` has returned to another session of this relay.

        Raises:
            LeadershipLost: it is over already.
            OutboxReplaced: there is no installation; a restore has just begun.
            ConfigError: the progress goes beyond the last position to read, or that one beyond the
                outbox.

        """
        await self._row.take(leadership)
        self._leadership = leadership
        self._envelope = Envelope(self._row.outbox.installation)
        encoding = await self._connection.fetchval("select pg_catalog.getdatabaseencoding()")
        self._is_utf8 = encoding in _ENCODINGS_OF_UTF8
        await self._disk.look()
        self._plan = self._replay = self._row.plan
        progress = self._row.progress
        self._saved_place = None
        self._recorded = progress
        self._has_asked = False
        if self._snapshots is not None:
            self._snapshots.begin(self._envelope)
        self.last_stored = from_json(self._row.last_stored)
        self._check_end(progress)
        await self._check_until()
        return progress

    @property
    def identity(self) -> OutboxId:
        """Which outbox it is that this relay leads."""
        return self._row.outbox

    def _check_end(self, progress: Progress) -> None:
        """Make sure that nothing beyond the last position has been read, or published perhaps."""
        ends = [progress, *self._plan]
        reached = max(max(end.high, end.partial.position if end.partial else 0) for end in ends)
        if self._until is not None and reached > self._until:
            raise ConfigError(
                f"the relay {self._relay!r} is at position {reached} already,"
                f" beyond --until {self._until}"
            )

    async def _check_until(self) -> None:
        """Make sure that the last position to read has been drawn: else nobody may ever fill it."""
        if self._until is None:
            return
        last = await self._connection.fetchval(
            "select case when is_called then last_value else 0 end from pgoutbox.position_seq"
        )
        if self._until > last:
            raise ConfigError(
                f"--until {self._until} is beyond the outbox, whose last position is {last}",
                hint="Leave --until out to publish all that is unsent.",
            )

    async def take_share(self, share: str) -> str | None:
        """Note what this relay publishes; return what it published before if that was other."""
        before = self._row.share
        if before == share:
            return None
        await self._row.note_share(share)
        return before if self._row.progress.high else None

    async def emits(self) -> bool:
        """Return True if a role may emit events of its own."""
        return bool(await self._connection.fetchval("select emits from pgoutbox.installation"))

    async def note_method(self, method: str) -> None:
        """Note how this relay publishes, for people who look at its status."""
        if method != self._method:
            await self._row.note_method(method)
            self._method = method

    async def note_error(self, error: str | None) -> None:
        """Note why nothing is published, for people who look at the status; None once it is."""
        await self._say(queries.NOTE_ERROR, queries.CLEAR_ERROR, error)

    async def note_polling(self, reason: str | None) -> None:
        """Note why notifications don't arrive; None once they do."""
        await self._say(queries.NOTE_POLLING, queries.CLEAR_POLLING, reason)

    async def _say(self, note: str, clear: str, reason: str | None) -> None:
        if self._said.get(note, "") != reason:
            self._said[note] = reason
            if reason is None:
                await self._connection.execute(clear, self._relay)
            else:
                await self._connection.execute(note, self._relay, reason)

    async def pause(self) -> Pause | None:
        """Return what is known of this relay's pause; None where it isn't paused."""
        return await pauses.find(self._connection, self._relay)

    async def next_resend(self) -> Resend | None:
        """Return the oldest request for sent events that isn't done; None where there is none."""
        row = await self._connection.fetchrow(resends.NEXT, self._relay)
        if row is None:
            return None
        done = Key(row["done_position"], row["done_seq"])
        return Resend(row["number"], row["events"], row["sent"], done)

    async def read_again(self, request: Resend) -> Some:
        """Return the next part of what a request asks for.

        What has left the outbox meanwhile is left out.
        """
        number = request.number
        reach = await self._connection.fetchval(resends.REACH, number)
        if reach is None:
            return Some((), request.done, is_end=True)
        rows = await self._connection.fetch(resends.KEYS, number, reach, resends.PART)
        keys = [Key(*row) for row in rows]
        messages, last = await self._messages_at(keys)
        await self._disk.force(resends.TOUCH, number)
        is_whole = len(keys) < resends.PART and (not keys or last >= keys[-1])
        done = Key(reach, 2**63 - 1) if is_whole else last
        return Some([resends.again(one, number) for one in messages], done, is_end=False)

    async def _messages_at(self, keys: Sequence[Key]) -> tuple[list[Message], Key]:
        """Return what this relay publishes for events, and up to which of ``keys`` that is.

        It stops once they have the bytes of a batch. Events that are gone, or that this relay
        passes over, are left out.
        """
        messages: list[Message] = []
        wanted = set(keys)
        at = keys[0]._replace(seq=keys[0].seq - 1) if keys else Key(0, 0)
        size = 0
        while keys and at < keys[-1] and size < self._batch_bytes:
            rest = sorted({key.position for key in keys if key.position > at.position})
            gaps = tuple(Gap(position, position) for position in rest)
            batch = await self._read(Progress(partial=at), _NOTHING_ABOVE, gaps)
            found = zip(batch.keys, batch.messages, strict=True)
            some = [message for key, message in found if key in wanted]
            size += sum(len(message.payload) for message in some)
            messages += some
            at = min(batch.passed[-1], keys[-1]) if batch else keys[-1]
        return messages, at

    async def note_resent(self, request: Resend, some: Some, sent: int) -> None:
        """Record that a part was sent again.

        Raises:
            LeadershipLost: another relay of the same name has taken over.
        """
        noted = await self._connection.fetchval(
            resends.NOTE, request.number, self._leadership, *some.done, sent, some.is_end
        )
        if noted is None:
            raise self._lost()

    async def next_batch(self, before: Progress) -> Batch:
        """Return what comes after ``before``, which is this relay's progress or will be.

        While a plan is left from an earlier leader, or from an attempt that failed, only events
        of that plan are returned, one planned batch after another: in the same order as the first
        time, so that nothing that became visible since gets into the middle of a transaction.
        """
        before = await self.noting_holders(before)
        while self._replay:
            batch = await self._read(before, _NOTHING_ABOVE, before.towards(self._replay[0]))
            if batch:
                return batch
            self._replay = self._replay[1:]
        if self._until is not None:
            rest = Gap(before.high + 1, self._until)
            return await self._read(before, _NOTHING_ABOVE, (*before.gaps, rest))
        found: Batch | None = None
        if self._snapshots and self._snapshots.is_due(before.place) and not self._was_full:
            found = await self._with_chunk(before, self._snapshots)
        if found is None:
            found = await self._read(before, before.high, before.gaps)
        self._was_full = found.is_full
        return found

    async def _with_chunk(self, before: Progress, snapshots: Snapshots) -> Batch | None:
        """Read with one snapshot of the database what is unsent, and a chunk if that is all of it.

        Then all that the chunk shows is sent before it, and everything else comes behind it. None
        where another transaction was in the way.
        """
        try:
            async with self._connection.transaction(isolation="repeatable_read"):
                await self._connection.execute(queries.BRIEFLY)
                batch = await self._read(before, before.high, before.gaps)
                chunk = None if batch.is_full else await snapshots.read(before.place)
        except (
            asyncpg.SerializationError,
            asyncpg.QueryCanceledError,
            asyncpg.InFailedSQLTransactionError,
        ):
            # A share was decided by somebody else, it took too long, or an event can't be read.
            snapshots.postpone()
            return None
        return batch if chunk is None else batch.with_chunk(chunk, self._sight)

    def limit_events(self, max_payload: int) -> None:
        """Read no rows of an event that can't but exceed ``max_payload`` bytes as a message.

        A bucket gets one of the two rows that an UPDATE has, and none of a DELETE's.
        """
        times = (1 if self._is_utf8 else 2) * (2 if self._fills_bucket else 1)
        self._max_event_bytes = max_payload * times + _STORED_MORE

    async def noting_holders(self, before: Progress) -> Progress:
        """Return ``before`` with those noted who may fill gaps, if any isn't settled yet.

        **The order matters.** Holders are asked for after the read that missed a position, and
        before the snapshot of the next one is taken. The locks that tell them are live, a snapshot
        isn't: asked for inside the snapshot, a transaction that has ended meanwhile would count
        as gone, and the snapshot not show it. Whoever reads in a transaction of REPEATABLE READ
        calls this before that begins; then everything that is visible in the snapshot is returned
        by a read there which isn't full. For what it has returned last it needn't ask again.
        """
        is_known = not before.has_unsettled_gap and (self._has_asked or not before.gaps)
        if is_known or before is self._noted:
            return before
        found = await self._connection.fetch("select xid::text, upto from pgoutbox.gap_holders()")
        self._has_asked = True
        self._noted = before.noting({int(row["xid"]): row["upto"] for row in found})
        return self._noted

    async def _reading(self, before: Progress, high: int, gaps: Sequence[Gap]) -> Reading:
        """Read; again where there is a table of which it is yet to be decided who publishes it."""
        reading = await self._fetch(before, high, gaps)
        while self._share is not None:
            unknown = {
                (row["schema_name"], row["table_name"])
                for row in reading.rows
                if row["action"] is None and row["schema_name"] is not None
            }
            if not unknown:
                break
            await self._share.decide(self._connection, sorted(unknown))
            reading = await self._fetch(before, high, gaps)
        return reading

    async def _fetch(self, before: Progress, high: int, gaps: Sequence[Gap]) -> Reading:
        gone = (holder.since for holder in before.holders if holder.is_gone)
        unsent = (
            before.settled,
            [holder.xid for holder in before.holders],
            [holder.since for holder in before.holders],
            0 if self._replay else min(gone, default=None),
            high,
            [gap.first for gap in gaps],
            [gap.last for gap in gaps],
            *(before.partial or (None, None)),
        )
        share = self._share

        async def ask(limit: int, max_event_bytes: int) -> list[asyncpg.Record]:
            return await self._ask(
                self._query,
                *unsent,
                limit,
                self._batch_bytes,
                max_event_bytes,
                *self._flags,
                *(share.arguments if share else ()),
            )

        async def ask_for_key() -> list[asyncpg.Record]:
            has_it = share is None or share.has_unnamed
            return await self._ask(queries.READ_KEY, *unsent, has_it)

        return await self._reader.read(
            lambda limit: ask(limit, self._max_event_bytes),
            [lambda: ask(1, _NO_ROWS), ask_for_key],
        )

    async def _ask(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await self._row.ask(
            lambda: self._connection.fetch(query, *arguments, self._disk.tells, *self._row.known)
        )
        self._ended = rows[0]["ended"] or ()
        self._sight = Sight(rows[0]["written"], rows[0]["ended_below"])
        return rows if rows[0]["position"] is not None else []

    async def _read(self, before: Progress, high: int, gaps: Sequence[Gap]) -> Batch:
        reading = await self._reading(before, high, gaps)
        rows = reading.rows
        keys = [Key(row["position"], row["seq"]) for row in rows]
        last = rows[-1] if rows else None
        is_full = last is not None and (reading.is_full or last["is_full"])
        is_cut = is_full and not (last and last["is_last"])
        if not self._replay:
            before = before.settle(keys, self._ended, is_full=is_full)
        has_long_transaction = len({key.position for key in keys}) < len(keys)
        passed = keys
        numbers: list[EventNumber] = []
        if self._format.needs_numbers:
            numbers = await self._numbering.of(keys, before.partial, is_cut=is_cut)
        if self._wanted is not None or self._share is not None:
            wanted = [index for index, row in enumerate(rows) if self._is_wanted(row)]
            rows, keys, numbers = _only(wanted, rows, keys, numbers)
        oldest = commit_time(rows[0]["id_source"]) if rows else None
        is_unflushed = self._disk.lacks(self._sight, (xid_of(row["id_source"]) for row in rows))
        withheld: list[Withheld] = []
        if not all(row["is_read"] for row in rows):
            read = [index for index, row in enumerate(rows) if row["is_read"]]
            unread = sorted(set(range(len(rows))).difference(read))
            withheld = self._withheld(*_only(unread, rows, keys, numbers), reading.error)
            rows, keys, numbers = _only(read, rows, keys, numbers)
        return Batch(
            compose=partial(self._format.messages, rows, self._envelope, numbers),
            keys=keys,
            before=before,
            after=before.after(passed, is_cut=is_cut),
            is_full=is_full,
            is_replay=bool(self._replay),
            has_long_transaction=has_long_transaction or is_cut or before.partial is not None,
            unflushed=self._sight if is_unflushed else None,
            oldest=oldest,
            passed=passed,
            withheld=withheld,
        )

    def _withheld(
        self,
        rows: Sequence[asyncpg.Record],
        keys: Sequence[Key],
        numbers: Sequence[EventNumber],
        error: str | None,
    ) -> list[Withheld]:
        named = [
            (*key, "", "", "", None, None, row["id_source"])
            for key, row in zip(keys, rows, strict=True)
        ]
        ids = [event.id for event in self._envelope.around(named)]
        each = zip(keys, ids, rows, numbers or repeat(EventNumber(0, 0)), strict=False)
        return [Withheld(key, id_, row["bytes"], number, error) for key, id_, row, number in each]

    def _is_wanted(self, row: asyncpg.Record) -> bool:
        action = row["action"]
        is_in_share = action is not None
        return is_in_share and (
            self._wanted is None or self._wanted.passes(row["table_name"], action)
        )

    @property
    def snapshot_pause(self) -> float | None:
        """For how many seconds no chunk of a snapshot is due; None where no snapshot runs."""
        return self._snapshots.pause if self._snapshots is not None else None

    async def look_for_snapshots(self) -> None:
        """Look now and then for snapshots to begin with; all that is sent has been recorded."""
        if self._snapshots is not None and self._until is None:
            await self._snapshots.look()

    async def ask_for_rows(self, table: TableName) -> UUID | None:
        """Ask for a snapshot of a table; return its id, None if there is no need for another."""
        asked: UUID | None = await self._connection.fetchval(
            "select pgoutbox.ask_for_rows($1, $2, $3)", self._relay, *table
        )
        return asked

    def fail_snapshot(self, reason: str) -> None:
        """Give up the snapshot of which a chunk was read last."""
        if self._snapshots is not None:
            self._snapshots.fail(reason)

    async def begin(self, batch: Batch, progress: Progress, in_flight: Sequence[Batch]) -> None:
        """Make sure that ``batch`` can be published behind those ``in_flight``.

        Notes how it goes on from ``progress`` if a restart could tear one of its transactions, and
        waits until all that it holds is on PostgreSQL's disk. Where a gap is open the note is, too:
        without it, what fills the gap would be published first after a crash of PostgreSQL.

        Raises:
            LeadershipLost: another relay of the same name has taken over.
        """
        plan = self._plan_of((*in_flight, batch))
        is_news = plan[-1:] not in ((), self._plan[-1:])
        flush = is_news and batch.after.has_gap
        if batch.unflushed is not None and not flush:
            messages = batch.messages  # put together now, while others' commits flush the log
            count = max(len(batch.passed), len(messages))
            flush = not await self._disk.flushes(batch.unflushed, count)
        if is_news or flush:
            await self._write(progress, plan, flush=flush)
        if batch.unflushed is not None and flush:
            self._disk.keeps(batch.unflushed)

    async def advance(self, progress: Progress, in_flight: Sequence[Batch] = ()) -> None:
        """Move the progress to ``progress``, with the batches ``in_flight`` beyond it.

        Writes nothing where nothing has changed.

        Raises:
            LeadershipLost: another relay of the same name has taken over.
            OutboxReplaced: this isn't the outbox or the progress that was known.
        """
        await self._write(progress, self._plan_of(in_flight), flush=False)

    def record_with(self, confirmed: Callable[[], LastStored | None]) -> None:
        """Record with the progress from now on what ``confirmed`` returns."""
        self._confirmed = confirmed

    async def keep_mark(self) -> None:
        """Keep a mark of the recorded progress, which the stream has."""
        if self.last_stored is not None:
            await self.marks.keep(self._recorded, self.last_stored, since=0.0)

    async def go_back(self, mark: Mark, stream: str, until: Progress) -> None:
        """Go on from ``mark``: a stream has lost messages of events that are sent ``until`` now.

        Raises:
            LeadershipLost: another relay of the same name has taken over.
        """
        self._replay = ()
        self._has_asked = False
        self.last_stored = mark.last
        self.record_with(lambda: None)
        async with self._connection.transaction():
            await self.marks.drop_behind(mark)
            await self.marks.begin_loss(stream, until)
            await self._write(mark.progress, (), flush=True)
            await self._connection.execute(
                "select pgoutbox.rewind_snapshots($1, $2, $3, $4, $5, $6)",
                self._relay,
                mark.last.sequence if mark.last else 0,
                *(mark.progress.place or (None, None, None, None))[:4],
            )
        if self._snapshots is not None:
            self._snapshots.leave()

    async def forget_stream(self) -> None:
        """Go on in another stream: what the last one loses from now on isn't looked at."""
        self.last_stored = None
        await self.marks.drop_behind(None)

    async def message_at(self, key: Key) -> Message | None:
        """Return what this relay publishes for an event; None if it publishes nothing for it."""
        before = Progress(_NOTHING_ABOVE, partial=key._replace(seq=key.seq - 1))
        batch = await self._read(before, _NOTHING_ABOVE, ())
        is_there = bool(batch.keys) and batch.keys[0] == key
        return batch.messages[0] if is_there else None

    def fall_back(self) -> None:
        """Publishing failed: return the rest of the noted plan first from now on."""
        self._replay = self._plan

    def _plan_of(self, in_flight: Sequence[Batch]) -> tuple[Progress, ...]:
        """Return the progress after each batch, up to the last one that a restart could tear."""
        if self._replay:
            return self._replay
        torn = [number for number, batch in enumerate(in_flight, 1) if batch.has_long_transaction]
        return tuple(batch.after for batch in in_flight[: torn[-1] if torn else 0])

    async def _write(self, progress: Progress, plan: tuple[Progress, ...], *, flush: bool) -> None:
        place = progress.place
        is_new = place is not None and place != self._saved_place
        if not flush and not is_new and self._row.says(progress, plan):
            return
        last = self._confirmed() or self.last_stored
        state = await self._row.write(
            progress, plan, to_json(last), flush=flush, place=place if is_new else None
        )
        if not flush:
            self._disk.wrote()
        self._plan = plan
        self._saved_place = place
        if last != self.last_stored:
            await self.marks.keep(self._recorded, self.last_stored, since=self._recorded_at)
            self.last_stored = last
        self._recorded, self._recorded_at = progress, time.monotonic()
        if is_new and state != "running" and self._snapshots is not None:
            self._snapshots.leave()

    def _lost(self) -> LeadershipLost:
        return LeadershipLost(f"another relay named {self._relay!r} has taken over")

    async def park(self, key: Key, message: Message, reason: str) -> str:
        """Set an event aside as the message that it is, which can't be published.

        Returns the reason, with a hint where one would help.
        """
        return await self._park(
            message.id,
            *key,
            len(message.payload),
            reason,
            *(0, 0),
            message.subject,
            header_lines(message.headers),
            message.payload.decode(),
        )

    async def park_withheld(self, event: Withheld, reason: str) -> str:
        """Set an event aside that stays in the outbox; see :meth:`park`."""
        return await self._park(
            event.id, *event.key, event.bytes, reason, *event.number, *(None, "", None)
        )

    async def _park(self, event_id: str, *values: object) -> str:
        reason = await self._connection.fetchval(queries.PARK, self._relay, event_id, *values)
        return str(reason or values[3])  # none where it was parked before

    async def next_retry(self) -> Retry | None:
        """Return the first parked event that is to be published after all."""
        return await self._parked.next_retry(self._envelope, self._max_event_bytes)

    async def unpark(self, event_id: str) -> None:
        """Forget a parked event, which is published."""
        await self._parked.unpark(event_id)

    async def park_again(self, event_id: str, reason: str) -> None:
        """Leave an event parked, for what is the reason now."""
        await self._parked.park_again(event_id, reason)

    async def discard_parked(self, retention: float) -> int:
        """Forget events that were parked longer ago than ``retention`` seconds; return how many."""
        return await self._parked.discard(retention)

    async def largest(self, stream: str) -> int:
        """Return the size of the largest message known to be in ``stream``, in bytes, or 0."""
        self._stream = stream
        return await self._connection.fetchval(queries.LARGEST, self._relay, stream) or 0

    async def note_largest(self, size: int) -> None:
        """Note the size of the largest message that the stream has stored, in bytes."""
        await self._connection.execute(queries.NOTE_LARGEST, self._relay, self._stream, size)

    async def check(self) -> None:
        """Raise a TimeoutError unless the connection is good, also after a question timed out.

        asyncpg cancels such a question, and asks the next one once that is over.
        """
        async with asyncio.timeout(self._query_timeout):
            await self._connection.execute("select")


def _only(
    indexes: Sequence[int],
    rows: Sequence[asyncpg.Record],
    keys: Sequence[Key],
    numbers: Sequence[EventNumber],
) -> tuple[list[asyncpg.Record], list[Key], list[EventNumber]]:
    """Return those of each that have one of the ``indexes``; there may be no numbers."""
    return (
        [rows[index] for index in indexes],
        [keys[index] for index in indexes],
        [numbers[index] for index in indexes] if numbers else [],
    )
