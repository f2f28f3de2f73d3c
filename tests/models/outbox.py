"""The outbox that transactions write, and the order in which a stream has their events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pgoutbox.outbox.progress import Key
from tests.models.explorer import Model, Step


@dataclass(frozen=True)
class OutboxState:
    """Transactions by their positions, from 1 on."""

    visible: frozenset[int] = frozenset()
    before: tuple[frozenset[int], ...] = ()  # what was visible when each position was drawn


State = TypeVar("State", bound=OutboxState)


class OutboxModel(Model[State]):
    """A protocol that reads the outbox; `sizes` are the numbers of events of the transactions."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes

    @property
    def _positions(self) -> range:
        return range(1, len(self._sizes) + 1)

    def _keys(self, positions: Iterable[int]) -> list[Key]:
        return [Key(p, seq) for p in sorted(positions) for seq in range(self._sizes[p - 1])]

    def _write_events(self, state: State) -> Iterator[Step[State]]:
        drawn = len(state.before)
        if drawn < len(self._sizes):
            before = (*state.before, state.visible)
            yield Step(f"position {drawn + 1} is drawn", replace(state, before=before))
        for position in range(1, drawn + 1):
            if position not in state.visible:
                visible = state.visible | {position}
                yield Step(f"position {position} is visible", replace(state, visible=visible))


def wrong_order(state: OutboxState, published: Sequence[Key]) -> str | None:
    """Return how `published` tears a transaction, or puts one before what it depends on."""
    begun: list[int] = []
    for number, (position, seq) in enumerate(published):
        if position not in begun:
            if state.before[position - 1] - set(begun):
                return f"position {position} is published before one that was visible earlier"
            begun.append(position)
        elif published[number - 1] != (position, seq - 1):
            return f"the transaction at position {position} is torn"
    return None
