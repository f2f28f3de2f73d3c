"""What a relay has sent of the outbox: positions, gaps, and a transaction in part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

_FOREVER = 2**63 - 1  # above every position

_MOST_GAPS = 100  # ranges whose holders are known; above that neighbours are joined


class Gap(NamedTuple):
    """Positions passed before their transactions were seen, from ``first`` to ``last``."""

    first: int
    last: int


class Holder(NamedTuple):
    """A transaction that may yet show positions in the gaps from ``since`` to ``upto``.

    ``xid`` is its id, of 64 bits. ``is_gone`` once it has ended, or rolled back whatever it drew:
    what the next snapshot doesn't show of it never will be.
    """

    xid: int
    since: int
    upto: int = _FOREVER
    is_gone: bool = False

    def may_fill(self, gap: Gap) -> bool:
        """Tell whether one of its positions may be in ``gap``."""
        return self.since <= gap.last and gap.first <= self.upto


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

    Up to ``settled`` it is known who may fill gaps: only what the ``holders`` wrote is unsent
    there. Such a gap may therefore have sent positions in it, which makes one range of many.
    """

    high: int = 0
    gaps: tuple[Gap, ...] = ()
    partial: Key | None = None
    settled: int = 0
    holders: tuple[Holder, ...] = ()
    place: Place | None = None

    @property
    def has_unsettled_gap(self) -> bool:
        """Whether it is to be asked who may fill a gap."""
        return bool(self.gaps) and self.gaps[-1].last > self.settled

    @property
    def has_gap(self) -> bool:
        """Whether a position below one that is sent, if only in part, isn't sent."""
        return bool(self.gaps or (self.partial and self.partial.position > self.high + 1))

    def covers(self, key: Key) -> bool:
        """Tell whether the event at ``key`` is sent, unless it is in a gap of joined ones."""
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
            return replace(self, partial=partial)._cleaned()
        gaps = _without(self.gaps, (p for p in positions if p <= self.high))
        high = self.high
        for position in sorted(p for p in positions if p > self.high):
            if position > high + 1:
                gaps = (*gaps, Gap(high + 1, position - 1))
            high = position
        return replace(self, high=high, gaps=gaps, partial=partial)._cleaned()

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

    def noting(self, found: Mapping[int, int | None]) -> Progress:
        """Return the progress with the transactions noted that may fill gaps, as of now.

        ``found`` are all that have drawn positions and not ended, by id, each with a position that
        it can't go beyond any more, if there is one. The next read has to come after it was asked
        who they are: only then is it known of those that aren't among them that it shows them.
        """
        first = next((gap.first for gap in self.gaps if gap.last > self.settled), _FOREVER)
        known = {holder.xid for holder in self.holders}
        holders = [_noting(holder, found) for holder in self.holders]
        holders += [
            Holder(xid, max(first, self.settled + 1), _FOREVER if upto is None else upto)
            for xid, upto in found.items()
            if xid not in known
        ]
        return replace(self, holders=tuple(holders))._cleaned()

    def settle(self, keys: Sequence[Key], ended: Iterable[int], *, is_full: bool) -> Progress:
        """Drop the gaps that nobody can fill any more, after a read that returned ``keys``.

        ``ended`` are the holders that the read's snapshot counts as ended: the read showed what
        they wrote, or they wrote nothing. But a read that ``is_full`` has only looked at positions
        before its last one.
        """
        if not self.gaps:
            return self
        looked_upto = self._looked_upto(keys) if is_full else _FOREVER
        found = {key.position for key in keys} | set(self._partial_position)
        seen = sorted(position for position in found if position <= self.high)
        gone = frozenset(ended)
        holders = [
            _settled(holder, looked_upto, seen) if holder.is_gone or holder.xid in gone else holder
            for holder in self.holders
        ]
        # Who wrote what was found needn't be among the holders: it may have ended before they
        # were asked for. So what is found in a new gap is sent first, and the rest settled then.
        settled = min(looked_upto, *(p for p in seen if p > self.settled), self.high + 1) - 1
        gaps: list[Gap] = []
        for gap in self.gaps:
            if gap.last >= looked_upto or _is_alive(gap, holders):
                gaps.append(gap)
            else:
                gaps += [Gap(p, p) for p in seen if gap.first <= p <= gap.last]
        settled = max(self.settled, settled)
        after = replace(self, gaps=tuple(gaps), settled=settled, holders=tuple(holders))
        return after._cleaned()._joined()

    def _joined(self) -> Progress:
        """Join gaps if there are too many: neighbours, the closest first, to half of that.

        Not while a holder is gone and not all of it is sent: a joined gap would count as unsent
        what of it was sent.
        """
        known = [gap for gap in self.gaps if gap.last <= self.settled]
        if len(known) <= _MOST_GAPS or any(holder.is_gone for holder in self.holders):
            return self
        return replace(self, gaps=(*_join(known, _MOST_GAPS // 2), *self.gaps[len(known) :]))

    @property
    def _partial_position(self) -> tuple[int, ...]:
        return () if self.partial is None else (self.partial.position,)

    def _looked_upto(self, keys: Sequence[Key]) -> int:
        """Return the position before which a read that was full has looked at everything."""
        last = keys[-1].position
        return 0 if last in self._partial_position else last

    def _cleaned(self) -> Progress:
        """Leave out the holders that can't fill any gap."""
        if not self.gaps:
            return replace(self, settled=0, holders=()) if self.settled or self.holders else self
        holders = tuple(h for h in self.holders if any(map(h.may_fill, self.gaps)))
        return self if holders == self.holders else replace(self, holders=holders)

    def to_json(self) -> dict[str, Any]:
        """Return a value that :meth:`from_json` reads; no holders, ``settled`` or ``place``."""
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


def _noting(holder: Holder, found: Mapping[int, int | None]) -> Holder:
    """Return what is known of a holder now that those that are left are ``found``."""
    if holder.xid not in found:
        return holder._replace(is_gone=True)
    upto = found[holder.xid]
    return holder if upto is None else holder._replace(upto=min(holder.upto, upto))


def _settled(holder: Holder, looked_upto: int, seen: Sequence[int]) -> Holder:
    """Return what a holder that is gone may still fill: what isn't looked at, or isn't sent."""
    since = min(looked_upto, seen[0] if seen else _FOREVER)
    upto = holder.upto if looked_upto < _FOREVER else seen[-1] if seen else 0
    return holder._replace(since=max(since, holder.since), upto=upto, is_gone=True)


def _is_alive(gap: Gap, holders: Iterable[Holder]) -> bool:
    return any(not holder.is_gone and holder.may_fill(gap) for holder in holders)


def _join(gaps: Sequence[Gap], count: int) -> list[Gap]:
    distances = sorted(
        (after.first - before.last, index)
        for index, (before, after) in enumerate(pairwise(gaps), 1)
    )
    are_joined = {index for _, index in distances[: len(gaps) - count]}
    joined: list[Gap] = []
    for index, gap in enumerate(gaps):
        if index in are_joined:
            joined[-1] = joined[-1]._replace(last=gap.last)
        else:
            joined.append(gap)
    return joined
