"""Batches in flight and restarts: no transaction is torn, whoever is killed when.

The code that it models: `Relay` in `pgoutbox/relay/loop.py` (`_send`, `_land`, `_record`,
`_fall_back`), and `Outbox` in `pgoutbox/outbox/reader.py` (`next_batch`, `begin`, `advance`,
`_plan_of`). Progress is the code itself, with `Progress.after` and `Progress.towards`.

The relay may be killed, and may lose its connection to NATS with what is on the way there. A crash
of PostgreSQL takes back what was written since the last flush, or a part of that. Messages are
stored in the order in which they were sent, and a repeat isn't stored again: that is what chains
and server batches are for (`tests/unit/test_chain.py`, `tests/faults/test_cluster.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pgoutbox.outbox.progress import Gap, Key, Progress
from tests.models.explorer import Model, Step
from tests.models.outbox import OutboxModel, OutboxState, wrong_order

_DEPTH = 2  # batches in flight, at most

_NOTHING = Progress()


@dataclass(frozen=True)
class Batch:
    """What was read, the progress before it and behind it."""

    keys: tuple[Key, ...]
    before: Progress
    after: Progress
    is_replay: bool

    @property
    def has_long_transaction(self) -> bool:
        """Whether a restart could tear a transaction of it."""
        is_in_part = self.before.partial is not None or self.after.partial is not None
        return is_in_part or len({key.position for key in self.keys}) < len(self.keys)

    def upto(self, count: int) -> Progress:
        """Batch.upto(): the progress when only its first messages are stored."""
        if count == len(self.keys):
            return self.after
        keys = self.keys[:count]
        is_cut = bool(keys) and self.keys[count].position == keys[-1].position
        return self.before.after(keys, is_cut=is_cut) if keys else self.before


@dataclass(frozen=True)
class Row:
    """A version of the relay's row in pgoutbox.progress."""

    progress: Progress = _NOTHING
    plan: tuple[Progress, ...] = ()


@dataclass(frozen=True)
class Relay:
    """What the relay has in memory; `front` is its progress once all in flight is stored."""

    progress: Progress
    front: Progress
    plan: tuple[Progress, ...]  # as noted in the database
    replay: tuple[Progress, ...]  # what of it is to be finished first
    flights: tuple[Batch, ...] = ()


@dataclass(frozen=True)
class State(OutboxState):
    """`rows` are the versions of the row since the last flush; a crash may go back to any."""

    rows: tuple[Row, ...] = (Row(),)
    relay: Relay | None = None
    on_its_way: tuple[Key, ...] = ()  # to the stream
    stream: tuple[Key, ...] = ()


class Plan(OutboxModel[State]):
    """The protocol as it is."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(
        self, sizes: Sequence[int] = (1, 3), limit: int = 2, *, crashes: bool = True
    ) -> None:
        super().__init__(sizes)
        self._limit = limit  # events that are read at once
        self._has_crashes = crashes  # of PostgreSQL

    def begin(self) -> State:
        """Return an outbox in which no position has been drawn, and no relay."""
        return State()

    def is_over(self, state: State) -> bool:
        """Tell whether everything is sent, and recorded."""
        row, keys = state.rows[-1], self._keys(self._positions)
        return set(state.stream) == set(keys) and all(map(row.progress.covers, keys))

    def wrong(self, state: State) -> str | None:
        """Look for torn transactions, a wrong order, and progress over what isn't stored."""
        if found := wrong_order(state, state.stream):
            return found
        for row in state.rows:
            for key in self._keys(self._positions):
                if row.progress.covers(key) and key not in state.stream:
                    return f"the progress covers {tuple(key)}, which the stream doesn't have"
        return None

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield what writers, the stream, the relay and misfortune can do."""
        yield from self._write_events(state)
        if state.on_its_way:
            first, *rest = state.on_its_way
            stream = state.stream if first in state.stream else (*state.stream, first)
            stored = replace(state, on_its_way=tuple(rest), stream=stream)
            yield Step(f"the stream stores {tuple(first)}", stored)
        if state.relay is None:
            yield Step("a relay begins", replace(state, relay=self._take_over(state.rows[-1])))
        else:
            yield from self._relay(state, state.relay)
            yield Step("the relay is killed", replace(state, relay=None, on_its_way=()))
        if self._has_crashes:
            for row in state.rows[:-1]:
                crashed = replace(state, rows=(row,), relay=None, on_its_way=())
                yield Step("PostgreSQL crashes", crashed)

    # The relay ------------------------------------------------------------------------------------

    def _take_over(self, row: Row) -> Relay:
        """Outbox.take_over()."""
        return Relay(row.progress, row.progress, row.plan, row.plan)

    def _relay(self, state: State, relay: Relay) -> Iterator[Step[State]]:
        yield from self._send(state, relay)
        if relay.flights and not set(relay.flights[0].keys) & set(state.on_its_way):
            landed = replace(state, relay=self._land(relay))
            yield Step("the relay learns that its first batch is stored", landed)
        recorded = self._note(state, relay, self._recorded(relay), self._plan_of(relay, ()))
        if recorded != state:
            yield Step("the relay records its progress", recorded)
        if relay.flights:
            for count in range(len(relay.flights[0].keys) + 1):
                if not set(relay.flights[0].keys[:count]) & set(state.on_its_way):
                    failed = self._fall_back(state, relay, count)
                    yield Step(f"publishing fails, {count} of its first batch confirmed", failed)

    def _send(self, state: State, relay: Relay) -> Iterator[Step[State]]:
        """Relay._next_batch(), ._make_room() and ._send()."""
        relay, batch = self._next_batch(state, relay)
        if not batch.keys:
            if relay != state.relay:
                yield Step("the relay finds nothing", replace(state, relay=relay))
            return
        if not self._may_follow(relay, batch):
            return
        state = self._begin(state, relay, batch)
        assert state.relay is not None
        relay = replace(state.relay, front=batch.after, flights=(*relay.flights, batch))
        sent = (*state.on_its_way, *batch.keys)
        what = f"the relay sends {[*map(tuple, batch.keys)]}"
        yield Step(what, replace(state, relay=relay, on_its_way=sent))

    def _may_follow(self, relay: Relay, batch: Batch) -> bool:
        if not relay.flights:
            return True
        is_alone = batch.is_replay or relay.flights[-1].is_replay
        return len(relay.flights) < _DEPTH and not is_alone

    def _next_batch(self, state: State, relay: Relay) -> tuple[Relay, Batch]:
        """Outbox.next_batch(): what a plan has, batch by batch; then what is unsent."""
        before = relay.front
        batch = Batch((), before, before, is_replay=False)
        while relay.replay:
            batch = self._read(state, before, 2**62, before.towards(relay.replay[0]), relay)
            if batch.keys:
                break
            relay = replace(relay, replay=relay.replay[1:])
        if not batch.keys:
            batch = self._read(state, before, before.high, before.gaps, relay)
        front = batch.before if batch.keys else batch.after
        return replace(
            relay, front=front, progress=relay.progress if relay.flights else front
        ), batch

    def _read(
        self, state: State, before: Progress, high: int, gaps: Sequence[Gap], relay: Relay
    ) -> Batch:
        """Outbox._read(): first what is sent in part, then by position."""
        partial = before.partial or Key(0, 0)
        ranges = (*gaps, Gap(high + 1, 2**62))
        found = [p for gap in ranges for p in sorted(state.visible) if gap.first <= p <= gap.last]
        positions = [p for p in found if p != partial.position]
        keys = [key for p in positions for key in self._keys([p])]
        if partial.position:
            keys = [k for k in self._keys([partial.position]) if k.seq > partial.seq] + keys
        keys = keys[: self._limit]
        is_cut = bool(keys) and keys[-1].seq + 1 < self._sizes[keys[-1].position - 1]
        after = before.after(keys, is_cut=is_cut)
        return Batch(tuple(keys), before, after, is_replay=bool(relay.replay))

    def _plan_of(self, relay: Relay, more: tuple[Batch, ...]) -> tuple[Progress, ...]:
        """Outbox._plan_of(): up to the last batch in flight that a restart could tear."""
        if relay.replay:
            return relay.replay
        flights = (*relay.flights, *more)
        torn = [number for number, batch in enumerate(flights, 1) if batch.has_long_transaction]
        return tuple(batch.after for batch in flights[: torn[-1] if torn else 0])

    def _begin(self, state: State, relay: Relay, batch: Batch) -> State:
        """Outbox.begin(): on the disk where a gap is open."""
        plan = self._plan_of(relay, (batch,))
        if plan[-1:] in ((), relay.plan[-1:]):
            return replace(state, relay=relay)
        return self._note(state, relay, relay.progress, plan, flush=batch.after.has_gap)

    def _recorded(self, relay: Relay) -> Progress:
        return relay.progress

    def _note(
        self,
        state: State,
        relay: Relay,
        progress: Progress,
        plan: tuple[Progress, ...],
        *,
        flush: bool = False,
    ) -> State:
        """Outbox._write()."""
        row = Row(progress, plan)
        if row == state.rows[-1] and not flush:
            return state
        rows = (row,) if flush else (*state.rows, row)
        return replace(state, rows=rows, relay=replace(relay, plan=plan))

    def _land(self, relay: Relay) -> Relay:
        """Relay._land(): the progress moves to where the next batch began."""
        flights = relay.flights[1:]
        progress = flights[0].before if flights else relay.front
        return replace(relay, flights=flights, progress=progress)

    def _fall_back(self, state: State, relay: Relay, count: int) -> State:
        """Relay._fall_back(): so many messages of the first batch are known to be stored."""
        progress = relay.flights[0].upto(count)
        relay = Relay(progress, progress, relay.plan, self._replay_after(relay))
        state = replace(state, relay=relay, on_its_way=())
        return self._note(state, relay, progress, self._plan_of(relay, ()))

    def _replay_after(self, relay: Relay) -> tuple[Progress, ...]:
        """Outbox.fall_back()."""
        return relay.plan


class NotesNoPlan(Plan):
    """A restart goes on from the progress alone."""

    def _plan_of(self, relay: Relay, more: tuple[Batch, ...]) -> tuple[Progress, ...]:
        return ()


class NotesThePlanAfterwards(Plan):
    """The plan is noted when progress is recorded, not before the batch goes out."""

    def _begin(self, state: State, relay: Relay, batch: Batch) -> State:
        return replace(state, relay=relay)


class NeverFlushesThePlan(Plan):
    """The plan isn't on PostgreSQL's disk when the batch goes out."""

    def _begin(self, state: State, relay: Relay, batch: Batch) -> State:
        after = super()._begin(state, relay, batch)
        is_noted = after.rows != state.rows
        return replace(after, rows=(*state.rows, after.rows[-1])) if is_noted else after


class NotesOnlyTheLastCut(Plan):
    """Of two batches in flight the plan has the progress behind the second alone."""

    def __init__(self) -> None:
        super().__init__((1, 2, 2), crashes=False)

    def _plan_of(self, relay: Relay, more: tuple[Batch, ...]) -> tuple[Progress, ...]:
        return super()._plan_of(relay, more)[-1:]


class ReadsOnBesideItsPlan(Plan):
    """A relay that begins reads what is unsent, whatever the plan says."""

    def _take_over(self, row: Row) -> Relay:
        return replace(super()._take_over(row), replay=())


class ForgetsItsPlanAfterAFailure(Plan):
    """Once publishing has failed the relay goes on from its progress alone."""

    def _replay_after(self, relay: Relay) -> tuple[Progress, ...]:
        return ()


class RecordsWhatItHasSent(Plan):
    """Progress moves over what isn't confirmed yet."""

    def _recorded(self, relay: Relay) -> Progress:
        return relay.front


class TakesACutTransactionForWhole(Plan):
    """A batch that ends inside a transaction counts as its end."""

    def _read(
        self, state: State, before: Progress, high: int, gaps: Sequence[Gap], relay: Relay
    ) -> Batch:
        batch = super()._read(state, before, high, gaps, relay)
        return replace(batch, after=before.after(batch.keys, is_cut=False))


class DropsThePlanWhenItRecords(Plan):
    """What is recorded while a batch is in flight is the progress without a plan."""

    def _note(
        self,
        state: State,
        relay: Relay,
        progress: Progress,
        plan: tuple[Progress, ...],
        *,
        flush: bool = False,
    ) -> State:
        is_record = progress == relay.progress and relay.flights
        return super()._note(state, relay, progress, () if is_record else plan, flush=flush)


Plan.variants = [
    NotesNoPlan,
    NotesThePlanAfterwards,
    NeverFlushesThePlan,
    NotesOnlyTheLastCut,
    ReadsOnBesideItsPlan,
    ForgetsItsPlanAfterAFailure,
    RecordsWhatItHasSent,
    TakesACutTransactionForWhole,
    DropsThePlanWhenItRecords,
]
