"""Snapshots of tables: each row of a chunk is what the events before it make of it.

The code that it models: `next_batch` and `_with_chunk` of `Outbox` in `pgoutbox/outbox/reader.py`,
`sql/snapshots/read_chunk.sql`, and `Batch.with_chunk`. Progress and gaps are the code itself.

A table has two rows that were there before it was captured, each a chunk of its own; transactions
give a row their own number as its value, one event each. The last transaction commits lazily: it is
visible before it is on PostgreSQL's disk, and a crash may take it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from pgoutbox.outbox.progress import Gap, Key, Progress
from tests.models.explorer import Model, Step

_LIMIT = 2  # events of a batch
_NOTHING = Progress()

OPEN, DRAWN, VISIBLE, ON_DISK, GONE = "open", "drawn", "visible", "on disk", "rolled back"


@dataclass(frozen=True)
class Transaction:
    """A change of the row `row`."""

    row: int
    at: str = OPEN
    position: int = 0

    @property
    def is_visible(self) -> bool:
        """Whether a snapshot shows it that is taken now."""
        return self.at in (VISIBLE, ON_DISK)

    @property
    def has_ended(self) -> bool:
        """Whether it is visible, or never will be."""
        return self.is_visible or self.at == GONE


@dataclass(frozen=True)
class Message:
    """An event, of transaction `value`, or a row as a snapshot has read it."""

    row: int
    value: int
    is_read: bool = False

    @property
    def id(self) -> tuple[bool, int]:
        """What it is a repeat by: the transaction, or the row."""
        return self.is_read, self.row if self.is_read else self.value


@dataclass(frozen=True)
class Row:
    """What is recorded: progress, and up to which row the snapshot is."""

    progress: Progress = _NOTHING
    place: int = 0


_BEGINNING = Row()


@dataclass(frozen=True)
class Relay:
    """One batch at a time: `sending` isn't stored yet, and `after` is the progress behind it."""

    at: Row
    has_asked: bool = False
    snapshot: tuple[Transaction, ...] | None = None
    sending: tuple[Message, ...] = ()
    after: Row | None = None


@dataclass(frozen=True)
class State:
    """`recorded` is in the database."""

    transactions: tuple[Transaction, ...]
    last_position: int = 0
    recorded: Row = _BEGINNING
    relay: Relay | None = None
    stream: tuple[Message, ...] = ()


class Snapshots(Model[State]):
    """The protocol as it is; `rows` says which row each transaction changes.

    With `keeps_repeats` the stream stores a row once more that it has, as it does outside its
    duplicate window.
    """

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(self, rows: tuple[int, ...] = (1, 2), *, keeps_repeats: bool = False) -> None:
        self._rows = rows
        self._last = max(rows)
        self._keeps_repeats = keeps_repeats

    def begin(self) -> State:
        """Return transactions that have just begun, and no relay."""
        return State(tuple(map(Transaction, self._rows)))

    def is_over(self, state: State) -> bool:
        """Tell whether the snapshot is done, and everything sent and recorded."""
        progress = state.recorded.progress
        ended = all(t.has_ended for t in state.transactions)
        sent = all(progress.covers(Key(t.position, 0)) for t in state.transactions if t.is_visible)
        return ended and sent and state.recorded.place == self._last

    def wrong(self, state: State) -> str | None:
        """Apply the stream to the rows as they were, and to nothing."""
        truth = dict.fromkeys(self._rows, 0)
        copy: dict[int, int] = {}
        for message in state.stream:
            if message.is_read and truth[message.row] != message.value:
                return f"row {message.row} is read as {message.value}, and is {truth[message.row]}"
            truth[message.row] = copy[message.row] = message.value
        if any(state.transactions[value - 1].at == GONE for value in truth.values() if value):
            return "the stream has what a crash of PostgreSQL took back"
        if self.is_over(state) and copy != _table(state.transactions):
            return "a consumer doesn't have the table"
        return None

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield what transactions, the relay, the stream and misfortune can do."""
        for number, transaction in enumerate(state.transactions, 1):
            yield from self._go_on(state, number, transaction)
        yield from self._crash(state)
        if state.relay is None:
            yield Step("a relay begins", replace(state, relay=Relay(state.recorded)))
            return
        yield from self._relay(state, state.relay)
        yield Step("the relay is killed", replace(state, relay=None))

    # Transactions ---------------------------------------------------------------------------------

    def _go_on(self, state: State, number: int, t: Transaction) -> Iterator[Step[State]]:
        is_asynchronous = number == len(self._rows)
        if t.at == OPEN and not self._is_locked(state, number, t.row):
            position = state.last_position + 1
            drawn = replace(state, last_position=position)
            drawn_one = replace(t, at=DRAWN, position=position)
            yield Step(f"transaction {number} draws a position", _with(drawn, number, drawn_one))
        elif t.at == DRAWN:
            at = VISIBLE if is_asynchronous else ON_DISK
            yield Step(f"transaction {number} is visible", _with(state, number, replace(t, at=at)))
        elif t.at == VISIBLE:
            on_disk = replace(t, at=ON_DISK)
            yield Step(f"transaction {number} is on the disk", _with(state, number, on_disk))

    def _is_locked(self, state: State, number: int, row: int) -> bool:
        others = (t for n, t in enumerate(state.transactions, 1) if n != number and t.row == row)
        return any(t.at == DRAWN for t in others)

    def _crash(self, state: State) -> Iterator[Step[State]]:
        after = tuple(
            replace(t, at=GONE) if t.at in (DRAWN, VISIBLE) else t for t in state.transactions
        )
        if after != state.transactions:
            yield Step("PostgreSQL crashes", replace(state, transactions=after, relay=None))

    # The relay ------------------------------------------------------------------------------------

    def _relay(self, state: State, relay: Relay) -> Iterator[Step[State]]:
        if relay.sending:
            yield self._store(state, relay)
        elif relay.after is not None:
            landed = Relay(relay.after)
            yield Step("the relay records it", replace(state, relay=landed, recorded=relay.after))
        elif self._is_to_ask(relay):
            yield Step("the relay asks who may fill gaps", self._ask(state, relay))
        elif relay.snapshot is None:
            began = replace(relay, snapshot=state.transactions)
            yield Step("the relay's snapshot is taken", replace(state, relay=began))
        else:
            yield from self._read(state, relay, relay.snapshot)

    def _is_to_ask(self, relay: Relay) -> bool:
        """Outbox.noting_holders(): before the snapshot."""
        return not relay.has_asked and relay.snapshot is None

    def _ask(self, state: State, relay: Relay) -> State:
        holders = {n: None for n, t in enumerate(state.transactions, 1) if t.at == DRAWN}
        progress = relay.at.progress.noting(holders)
        at = replace(relay.at, progress=progress)
        return replace(state, relay=replace(relay, at=at, has_asked=True))

    def _read(
        self, state: State, relay: Relay, snapshot: tuple[Transaction, ...]
    ) -> Iterator[Step[State]]:
        """Outbox._with_chunk(): the batch, and where it has all, a chunk in the same snapshot."""
        progress = relay.at.progress
        events = _unsent(progress, snapshot)[:_LIMIT]
        is_full = len(events) == _LIMIT
        keys = [Key(snapshot[event.value - 1].position, 0) for event in events]
        ended = {n for n, t in enumerate(snapshot, 1) if t.has_ended}
        after = progress.settle(keys, ended, is_full=is_full).after(keys, is_cut=False)
        place = relay.at.place
        read = replace(relay, has_asked=False, snapshot=None)
        alone = replace(read, sending=tuple(events), after=Row(after, place))
        yield Step(f"the relay sends {len(events)} events", self._send(state, alone))
        if place < self._last and self._may_have_chunk(is_full=is_full):
            values = self._values(state, snapshot)
            chunk = Message(place + 1, values[place + 1], is_read=True)
            sending = self._in_order(tuple(events), chunk)
            both = replace(read, sending=sending, after=Row(after, place + 1))
            what = f"the relay sends {len(events)} events and row {place + 1}"
            yield Step(what, self._send(state, both))

    def _may_have_chunk(self, *, is_full: bool) -> bool:
        return not is_full

    def _values(self, state: State, snapshot: tuple[Transaction, ...]) -> dict[int, int]:
        return _table(snapshot)

    def _in_order(self, events: tuple[Message, ...], chunk: Message) -> tuple[Message, ...]:
        return (*events, chunk)

    def _send(self, state: State, relay: Relay) -> State:
        """Outbox.begin(): what the batch shows is on PostgreSQL's disk before it goes out."""
        flushed = tuple(replace(t, at=ON_DISK) if t.is_visible else t for t in state.transactions)
        return replace(state, relay=relay, transactions=flushed)

    def _store(self, state: State, relay: Relay) -> Step[State]:
        first, *rest = relay.sending
        times = [message.id for message in state.stream].count(first.id)
        if times < (2 if self._keeps_repeats and first.is_read else 1):
            stream, what = (*state.stream, first), "stores a message"
        else:
            stream, what = state.stream, "drops a repeat"
        sending = replace(relay, sending=tuple(rest))
        return Step(f"the stream {what}", replace(state, relay=sending, stream=stream))


def _with(state: State, number: int, transaction: Transaction) -> State:
    before, after = state.transactions[: number - 1], state.transactions[number:]
    return replace(state, transactions=(*before, transaction, *after))


def _table(transactions: tuple[Transaction, ...]) -> dict[int, int]:
    """Return the rows as a snapshot shows them."""
    values = {t.row: 0 for t in transactions}
    numbers = {t.position: n for n, t in enumerate(transactions, 1) if t.is_visible}
    for position in sorted(numbers):
        values[transactions[numbers[position] - 1].row] = numbers[position]
    return values


def _unsent(progress: Progress, snapshot: tuple[Transaction, ...]) -> list[Message]:
    """Return what unsent() does."""
    ranges = (*progress.gaps, Gap(progress.high + 1, 2**62))
    visible = {t.position: Message(t.row, n) for n, t in enumerate(snapshot, 1) if t.is_visible}
    return [visible[p] for gap in ranges for p in sorted(visible) if gap.first <= p <= gap.last]


class PutsTheChunkFirst(Snapshots):
    """The chunk goes out in front of the events that it shows."""

    def _in_order(self, events: tuple[Message, ...], chunk: Message) -> tuple[Message, ...]:
        return (chunk, *events)


class ReadsTheChunkInItsOwnSnapshot(Snapshots):
    """The chunk is read by a later snapshot than the batch, as under READ COMMITTED."""

    def _values(self, state: State, snapshot: tuple[Transaction, ...]) -> dict[int, int]:
        return _table(state.transactions)


class ReadsAChunkBehindAFullBatch(Snapshots):
    """There may be more events that the chunk shows."""

    def __init__(self) -> None:
        super().__init__((1, 2, 1))

    def _may_have_chunk(self, *, is_full: bool) -> bool:
        return True


class AsksInsideTheSnapshot(Snapshots):
    """Who may fill gaps is asked once the snapshot is taken."""

    def _is_to_ask(self, relay: Relay) -> bool:
        return not relay.has_asked and relay.snapshot is not None


class DoesNotWaitForTheDisk(Snapshots):
    """A chunk goes out although what it shows may be taken back."""

    def _send(self, state: State, relay: Relay) -> State:
        return replace(state, relay=relay)


class RecordsItsPlaceTooEarly(Snapshots):
    """The place is recorded when the chunk is sent, not when it is stored."""

    def _send(self, state: State, relay: Relay) -> State:
        after = super()._send(state, relay)
        assert relay.after is not None
        return replace(after, recorded=replace(state.recorded, place=relay.after.place))


Snapshots.variants = [
    PutsTheChunkFirst,
    ReadsTheChunkInItsOwnSnapshot,
    ReadsAChunkBehindAFullBatch,
    AsksInsideTheSnapshot,
    DoesNotWaitForTheDisk,
    RecordsItsPlaceTooEarly,
]
