"""Gaps and their holders: which positions may yet be filled, and which are read again.

The code that it models: the commit stage's INSERT (`sql/writer/commit_stage.sql`), which locks its
slot's table before it draws a position and keeps the lock until the transaction is visible or gone;
who may fill gaps (`sql/relay/gap_holders.sql`, `Outbox.noting_holders`); and what a read returns
(`sql/relay/unsent.sql`, `BESIDE_HOLDERS` in `pgoutbox/outbox/queries.py`). Progress, gaps and
holders are the code itself: `pgoutbox.outbox.progress`.

PostgreSQL makes a transaction visible, or not, before it releases its locks. Each event is its
position's only one; `plan.py` has transactions that are read in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar
from unittest.mock import patch

from pgoutbox.outbox import progress as module
from pgoutbox.outbox.progress import Gap, Holder, Key, Progress
from tests.models.explorer import Model, Step

OPEN, PREPARED, COMMITTED, GONE = "open", "prepared", "committed", "rolled back"

_NOTHING = Progress()
_ALL = 99  # as the number of events that a read asks for


@dataclass(frozen=True)
class Transaction:
    """One that has drawn positions, of which those in `kept` have a row."""

    at: str = OPEN
    has_lock: bool = False  # on its slot's table of transactions
    kept: frozenset[int] = frozenset()
    has_rolled_back: bool = False  # to a savepoint from before it had the lock

    @property
    def has_ended(self) -> bool:
        """Whether it is visible, or never will be."""
        return self.at in (COMMITTED, GONE)


@dataclass(frozen=True)
class Asking:
    """A call of gap_holders() that is under way: its snapshot, then the locks."""

    ended: frozenset[int]
    holders: tuple[tuple[int, bool], ...] | None = None  # ids; whether they are prepared


@dataclass(frozen=True)
class Answer:
    """What a read has returned, and which holders its snapshot counts as ended."""

    keys: tuple[Key, ...]
    ended: frozenset[int]
    is_full: bool


@dataclass(frozen=True)
class State:
    """Transactions, by ids from 1 on, and the relay, which does one thing after another."""

    transactions: tuple[Transaction, ...]
    last_position: int = 0
    progress: Progress = _NOTHING
    sent: frozenset[int] = frozenset()
    has_asked: bool = True  # since it began
    is_to_read: bool = False  # it has just asked
    asking: Asking | None = None
    answer: Answer | None = None
    wrong: str | None = None

    def running(self, xid: int, transaction: Transaction) -> State:
        """Return the state with that transaction changed."""
        before, after = self.transactions[: xid - 1], self.transactions[xid:]
        return replace(self, transactions=(*before, transaction, *after))

    def each(self) -> Iterator[tuple[int, Transaction]]:
        """Yield the transactions with their ids."""
        yield from enumerate(self.transactions, 1)

    @property
    def ended(self) -> frozenset[int]:
        """What a snapshot counts as ended that is taken now."""
        return frozenset(xid for xid, t in self.each() if t.has_ended)

    @property
    def visible(self) -> dict[int, int]:
        """Which positions a snapshot shows that is taken now, and who wrote them."""
        return {p: xid for xid, t in self.each() if t.at == COMMITTED for p in t.kept}


class Gaps(Model[State]):
    """The protocol as it is; above `most_gaps` neighbours are joined."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(
        self,
        transactions: int = 2,
        positions: int = 3,
        most_gaps: int = 100,
        *,
        plain: bool = False,  # without savepoints, full reads, failures and restarts
    ) -> None:
        self._transactions = transactions
        self._positions = positions
        self._most_gaps = most_gaps
        self._is_plain = plain

    def begin(self) -> State:
        """Return transactions that have just begun, and a relay that has sent nothing."""
        return State((Transaction(),) * self._transactions)

    def is_over(self, state: State) -> bool:
        """Tell whether all have ended, everything is sent, and no gap is left."""
        have_ended = all(t.has_ended and not t.has_lock for t in state.transactions)
        return have_ended and state.visible.keys() <= state.sent and not state.progress.gaps

    def wrong(self, state: State) -> str | None:
        """Return what the last read got wrong."""
        return state.wrong

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield what transactions and the relay can do."""
        for xid, transaction in state.each():
            for what, after in self._run(state, xid, transaction):
                yield Step(f"transaction {xid} {what}", after)
        for what, after in self._relay(state):
            yield Step(f"the relay {what}", after)

    # Transactions ---------------------------------------------------------------------------------

    def _run(self, state: State, xid: int, t: Transaction) -> Iterator[tuple[str, State]]:
        if t.has_ended:
            if t.has_lock:
                yield "releases its locks", state.running(xid, replace(t, has_lock=False))
        elif t.at == PREPARED:
            yield "is committed", state.running(xid, replace(t, at=COMMITTED))
            yield "is rolled back", state.running(xid, replace(t, at=GONE))
        else:
            yield from self._go_on(state, xid, t)

    def _go_on(self, state: State, xid: int, t: Transaction) -> Iterator[tuple[str, State]]:
        if t.has_lock or t.has_rolled_back:
            yield "rolls back", state.running(xid, replace(t, at=GONE))
        if not t.has_lock:
            if xid == 1 or state.transactions[xid - 2] != Transaction():  # ids are given in order
                yield "locks its slot's table", state.running(xid, replace(t, has_lock=True))
            return
        if t.kept:
            yield "commits", state.running(xid, replace(t, at=COMMITTED))
            yield "is prepared", state.running(xid, replace(t, at=PREPARED))
            if not (self._is_plain or t.has_rolled_back):
                back = Transaction(has_rolled_back=True)
                yield "rolls back to a savepoint", state.running(xid, back)
        if state.last_position < self._positions:
            yield self._draw(state, xid, t)

    def _draw(self, state: State, xid: int, t: Transaction) -> tuple[str, State]:
        position = state.last_position + 1
        after = state.running(xid, replace(t, kept=t.kept | {position}))
        return f"draws position {position}", replace(after, last_position=position)

    # The relay: Outbox.next_batch(), one question after another --------------------------------

    def _relay(self, state: State) -> Iterator[tuple[str, State]]:
        if state.answer is not None:
            yield from self._take(state, state.answer)
        elif state.asking is not None:
            yield self._go_on_asking(state, state.asking)
        elif not state.is_to_read and self._is_to_ask(state):
            yield self._ask(state)
        else:
            yield from self._read(state)
        if not self._is_plain and state.has_asked and state.progress.gaps:
            yield "is killed, and begins again", self._begin_again(state)

    def _is_to_ask(self, state: State) -> bool:
        """Outbox.noting_holders()."""
        before = state.progress
        return before.has_unsettled_gap or bool(before.gaps and not state.has_asked)

    def _ask(self, state: State) -> tuple[str, State]:
        return "asks who may fill gaps", replace(state, asking=Asking(state.ended))

    def _go_on_asking(self, state: State, asking: Asking) -> tuple[str, State]:
        """gap_holders(): the locks, then the sequence."""
        if asking.holders is None:
            asking = replace(asking, holders=self._holders(state, asking.ended))
            return "has read the locks", replace(state, asking=asking)
        found = {
            xid: state.last_position if is_prepared else None for xid, is_prepared in asking.holders
        }
        noted = state.progress.noting(found)
        after = replace(state, progress=noted, has_asked=True, is_to_read=True, asking=None)
        return "notes them", after

    def _holders(self, state: State, ended: frozenset[int]) -> tuple[tuple[int, bool], ...]:
        return tuple(
            (xid, t.at == PREPARED) for xid, t in state.each() if t.has_lock and xid not in ended
        )

    def _read(self, state: State) -> Iterator[tuple[str, State]]:
        """unsent(), beside the holders: one statement, so one snapshot. Not where nothing's new."""
        for limit in (_ALL,) if self._is_plain else (1, _ALL):
            keys = _unsent(state)[:limit]
            wanted = sorted(state.visible.keys() - state.sent)[:limit]
            if [key.position for key in keys] != wanted:
                wrong = f"a read returns {[*map(tuple, keys)]} instead of the positions {wanted}"
                yield "reads", replace(state, wrong=wrong)
                return
            ended = state.ended & {holder.xid for holder in state.progress.holders}
            answer = Answer(tuple(keys), frozenset(ended), len(keys) == limit)
            if answer.is_full or limit == _ALL:
                yield f"reads {len(keys)} events", replace(state, answer=answer)

    def _take(self, state: State, answer: Answer) -> Iterator[tuple[str, State]]:
        """Outbox._read(), and what follows once the batch is stored, or once it has failed."""
        with patch.object(module, "_MOST_GAPS", self._most_gaps):
            before = self._settle(state, answer)
        state = replace(state, is_to_read=False, answer=None)
        for is_cut in {False, answer.is_full}:  # it may not know that this was the last event
            after = before.after(answer.keys, is_cut=is_cut)
            sent = state.sent | {key.position for key in answer.keys}
            yield "has sent them", replace(state, progress=after, sent=sent)
        if answer.keys and not self._is_plain:
            yield "can't send them", replace(state, progress=before)

    def _settle(self, state: State, answer: Answer) -> Progress:
        return state.progress.settle(answer.keys, answer.ended, is_full=answer.is_full)

    def _begin_again(self, state: State) -> State:
        """Outbox.take_over(): what is known of holders, the row of the progress doesn't say."""
        holders = tuple(Holder(h.xid, h.since) for h in state.progress.holders)
        progress = replace(state.progress, holders=holders)
        state = replace(state, has_asked=False, is_to_read=False, asking=None, answer=None)
        return replace(state, progress=progress)


def _unsent(state: State) -> list[Key]:
    """Return what unsent() does."""
    progress, visible = state.progress, state.visible
    again = min(
        (h.since for h in progress.holders if h.is_gone or h.xid in state.ended),
        default=progress.settled + 1,
    )
    known = {holder.xid for holder in progress.holders}
    partial = progress.partial.position if progress.partial else 0
    ranges = [gap for gap in progress.gaps if gap.last >= min(progress.settled + 1, again)]
    return [
        Key(position, 0)
        for gap in (*ranges, Gap(progress.high + 1, 2**62))
        for position in sorted(visible)
        if gap.first <= position <= gap.last
        and position != partial
        and (position > progress.settled or visible[position] in known)
    ]


class DrawsBeforeItLocks(Gaps):
    """The commit stage draws its position first, and has the lock only then."""

    def _go_on(self, state: State, xid: int, t: Transaction) -> Iterator[tuple[str, State]]:
        if not t.has_lock and not t.kept and state.last_position < self._positions:
            yield self._draw(state, xid, t)
            return
        yield from super()._go_on(state, xid, t)


class ReleasesItsLockBeforeItIsVisible(Gaps):
    """As a lock would be that is released at the end of the statement."""

    def _go_on(self, state: State, xid: int, t: Transaction) -> Iterator[tuple[str, State]]:
        yield from super()._go_on(state, xid, t)
        if t.kept and t.has_lock:
            yield "releases its lock", state.running(xid, replace(t, has_lock=False))


class NeverAsks(Gaps):
    """Takes all that a read doesn't show for rolled back."""

    def _is_to_ask(self, state: State) -> bool:
        return False


class AsksWithTheSnapshotOfItsRead(Gaps):
    """Asks who may fill gaps once it has read, so that locks are newer than the snapshot."""

    def _is_to_ask(self, state: State) -> bool:
        return False

    def _settle(self, state: State, answer: Answer) -> Progress:
        progress = state.progress
        if super()._is_to_ask(state):
            found = dict.fromkeys(xid for xid, _ in self._holders(state, state.ended))
            progress = progress.noting(found)
        return progress.settle(answer.keys, answer.ended, is_full=answer.is_full)


class BelievesLocks(Gaps):
    """Takes a holder for ended that has no lock any more, whatever the read's snapshot showed."""

    def _settle(self, state: State, answer: Answer) -> Progress:
        have_lock = {xid for xid, _ in self._holders(state, frozenset())}
        ended = {holder.xid for holder in state.progress.holders} - have_lock
        return state.progress.settle(answer.keys, ended, is_full=answer.is_full)


class ForgetsThatItsReadWasFull(Gaps):
    """Drops the gaps of ended holders although the read ended before them."""

    def _settle(self, state: State, answer: Answer) -> Progress:
        return state.progress.settle(answer.keys, answer.ended, is_full=False)


class ReadsTheSequenceBeforeTheLocks(Gaps):
    """Takes for a prepared transaction's last position one from before it was prepared."""

    def __init__(self) -> None:
        super().__init__(transactions=3, positions=4, plain=True)

    def begin(self) -> State:
        """Begin a little later, since this takes three transactions and many steps."""
        first = Transaction(has_lock=True, kept=frozenset({1}))
        second = Transaction(COMMITTED, kept=frozenset({2}))
        return State((first, second, Transaction()), last_position=2)

    def _ask(self, state: State) -> tuple[str, State]:
        what, after = super()._ask(state)
        last = frozenset({-state.last_position})  # beside the ids, which are positive
        return what, replace(after, asking=Asking(state.ended | last))

    def _go_on_asking(self, state: State, asking: Asking) -> tuple[str, State]:
        last = -min(asking.ended)
        what, after = super()._go_on_asking(replace(state, last_position=last), asking)
        return what, replace(after, last_position=state.last_position)


class CountsAPreparedOneAsEnded(Gaps):
    """Looks for holders among sessions, where a prepared transaction has none."""

    def _holders(self, state: State, ended: frozenset[int]) -> tuple[tuple[int, bool], ...]:
        return tuple(holder for holder in super()._holders(state, ended) if not holder[1])


class ReadsOnlyNewPositions(Gaps):
    """Takes for sent all that is below the highest position that it has seen."""

    def _settle(self, state: State, answer: Answer) -> Progress:
        return replace(state.progress, gaps=(), settled=0, holders=())


Gaps.variants = [
    DrawsBeforeItLocks,
    ReleasesItsLockBeforeItIsVisible,
    NeverAsks,
    AsksWithTheSnapshotOfItsRead,
    BelievesLocks,
    ForgetsThatItsReadWasFull,
    ReadsTheSequenceBeforeTheLocks,
    CountsAPreparedOneAsEnded,
    ReadsOnlyNewPositions,
]
