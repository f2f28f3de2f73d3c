"""The outbox as a relay sees it: what comes next, and what has been sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from pgoutbox.errors import ConfigError, LeadershipLost
from pgoutbox.locks import leader_lock
from pgoutbox.messages.envelope import Envelope, commit_time
from pgoutbox.messages.event import EventNumber, Message
from pgoutbox.messages.formats import MessageFormat
from pgoutbox.messages.headers import header_lines
from pgoutbox.outbox.numbering import Numbering
from pgoutbox.outbox.progress import Gap, Key, Progress
from pgoutbox.outbox.selection import Filter, Share

_ANSWER_TIMEOUT = 60.0  # seconds until a connection that no longer answers counts as lost

_MOST_EVENTS = 100_000  # in a batch, those that are passed over included


@dataclass(frozen=True, slots=True)
class Batch:
    """What one pass publishes, and the progress at its end."""

    messages: list[Message]
    keys: list[Key]
    before: Progress
    after: Progress
    has_long_transaction: bool  # one of several events, which a restart must not tear
    has_lazy_commit: bool  # visible, but perhaps not on disk yet
    oldest: float | None  # commit time of the first event, seconds since the epoch
    read: int  # events, those included that are passed over
    passed: Sequence[Key]  # where all of these stand

    def __len__(self) -> int:
        return len(self.messages)

    def __bool__(self) -> bool:
        return self.read > 0

    def nothing_follows(self) -> Batch:
        """Return the empty batch after this one."""
        return Batch([], [], self.after, self.after, False, False, None, 0, [])

    def upto(self, count: int) -> Progress:
        """Return the progress when only the first ``count`` events are sent."""
        if count == len(self.keys):
            return self.after
        end = self.passed.index(self.keys[count])
        keys = self.passed[:end]
        if not keys:
            return self.before
        is_cut = self.passed[end].position == keys[-1].position
        return self.before.after(keys, is_cut=is_cut)


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
    ) -> None:
        self._connection = connection
        self._format = message_format
        self._wanted = wanted
        self._share = share
        self._until = until  # the last position to read
        self._query = _READ
        self._flags: tuple[bool, ...] = ()  # what else the query asks for
        needs_keys = message_format.needs_keys
        if share is not None or needs_keys or message_format.needs_numbers:
            self._query = _READ_DESCRIBED if share is None else _READ_SHARE
            self._flags = (needs_keys,)
        self._numbering = Numbering(connection)
        self._relay = relay
        # Events that are passed over hardly cost memory, and few of them make a small batch.
        self._batch_events = min(batch_events * (share.parts if share else 1), _MOST_EVENTS)
        self._batch_bytes = batch_bytes
        self._leadership = 0
        self._envelope: Envelope
        self._row_tid: object = None  # of the progress row; every update changes it
        self._plan: Progress | None = None  # noted in the database
        self._saved: dict[str, Any] = {}  # progress, as it is there
        self._replay: Progress | None = None  # a plan to be finished first

    async def lead(self) -> Progress:
        """Take over the relay's progress and return it; the caller holds its leader lock.

        Raises:
            ConfigError: it goes beyond the last position to read.

        """
        row = await self._connection.fetchrow(
            "select * from pgoutbox.lead($1)", self._relay, timeout=_ANSWER_TIMEOUT
        )
        assert row is not None  # noqa: S101 - lead() returns one row
        self._leadership = row["leadership"]
        self._envelope = Envelope(
            await self._connection.fetchval(
                "select id from pgoutbox.installation", timeout=_ANSWER_TIMEOUT
            )
        )
        plan = json.loads(row["plan"])
        self._plan = self._replay = Progress.from_json(plan) if plan else None
        partial = row["partial_position"]
        progress = Progress(
            row["high"],
            tuple(map(Gap, row["gap_first"], row["gap_last"])),
            None if partial is None else Key(partial, row["partial_seq"]),
        )
        self._saved = progress.to_json()
        self._check_end(progress)
        return progress

    def _check_end(self, progress: Progress) -> None:
        """Make sure that nothing beyond the last position has been read, or published perhaps."""
        ends = [progress, *([self._plan] if self._plan else [])]
        reached = max(max(end.high, end.partial.position if end.partial else 0) for end in ends)
        if self._until is not None and reached > self._until:
            raise ConfigError(
                f"the relay {self._relay!r} is at position {reached} already,"
                f" beyond --until {self._until}"
            )

    async def take_share(self, share: str) -> str | None:
        """Note what this relay publishes; return what it published before if that was other."""
        row = await self._connection.fetchrow(
            "update pgoutbox.progress p set share = $3 from pgoutbox.progress before"
            " where p.relay = $1 and p.leadership = $2 and p.share <> $3 and before.relay = p.relay"
            " returning before.share, before.high",
            self._relay,
            self._leadership,
            share,
            timeout=_ANSWER_TIMEOUT,
        )
        self._row_tid = None
        return row["share"] if row and row["high"] else None

    async def note_method(self, method: str) -> None:
        """Note how this relay publishes, for people who look at its status."""
        await self._connection.execute(
            "update pgoutbox.progress set method = $3"
            " where relay = $1 and leadership = $2 and method is distinct from $3",
            self._relay,
            self._leadership,
            method,
            timeout=_ANSWER_TIMEOUT,
        )
        self._row_tid = None

    async def begin_after(self, others: Sequence[str], share: str) -> str | None:
        """Begin where others have ended, unless there is progress; return what is in the way."""
        problem: str | None = await self._connection.fetchval(
            "select pgoutbox.begin_after($1, $2, $3, $4)",
            self._relay,
            others,
            [leader_lock(other)[1] for other in others],
            share,
            timeout=_ANSWER_TIMEOUT,
        )
        return problem

    async def next_batch(self, before: Progress) -> Batch:
        """Return what comes after ``before``, which is this relay's progress or will be.

        While a plan is left from an earlier leader, or from an attempt that failed, only events
        of that plan are returned: in the same order as the first time, so that nothing that
        became visible since gets into the middle of a transaction.
        """
        if before.gaps:
            before = before.noting(await self._gap_holders())
        if self._replay is not None:
            batch = await self._read(before, _NOTHING_ABOVE, before.towards(self._replay))
            if batch:
                return batch
            self._replay = None
        if self._until is not None:
            rest = Gap(before.high + 1, self._until)
            return await self._read(before, _NOTHING_ABOVE, (*before.gaps, rest))
        return await self._read(before, before.high, before.gaps)

    async def _rows(self, before: Progress, high: int, gaps: Sequence[Gap]) -> list[asyncpg.Record]:
        """Read; again where there is a table of which it is yet to be decided who publishes it."""
        rows = await self._fetch(before, high, gaps)
        while self._share is not None:
            unknown = {(row[2], row[3]) for row in rows if row[4] is None and row[2] is not None}
            if not unknown:
                break
            await self._share.decide(self._connection, sorted(unknown))
            rows = await self._fetch(before, high, gaps)
        return rows

    async def _fetch(
        self, before: Progress, high: int, gaps: Sequence[Gap]
    ) -> list[asyncpg.Record]:
        return await self._connection.fetch(
            self._query,
            high,
            [gap.first for gap in gaps],
            [gap.last for gap in gaps],
            *(before.partial or (None, None)),
            self._batch_events,
            self._batch_bytes,
            *self._flags,
            *(self._share.arguments if self._share else ()),
            timeout=_ANSWER_TIMEOUT,
        )

    async def _read(self, before: Progress, high: int, gaps: Sequence[Gap]) -> Batch:
        rows = await self._rows(before, high, gaps)
        keys = [Key(row[0], row[1]) for row in rows]
        is_cut = len(rows) == self._batch_events or (bool(rows) and rows[-1]["is_full"])
        if self._replay is None:
            before = before.without_dead(keys, is_cut=is_cut)
        has_long_transaction = len({key.position for key in keys}) < len(keys)
        has_lazy_commit, passed = any(row[8] for row in rows), keys
        after = before.after(keys, is_cut=is_cut)
        numbers: list[EventNumber] = []
        if self._format.needs_numbers:
            numbers = await self._numbering.of(keys, before.partial, is_cut=is_cut)
        if self._wanted is not None or self._share is not None:
            wanted = [index for index, row in enumerate(rows) if self._is_wanted(row)]
            rows = [rows[index] for index in wanted]
            keys = [keys[index] for index in wanted]
            numbers = [numbers[index] for index in wanted] if numbers else []
        return Batch(
            self._format.messages(rows, self._envelope, numbers),
            keys,
            before,
            after,
            has_long_transaction or is_cut or before.partial is not None,
            has_lazy_commit,
            commit_time(rows[0]["id_source"]) if rows else None,
            len(passed),
            passed,
        )

    def _is_wanted(self, row: asyncpg.Record) -> bool:
        is_in_share = row[4] is not None
        return is_in_share and (self._wanted is None or self._wanted.passes(*row[3:5]))

    async def _gap_holders(self) -> frozenset[str]:
        holders = await self._connection.fetchval(
            "select pgoutbox.gap_holders()", timeout=_ANSWER_TIMEOUT
        )
        return frozenset(holders)

    async def begin(self, batch: Batch) -> None:
        """Make sure that ``batch`` can be published, from ``batch.before`` on.

        Notes its plan if a restart in the middle could tear a transaction, and waits until
        all that it holds is on PostgreSQL's disk.
        """
        plan = self._plan_of(batch)
        if batch.has_lazy_commit or plan != self._plan:
            await self._write(batch.before, plan, flush=batch.has_lazy_commit)

    async def advance(self, progress: Progress, following: Batch | None = None) -> None:
        """Move the progress to ``progress``, and begin the batch that follows if there is one.

        Writes nothing where nothing has changed.

        Raises:
            LeadershipLost: another relay of the same name has taken over.

        """
        plan = self._plan_of(following) if following else self._replay
        flush = following is not None and following.has_lazy_commit
        await self._write(progress, plan, flush=flush)

    def fall_back(self) -> None:
        """Publishing failed: return the rest of the noted plan first from now on."""
        self._replay = self._plan

    def _plan_of(self, batch: Batch) -> Progress | None:
        if self._replay is not None:
            return self._replay
        return batch.after if batch.has_long_transaction else None

    async def _write(self, progress: Progress, plan: Progress | None, *, flush: bool) -> None:
        wanted = progress.to_json()
        if not flush and (wanted, plan) == (self._saved, self._plan):
            return
        # A commit that waits for the disk takes everything before it along.
        row_tid = await self._connection.fetchval(
            _ADVANCE,
            "local" if flush else "off",
            self._row_tid,
            self._relay,
            self._leadership,
            progress.high,
            [gap.first for gap in progress.gaps],
            [gap.last for gap in progress.gaps],
            *(progress.partial or (None, None)),
            json.dumps(plan.to_json() if plan else None),
            timeout=_ANSWER_TIMEOUT,
        )
        if row_tid is None:
            raise LeadershipLost(f"another relay named {self._relay!r} has taken over")
        self._row_tid = row_tid
        self._plan = plan
        self._saved = wanted

    async def park(self, key: Key, message: Message, reason: str) -> None:
        """Set an event aside that can never be published."""
        await self._connection.execute(
            "insert into pgoutbox.parked"
            " (relay, event_id, position, subject, reason, headers, payload)"
            " values ($1, $2::text::uuid, $3, $4, $5, $6, $7) on conflict do nothing",
            self._relay,
            message.id,
            key.position,
            message.subject,
            reason,
            header_lines(message.headers),
            message.payload.decode(),
            timeout=_ANSWER_TIMEOUT,
        )

    async def check(self) -> None:
        """Raise a TimeoutError unless the connection is good, also after a question timed out.

        asyncpg cancels such a question, and asks the next one once that is over.
        """
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            await self._connection.execute("select")

    async def backlog(
        self, progress: Progress, at_most: int, timeout: float
    ) -> tuple[int, float | None, int]:
        """Return the number of unsent events, when the oldest was committed, and of parked ones.

        Counts no further than ``at_most``, and raises a TimeoutError where that takes more than
        ``timeout`` seconds. The time is in seconds since the epoch.
        """
        row = await self._connection.fetchrow(
            _BACKLOG,
            progress.high,
            [gap.first for gap in progress.gaps],
            [gap.last for gap in progress.gaps],
            *(progress.partial or (None, None)),
            at_most,
            self._relay,
            timeout=timeout,
        )
        assert row is not None  # noqa: S101 - an aggregate returns one row
        return row["unsent"], row["oldest"], row["parked"]

    async def mend_drift(self) -> list[asyncpg.Record]:
        """Refresh the capture functions of drifted tables.

        Returns the tables that had a problem (columns ``relation``, ``problem``); those with the
        problem ``drift`` are mended.
        """
        return await self._connection.fetch(
            "select * from pgoutbox.mend_drift()", timeout=_ANSWER_TIMEOUT
        )

    async def misses(self, names: Sequence[str]) -> bool:
        """Tell whether a schema has a table of one of the bare ``names`` that isn't captured."""
        return bool(
            await self._connection.fetchval(
                "select exists (select from pgoutbox.tables_named($1) t where not exists"
                " (select from pgoutbox.captured_table c where c.relation = t.relation))",
                names,
                timeout=_ANSWER_TIMEOUT,
            )
        )

    async def slot_ends(self) -> list[asyncpg.Record]:
        """Return the last position in each slot that isn't current (columns slot, position)."""
        return await self._connection.fetch(
            "select * from pgoutbox.slot_ends()", timeout=_ANSWER_TIMEOUT
        )

    async def rotate(self, slot: int) -> bool:
        """Empty a slot if everything in it is sent by every relay; tell whether it was."""
        return bool(await self._connection.fetchval("select pgoutbox.rotate($1)", slot))


_NOTHING_ABOVE = 2**63 - 2

_BACKLOG = """
select
    count(*) as unsent, extract(epoch from min(committed_at))::float8 as oldest,
    (select count(*) from pgoutbox.parked p where p.relay = $7) as parked
from pgoutbox.unsent($1, $2, $3, $4, $5, $6, 9223372036854775807)
"""

_READ = "select * from pgoutbox.next_batch($1, $2, $3, $4, $5, $6, $7)"
_READ_DESCRIBED = "select * from pgoutbox.next_batch_described($1, $2, $3, $4, $5, $6, $7, $8)"
_READ_SHARE = """
select * from pgoutbox.next_batch_described($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""

_ADVANCE = """
select pgoutbox.advance($2, $3, $4, $5, $6, $7, $8, $9, $10)
from (select pg_catalog.set_config('synchronous_commit', $1, true)) setting
"""
