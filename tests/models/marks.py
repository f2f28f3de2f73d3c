"""Marks and healing: what the stream loses is sent again, and no transaction is torn by that.

The code that it models: `pgoutbox/relay/healing.py`, `pgoutbox/outbox/marks.py`, `Outbox.go_back`,
`Outbox._write`, and `Reading.has` in `pgoutbox/nats/reading.py`. Progress is the code itself.

The stream loses its last messages, as when its store is rolled back, or is deleted and made again.
Somebody else may publish into it, and purge it, by which nothing is lost. A loss is noticed before
anything else is published (`tests/faults/test_losses.py`); a repeat isn't stored again. The relay
isn't killed here, and so needs no plan: that is `plan.py`.

Two limits, which the explorer found. What is removed between a loss and the relay's look may hide
the loss, unless the stream was made again: where somebody else's message had taken the sequence of
a lost one of ours, and is gone, too. And where messages are removed a loss may tear a transaction,
since it can't be seen that the stream had a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from pgoutbox.outbox.progress import Gap, Key, Progress
from tests.models.explorer import Model, Step
from tests.models.outbox import OutboxModel, OutboxState, wrong_order

_FOREIGN = Key(0, 0)  # somebody else's message


class LastStored(NamedTuple):
    """A message that the stream has confirmed, and when that stream was made."""

    created: int
    sequence: int
    id: Key


class Mark(NamedTuple):
    """Progress, and the last message that the stream had confirmed by then."""

    progress: Progress
    last: LastStored | None

    @property
    def sequence(self) -> int:
        """Of which there is one mark only."""
        return self.last.sequence if self.last else 0


_START = Mark(Progress(), None)


@dataclass(frozen=True)
class Stream:
    """Messages by their sequences, from 1 on; those before `first` were removed."""

    created: int = 1
    first: int = 1
    messages: tuple[Key, ...] = ()

    @property
    def end(self) -> int:
        """Its last sequence."""
        return len(self.messages)


@dataclass(frozen=True)
class State(OutboxState):
    """`recorded` is in the database, with the `marks`; `now` is what the relay has in memory."""

    stream: Stream = Stream()
    now: Mark = _START
    recorded: Mark = _START
    marks: tuple[Mark, ...] = ()  # the newest first
    has_looked: bool = True  # since the stream may have lost something
    mishaps: int = 0


class Marks(OutboxModel[State]):
    """The protocol as it is."""

    variants: ClassVar[list[type[Model[State]]]] = []

    def __init__(self, sizes: Sequence[int] = (1, 2), mishaps: int = 2) -> None:
        super().__init__(sizes)
        self._mishaps = mishaps

    def begin(self) -> State:
        """Return an empty outbox and an empty stream."""
        return State()

    def is_over(self, state: State) -> bool:
        """Tell whether the relay takes everything for sent, and has looked."""
        is_sent = not self._unsent(state, state.now.progress)
        return state.visible == set(self._positions) and is_sent and state.has_looked

    def wrong(self, state: State) -> str | None:
        """Look for losses that stay, torn transactions, and a wrong order."""
        ours = [key for key in state.stream.messages if key != _FOREIGN]
        if self.is_over(state) and set(ours) != set(self._keys(state.visible)):
            return "something that the stream has lost is never sent again"
        return wrong_order(state, ours) if state.stream.first == 1 else None

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield what writers, misfortune and the relay can do."""
        yield from self._write_events(state)
        if state.mishaps < self._mishaps:
            for what, stream, has_looked in self._mishaps_of(state):
                after = replace(state, stream=stream, mishaps=state.mishaps + 1)
                yield Step(what, replace(after, has_looked=state.has_looked and has_looked))
        if not state.has_looked:
            yield self._check(state)
            return
        yield from self._publish(state)
        if state.now != state.recorded:
            yield from self._record(state)

    def _mishaps_of(self, state: State) -> Iterator[tuple[str, Stream, bool]]:
        """Yield what can befall the stream, and whether it still has what it had."""
        stream = state.stream
        for end in range(stream.first - 1, stream.end):
            rolled_back = replace(stream, messages=stream.messages[:end])
            yield f"the stream is rolled back to sequence {end}", rolled_back, False
        if stream.messages:
            yield "the stream is deleted and made again", Stream(stream.created + 1), False
        last = state.now.last
        is_another = last is not None and last.created != stream.created
        if stream.messages and (state.has_looked or is_another):
            purged = replace(stream, first=stream.end + 1)
            yield "somebody purges the stream", purged, False
        foreign = replace(stream, messages=(*stream.messages, _FOREIGN))
        yield "somebody else publishes into the stream", foreign, True

    # Publishing -----------------------------------------------------------------------------------

    def _unsent(self, state: State, progress: Progress) -> list[Key]:
        partial = progress.partial or _FOREIGN
        ranges = (*progress.gaps, Gap(progress.high + 1, 2**62))
        found = [p for gap in ranges for p in sorted(state.visible) if gap.first <= p <= gap.last]
        rest = self._keys(frozenset({partial.position} if partial.position else ()))
        return [key for key in rest if key.seq > partial.seq] + [
            key for p in found if p != partial.position for key in self._keys([p])
        ]

    def _publish(self, state: State) -> Iterator[Step[State]]:
        """Relay._publish_all(), an event at a time."""
        for key in self._unsent(state, state.now.progress)[:1]:
            stream = state.stream
            is_repeat = key in stream.messages
            if not is_repeat:
                stream = replace(stream, messages=(*stream.messages, key))
            sequence = stream.messages.index(key) + 1
            last = state.now.last
            if last is None or sequence > last.sequence:
                last = LastStored(stream.created, sequence, key)
            is_cut = key.seq + 1 < self._sizes[key.position - 1]
            now = Mark(state.now.progress.after([key], is_cut=is_cut), last)
            what = "is a repeat" if is_repeat else "is stored"
            yield Step(f"{tuple(key)} {what}", replace(state, stream=stream, now=now))

    def _record(self, state: State) -> Iterator[Step[State]]:
        """Outbox._write(): keep a mark of what was recorded before, if the last one is old."""
        recorded = replace(state, recorded=state.now)
        if state.now.last != state.recorded.last:
            marked = replace(recorded, marks=self._keep(state.marks, self._mark_of(state)))
            yield Step("the relay records its progress, and keeps a mark", marked)
        if state.marks or state.now.last == state.recorded.last:
            yield Step("the relay records its progress", recorded)

    def _mark_of(self, state: State) -> Mark:
        return state.recorded

    def _keep(self, marks: tuple[Mark, ...], mark: Mark) -> tuple[Mark, ...]:
        """keep_mark(): one for each sequence."""
        others = [other for other in marks if other.sequence != mark.sequence]
        return tuple(sorted([*others, mark], key=lambda one: -one.sequence))

    # Healing --------------------------------------------------------------------------------------

    def _check(self, state: State) -> Step[State]:
        """Healing.check(), once what was confirmed is recorded (Relay._fall_back)."""
        if state.now != state.recorded:
            *_, recorded = self._record(state)
            return recorded
        last, looked = state.recorded.last, replace(state, has_looked=True)
        if last is None:
            return Step("the relay has nothing to look for", looked)
        if self._has(state.stream, last):
            marks = self._keep(state.marks, state.recorded)
            return Step("the relay finds its last message", replace(looked, marks=marks))
        mark = self._mark_to_go_back_to(state)
        kept = tuple(other for other in state.marks if other.sequence <= mark.sequence)
        what = f"the relay goes back to sequence {mark.sequence}"
        return Step(what, replace(looked, now=mark, recorded=mark, marks=kept))

    def _has(self, stream: Stream, last: LastStored) -> bool:
        """Reading.has()."""
        if stream.end < last.sequence:
            return False
        if stream.first <= last.sequence:
            return stream.messages[last.sequence - 1] == last.id
        return stream.created == last.created

    def _mark_to_go_back_to(self, state: State) -> Mark:
        """Healing._go_back(): the newest that stands, then behind the last message of ours."""
        mark = self._newest_that_stands(state)
        found = self._last_of_ours(state.stream, mark)
        if found is None:
            return mark
        return Mark(replace(mark.progress, partial=found.id), found)

    def _newest_that_stands(self, state: State) -> Mark:
        for mark in state.marks:
            if mark.last is None or self._has(state.stream, mark.last):
                return mark
        return Mark(state.marks[-1].progress, None)

    def _last_of_ours(self, stream: Stream, mark: Mark) -> LastStored | None:
        for sequence in range(stream.end, max(mark.sequence, stream.first - 1), -1):
            key = stream.messages[sequence - 1]
            if key != _FOREIGN and not mark.progress.covers(key):
                return LastStored(stream.created, sequence, key)
        return None


class NeverLooks(Marks):
    """Takes for stored what was confirmed once."""

    def _has(self, stream: Stream, last: LastStored) -> bool:
        return True


class ComparesLengths(Marks):
    """Takes a stream for whole that is as long as it was, whatever is in it now."""

    def _has(self, stream: Stream, last: LastStored) -> bool:
        return stream.end >= last.sequence


class TakesAnyStreamForTheSame(Marks):
    """Takes a message for removed that another stream of that name never had."""

    def __init__(self) -> None:
        super().__init__(mishaps=4)

    def _has(self, stream: Stream, last: LastStored) -> bool:
        if stream.end < last.sequence:
            return False
        is_removed = stream.first > last.sequence
        return is_removed or stream.messages[last.sequence - 1] == last.id


class MarksWhatItIsAboutToRecord(Marks):
    """A mark has the new progress, with the message from before."""

    def _mark_of(self, state: State) -> Mark:
        return Mark(state.now.progress, state.recorded.last)


class MarksHighAlone(Marks):
    """A mark has no gaps, so what was one then counts as sent."""

    def _mark_of(self, state: State) -> Mark:
        progress = state.recorded.progress
        return Mark(Progress(progress.high, partial=progress.partial), state.recorded.last)

    def _keep(self, marks: tuple[Mark, ...], mark: Mark) -> tuple[Mark, ...]:
        progress = Progress(mark.progress.high, partial=mark.progress.partial)
        return super()._keep(marks, Mark(progress, mark.last))


class LeavesATransactionInPart(Marks):
    """Goes on from the mark, whatever of a transaction the stream has behind it."""

    def _last_of_ours(self, stream: Stream, mark: Mark) -> LastStored | None:
        return None


class BelievesItsNewestMark(Marks):
    """Goes back to the last mark, without a look whether that one stands."""

    def _newest_that_stands(self, state: State) -> Mark:
        return state.marks[0]


Marks.variants = [
    NeverLooks,
    ComparesLengths,
    TakesAnyStreamForTheSame,
    MarksWhatItIsAboutToRecord,
    MarksHighAlone,
    LeavesATransactionInPart,
    BelievesItsNewestMark,
]
