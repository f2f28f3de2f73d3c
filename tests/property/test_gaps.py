"""Gaps and their holders against a model of PostgreSQL: transactions, locks and snapshots.

Whatever draws positions, ends, is prepared or rolls back to a savepoint, and whenever: a read
returns exactly what its snapshot shows and isn't sent, in order, and no gap outlives its holders.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pgoutbox.outbox import progress as module
from pgoutbox.outbox.progress import Gap, Holder, Key, Progress

_EVENTS = 2  # of each position


@dataclass
class Transaction:
    """One that has drawn ``positions``; those in ``kept`` have a row, once it has committed."""

    positions: list[int] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    has_lock: bool = False
    is_prepared: bool = False
    has_ended: bool = False
    has_committed: bool = False


class Database:
    """What a relay can ask PostgreSQL, and what writers do there."""

    def __init__(self) -> None:
        self.transactions: dict[int, Transaction] = {}
        self.last_position = 0

    def step(self, draw: Callable[[int], int]) -> None:
        """Have one transaction do something; ``draw`` chooses a number below another one."""
        running = [x for x, t in self.transactions.items() if not t.has_ended or t.has_lock]
        choice = draw(len(running) + (len(running) < 4))
        if choice == len(running):
            self._draw(self.transactions.setdefault(len(self.transactions) + 1, Transaction()))
            return
        transaction = self.transactions[running[choice]]
        if transaction.has_ended:
            transaction.has_lock = False  # what a transaction releases last
        elif transaction.is_prepared:
            self._end(transaction, commits=bool(draw(2)))
        else:
            self._go_on(transaction, draw(6))

    def _go_on(self, transaction: Transaction, kind: int) -> None:
        if kind <= 1:
            self._draw(transaction)
        elif kind == 2:  # to a savepoint from before the first event
            transaction.kept.clear()
            transaction.has_lock = False
        elif kind == 3:
            transaction.is_prepared = True
        else:
            self._end(transaction, commits=kind == 4)

    def _draw(self, transaction: Transaction) -> None:
        transaction.has_lock = True
        self.last_position += 1
        transaction.positions.append(self.last_position)
        transaction.kept.add(self.last_position)

    def _end(self, transaction: Transaction, *, commits: bool) -> None:
        transaction.has_ended, transaction.has_committed = True, commits

    def end_all(self) -> None:
        for transaction in self.transactions.values():
            if not transaction.has_ended:
                self._end(transaction, commits=True)
            transaction.has_lock = False

    def holders(self) -> dict[int, int | None]:
        """Return what pgoutbox.gap_holders() does."""
        return {
            xid: self.last_position if transaction.is_prepared else None
            for xid, transaction in self.transactions.items()
            if transaction.has_lock and not transaction.has_ended
        }

    def snapshot(self) -> Snapshot:
        return Snapshot(
            frozenset(x for x, t in self.transactions.items() if t.has_ended),
            {p: x for x, t in self.transactions.items() if t.has_committed for p in t.kept},
        )


@dataclass(frozen=True)
class Snapshot:
    """Which transactions count as ended, and who wrote each position that is visible."""

    ended: frozenset[int]
    visible: Mapping[int, int]

    def read(self, progress: Progress, limit: int) -> list[Key]:
        """Return what the relay's query does."""
        again = min(
            (h.since for h in progress.holders if h.is_gone or h.xid in self.ended),
            default=progress.settled + 1,
        )
        ranges = [gap for gap in progress.gaps if gap.last >= min(progress.settled + 1, again)]
        known = {holder.xid for holder in progress.holders}
        partial = progress.partial or Key(0, 0)
        positions = [partial.position] if partial.position in self.visible else []
        for gap in (*ranges, Gap(progress.high + 1, 2**62)):
            positions += [
                p
                for p in sorted(self.visible)
                if gap.first <= p <= gap.last
                and p != partial.position
                and (p > progress.settled or self.visible[p] in known)
            ]
        keys = [Key(p, seq) for p in positions for seq in range(_EVENTS)]
        return [key for key in keys if key > partial or key.position != partial.position][:limit]


class Reader:
    """Reads as the relay does; ``sent`` is what a plain set of events makes of it."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.sent: set[Key] = set()
        self.has_asked = True

    def ask(self, database: Database) -> None:
        if self.progress.has_unsettled_gap or (self.progress.gaps and not self.has_asked):
            self.progress = self.progress.noting(database.holders())
            self.has_asked = True

    def read(self, snapshot: Snapshot, limit: int) -> list[Key]:
        return snapshot.read(self.progress, limit)

    def settle(self, keys: Sequence[Key], snapshot: Snapshot, *, is_full: bool) -> Progress:
        ended = {h.xid for h in self.progress.holders} & snapshot.ended
        return self.progress.settle(keys, ended, is_full=is_full)

    def take(self, snapshot: Snapshot, limit: int, stored: Callable[[int], int]) -> None:
        """Read, publish what ``stored`` says of so many events, and go on from there."""
        keys = self.read(snapshot, limit)
        assert keys == self.expected(snapshot)[:limit], self.progress
        is_full = len(keys) == limit
        before = self.settle(keys, snapshot, is_full=is_full)
        count = stored(len(keys) + 1)
        rest = keys[count:]
        is_cut = keys[:count] != [] and (
            is_full if not rest else rest[0].position == keys[count - 1].position
        )
        self.progress = before if rest and not count else before.after(keys[:count], is_cut=is_cut)
        self.sent |= set(keys[:count])

    def expected(self, snapshot: Snapshot) -> list[Key]:
        keys = {Key(p, seq) for p in snapshot.visible for seq in range(_EVENTS)}
        first = self.progress.partial.position if self.progress.partial else 0
        return sorted(keys - self.sent, key=lambda key: (key.position != first, key))

    def restart(self) -> None:
        """Begin again with what stands in the database."""
        holders = tuple(Holder(h.xid, h.since) for h in self.progress.holders)
        self.progress = replace(self.progress, holders=holders)
        self.has_asked = False


class AsksInTheSnapshot(Reader):
    """Asks who may fill gaps with a snapshot that was taken before."""

    def ask(self, database: Database) -> None:
        pass

    def take(self, snapshot: Snapshot, limit: int, stored: Callable[[int], int]) -> None:
        if self.progress.has_unsettled_gap:
            self.progress = self.progress.noting(self.database.holders())
        super().take(snapshot, limit, stored)

    database: Database


class AsksBeforeItMisses(Reader):
    """Notes holders as they were when the read before was made, which made the gap."""

    found: Mapping[int, int | None] = {}

    def ask(self, database: Database) -> None:
        if self.progress.has_unsettled_gap:
            self.progress = self.progress.noting(self.found)
        self.found = database.holders()


class ForgetsTheLastLook(Reader):
    """Takes a holder that has ended for settled although the read was cut before its gap."""

    def settle(self, keys: Sequence[Key], snapshot: Snapshot, *, is_full: bool) -> Progress:
        return super().settle(keys, snapshot, is_full=False)


class BelievesLocks(Reader):
    """Takes a transaction for ended that holds no lock now, whatever the snapshot shows."""

    database: Database

    def settle(self, keys: Sequence[Key], snapshot: Snapshot, *, is_full: bool) -> Progress:
        running = self.database.holders().keys()
        ended = {h.xid for h in self.progress.holders} - running
        return self.progress.settle(keys, ended, is_full=is_full)


_WRONG = [AsksInTheSnapshot, AsksBeforeItMisses, ForgetsTheLastLook, BelievesLocks]


def _run(reader: Reader, choices: Sequence[int], most_gaps: int) -> None:
    """Let writers and ``reader`` take turns as ``choices`` say, then all end; look that it fits."""
    database, left = Database(), list(reversed(choices))
    if isinstance(reader, AsksInTheSnapshot | BelievesLocks):
        reader.database = database

    def draw(count: int) -> int:
        return left.pop() % count if left else 0

    def steps(upto: int) -> None:
        for _ in range(draw(upto)):
            database.step(draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_GAPS", most_gaps)
        while left:
            steps(5)
            reader.ask(database)
            steps(5)
            snapshot = database.snapshot()
            steps(5)
            reader.take(snapshot, draw(7) + 1, draw if draw(3) == 0 else lambda count: count - 1)
            if draw(6) == 0:
                reader.restart()
        database.end_all()
        for _ in range(200):
            reader.ask(database)
            reader.take(database.snapshot(), 5, lambda count: count - 1)
    assert not reader.expected(database.snapshot()), "an event was lost"
    assert not reader.progress.gaps


def _choices(seed: int) -> tuple[list[int], int]:
    draw = random.Random(seed)
    return [draw.randrange(60) for _ in range(150)], draw.randint(1, 6)


def test_a_read_returns_what_its_snapshot_shows_and_is_not_sent() -> None:
    for seed in range(400):
        try:
            _run(Reader(), *_choices(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("wrong", _WRONG)
def test_each_wrong_way_is_found(wrong: type[Reader]) -> None:
    def breaks(seed: int) -> bool:
        try:
            _run(wrong(), *_choices(seed))
        except AssertionError:
            return True
        return False

    assert any(breaks(seed) for seed in range(1500))


def test_thousands_of_positions_of_one_transaction_are_some_ranges() -> None:
    """Every second position is its own; the others' are seen as soon as they are there."""
    database = Database()
    attacker = database.transactions[1] = Transaction()
    reader = Reader()
    for xid in range(2, 500):
        database._draw(attacker)
        victim = database.transactions[xid] = Transaction()
        database._draw(victim)
        database._end(victim, commits=True)
        victim.has_lock = False
        reader.ask(database)
        snapshot = database.snapshot()
        assert {key.position for key in reader.read(snapshot, 99)} == {database.last_position}
        reader.take(snapshot, 99, lambda count: count - 1)
        assert len(reader.progress.gaps) <= module._MOST_GAPS + 2

    database._end(attacker, commits=True)

    reader.take(database.snapshot(), 9999, lambda count: count - 1)
    assert not reader.expected(database.snapshot())


def test_prepared_transaction_keeps_no_gap_that_came_later() -> None:
    """For an hour transactions fail at their COMMIT beside it."""
    database = Database()
    prepared = database.transactions[1] = Transaction()
    database._draw(prepared)
    prepared.is_prepared = True
    reader = Reader()
    for xid in range(2, 200):
        failing, victim = Transaction(), Transaction()
        database.transactions |= {2 * xid: failing, 2 * xid + 1: victim}
        for transaction in (failing, victim):
            database._draw(transaction)
            database._end(transaction, commits=transaction is victim)
            transaction.has_lock = False
        reader.ask(database)
        reader.take(database.snapshot(), 99, lambda count: count - 1)

        assert reader.progress.gaps[0].first == 1
        assert len(reader.progress.gaps) <= 3


def _victim(database: Database) -> None:
    """Have another transaction write, and commit."""
    victim = database.transactions[len(database.transactions) + 1] = Transaction()
    database._draw(victim)
    database._end(victim, commits=True)
    victim.has_lock = False


def test_what_is_rolled_back_to_a_savepoint_keeps_no_gap() -> None:
    """Its transaction may go on for hours."""
    database, reader = Database(), Reader()
    drawing = database.transactions[1] = Transaction()
    for _ in range(2):
        database._draw(drawing)
        _victim(database)
        reader.ask(database)
        reader.take(database.snapshot(), 99, lambda count: count - 1)
        drawing.kept.clear()
        drawing.has_lock = False
    reader.ask(database)
    reader.take(database.snapshot(), 99, lambda count: count - 1)

    assert not reader.progress.gaps


def test_what_is_sent_of_a_holder_is_not_read_again_in_a_joined_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_GAPS", 1)
    database, reader = Database(), Reader()
    staying, going = Transaction(), Transaction()
    database.transactions |= {1: staying, 2: going}
    for transaction in (staying, going, going):
        database._draw(transaction)
        _victim(database)
    for _ in range(2):
        reader.ask(database)
        reader.take(database.snapshot(), 99, lambda count: count - 1)
    database._end(going, commits=True)

    for limit in (_EVENTS, 1, 1, 99):
        reader.take(database.snapshot(), limit, lambda count: count - 1)

    assert not reader.expected(database.snapshot())
