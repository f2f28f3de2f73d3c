"""Progress against the plainest model of it: the set of events that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pgoutbox.messages.event import Message
from pgoutbox.outbox.batch import Batch
from pgoutbox.outbox.progress import Gap, Key, Progress

_LAST = 14  # positions are 1 to 14


@dataclass(frozen=True)
class World:
    """Transactions with their events, and which of them a snapshot shows."""

    events: dict[int, int]  # how many a position has; 0: rolled back after its commit stage
    visible: frozenset[int]

    def unsent(self, sent: set[Key], progress: Progress) -> list[Key]:
        """Return what a read finds: the partial transaction first, then by position."""
        keys = [Key(p, n) for p in self.visible for n in range(self.events[p])]
        first = progress.partial.position if progress.partial else 0
        return sorted(
            (key for key in keys if key not in sent),
            key=lambda key: (key.position != first, key),
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    events = {p: draw(st.integers(0, 4)) for p in range(1, _LAST + 1)}
    real = [p for p, count in events.items() if count]
    visible = draw(st.sets(st.sampled_from(real))) if real else set()
    return World(events, frozenset(visible))


def _batch(before: Progress, keys: list[Key], *, is_cut: bool) -> Batch:
    messages = [Message("s", f"{key.position}.{key.seq}", b"") for key in keys]
    after = before.after(keys, is_cut=is_cut)
    return Batch(compose=lambda: messages, keys=keys, before=before, after=after, passed=keys)


def _agree(progress: Progress, sent: set[Key], world: World) -> None:
    for position, count in world.events.items():
        for seq in range(count):
            key = Key(position, seq)
            assert progress.covers(key) == (key in sent), (progress, key)
    assert all(gap.first <= gap.last <= progress.high for gap in progress.gaps)
    assert _are_ascending(progress.gaps)
    assert Progress.from_json(progress.to_json()) == progress


def _is_of_partial(gap: Gap, progress: Progress) -> bool:
    return progress.partial is not None and gap[:2] == (progress.partial.position,) * 2


def _are_ascending(gaps: Sequence[Gap]) -> bool:
    """Tell whether a read finds the transactions in them by position."""
    bounds = [bound for gap in gaps for bound in (gap.first, gap.last + 1)]
    return bounds == sorted(bounds)


@settings(deadline=None)
@given(worlds(), st.data())
def test_progress_covers_exactly_what_was_sent(world: World, data: st.DataObject) -> None:
    """Whatever becomes visible when, and wherever batches are cut or fail."""
    progress, sent = Progress(), set[Key]()
    real = {p for p, count in world.events.items() if count}
    order: list[int] = []
    for _ in range(40):
        keys = world.unsent(sent, progress)
        if not keys and world.visible == real and progress.partial is None:
            break
        limit = data.draw(st.integers(1, 5), "limit")
        taken = keys[:limit]
        batch = _batch(progress, taken, is_cut=len(taken) == limit)
        count = data.draw(st.integers(0, len(taken)), "confirmed")
        progress = batch.upto(count)
        sent |= set(taken[:count])
        order += [key.position for key in taken[:count]]
        _agree(progress, sent, world)
        more = data.draw(st.sets(st.sampled_from(sorted(real))) if real else st.just(set()))
        world = replace(world, visible=world.visible | more)
    runs = [p for p, before in zip(order, [None, *order], strict=False) if p != before]
    assert len(runs) == len(set(runs)), "a transaction was torn"


@settings(deadline=None)
@given(worlds(), st.data())
def test_plan_is_finished_before_anything_else(world: World, data: st.DataObject) -> None:
    """After a restart in the middle of a batch the rest of that batch comes first, as it was."""
    before, sent = Progress(), set[Key]()
    for limit in data.draw(st.lists(st.integers(1, 6), max_size=4), "earlier batches"):
        keys = world.unsent(sent, before)[:limit]
        before = before.after(keys, is_cut=len(keys) == limit)
        sent |= set(keys)
    limit = data.draw(st.integers(1, 9), "limit")
    keys = world.unsent(sent, before)[:limit]
    plan = before.after(keys, is_cut=len(keys) == limit)
    real = {p for p, count in world.events.items() if count}
    world = replace(world, visible=frozenset(real))

    progress = _batch(before, keys, is_cut=len(keys) == limit).upto(
        data.draw(st.integers(0, len(keys)), "confirmed")
    )
    sent |= {key for key in keys if progress.covers(key)}
    rest = [key for key in keys if key not in sent]

    positions = progress.towards(plan)
    assert _are_ascending([gap for gap in positions if not _is_of_partial(gap, progress)])
    found = [
        key
        for key in world.unsent(sent, progress)
        if any(gap.first <= key.position <= gap.last for gap in positions)
        or (progress.partial and progress.partial.position == key.position)
    ]

    # What the plan has in part is read to its end: the rest of it follows anyway.
    assert rest == [key for key in found if plan.covers(key)]
    assert found[: len(rest)] == rest
    assert {key.position for key in found[len(rest) :]} <= (
        {plan.partial.position} if plan.partial else set()
    ) | ({progress.partial.position} if progress.partial else set())
