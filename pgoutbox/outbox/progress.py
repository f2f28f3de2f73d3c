"""What a relay has sent of the outbox: positions, gaps, and a transaction in part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from uuid import UUID


class Gap(NamedTuple):
    """Positions passed before their transactions were seen.

    ``holders`` are the transactions that were open when the gap was first looked at and may
    have drawn one of its positions; None before that. ``is_dying`` once all of them are gone:
    what the next snapshot doesn't show never will be.
    """

    first: int
    last: int
    holders: frozenset[str] | None = None
    is_dying: bool = False


class Key(NamedTuple):
    """Where an event stands: its transaction's position, and its sequence number in it."""

    position: int
    seq: int


class Place(NamedTuple):
    """How far a relay is with a snapshot: behind the chunks that it has sent.

    ``at`` is what ``pgoutbox.read_chunk`` goes on from, as JSON; None at the beginning.
    """

    snapshot: UUID
    at: str | None = None
    chunk: int = 0  # chunks with rows
    rows: int = 0
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What a relay has sent: every position up to ``high`` outside the gaps.

    Of the transaction at ``partial.position``, which is above ``high`` or in a gap, it has sent
    the events up to ``partial.seq``. ``place`` is where it is in the snapshot that it has sent
    something of last.
    """

    high: int = 0
    gaps: tuple[Gap, ...] = ()
    partial: Key | None = None
    place: Place | None = None

    @property
    def has_gap(self) -> bool:
        """Whether a position below one that is sent, if only in part, isn't sent."""
        return bool(self.gaps or (self.partial and self.partial.position > self.high + 1))

    def covers(self, key: Key) -> bool:
        """Tell whether the event at ``key`` is sent."""
        if self.partial is not None and key.position == self.partial.position:
            return key.seq <= self.partial.seq
        return key.position <= self.high and not any(
            gap.first <= key.position <= gap.last for gap in self.gaps
        )

    def after(self, keys: Sequence[Key], *, is_cut: bool) -> Progress:
        """Return the progress once the events at ``keys`` are sent too.

        ``keys`` are in the order of publishing, and everything visible up to the last of them
        that isn't among them becomes a gap. ``is_cut`` says that the last transaction may have
        further events.
        """
        positions = list(dict.fromkeys(key.position for key in keys))
        if self.partial is not None and self.partial.position not in positions:
            # Read again and nothing more was there: it is complete.
            positions.insert(0, self.partial.position)
        partial = None
        if is_cut and keys:
            partial = keys[-1]
            positions.remove(partial.position)
        if not positions:
            return replace(self, partial=partial)
        gaps = _without(self.gaps, (p for p in positions if p <= self.high))
        high = self.high
        for position in sorted(p for p in positions if p > self.high):
            if position > high + 1:
                gaps = (*gaps, Gap(high + 1, position - 1))
            high = position
        return replace(self, high=high, gaps=gaps, partial=partial)

    def towards(self, plan: Progress) -> tuple[Gap, ...]:
        """Return the positions that ``plan`` has sent and this progress hasn't.

        Includes the transaction that ``plan`` has sent in part.
        """
        unsent = _cut(self.gaps, plan.high + 1, self.high)
        if plan.high > self.high:
            unsent = (*unsent, Gap(self.high + 1, plan.high))
        for gap in plan.gaps:
            unsent = _cut(unsent, gap.first, gap.last)
        if plan.partial is not None and not self.covers(plan.partial):
            position = plan.partial.position
            unsent = (*_cut(unsent, position, position), Gap(position, position))
        return unsent

    def noting(self, holders: frozenset[str]) -> Progress:
        """Return the progress with ``holders`` noted: who may still fill a gap, as of now."""
        return replace(self, gaps=tuple(_noting(gap, holders) for gap in self.gaps))

    def without_dead(self, keys: Sequence[Key], *, is_full: bool) -> Progress:
        """Drop the gaps that were dying before the read that returned ``keys``.

        What the read didn't show of them never will be; but a read that ``is_full`` has only
        looked at positions before its last one.
        """
        looked_upto = 2**63
        if is_full:
            last = keys[-1].position
            is_in_partial = self.partial is not None and self.partial.position == last
            looked_upto = 0 if is_in_partial else last
        seen = {key.position for key in keys}
        if self.partial is not None:
            seen.add(self.partial.position)
        gaps: list[Gap] = []
        for gap in self.gaps:
            if gap.is_dying and gap.last < looked_upto:
                gaps += [Gap(p, p) for p in sorted(seen) if gap.first <= p <= gap.last]
            else:
                gaps.append(gap)
        return replace(self, gaps=tuple(gaps))

    def to_json(self) -> dict[str, Any]:
        """Return a value that :meth:`from_json` reads; without holders and ``place``."""
        return {
            "high": self.high,
            "gaps": [[gap.first, gap.last] for gap in self.gaps],
            "partial": self.partial,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Progress:
        """Return what :meth:`to_json` wrote."""
        return cls(
            values["high"],
            tuple(Gap(first, last) for first, last in values["gaps"]),
            Key(*values["partial"]) if values["partial"] else None,
        )


def _without(gaps: tuple[Gap, ...], positions: Iterable[int]) -> tuple[Gap, ...]:
    for position in positions:
        gaps = _cut(gaps, position, position)
    return gaps


def _cut(gaps: tuple[Gap, ...], first: int, last: int) -> tuple[Gap, ...]:
    """Cut the positions ``first`` to ``last`` out of ``gaps``."""
    left: list[Gap] = []
    for gap in gaps:
        if last < gap.first or gap.last < first:
            left.append(gap)
            continue
        if gap.first < first:
            left.append(gap._replace(last=first - 1))
        if last < gap.last:
            left.append(gap._replace(first=last + 1))
    return tuple(left)


def _noting(gap: Gap, holders: frozenset[str]) -> Gap:
    if gap.holders is None:
        return gap._replace(holders=holders)
    # A prepared transaction can't be told from the one that it was: PREPARE may change its
    # name. So as long as there is any, no gap is given up.
    return gap._replace(is_dying="prepared" not in holders and not gap.holders & holders)
