"""The row of a relay's progress in the database, and whether that is the outbox it knows."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from pgoutbox.errors import LeadershipLost, OutboxReplaced
from pgoutbox.outbox.progress import Gap, Holder, Key, Place, Progress

Answer = TypeVar("Answer")

# What pgoutbox.require_progress() fails with.
_ANOTHER_PROGRESS = "P0R01"
_POSITIONS_BEHIND = "P0R02"


class OutboxId(NamedTuple):
    """Which outbox it is: the OID of its table of progress, and the installation's id."""

    progress: int
    installation: UUID


class ProgressRow:
    """The progress of one relay, as this leader has written it last; for its leader only.

    Whatever else is found there (a restored dump, another installation, another leader) is never
    taken for that.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], relay: str) -> None:
        self._connection = connection
        self._relay = relay
        self._leadership: UUID | None = None
        self._place: tuple[object, object] = (None, None)  # ctid and xmin
        self.outbox = OutboxId(0, UUID(int=0))
        self.progress = Progress()
        self.plan: tuple[Progress, ...] = ()
        self.last_stored: str | None = None
        self.share = ""

    @property
    def known(self) -> tuple[object, ...]:
        """The parameters that :func:`required` adds."""
        return (*self.outbox, *self._place)

    async def take(self, leadership: UUID) -> None:
        """Read the row as the leader that has just begun.

        Raises:
            LeadershipLost: it is over already.
            OutboxReplaced: there is no installation.
        """
        row = await self._look()
        if row is None or row["leadership"] != leadership:
            raise self._lost()
        if row["installation"] is None:
            raise OutboxReplaced("it has no installation; is it being restored?")
        self._leadership = leadership
        self.outbox = _outbox_of(row)
        self._place = _place_of(row)
        self.progress, self.plan = _progress_of(row)
        self.last_stored = row["last_stored"]
        self.share = row["share"]

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask what :func:`required` has made, again where somebody has but rewritten the row.

        Raises:
            LeadershipLost: another relay has taken over.
            OutboxReplaced: this isn't the outbox or the progress that was known.
        """
        while True:
            try:
                return await question()
            except asyncpg.PostgresError as error:
                if error.sqlstate == _POSITIONS_BEHIND:
                    raise OutboxReplaced("its positions lie behind what is sent") from error
                if error.sqlstate != _ANOTHER_PROGRESS:
                    raise
            await self._find()

    def says(self, progress: Progress, plan: Sequence[Progress]) -> bool:
        """Return True if that is what stands in the row."""
        return _columns(progress) == _columns(self.progress) and _json(plan) == _json(self.plan)

    async def write(
        self,
        progress: Progress,
        plan: Sequence[Progress],
        last_stored: str | None = None,
        *,
        flush: bool,
        place: Place | None = None,
    ) -> str | None:
        """Write the progress, what it will be after each batch in flight, and what is stored last.

        With ``flush`` all that was committed before is on PostgreSQL's disk afterwards. Together
        with it the ``place`` in a snapshot is written; then the state of that is returned.

        Raises:
            LeadershipLost, OutboxReplaced: see :meth:`ask`.
        """
        row = await self._update(
            _ADVANCE if place is None else _ADVANCE_BOTH,
            *_columns(progress),
            _json(plan),
            last_stored,
            flush,
            *(() if place is None else (self._relay, *place)),
        )
        self.progress, self.plan = progress, tuple(plan)
        return None if place is None else row["state"]

    async def note_share(self, share: str) -> None:
        """Write what the relay publishes, as flags."""
        await self._update(_NOTE.format("share"), share)
        self.share = share

    async def note_method(self, method: str) -> None:
        """Write how the relay publishes, in words."""
        await self._update(_NOTE.format("method"), method)

    async def _update(self, statement: str, *arguments: object) -> asyncpg.Record:
        while True:
            row = await self._connection.fetchrow(
                statement, self.outbox.progress, *self._place, *arguments
            )
            if row is not None and row["row_tid"] is not None:
                self._place = _place_of(row)
                return row
            await self._find()

    async def _find(self) -> None:
        """Find the row where it is now, if it says the same: a table may be rewritten."""
        row = await self._look()
        if row is None or _outbox_of(row) != self.outbox:
            raise OutboxReplaced("it was restored or installed anew")
        if row["leadership"] != self._leadership:
            raise self._lost()
        if not self.says(*_progress_of(row)) or _place_of(row) == self._place:
            raise OutboxReplaced("somebody else has changed this relay's progress")
        self._place = _place_of(row)

    async def _look(self) -> asyncpg.Record | None:
        return await self._connection.fetchrow(_LOOK, self._relay)

    def _lost(self) -> LeadershipLost:
        return LeadershipLost(f"another relay named {self._relay!r} has taken over")


def _outbox_of(row: asyncpg.Record) -> OutboxId:
    return OutboxId(row["outbox"], row["installation"])


def _place_of(row: asyncpg.Record) -> tuple[object, object]:
    return row["row_tid"], row["row_xmin"]


def _progress_of(row: asyncpg.Record) -> tuple[Progress, tuple[Progress, ...]]:
    partial = row["partial_position"]
    progress = Progress(
        row["high"],
        tuple(map(Gap, row["gap_first"], row["gap_last"])),
        None if partial is None else Key(partial, row["partial_seq"]),
        row["settled"],
        tuple(map(Holder, map(int, row["holders"]), row["holder_since"])),
    )
    return progress, tuple(map(Progress.from_json, json.loads(row["plan"]) or ()))


def _columns(progress: Progress) -> tuple[object, ...]:
    """Return a progress as the columns of its row, without the plan."""
    return (
        progress.high,
        [gap.first for gap in progress.gaps],
        [gap.last for gap in progress.gaps],
        *(progress.partial or (None, None)),
        progress.settled,
        [holder.xid for holder in progress.holders],
        [holder.since for holder in progress.holders],
    )


def _json(plan: Sequence[Progress]) -> str:
    return json.dumps([cut.to_json() for cut in plan] or None)


def required(question: str) -> str:
    """Return ``question`` such that it fails unless :attr:`ProgressRow.known` is true.

    These are its further parameters, behind those that it has.
    """
    last = max(map(int, re.findall(r"\$(\d+)", question)))
    names = ("outbox", "installation", "row_tid", "row_xmin")
    return question + _REQUIRED.format(
        **{name: f"${number}" for number, name in enumerate(names, last + 1)}
    )


# What the function looks up, without the price of calling it each time.
_REQUIRED = """
where coalesce(
    nullif((
        select (select i.id from pgoutbox.installation i) = {installation}
            and greatest(p.high, p.partial_position)
                <= coalesce(pg_catalog.pg_sequence_last_value('pgoutbox.position_seq'), 0)
        from pgoutbox.progress p
        where p.ctid = {row_tid} and p.xmin = {row_xmin} and p.tableoid = {outbox}
    ), false),
    pgoutbox.require_progress({outbox}, {installation}, {row_tid}, {row_xmin})
)
"""

_LOOK = """
select p.*, p.tableoid as outbox, p.ctid as row_tid, p.xmin as row_xmin, i.id as installation
from pgoutbox.progress p left join pgoutbox.installation i on true
where p.relay = $1
"""

_ADVANCE = """
select * from pgoutbox.advance(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::bigint[]::text[]::xid8[], $11, $12, $13, $14)
"""

# A snapshot's place with it, under the same leadership.
_ADVANCE_BOTH = """
select a.row_tid, a.row_xmin, case when a.row_tid is not null then
    pgoutbox.note_chunk($16, $15, $17, $18, $19, $20) end as state
from pgoutbox.advance(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::bigint[]::text[]::xid8[], $11, $12, $13, $14) a
"""

_NOTE = """
update pgoutbox.progress p set {} = $4
where p.tableoid = $1 and p.ctid = $2 and p.xmin = $3
returning p.ctid as row_tid, p.xmin as row_xmin
"""
